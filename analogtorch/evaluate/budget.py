"""The cost of each non-ideality: alone, with all but it, and with all together."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from analogtorch.chips import Chip
from analogtorch.devices import seconds
from analogtorch.evaluate.budget_bench import AS_IT_IS, DEFECT, Bench, grown, only
from analogtorch.evaluate.checked import checked_defects, checked_method, chip_seeds, measurable
from analogtorch.evaluate.conditions import conditions
from analogtorch.evaluate.experiment import experiment
from analogtorch.evaluate.interval import Interval, interval
from analogtorch.evaluate.journal import Journal, Unkept
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric import Metric, check_metric, direction, heading
from analogtorch.evaluate.metric_identity import kept_of
from analogtorch.evaluate.shares import Budget, Share
from analogtorch.evaluate.times import label
from analogtorch.simulate.chip import beyond_data
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values import checks
from analogtorch.values.progress import Progress
from analogtorch.values.warned import warn

CONVERTERS = ("dac", "adc", "digital_unit")
"""Non-idealities that round: their step grows by powers of two."""
MOST_GROWTH = 32.0
"""Largest factor to try."""
HALVINGS = 4
"""Number of halvings of the interval of a factor, which is one doubling wide."""


def budget(
    model: nn.Module,
    metric: Metric,
    *,
    names: Iterable[str] | None = None,
    time: str | float = "1 day",
    num_chips: int = 5,
    seed: int = 0,
    compensation: Compensation = "least_squares",
    method: Method | None = None,
    defects: Defects | None = None,
    temperature: str | float | None = None,
    recovery: Recovery | None = None,
    growth: float | None = 0.01,
    higher_is_better: bool | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Budget:
    """Measure what each non-ideality of the chip costs the metric.

    Every number is measured on the same simulated chips at the same time after programming: with
    one non-ideality alone, with all but that one, with all of them, and with none. Differences are
    paired over the chips. ``digital_unit`` alone includes the ADC before it, and a chip that
    compensates drift does so in each measurement, and so does one that corrects itself.

    Args:
        model: a converted model; it is copied and stays as it is.
        metric: a function of a model in evaluation mode that returns a number, such as the
            accuracy.
        names: non-idealities to measure, some of ``chip.non_idealities()`` and, after ``defects.``,
            of ``defects.present()``, such as ``defects.stuck_on``; by default all that the chips
            have.
        time: time after programming, as ``ProgrammedChip.at`` takes it.
        num_chips: number of chips, >= 1; with one there are no intervals.
        seed: seed of the whole experiment, a signed 64-bit integer; ``sweep`` measures the same
            chips with the same seed.
        compensation: compensation of the drift, as ``ProgrammedChip.at`` takes it.
        method: how the cells are written, as ``program`` takes it.
        defects: which share of each chip is broken, as ``program`` takes it. Each kind of defect
            is a non-ideality of its own.
        temperature: temperature of the chips, as ``ProgrammedChip.at`` takes it; where it is that
            of the device model, the non-ideality ``temperature`` costs nothing.
        recovery: what each chip corrects of itself before it is measured, such as gain and offset
            of its columns, as ``sweep`` takes it; None: nothing.
            The chip without any non-ideality corrects nothing.
        growth: share of the metric, > 0, to lose beyond what the chip loses as it is, when one
            non-ideality grows: the result has the factor at which it is lost, within 5 %, up to 32
            (Rasch et al., Nat. Commun. 14, 5282 (2023), report such factors), or the largest that
            is possible if that loses less. None: no factors, which take most of the time; nor are
            there any, after a warning, for a metric that is 0 without non-idealities.
        higher_is_better: True if a worse model has a smaller metric, such as an accuracy;
            None: as the metric says.
        folder: a folder that stores each measurement as soon as it is made, as that of ``sweep``:
            called again with the same model and options, ``budget`` measures only what it lacks;
            more chips and names, other times and growths may be added. None stores nothing. One
            folder per metric and set of samples.
        progress: if True, show a progress bar.

    Returns:
        The losses by non-ideality; print them for a table, ``plot`` draws them.

    Raises:
        ValueError: the model has no analog layer or is a programmed chip, a name is unknown,
            ``num_chips`` is below 1, ``program`` or ``at`` refuses its arguments, the metric is NaN
            or infinite, the recovery fails on a chip, or the folder holds another experiment.
        TypeError: the metric is no function or returns no number, or ``method``, ``defects`` or
            ``recovery`` is of another type; or, with a folder, batches hold what has no digest, as
            in ``sweep``.
        OSError: the folder cannot be written.

    Example:
        >>> found = at.budget(model, lambda chip: at.accuracy(chip, batches), num_chips=10)
        >>> print(found)
    """
    layers = measurable("budget", model)
    check_metric("budget", metric)
    chips = list(dict.fromkeys(layer.chip for layer in layers.values()))
    if temperature is not None and not any(chip.thermal.activation_energy for chip in chips):
        raise ValueError(
            f"budget: temperature {temperature!r} would change nothing, because no chip of the "
            "model has an activation energy (chip.thermal); leave it out"
        )
    method, defects = checked_method("budget", method), checked_defects("budget", defects)
    chosen = _chosen(names, chips, defects)
    look = Look(compensation=compensation, temperature=temperature, recovery=recovery)
    look.check("budget")
    higher_is_better = direction("budget", metric, higher_is_better)
    if growth is not None:
        checks.number("budget: growth", growth, above=0, remedy="None measures no factors")
    seeds = chip_seeds(seed, checks.count("budget: num_chips", num_chips))
    journal: Journal | Unkept = Unkept()
    if folder is not None:
        whole = experiment("budget", model, seed, look, method, defects)
        journal = Journal(folder, whole, kept_of(metric), caller="budget")
    most = 1 + (2 + (math.log2(MOST_GROWTH) + HALVINGS if growth else 0)) * len(chosen)
    with Progress(total=int(most) * len(seeds) + 1, unit="run", disable=not progress) as bar:
        bench = Bench(model, metric, seeds, time, look, method, defects, journal, bar.update)
        reference = bench.reference()
        if growth is not None and reference == 0:
            warn(
                f"budget: growth={growth} is a share of the metric without non-idealities, which "
                "is 0, so that no factors are measured; growth=None asks for none"
            )
            growth = None
        sign = 1.0 if higher_is_better else -1.0
        everything = bench.value(AS_IT_IS)
        lost = _Lost(reference, everything, sign)
        rows = [_share(name, bench, lost, growth) for name in chosen]
    differing = conditions(method, defects, compensation, temperature=temperature)
    return Budget(
        rows=tuple(sorted(rows, key=lambda row: -row.alone.mean)),
        reference=reference,
        total=lost.of(everything),
        time=label(time),
        growth=growth,
        seeds=seeds,
        note="; ".join(beyond_data(model, seconds(time))),
        recovery="" if recovery is None else recovery.summary,
        conditions=tuple(differing.values()),
        metric=heading(metric),
    )


def _chosen(
    names: Iterable[str] | None, chips: Sequence[Chip], defects: Defects | None
) -> tuple[str, ...]:
    broken = () if defects is None else defects.present()
    of_chips = dict.fromkeys(name for chip in chips for name in chip.non_idealities())
    present = (*of_chips, *(DEFECT + name for name in broken))
    if names is None:
        return present
    names = (names,) if isinstance(names, str) else names
    given = checks.items("budget: names", names, str(list(present)))
    for name in given:
        if name not in present:
            near = checks.nearest(name, present) if isinstance(name, str) else ""
            raise ValueError(
                f"budget: no chip of the model has the non-ideality {name!r}{near}; they have "
                f"{', '.join(present) or 'none'}"
            )
    return tuple(name for name in present if name in given)


@dataclass(frozen=True)
class _Lost:
    """Losses of the metric against the chip without non-idealities."""

    reference: float
    everything: list[float]
    """The metric of each chip as it is."""
    sign: float

    def of(self, values: list[float]) -> Interval:
        """Return the loss of these values against the reference."""
        return interval([self.sign * (self.reference - value) for value in values])

    def saved(self, values: list[float]) -> Interval:
        """Return how much better these values are than those of the same chips as they are."""
        pairs = zip(values, self.everything, strict=True)
        return interval([self.sign * (value - before) for value, before in pairs])

    def beyond(self, values: list[float], share: float) -> bool:
        """Return whether these values lose more than a share of the reference.

        The loss is counted from the chips as they are.
        """
        return -self.saved(values).mean > share * abs(self.reference)


def _share(name: str, bench: Bench, lost: _Lost, growth: float | None) -> Share:
    alone, others = bench.value(only(name)), bench.value(grown(name, 0.0))
    factor = None if growth is None else _growth(name, bench, lost, growth)
    return Share(name=name, alone=lost.of(alone), saved=lost.saved(others), growth=factor)


def _growth(name: str, bench: Bench, lost: _Lost, share: float) -> float:
    """Return the factor at which ``name`` costs that share more, or infinity.

    Where there is no such factor because no larger one is possible, it is the largest possible.
    """

    def possible(factor: float) -> bool:
        return bench.takes(grown(name, factor))

    def ends(factor: float) -> bool:
        if not possible(factor):
            return True
        try:
            return lost.beyond(bench.value(grown(name, factor)), share)
        except ValueError as error:
            error.add_note(
                f"budget: this was with {name} grown {factor:g} times; growth=None measures without"
            )
            raise

    low = 1.0
    while not ends(2 * low):
        low *= 2
        if low >= MOST_GROWTH:
            return math.inf
    if name in CONVERTERS:
        return low
    high = 2 * low
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if ends(middle) else (middle, high)
    return math.sqrt(low * high) if possible(high) else low
