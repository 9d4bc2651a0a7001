"""When the compensation of drift is read again on a chip in the field."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analogtorch.devices import seconds
from analogtorch.devices.thermal import kelvin
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """A schedule of reads of the drift compensation.

    The first read is at 0 s, right after programming. Without ``every`` and ``times`` it is the
    only one. In between the chip computes with the factors of the last read.

    Example:
        >>> monthly = at.Recalibration(every="30 days")
        >>> monthly.last(45 * 86_400.0) / 86_400.0
        30.0
    """

    every: str | float | None = None
    """Time between two reads, as ``devices.seconds`` takes it, > 0; None: no regular reads."""
    times: Sequence[str | float] = ()
    """Times after programming of other reads, ascending, > 0."""
    temperature: str | float | None = None
    """Temperature of the reads, K or a text such as ``"25 C"``; None: that at which the chip
    computes."""

    def __post_init__(self) -> None:
        if self.every is not None:
            period = _time("every", self.every)
            checks.settle(self, "every", period)
        if isinstance(self.times, str) or not isinstance(self.times, Sequence):
            raise ValueError(
                f"Recalibration.times must be a list such as ['1 day', '30 days'], got "
                f"{checks.shown(self.times)}"
            )
        found = tuple(_time(f"times[{i}]", t) for i, t in enumerate(self.times))
        if sorted(set(found)) != list(found):
            raise ValueError(f"Recalibration.times must be ascending, got {tuple(self.times)}")
        checks.settle(self, "times", found)
        if self.temperature is not None:
            checks.settle(self, "temperature", kelvin(self.temperature))

    def last(self, t: float) -> float:
        """Return the time of the last read at or before ``t`` seconds (>= 0)."""
        found = [0.0, *(each for each in self._times if each <= t)]
        if self._period is not None:
            number = math.floor(t / self._period)
            # the division may round a hair below or above a whole number
            while (number + 1) * self._period <= t:
                number += 1
            while number * self._period > t:
                number -= 1
            found.append(number * self._period)
        return max(found)

    def reads(self, t: float) -> tuple[float, ...]:
        """Return the times of all reads at or before ``t`` seconds (>= 0), ascending from 0."""
        found = {0.0, *(each for each in self._times if each <= t)}
        if self._period is not None:
            regular = Recalibration(every=self._period).last(t)
            found |= {n * self._period for n in range(round(regular / self._period) + 1)}
        return tuple(sorted(found))

    @property
    def _period(self) -> float | None:
        return None if self.every is None else float(self.every)

    @property
    def _times(self) -> tuple[float, ...]:
        return tuple(float(each) for each in self.times)


def check_read(caller: str, recalibration: Any, compensation: str, or_else: str = "") -> None:
    """Check that a schedule of reads comes with a compensation that is read.

    Args:
        caller: the function that was given both.
        recalibration: the schedule; None: there is none.
        compensation: as ``ProgrammedChip.at`` takes it.
        or_else: what else the caller takes that uses the reads, for the message.

    Raises:
        ValueError: the compensation is ``none``.
    """
    if recalibration is not None and compensation == "none":
        raise ValueError(
            f"{caller}: recalibration has no effect with compensation='none', which reads nothing; "
            f"leave out recalibration= or compensation={or_else}"
        )


def _time(name: str, given: str | float) -> float:
    found = seconds(given)
    if found is None or found <= 0:
        raise ValueError(
            f"Recalibration.{name} must be a time after 0 s such as '30 days', got {given!r}; the "
            "first read is at 0 s in any case"
        )
    return found
