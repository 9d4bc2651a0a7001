"""How long a metric stays within a limit on chips in the field, with and without recalibration."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.cost_model import ReadCost
from analogtorch.devices.thermal import kelvin
from analogtorch.evaluate.conditions import listed
from analogtorch.evaluate.field import Field, cost_of, crossing, reads_of, served, useful_reads
from analogtorch.evaluate.metric import Metric
from analogtorch.files import comma_separated
from analogtorch.files.figures import draw
from analogtorch.mapping import ChipMapping
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values import checks
from analogtorch.values.progress import Progress
from analogtorch.values.shown import Shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Lifetime(Shown):
    """What ``lifetime`` measured; print it for a table."""

    limit: float
    """The value of the metric that must not be crossed."""
    longest: float
    """Time up to which was looked, s."""
    once: Tensor
    """Seconds after programming until the metric falls below the limit, by chip (float64), with
    compensation read at ``start`` alone. 0: it is below at ``start``; infinite: it is above
    whenever it is looked at."""
    recalibrated: Tensor
    """The same with the schedule of ``recalibration``."""
    recalibration: Recalibration
    """The schedule."""
    reads: int
    """Number of reads of the compensation from ``start`` on, before ``longest``."""
    cost: ReadCost | None
    """Cost of one read; None: a chip has no cost."""
    seeds: tuple[int, ...]
    """Seed of each chip: ``program(model, seed=seeds[i])`` programs it again."""
    note: str = ""
    """A caveat of ``longest``, such as that the devices' data end before it; empty if there is
    none."""
    recovered: Tensor | None = None
    """The same as ``recalibrated`` with a recovery at each read; None: there was none."""
    recovery: Recovery | None = None
    """What was corrected at each read, beside the drift compensation."""
    recovery_cost: ReadCost | None = None
    """Cost of one read with its recovery; None: there was none, or a chip has no cost."""
    start: float = 0.0
    """Time from which on chips serve, s: that at which the targets of their devices are right."""
    conditions: tuple[str, ...] = ()
    """What of the chips is not as by default, such as their defects
    (``analogtorch.evaluate.conditions``); empty: nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; what is infinite is None.

        ``every``, ``times`` and, where it is given, ``read_temperature`` (K) are those of the
        schedule.
        """
        return {
            "limit": self.limit,
            "start": self.start,
            "longest": self.longest,
            "once": _listed(self.once),
            "recalibrated": _listed(self.recalibrated),
            "every": self.recalibration.every,
            "times": list(self.recalibration.times),
            **self._read_temperature(),
            "reads": self.reads,
            "cost": cost_of(self.cost),
            "seeds": list(self.seeds),
            **({"note": self.note} if self.note else {}),
            **listed(self.conditions),
            **self._recovery(),
        }

    def _read_temperature(self) -> dict[str, Any]:
        given = self.recalibration.temperature
        return {} if given is None else {"read_temperature": kelvin(given)}

    def _recovery(self) -> dict[str, Any]:
        if self.recovered is None:
            return {}
        return {"recovered": _listed(self.recovered), "recovery_cost": cost_of(self.recovery_cost)}

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return one line per chip, separated by commas, and write it to ``path`` if given.

        The columns are its seed and the seconds of ``once``, ``recalibrated`` and, where there was
        a recovery, ``recovered``; ``inf``: it is above the limit whenever it is looked at.

        Raises:
            OSError: the file cannot be written.
        """
        columns = {"once": self.once, "recalibrated": self.recalibrated}
        if self.recovered is not None:
            columns["recovered"] = self.recovered
        seconds = zip(*(times.tolist() for times in columns.values()), strict=True)
        rows = [[seed, *each] for seed, each in zip(self.seeds, seconds, strict=True)]
        return comma_separated([["seed", *columns], *rows], path)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the share of chips within the limit over the logarithm of time.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)


