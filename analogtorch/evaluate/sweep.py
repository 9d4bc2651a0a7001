"""Monte Carlo over chips and times: how much of a metric survives programming, noise and drift."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from analogtorch.conversion.kinds import check_module, refuse_programmed
from analogtorch.devices import seconds
from analogtorch.evaluate.journal import Journal, experiment, in_the_field, key
from analogtorch.ops import fold, seed_tensor, stream
from analogtorch.simulate.chip import beyond_data, program
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.values import checks

TIMES = ("0 s", "1 h", "1 day", "1 month", "1 year")
"""The times after programming that reports show by default."""


@dataclass(frozen=True)
class Sweep:
    """A metric on several chips at several times; print it for a table."""

    times: tuple[str, ...]
    values: Tensor
    """The metric, float64, of shape (chips, times)."""
    seeds: tuple[int, ...]
    """Seed of each chip: ``program(model, seed=seeds[i])`` programs it again."""
    notes: tuple[str, ...] = ()
    """A caveat for each time, such as that the devices' data end before it; empty where there is
    none."""

    def __post_init__(self) -> None:
        size = (len(self.seeds), len(self.times))
        if not isinstance(self.values, Tensor) or self.values.shape != size:
            raise ValueError(
                f"Sweep.values must be a tensor (chips, times) = {size}, got "
                f"{checks.shown(self.values)}"
            )
        if self.notes and len(self.notes) != len(self.times):
            raise ValueError(
                f"Sweep.notes needs one text per time, got {len(self.notes)} for {len(self.times)} "
                "times"
            )

    @property
    def mean(self) -> Tensor:
        """Mean over the chips, of shape (times,)."""
        return self.values.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over the chips, of shape (times,); zero for one chip."""
        return self.values.std(0, correction=1 if len(self.seeds) > 1 else 0)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return ``{time: {"mean", "std", "num_chips"}}``, with ``"note"`` where there is one."""
        rows = zip(self.times, self.mean.tolist(), self.std.tolist(), strict=True)
        found = {
            time: {"mean": mean, "std": std, "num_chips": len(self.seeds)}
            for time, mean, std in rows
        }
        return {
            time: row | ({"note": note} if (note := self.note(time)) else {})
            for time, row in found.items()
        }

    def note(self, time: str) -> str:
        """Return the caveat of the values at ``time``; empty if there is none."""
        return self.notes[self.times.index(time)] if self.notes else ""

    def __str__(self) -> str:
        rows = [f"{'time':<12} {'mean':>8} {'std':>8}  ({len(self.seeds)} chips)"]
        rows += [
            f"{t:<12} {v['mean']:>8.4f} {v['std']:>8.4f}  {v.get('note', '')}".rstrip()
            for t, v in self.to_dict().items()
        ]
        return "\n".join(rows)


def sweep(
    model: nn.Module,
    metric: Callable[[nn.Module], float],
    *,
    num_chips: int = 10,
    times: Sequence[str | float] = TIMES,
    seed: int = 0,
    compensation: Compensation = "least_squares",
    defects: Defects | None = None,
    temperature: str | float | None = None,
    recalibration: Recalibration | None = None,
    progress: bool = False,
    folder: str | Path | None = None,
) -> Sweep:
    """Program several chips and measure a metric on each of them at each time.

    Chip ``i`` is the same for every model and every call with the same ``seed``, so that two
    models, or two trainings, are compared on the same devices.

    Args:
        model: a converted model.
        metric: a function of the model on a chip that returns a number, such as the accuracy.
        num_chips: number of chips, >= 1.
        times: times after programming, as ``ProgrammedChip.at`` takes them. A time beyond the data
            of the chip's devices is marked in the result.
        seed: seed of the whole experiment, a signed 64-bit integer.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it.
        defects: which share of each chip is broken, as ``program`` takes it.
        temperature: temperature of the chips, as ``ProgrammedChip.at`` takes it.
        recalibration: when the compensation is read, as ``ProgrammedChip.at`` takes it; None: at
            each of the times.
        progress: if True, show a progress bar.
        folder: a folder that stores each measurement as soon as it is made; None stores nothing.
            Called again with the same model and options, ``sweep`` measures only what the folder
            lacks; more chips and other times may be added. The folder does not know the metric, so
            use one folder per metric.

    Returns:
        The metric by chip and time; print it for a table.

    Raises:
        ValueError: ``num_chips`` is below 1, ``times`` is empty, the metric is NaN or infinite, the
            folder holds another experiment, or ``program`` or ``at`` refuses its arguments.
        TypeError: the model is no module, the metric cannot be called or returns no number, or
            ``defects`` is of another type.
        OSError: the folder cannot be written.

    Example:
        >>> metric = lambda chip: at.accuracy(chip, batches)
        >>> found = at.sweep(model, metric, num_chips=25, folder="runs/direct")
        >>> print(found)
    """
    check_module("sweep", model)
    refuse_programmed(model, "sweep")
    check_metric("sweep", metric)
    num_chips = checks.count("sweep: num_chips", num_chips)
    checks.choice("sweep: compensation", compensation, get_args(Compensation))
    at = checked_times("sweep", times)
    seeds = chip_seeds(seed, num_chips)
    notes = tuple("; ".join(beyond_data(model, t)) for t in at)
    defects = checked_defects("sweep", defects)
    look: dict[str, Any] = {
        "compensation": compensation,
        "temperature": temperature,
        "recalibration": recalibration,
    }
    journal = None
    if folder is not None:
        field = in_the_field(temperature, recalibration)
        journal = Journal(folder, experiment(model, seed, compensation, defects, field))
    values = torch.empty(num_chips, len(at), dtype=torch.float64)
    with tqdm(
        total=num_chips * len(at), desc="chips x times", unit="read", disable=not progress
    ) as bar:
        for i, chip_seed in enumerate(seeds):
            done = {} if journal is None else journal.read(i, chip_seed)
            wanted = {t: name for t, name in at.items() if key(t) not in done}
            bar.update(len(at) - len(wanted))
            for t, value in _measure(model, metric, i, chip_seed, wanted, look, defects):
                done[key(t)] = value
                if journal is not None:
                    journal.write(i, chip_seed, done)
                bar.update()
            values[i] = torch.tensor([done[key(t)] for t in at], dtype=torch.float64)
    return Sweep(
        times=tuple(at.values()), values=values, seeds=seeds, notes=notes if any(notes) else ()
    )


def _measure(
    model: nn.Module,
    metric: Callable[[nn.Module], float],
    chip: int,
    seed: int,
    times: dict[float | None, str],
    look: dict[str, Any],
    defects: Defects | None,
) -> Iterator[tuple[float | None, float]]:
    """Yield the time and the metric of one chip at each of the ``times``.

    ``look`` holds the other arguments of ``ProgrammedChip.at``. The programmed chip is released at
    the end, so that the next one has its memory.
    """
    if not times:
        return
    physical = program(model, seed=seed, defects=defects)
    for t, name in times.items():
        physical.warned.update(beyond_data(model, t))  # marked in the table
        given = metric(physical.at("programmed" if t is None else t, **look))
        yield t, finite("sweep", given, f"on chip {chip} at {name}")


def checked_times(caller: str, times: Sequence[str | float]) -> dict[float | None, str]:
    """Return the times in seconds, each with its name in tables.

    Raises:
        ValueError: they are no list, there is none, two are the same, or one is no time.
    """
    if isinstance(times, str | int | float) or not isinstance(times, Iterable):
        raise ValueError(
            f"{caller}: times must be a list such as ['0 s', '1 day'], got {times!r}; write "
            f"[{times!r}]"
        )
    given = tuple(times)
    if not given:
        raise ValueError(f"{caller}: times is empty; leave it out for the default")
    found = {seconds(time): label(time) for time in given}
    if len(found) < len(given):
        raise ValueError(f"{caller}: times must differ, got {given}")
    return found


def check_metric(caller: str, metric: Any) -> None:
    """Raise an error unless ``metric`` can be called with a model.

    Raises:
        TypeError: it is a module, or cannot be called.
    """
    if isinstance(metric, nn.Module) or not callable(metric):
        raise TypeError(
            f"{caller}: metric must be a function of a model that returns a number, such as "
            f"lambda chip: at.accuracy(chip, batches), got {checks.shown(metric)}"
        )


def checked_defects(caller: str, defects: Any) -> Defects | None:
    """Return the defects of the chips; None where nothing is broken.

    Raises:
        TypeError: they are neither ``Defects`` nor None.
    """
    if defects is not None:
        example = "at.Defects(stuck_on=0.01), or None"
        checks.instance(f"{caller}: defects", defects, Defects, example)
    return defects if defects is not None and defects.present() else None


def finite(caller: str, given: Any, where: str) -> float:
    """Return what a metric returned as a finite number.

    Raises:
        TypeError: it is no number. A tensor of one element counts as a number.
        ValueError: it is NaN or infinite.
    """
    value = given.item() if isinstance(given, Tensor) and given.numel() == 1 else given
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{caller}: the metric must return a number, got {checks.shown(given)} {where}"
        )
    if not math.isfinite(value):
        raise ValueError(f"{caller}: the metric is {value} {where}; it must be a finite number")
    return float(value)


def chip_seeds(seed: int, num_chips: int) -> tuple[int, ...]:
    """Return the seeds of the experiment's chips, the same for every model and call."""
    return tuple(int(fold(seed_tensor(seed), stream("chip", i)).item()) for i in range(num_chips))


def label(time: str | float) -> str:
    """Return the name of a time in tables: a text as it is, a number as seconds."""
    return time if isinstance(time, str) else f"{int(time) if time == int(time) else time} s"
