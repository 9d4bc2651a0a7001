"""Whether a metric is within a limit on chips in the field, and when it leaves it."""

import dataclasses
import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from torch import nn

from analogtorch.chips.choices import Choices
from analogtorch.conversion.kinds import analog_layers
from analogtorch.cost_model import ReadCost
from analogtorch.devices import seconds
from analogtorch.devices.time import SECONDS, duration
from analogtorch.evaluate.checked import checked_defects, checked_method, chip_seeds, measurable
from analogtorch.evaluate.conditions import conditions
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric import (
    Metric,
    bounds_of,
    check_metric,
    checked_limit,
    direction,
    finite,
    keeps,
    measure,
)
from analogtorch.mapping import ChipMapping
from analogtorch.simulate.chip import ProgrammedChip, beyond_data, program
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values import checks

PRECISION = 1.05
"""Ratio of the times, counted from a minute before programming, at which bisection stops."""
_BEFORE = 1 - 1e-9
"""Factor from the time of a read to the moment right before it, which ``seconds`` tells apart."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Chips in the field and the limit of their metric: arguments of ``lifetime``, checked."""

    caller: str
    model: nn.Module
    metric: Metric
    limit: float
    start: float
    """Time from which on chips serve, s: that at which the targets of all devices are right."""
    last: float
    """Time up to which to look, s."""
    seeds: tuple[int, ...]
    method: Method | None
    defects: Defects | None
    mapping: ChipMapping | None
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
        method: Method | None,
        defects: Defects | None,
        mapping: ChipMapping | None,
        compensation: Compensation,
        higher_is_better: bool | None,
        temperature: str | float | None,
    ) -> "Field":
        """Check the arguments of a function ``caller``; ``last`` has its name and its value.

        Raises:
            ValueError: a value is not allowed.
            TypeError: an argument is of another type.
        """
        layers = measurable(caller, model)
        check_metric(caller, metric)
        limit = checked_limit(f"{caller}: limit", limit, bounds_of(caller, metric))
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
        times = (Choices.of(layer.chip).target_time for layer in layers.values())
        start = max((t for t in times if t is not None), default=0.0)
        if end <= start:
            raise ValueError(
                f"{caller}: {name} must be after {duration(start)}, the time at which the targets "
                f"of the model's devices are right, got {given!r}"
            )
        return cls(
            caller=caller,
            model=model,
            metric=metric,
            limit=limit,
            start=start,
            last=end,
            seeds=chip_seeds(seed, checks.count(f"{caller}: num_chips", num_chips)),
            method=checked_method(caller, method),
            defects=checked_defects(caller, defects),
            mapping=mapping,
            temperature=temperature,
            compensation=compensation,
            higher_is_better=higher_is_better,
        )

    @property
    def note(self) -> str:
        """A caveat of ``last``, such as that the devices' data end before it; or empty."""
        return "; ".join(beyond_data(self.model, self.last))

    @property
    def conditions(self) -> tuple[str, ...]:
        """What of the chips is not as by default, in words."""
        found = conditions(
            self.method, self.defects, self.compensation, temperature=self.temperature
        )
        return tuple(found.values())

    def chips(self) -> Iterator[ProgrammedChip]:
        """Yield the chips, one after the other."""
        for seed in self.seeds:
            physical = program(
                self.model,
                seed=seed,
                method=self.method,
                defects=self.defects,
                mapping=self.mapping,
            )
            physical.warned.update(beyond_data(self.model, self.last))  # noted in the table
            yield physical

    def within(
        self, physical: ProgrammedChip, schedule: Recalibration, recovery: Recovery | None = None
    ) -> Callable[[float], bool]:
        """Return a function from seconds to whether the metric of a chip is within the limit."""
        look = Look(
            compensation=self.compensation,
            temperature=self.temperature,
            recalibration=schedule,
            recovery=recovery,
        )
        view = look.at(physical)

        def holds(t: float) -> bool:
            where = f"on the chip of seed {physical.seed} at {t:g} s"
            value = finite(self.caller, self.metric, measure(self.metric, view(t)), where)
            return keeps(value, self.limit, self.higher_is_better)

        return holds

    def cost(self, physical: ProgrammedChip, recovery: Recovery | None = None) -> ReadCost | None:
        """Return the cost of one recalibration; None: a chip of the model has no cost."""
        if any(layer.chip.cost is None for _, layer in analog_layers(self.model)):
            return None
        return physical.recalibration_cost(self.compensation, recovery)


