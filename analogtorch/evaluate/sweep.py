"""Monte Carlo over chips and times: how much of a metric survives programming, noise and drift."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from analogtorch.conversion.kinds import check_module, refuse_programmed
from analogtorch.devices import seconds
from analogtorch.evaluate.journal import Journal, experiment, in_the_field, key
from analogtorch.evaluate.swept import UNNAMED, Sweep
from analogtorch.ops import fold, seed_tensor, stream
from analogtorch.simulate.chip import beyond_data, program
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.values import checks

TIMES = ("0 s", "1 h", "1 day", "1 month", "1 year")
"""The times after programming that reports show by default."""


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
    higher_is_better: bool = True,
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
        higher_is_better: True if a worse model has a smaller metric, such as an accuracy. It
            decides which chip is the worst, and on which side of a limit a chip should be.
        progress: if True, show a progress bar.
        folder: a folder that stores each measurement as soon as it is made; None stores nothing.
            Called again with the same model and options, ``sweep`` measures only what the folder
            lacks; more chips and other times may be added. The folder does not know the metric, so
            use one folder per metric.

    Returns:
        The metric by chip and time; print it for a table. Mean, spread, worst chip and quantiles
        are by time, and so are intervals, yields and verdicts; ``minus`` compares two sweeps chip
        by chip, and ``plot``, ``to_csv`` and ``to_dict`` give everything away. A metric that is a
        function with a name has it in tables and plots.

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
        >>> print(found.keeps(0.99 * at.accuracy(digital, batches))[0])  # iso-accuracy at 0 s
    """
    check_module("sweep", model)
    refuse_programmed(model, "sweep")
    check_metric("sweep", metric)
    num_chips = checks.count("sweep: num_chips", num_chips)
    checks.choice("sweep: compensation", compensation, get_args(Compensation))
    checks.flag("sweep: higher_is_better", higher_is_better)
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
    name = getattr(metric, "__name__", "")
    return Sweep(
        times=tuple(at.values()),
        values=values,
        seeds=seeds,
        notes=notes if any(notes) else (),
        metric=name if name.isidentifier() else UNNAMED,
        higher_is_better=higher_is_better,
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
