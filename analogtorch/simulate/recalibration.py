"""When the compensation of drift is read again on a chip in the field."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
            found.append(_last(self._period, t) * self._period)
        return max(found)

    def reads(self, t: float, start: float = 0.0) -> "Reads":
        """Return the times of all reads from ``start`` to ``t`` seconds (>= 0), ascending."""
        period, times = self._period, {0.0, *self._times}
        numbers = range(0)
        if period is not None:
            first = _last(period, start)
            numbers = range(first + (first * period < start), _last(period, t) + 1)
            times = {each for each in times if _last(period, each) * period != each}
        others = tuple(sorted(each for each in times if start <= each <= t))
        return Reads(period=period or 0.0, numbers=numbers, others=others)

    @property
    def _period(self) -> float | None:
        return None if self.every is None else float(self.every)

    @property
    def _times(self) -> tuple[float, ...]:
        return tuple(float(each) for each in self.times)


@dataclass(frozen=True, kw_only=True)
class Reads(Sequence[float]):
    """The times of reads, s, ascending.

    Regular ones, of which there may be millions, are made when they are asked for.
    """

    period: float
    """Time between two regular reads, s."""
    numbers: range
    """Numbers of the regular reads, each at that multiple of the period."""
    others: tuple[float, ...]
    """Times of the others, ascending."""

    def __len__(self) -> int:
        return len(self.numbers) + len(self.others)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(map(self.__getitem__, range(*index.indices(len(self)))))
        place = range(len(self))[index]
        before = bisect_left(self._places, place)
        if self._places[before : before + 1] == [place]:
            return self.others[before]
        return self.numbers[place - before] * self.period

    @cached_property
    def _places(self) -> list[int]:
        """The place of each of the other reads among all."""
        return [
            i + bisect_left(self.numbers, t, key=lambda number: number * self.period)
            for i, t in enumerate(self.others)
        ]


def _last(period: float, t: float) -> int:
    """Return the number of the last regular read at or before ``t`` seconds (>= 0)."""
    number = math.floor(t / period)
    # the division may round a hair below or above a whole number
    while (number + 1) * period <= t:
        number += 1
    while number * period > t:
        number -= 1
    return number


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