def served(schedule: Recalibration, start: float) -> Recalibration:
    """Return a schedule with a read at ``start`` s, from which time on the chip serves."""
    if start == 0:
        return schedule
    times = [start, *(float(t) for t in schedule.times if float(t) > start)]
    return dataclasses.replace(schedule, times=times)


def reads_of(schedule: Recalibration, start: float, longest: float) -> Sequence[float]:
    """Return the times, s, of the reads of a chip that serves from ``start`` on, the first."""
    return served(schedule, start).reads(longest, start)


def useful_reads(schedule: Recalibration, start: float, longest: float) -> int:
    """Return the number of these reads but one at ``longest`` s, after which no chip serves."""
    return bisect_left(reads_of(schedule, start, longest), _BEFORE * longest)


def crossing(within: Callable[[float], bool], reads: Sequence[float], longest: float) -> float:
    """Return the time at which ``within`` ends: 0 if it does not hold at the first read.

    It is looked at moments that do not depend on ``longest``, so that a metric that rises and falls
    crosses at the same time whatever ``longest`` is. Infinity: it holds at all of them.
    """
    low = reads[0]
    if not within(low):
        return 0.0
    for look in looks(reads, longest):
        if not within(look):
            return _between(within, reads, low, look)
        low = look
    return math.inf


def stays(within: Callable[[float], bool], reads: Sequence[float], longest: float) -> bool:
    """Return whether ``within`` holds at the first read and whenever ``crossing`` looks.

    The number of looks does not depend on that of reads, as each is one more chance of read noise
    to cross a limit.
    """
    return all(within(t) for t in (*reversed(looks(reads, longest)), reads[0]))


def looks(reads: Sequence[float], longest: float) -> list[float]:
    """Return the moments to look at after the first read, s, ascending.

    They are 1, 2, 4, 8 h and so on, and ``longest``, each moved to right before the last read
    before it or at it, unless that is a factor of 2 or more away.
    """
    steps = (SECONDS["h"] * 2.0**k for k in itertools.count())
    powers = itertools.takewhile(lambda t: t < longest, steps)
    found = []
    for t in (*(t for t in powers if t > reads[0]), longest):
        last = bisect_right(reads, t, lo=1, key=_before) - 1
        end = _before(reads[max(last, 1)]) if len(reads) > 1 else longest
        # what is right after a read at the end says nothing
        if t == longest and reads[-1] < _BEFORE * longest:
            end = longest
        found.append(end if t / 2 < end <= t else t)
    return found


def _between(
    within: Callable[[float], bool], reads: Sequence[float], low: float, high: float
) -> float:
    """Return the time at which ``within``, which holds at ``low`` and fails at ``high``, ends."""
    first = bisect_right(reads, low, lo=1, key=_before)
    last = bisect_left(reads, high, lo=1, key=_before)
    ends = range(first, last)
    failing = first + bisect_left(ends, True, key=lambda i: not within(_before(reads[i])))
    if failing > first:
        low = _before(reads[failing - 1])
    if failing < last:
        high = _before(reads[failing])
    read = reads[bisect_right(reads, high) - 1]
    if read > low:
        if not within(read):
            return read
        low = read
    low, high = low + SECONDS["min"], high + SECONDS["min"]
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if within(middle - SECONDS["min"]) else (low, middle)
    return math.sqrt(low * high) - SECONDS["min"]


def cost_of(cost: ReadCost | None) -> dict[str, float] | None:
    """Return a cost, ready for JSON."""
    return (
        None
        if cost is None
        else {"mvms": cost.mvms, "seconds": cost.seconds, "joules": cost.joules}
    )


def _before(read: float) -> float:
    """Return the moment right before a read."""
    return _BEFORE * read
