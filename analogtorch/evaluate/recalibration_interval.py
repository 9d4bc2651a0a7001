"""How often a chip in the field must be recalibrated to keep a metric within a limit."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.cost_model import ReadCost
from analogtorch.devices import seconds
from analogtorch.devices.time import SECONDS, duration
from analogtorch.evaluate.conditions import listed
from analogtorch.evaluate.field import Field, cost_of, reads_of, served, stays, useful_reads
from analogtorch.evaluate.metric import Metric
from analogtorch.mapping import ChipMapping
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values.progress import Progress
from analogtorch.values.shown import Shown


@dataclass(frozen=True, kw_only=True, eq=False)
class RecalibrationInterval(Shown):
    """What ``recalibration_interval`` measured; print it for a table."""

    limit: float
    """The value of the metric that must not be crossed."""
    life: float
    """Time after programming up to which it must not be crossed, s."""
    every: float | None
    """The longest interval with which all chips stay within the limit, s; None: none does."""
    intervals: tuple[float, ...]
    """The intervals to choose from, s, from the longest to the shortest."""
    times: tuple[str | float, ...]
    """Times of other recalibrations, s: those after the chips begin to serve."""
    longest: Tensor
    """The longest interval with which a chip stays within the limit, s, by chip (float64); 0: none
    does."""
    shorter: Tensor
    """Whether a chip stays within the limit with the next shorter interval too, by chip (bool);
    True as well where there is none, or ``longest`` is 0."""
    cost: ReadCost | None
    """Cost of one recalibration, recovery included; None: a chip has no cost."""
    seeds: tuple[int, ...]
    """Seed of each chip: ``program(model, seed=seeds[i])`` programs it again."""
    recovery: Recovery | None = None
    """What was corrected at each recalibration, beside the drift compensation; None: nothing."""
    note: str = ""
    """A caveat of ``life``, such as that the devices' data end before it; or empty."""
    start: float = 0.0
    """Time from which on chips serve, s: that at which the targets of their devices are right."""
    conditions: tuple[str, ...] = ()
    """What of the chips is not as by default, such as their defects
    (``analogtorch.evaluate.conditions``); empty: nothing."""

    def reads(self, interval: float) -> int:
        """Return the number of recalibrations at an interval, the first included.

        One at the end of the life is not.
        """
        schedule = Recalibration(every=interval, times=self.times)
        return useful_reads(schedule, self.start, self.life)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the recovery, ready for JSON."""
        return {
            "limit": self.limit,
            "start": self.start,
            "life": self.life,
            "every": self.every,
            "intervals": list(self.intervals),
            "times": list(self.times),
            "longest": self.longest.tolist(),
            "shorter": self.shorter.tolist(),
            "cost": cost_of(self.cost),
            "seeds": list(self.seeds),
            **({"note": self.note} if self.note else {}),
            **listed(self.conditions),
        }


def recalibration_interval(
    model: nn.Module,
    metric: Metric,
    *,
    limit: float,
    life: str | float = "1 year",
    intervals: Sequence[str | float] | None = None,
    times: Sequence[str | float] = (),
    recovery: Recovery | None = None,
    num_chips: int = 5,
    seed: int = 0,
    temperature: str | float | None = None,
    compensation: Compensation = "least_squares",
    method: Method | None = None,
    defects: Defects | None = None,
    mapping: ChipMapping | None = None,
    higher_is_better: bool | None = None,
    progress: bool = False,
) -> RecalibrationInterval:
    """Return how often chips must be recalibrated to keep a metric within a limit all their life.

    Of each chip the intervals are tried from the longest to the shortest, until one keeps it within
    the limit, and the next shorter one, which need not: a model may lose by a drift that is read
    anew. The table has a note then, and shorter intervals have to be measured alone. Each is looked
    at as often: when the chip begins to serve and whenever ``lifetime`` looks. A dip at other
    moments is missed. Read noise makes the metric rise and fall a little, and the worst of all
    looks at all chips decides.

    Args:
        model: a converted model.
        metric: a function of the model on a chip that returns a number, such as the accuracy.
        limit: value that the metric must not fall below, within its bounds if it has some.
        life: time after programming up to which it must not, as ``ProgrammedChip.at`` takes it;
            after the chips begin to serve, as ``lifetime`` has it.
        intervals: times between two recalibrations to look at, > 0; None: the life, its half, its
            quarter and so on, down to an hour. With the life itself, none follows but ``times``.
        times: times after programming of other recalibrations, as ``Recalibration`` takes them.
            Drift goes with the logarithm of time: without early ones, the first interval decides.
            None may lie beyond the life. Those before the chips begin to serve are left out.
        recovery: corrections at each recalibration, the first included; None: only the drift
            compensation is read.
        num_chips: as ``lifetime`` takes it.
        seed: as ``lifetime`` takes it.
        temperature: as ``lifetime`` takes it, for recalibrations too.
        compensation: as ``lifetime`` takes it.
        method: as ``lifetime`` takes it.
        defects: as ``lifetime`` takes it.
        mapping: as ``lifetime`` takes it.
        higher_is_better: as ``lifetime`` takes it.
        progress: if True, show a progress bar.

    Returns:
        The longest interval by chip and of all of them, and what a recalibration costs; print it
        for a table. If no interval keeps all chips, ``every`` is None.

    Raises:
        ValueError: ``intervals`` is empty or has a time that is not after 0 s, ``Recalibration``
            refuses ``times``, one of them lies beyond the life, or as ``lifetime``.
        TypeError: as ``lifetime``.

    Example:
        >>> recovery = at.Recovery(batches=batches[:2])
        >>> metric = at.metrics.accuracy(batches)
        >>> early = ["1 h", "1 day", "7 days"]
        >>> print(
        ...     at.recalibration_interval(
        ...         model, metric, limit=0.9, times=early, recovery=recovery
        ...     )
        ... )
    """
    field = Field.checked(
        "recalibration_interval",
        model,
        metric,
        last=("life", life),
        limit=limit,
        recovery=recovery,
        num_chips=num_chips,
        seed=seed,
        temperature=temperature,
        compensation=compensation,
        method=method,
        defects=defects,
        mapping=mapping,
        higher_is_better=higher_is_better,
    )
    periods = _intervals(intervals, field.last)
    schedules = [Recalibration(every=each, times=times) for each in periods]
    others = _in_life(schedules[0], times, field)
    found = torch.zeros(len(field.seeds), dtype=torch.float64, device="cpu")
    shorter, cost = torch.ones(len(field.seeds), dtype=torch.bool, device="cpu"), None
    with Progress(total=len(found), desc="chips", disable=not progress) as bar:
        for i, physical in enumerate(field.chips()):
            for every, schedule in zip(periods, schedules, strict=True):
                within = field.within(physical, served(schedule, field.start), recovery)
                kept = stays(within, reads_of(schedule, field.start, field.last), field.last)
                if found[i]:
                    shorter[i] = kept
                    break
                found[i] = every if kept else 0.0
            bar.update()
            cost = field.cost(physical, recovery) if i == 0 else cost
    worst = found.min().item()
    return RecalibrationInterval(
        limit=field.limit,
        life=field.last,
        every=worst or None,
        intervals=tuple(periods),
        times=others,
        longest=found,
        shorter=shorter,
        cost=cost,
        seeds=field.seeds,
        recovery=recovery,
        note=field.note,
        start=field.start,
        conditions=field.conditions,
    )


def _in_life(
    schedule: Recalibration, given: Sequence[str | float], field: Field
) -> tuple[float, ...]:
    """Return the times, s, at which a chip that serves is recalibrated.

    Raises:
        ValueError: some lie beyond the life; it has them as they were ``given``.
    """
    times = tuple(float(t) for t in schedule.times)
    if late := [each for each, t in zip(given, times, strict=True) if t > field.last]:
        raise ValueError(
            f"recalibration_interval: times must lie within the life of {duration(field.last)}, "
            f"got {', '.join(map(repr, late))}; drop them, or give a longer life"
        )
    return tuple(t for t in times if t > field.start)


def _intervals(given: Sequence[str | float] | None, life: float) -> list[float]:
    """Return the intervals to look at, s, from the longest to the shortest."""
    if given is None:
        halvings = (life / 2.0**k for k in itertools.count(1))
        return [life, *itertools.takewhile(lambda t: t >= SECONDS["h"], halvings)]
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise ValueError(
            "recalibration_interval: intervals must be a list such as ['1 day', '30 days'], or "
            f"None, got {given!r}"
        )
    times = [seconds(each) for each in given]
    for each, t in zip(given, times, strict=True):
        if t is None or t <= 0:
            raise ValueError(
                "recalibration_interval: intervals must be after 0 s such as '30 days', got "
                f"{each!r}"
            )
    return sorted({t for t in times if t is not None}, reverse=True)
