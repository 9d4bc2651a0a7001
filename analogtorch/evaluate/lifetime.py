"""How long a metric stays within a limit on chips in the field, with and without recalibration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from analogtorch.conversion.kinds import check_module, refuse_programmed
from analogtorch.cost_model import ReadCost
from analogtorch.devices import seconds
from analogtorch.evaluate.sweep import check_metric, checked_defects, chip_seeds, finite
from analogtorch.simulate.chip import ProgrammedChip, beyond_data, program
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.values import checks
from analogtorch.values.shown import as_text, draw

PRECISION = 1.05
"""Ratio of the times, counted from a minute before programming, at which bisection stops."""
_MINUTE = 60.0


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """What ``lifetime`` measured; print it for a table."""

    limit: float
    """The value of the metric that must not be crossed."""
    longest: float
    """Time up to which was looked, s."""
    once: Tensor
    """Seconds until the metric falls below the limit, by chip (float64), with compensation read at
    0 s alone. 0: it never was above; infinite: it is above at ``longest``."""
    recalibrated: Tensor
    """The same with the schedule of ``recalibration``."""
    recalibration: Recalibration
    """The schedule."""
    reads: int
    """Number of reads of the compensation up to ``longest``, the first included."""
    cost: ReadCost | None
    """Cost of one read; None: the chip's is not known."""
    seeds: tuple[int, ...]
    """Seed of each chip: ``program(model, seed=seeds[i])`` programs it again."""
    note: str = ""
    """A caveat of ``longest``, such as that the devices' data end before it; empty if there is
    none."""

    def __str__(self) -> str:
        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; what is infinite is None."""
        cost = self.cost
        return {
            "limit": self.limit,
            "longest": self.longest,
            "once": [t if math.isfinite(t) else None for t in self.once.tolist()],
            "recalibrated": [t if math.isfinite(t) else None for t in self.recalibrated.tolist()],
            "every": self.recalibration.every,
            "times": list(self.recalibration.times),
            "reads": self.reads,
            "cost": cost and {"mvms": cost.mvms, "seconds": cost.seconds, "joules": cost.joules},
            "seeds": list(self.seeds),
            **({"note": self.note} if self.note else {}),
        }

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the share of chips within the limit over time; see ``report.lifetime.plot``."""
        return draw(self, path)


def lifetime(
    model: nn.Module,
    metric: Callable[[nn.Module], float],
    *,
    limit: float,
    recalibration: Recalibration,
    longest: str | float = "10 years",
    num_chips: int = 5,
    seed: int = 0,
    temperature: str | float | None = None,
    compensation: Compensation = "least_squares",
    defects: Defects | None = None,
    higher_is_better: bool = True,
    progress: bool = False,
) -> Lifetime:
    """Return how long a metric stays within a limit, with and without recalibration in the field.

    Each chip is looked at under two schedules: its drift compensation is read at 0 s alone, and as
    ``recalibration`` says. The result is the time at which the metric first crosses the limit,
    within 5 %. It is the worst right before a read of the compensation: of these moments, the
    first, second, fourth, eighth and so on are looked at, and bisection finds the interval, and the
    time in it, where the metric crosses. A dip between the moments that are looked at is missed,
    and read noise makes the metric rise and fall a little.

    Args:
        model: a converted model.
        metric: a function of the model on a chip that returns a number, such as the accuracy.
        limit: value that the metric must not fall below.
        recalibration: schedule of the reads of the drift compensation.
        longest: time up to which to look, > 0, as ``ProgrammedChip.at`` takes it.
        num_chips: number of chips, >= 1.
        seed: seed of the whole experiment, a signed 64-bit integer; ``sweep`` measures the same
            chips with the same seed.
        temperature: temperature of the chips, as ``ProgrammedChip.at`` takes it; that of the reads
            belongs to ``recalibration``.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it, but not ``none``.
        defects: which share of each chip is broken, as ``program`` takes it.
        higher_is_better: True if a worse model has a smaller metric; False: the metric must not
            rise above the limit.
        progress: if True, show a progress bar.

    Returns:
        The times by chip and schedule, with the cost of a read; print them for a table, ``plot``
        draws them.

    Raises:
        ValueError: ``num_chips`` is below 1, ``limit`` is no finite number, ``longest`` is not
            after 0 s, the compensation is ``none``, or ``program`` or ``at`` refuses its arguments.
        TypeError: the model is no module, the metric cannot be called or returns no number, or
            ``recalibration`` or ``defects`` is of another type.

    Example:
        >>> monthly = at.Recalibration(every="30 days")
        >>> metric = lambda chip: at.accuracy(chip, batches)
        >>> print(at.lifetime(model, metric, limit=0.9, recalibration=monthly))
    """
    check_module("lifetime", model)
    refuse_programmed(model, "lifetime")
    check_metric("lifetime", metric)
    checks.number("lifetime: limit", limit)
    checks.instance(
        "lifetime: recalibration", recalibration, Recalibration, "at.Recalibration(every='30 days')"
    )
    allowed = [each for each in get_args(Compensation) if each != "none"]
    checks.choice("lifetime: compensation", compensation, allowed)
    checks.flag("lifetime: higher_is_better", higher_is_better)
    last = seconds(longest)
    if last is None or last <= 0:
        raise ValueError(f"lifetime: longest must be a time after 0 s, got {longest!r}")
    defects = checked_defects("lifetime", defects)
    seeds = chip_seeds(seed, checks.count("lifetime: num_chips", num_chips))
    schedules = (Recalibration(temperature=recalibration.temperature), recalibration)
    found, cost = torch.empty(len(schedules), len(seeds), dtype=torch.float64), None
    with tqdm(total=2 * len(seeds), desc="chips x schedules", disable=not progress) as bar:
        for i, chip_seed in enumerate(seeds):
            physical = program(model, seed=chip_seed, defects=defects)
            physical.warned.update(beyond_data(model, last))  # noted in the table
            for j, schedule in enumerate(schedules):
                look = {"compensation": compensation, "recalibration": schedule}
                within = _Within(
                    physical, metric, limit, higher_is_better, look | {"temperature": temperature}
                )
                found[j, i] = _crossing(within, schedule.reads(last), last)
                bar.update()
            cost = _cost(physical, compensation)
    return Lifetime(
        limit=float(limit),
        longest=last,
        once=found[0],
        recalibrated=found[1],
        recalibration=recalibration,
        reads=len(recalibration.reads(last)),
        cost=cost,
        seeds=seeds,
        note="; ".join(beyond_data(model, last)),
    )


@dataclass(frozen=True)
class _Within:
    """Whether the metric of one chip is within the limit at a time."""

    physical: ProgrammedChip
    metric: Callable[[nn.Module], float]
    limit: float
    higher_is_better: bool
    look: dict[str, Any]
    """The other arguments of ``ProgrammedChip.at``."""

    def __call__(self, t: float) -> bool:
        given = self.metric(self.physical.at(t, **self.look))
        value = finite("lifetime", given, f"on the chip of seed {self.physical.seed} at {t:g} s")
        return value >= self.limit if self.higher_is_better else value <= self.limit


def _crossing(within: Callable[[float], bool], reads: Sequence[float], longest: float) -> float:
    """Return the time at which ``within`` ends: 0 if it never holds, infinity if it always does."""
    if not within(0.0):
        return 0.0
    # right before the next read
    ends = [*(math.nextafter(read, 0.0) for read in reads[1:]), longest]
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


def _cost(physical: ProgrammedChip, compensation: Compensation) -> ReadCost | None:
    try:
        return physical.recalibration_cost(compensation)
    except ValueError:  # the chip has no cost, or there are several
        return None
