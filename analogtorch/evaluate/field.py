"""Whether a metric is within a limit on chips in the field, and when it leaves it."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

from torch import nn

from analogtorch.conversion.kinds import check_module, refuse_programmed
from analogtorch.cost_model import ReadCost
from analogtorch.devices import seconds
from analogtorch.evaluate.metric import Metric, check_metric, direction, finite
from analogtorch.evaluate.sweep import checked_defects, chip_seeds
from analogtorch.simulate.chip import ProgrammedChip, beyond_data, program
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.simulate.recovery import Recovery
from analogtorch.values import checks

PRECISION = 1.05
"""Ratio of the times, counted from a minute before programming, at which bisection stops."""
_MINUTE, _HOUR = 60.0, 3600.0


@dataclass(frozen=True, kw_only=True)
class Field:
    """Chips in the field and the limit of their metric: arguments of ``lifetime``, checked."""

    caller: str
    model: nn.Module
    metric: Metric
    limit: float
    last: float
    """Time up to which to look, s."""
    seeds: tuple[int, ...]
    defects: Defects | None
    temperature: str | float | None
    compensation: Compensation
    higher_is_better: bool

    @classmethod
    def checked(
        cls,
        caller: str,
        model: nn.Module,
        metric: Metric,
        *,
        last: tuple[str, str | float],
        recovery: Recovery | None,
        limit: float,
        num_chips: int,
        seed: int,
        defects: Defects | None,
        compensation: Compensation,
        higher_is_better: bool | None,
        temperature: str | float | None,
    ) -> "Field":
        """Check the arguments of a function ``caller``; ``last`` has its name and its value.

        Raises:
            ValueError: a value is not allowed.
            TypeError: an argument is of another type.
        """
        check_module(caller, model)
        refuse_programmed(model, caller)
        check_metric(caller, metric)
        checks.number(f"{caller}: limit", limit)
        if recovery is not None:
            example = "at.Recovery(batches=batches), or None"
            checks.instance(f"{caller}: recovery", recovery, Recovery, example)
        allowed = [each for each in get_args(Compensation) if each != "none"]
        checks.choice(f"{caller}: compensation", compensation, allowed)
        higher_is_better = direction(caller, metric, higher_is_better)
        name, given = last
        end = seconds(given)
        if end is None or end <= 0:
            raise ValueError(f"{caller}: {name} must be a time after 0 s, got {given!r}")
        return cls(
            caller=caller,
            model=model,
            metric=metric,
            limit=float(limit),
            last=end,
            seeds=chip_seeds(seed, checks.count(f"{caller}: num_chips", num_chips)),
            defects=checked_defects(caller, defects),
            temperature=temperature,
            compensation=compensation,
            higher_is_better=higher_is_better,
        )

    @property
    def note(self) -> str:
        """A caveat of ``last``, such as that the devices' data end before it; or empty."""
        return "; ".join(beyond_data(self.model, self.last))

    def chips(self) -> Iterator[ProgrammedChip]:
        """Yield the chips, one after the other."""
        for seed in self.seeds:
            physical = program(self.model, seed=seed, defects=self.defects)
            physical.warned.update(beyond_data(self.model, self.last))  # noted in the table
            yield physical

    def cost(self, physical: ProgrammedChip, recovery: Recovery | None = None) -> ReadCost | None:
        """Return the cost of one recalibration; None: it is not known."""
        try:
            return physical.recalibration_cost(self.compensation, recovery)
        except ValueError:  # the chip has no cost, or there are several
            return None


@dataclass
class Within:
    """Whether the metric of one chip is within the limit at a time, under a schedule."""

    experiment: Field
    physical: ProgrammedChip
    schedule: Recalibration
    recovery: Recovery | None = None
    _corrected: tuple[float, nn.Module] | None = field(default=None, init=False)
    """Time of the last recovery that was asked for, and what it gave."""

    def __call__(self, t: float) -> bool:
        experiment = self.experiment
        given = experiment.metric(self._view(t))
        where = f"on the chip of seed {self.physical.seed} at {t:g} s"
        value = finite(experiment.caller, given, where)
        if experiment.higher_is_better:
            return value >= experiment.limit
        return value <= experiment.limit

    def _view(self, t: float) -> nn.Module:
        temperature = self.experiment.temperature
        if self.recovery is not None:
            corrected = self._recovered(self.schedule.last(t), self.recovery)
            return self.physical.at(t, temperature=temperature, corrected=corrected)
        return self.physical.at(
            t,
            temperature=temperature,
            compensation=self.experiment.compensation,
            recalibration=self.schedule,
        )

    def _recovered(self, when: float, recovery: Recovery) -> nn.Module:
        """Return the chip as it was corrected at ``when``, which depends on no earlier one."""
        if self._corrected is None or self._corrected[0] != when:
            asked = self.schedule.temperature
            view = self.physical.at(
                when,
                temperature=self.experiment.temperature if asked is None else asked,
                compensation=self.experiment.compensation,
            )
            self._corrected = when, recovery.correct(view)
        return self._corrected[1]


def crossing(within: Callable[[float], bool], reads: Sequence[float], longest: float) -> float:
    """Return the time at which ``within`` ends: 0 if it never holds, infinity if it always does."""
    if not within(0.0):
        return 0.0
    ends = _ends(reads, longest)
    failing = _first_failing(lambda i: within(ends[i]), len(ends))
    if failing is None:
        return math.inf
    start = reads[failing]
    if not within(start):
        return start
    low, high = start + _MINUTE, ends[failing] + _MINUTE
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if within(middle - _MINUTE) else (low, middle)
    return math.sqrt(low * high) - _MINUTE


def stays(within: Callable[[float], bool], reads: Sequence[float], longest: float) -> bool:
    """Return whether ``within`` holds at 0 s and at moments up to ``longest``.

    Their number does not depend on the reads, as each look is one more chance of read noise to
    cross a limit: they are ``longest``, its half, its quarter and so on down to an hour, each moved
    to right before the last read before it, unless that is more than a factor of 2 away.
    """
    ends, moments = _ends(reads, longest), halvings(longest)
    before = (ends[max(bisect_right(ends, t) - 1, 0)] for t in moments)
    looks = (e if t / 2 < e <= t else t for t, e in zip(moments, before, strict=True))
    return all(within(t) for t in (*looks, 0.0))


def halvings(longest: float) -> list[float]:
    """Return a time in s, its half, its quarter and so on down to an hour."""
    found = [longest]
    while found[-1] / 2 >= _HOUR:
        found.append(found[-1] / 2)
    return found


def cost_of(cost: ReadCost | None) -> dict[str, float] | None:
    """Return a cost, ready for JSON."""
    return (
        None
        if cost is None
        else {"mvms": cost.mvms, "seconds": cost.seconds, "joules": cost.joules}
    )


def _ends(reads: Sequence[float], longest: float) -> list[float]:
    """Return the moments right before each read but the first, and the last moment."""
    return [*(math.nextafter(read, 0.0) for read in reads[1:]), longest]


def _first_failing(holds: Callable[[int], bool], number: int) -> int | None:
    """Return the first of ``number`` indices at which ``holds`` fails, by doubling and bisection.

    None: it holds at the last.
    """
    low, step = -1, 1
    while holds(high := min(low + step, number - 1)):
        if high == number - 1:
            return None
        low, step = high, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high
