"""Monte Carlo over chips and times: how much of a metric survives programming, noise and drift."""

import contextlib
import math
import tempfile
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
from analogtorch.evaluate.helpers import checked_processes, helpers
from analogtorch.evaluate.journal import Journal, Unkept, experiment, in_the_field, key
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
    processes: int = 1,
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
            lacks; more chips and other times may be added. Several processes, on one machine or on
            several that see the folder, share the work if each calls ``sweep`` with it: a chip is
            measured by one of them, and all return the whole result. The folder does not know the
            metric, so use one folder per metric.
        processes: number of processes on this machine, >= 1, that measure chips at the same time;
            above 1, each has one thread, and the model must be on the CPU. The results are those
            of one process with one thread (``torch.set_num_threads(1)``).

    Returns:
        The metric by chip and time; print it for a table. Mean, spread, worst chip and quantiles
        are by time, and so are intervals, yields and verdicts; ``minus`` compares two sweeps chip
        by chip, and ``plot``, ``to_csv`` and ``to_dict`` give everything away. A metric that is a
        function with a name has it in tables and plots.

    Raises:
        ValueError: ``num_chips`` is below 1, ``times`` is empty, the metric is NaN or infinite, the
            folder holds another experiment, ``processes`` is above 1 where that cannot be, or
            ``program`` or ``at`` refuses its arguments.
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
    processes = min(checked_processes("sweep", processes, model), num_chips)
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
    with contextlib.ExitStack() as stack:
        if folder is None and processes > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="analogtorch-"))
        journal: Journal | Unkept = Unkept()
        if folder is not None:
            field = in_the_field(temperature, recalibration)
            journal = Journal(folder, experiment(model, seed, compensation, defects, field))
        work = _Work(model, metric, seeds, at, look, defects, journal)
        total = num_chips * len(at)
        with (
            tqdm(total=total, desc="chips x times", unit="read", disable=not progress) as bar,
            helpers(processes - 1, work.free),
        ):
            rows = work.free(bar.update)
            for i in range(num_chips):
                if i not in rows:  # another process was at work on it
                    with journal.claim(i, wait=True):
                        rows[i] = work.chip(i, bar.update)
    values = torch.tensor([rows[i] for i in range(num_chips)], dtype=torch.float64)
    name = getattr(metric, "__name__", "")
    return Sweep(
        times=tuple(at.values()),
        values=values,
        seeds=seeds,
        notes=notes if any(notes) else (),
        metric=name if name.isidentifier() else UNNAMED,
        higher_is_better=higher_is_better,
    )


def _nothing(count: int = 1) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class _Work:
    """The cells of a sweep: each chip at each time."""

    model: nn.Module
    metric: Callable[[nn.Module], float]
    seeds: tuple[int, ...]
    times: dict[float | None, str]
    look: dict[str, Any]
    """The other arguments of ``ProgrammedChip.at``."""
    defects: Defects | None
    journal: Journal | Unkept

    def free(self, step: Callable[..., object] = _nothing) -> dict[int, list[float]]:
        """Return the metric of each chip at each time, but of those that others are measuring."""
        rows = {}
        for i in range(len(self.seeds)):
            with contextlib.suppress(BlockingIOError), self.journal.claim(i, wait=False):
                rows[i] = self.chip(i, step)
        return rows

    def chip(self, i: int, step: Callable[..., object]) -> list[float]:
        """Return the metric of a claimed chip at each time; what the journal lacks is measured."""
        done = self.journal.read(i, self.seeds[i])
        wanted = {t: name for t, name in self.times.items() if key(t) not in done}
        step(len(self.times) - len(wanted))
        for t, value in self._measured(i, wanted):
            done[key(t)] = value
            self.journal.write(i, self.seeds[i], done)
            step(1)
        return [done[key(t)] for t in self.times]

    def _measured(
        self, i: int, times: dict[float | None, str]
    ) -> Iterator[tuple[float | None, float]]:
        """Yield each of the times with the metric.

        The programmed chip is released at the end, so that the next one has its memory.
        """
        if not times:
            return
        physical = program(self.model, seed=self.seeds[i], defects=self.defects)
        for t, name in times.items():
            physical.warned.update(beyond_data(self.model, t))  # marked in the table
            given = self.metric(physical.at("programmed" if t is None else t, **self.look))
            yield t, finite("sweep", given, f"on chip {i} at {name}")


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