def lifetime(
    model: nn.Module,
    metric: Metric,
    *,
    limit: float,
    recalibration: Recalibration,
    recovery: Recovery | None = None,
    longest: str | float = "10 years",
    num_chips: int = 5,
    seed: int = 0,
    temperature: str | float | None = None,
    compensation: Compensation = "least_squares",
    method: Method | None = None,
    defects: Defects | None = None,
    mapping: ChipMapping | None = None,
    higher_is_better: bool | None = None,
    progress: bool = False,
) -> Lifetime:
    """Return how long a metric stays within a limit, with and without recalibration in the field.

    Chips serve from 0 s on; if targets of devices allow for drift (``Chip.drift_aware``, which
    ``calibrate`` may choose), from the time on at which the last of them are right. The first read
    of the compensation is then, and earlier ones of ``recalibration`` do not count.

    Each chip is looked at under two schedules: its drift compensation is read once, when it begins
    to serve, or as ``recalibration`` says. With a ``recovery`` there is a third: with each read
    of ``recalibration``, the chip also corrects itself from a few batches. The result is the time
    at which the metric first crosses the limit, within 5 %. It is the worst right before a read of
    the compensation. Looks are 1, 2, 4, 8 h and so on after programming, and at ``longest``, each
    moved to right before the read that precedes or coincides, unless that is a factor of 2 or more
    away. Between the first look beyond the limit and the one before, bisection finds the interval
    of the schedule, and the time in it, where the metric crosses. A dip between looks is missed,
    and read noise makes the metric rise and fall a little.

    Args:
        model: a converted model.
        metric: a function of the model on a chip that returns a number, such as the accuracy.
        limit: value that the metric must not fall below, within its bounds if it has some.
        recalibration: schedule of the reads of the drift compensation.
        recovery: corrections at each of these reads, the first included; None: none.
        longest: time after programming up to which to look, as ``ProgrammedChip.at`` takes it;
            after the chips begin to serve.
        num_chips: number of chips, >= 1.
        seed: seed of the whole experiment, a signed 64-bit integer; ``sweep`` measures the same
            chips with the same seed.
        temperature: temperature of the chips, as ``ProgrammedChip.at`` takes it; that of the reads
            belongs to ``recalibration``.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it, but not ``none``.
        method: how the cells are written, as ``program`` takes it.
        defects: which share of each chip is broken, as ``program`` takes it.
        mapping: the tiles of the layers, from ``map_to_chip``. Blocks on one tile are read one
            after the other, so that the cost of a read takes it; it also decides which defects
            affect a weight. None: each block has a tile of its own, all of which are read at once,
            as if there were as many.
        higher_is_better: True if a worse model has a smaller metric; False: the metric must not
            rise above the limit; None: as the metric says.
        progress: if True, show a progress bar.

    Returns:
        The times by chip and schedule, with the cost of a read; print them for a table, ``plot``
        draws them.

    Raises:
        ValueError: ``num_chips`` is below 1, ``limit`` is no finite number within the bounds of the
            metric, ``longest`` is not after the chips begin to serve, the compensation is ``none``,
            ``program`` or ``at`` refuses its arguments, or the recovery fails on a chip.
        TypeError: the model is no module, the metric cannot be called or returns no number, or
            ``recalibration``, ``recovery``, ``method`` or ``defects`` is of another type.

    Example:
        >>> monthly = at.Recalibration(every="30 days")
        >>> metric = at.metrics.accuracy(batches)
        >>> print(at.lifetime(model, metric, limit=0.9, recalibration=monthly))
    """
    checks.instance(
        "lifetime: recalibration", recalibration, Recalibration, "at.Recalibration(every='30 days')"
    )
    field = Field.checked(
        "lifetime",
        model,
        metric,
        last=("longest", longest),
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
    once = served(Recalibration(temperature=recalibration.temperature), field.start)
    regular = served(recalibration, field.start)
    schedules: list[tuple[Recalibration, Recovery | None]] = [(once, None), (regular, None)]
    if recovery is not None:
        schedules.append((regular, recovery))
    found = torch.empty(len(schedules), len(field.seeds), dtype=torch.float64, device="cpu")
    cost: ReadCost | None = None
    recovery_cost: ReadCost | None = None
    with Progress(total=found.numel(), desc="chips x schedules", disable=not progress) as bar:
        for i, physical in enumerate(field.chips()):
            for j, (schedule, corrections) in enumerate(schedules):
                within = field.within(physical, schedule, corrections)
                found[j, i] = crossing(
                    within, reads_of(schedule, field.start, field.last), field.last
                )
                bar.update()
            if i == 0:
                cost = field.cost(physical)
                recovery_cost = None if recovery is None else field.cost(physical, recovery)
    return Lifetime(
        limit=field.limit,
        longest=field.last,
        once=found[0],
        recalibrated=found[1],
        recalibration=recalibration,
        reads=useful_reads(recalibration, field.start, field.last),
        cost=cost,
        seeds=field.seeds,
        note=field.note,
        recovered=None if recovery is None else found[2],
        recovery=recovery,
        recovery_cost=recovery_cost,
        start=field.start,
        conditions=field.conditions,
    )


def _listed(times: Tensor) -> list[float | None]:
    """Return times, ready for JSON: None where infinite."""
    return [t if math.isfinite(t) else None for t in times.tolist()]
