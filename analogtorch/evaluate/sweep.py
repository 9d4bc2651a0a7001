"""Monte Carlo over chips and times: how much of a metric survives programming, noise and drift."""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload
from urllib.parse import quote

import torch
from torch import nn

from analogtorch.evaluate.cells import Cells, Executor, Experiment, check_executor, run, run_by
from analogtorch.evaluate.checked import checked_defects, checked_method, chip_seeds, measurable
from analogtorch.evaluate.conditions import conditions, unrounded
from analogtorch.evaluate.experiment import experiment
from analogtorch.evaluate.helpers import checked_processes
from analogtorch.evaluate.journal import Journal, Unkept
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric import (
    Metric,
    bounds_of,
    check_metric,
    direction,
    heading,
)
from analogtorch.evaluate.metric_identity import kept_of
from analogtorch.evaluate.swept import Sweep
from analogtorch.evaluate.times import checked_times
from analogtorch.simulate.chip import beyond_data
from analogtorch.simulate.compensation import Compensation
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.recalibration import Recalibration
from analogtorch.simulate.recovery import Recovery
from analogtorch.simulate.writing import Method
from analogtorch.values import checks
from analogtorch.values.progress import Progress

TIMES = ("0 s", "1 h", "1 day", "1 month", "1 year")
"""The times after programming that reports show by default."""


@overload
def sweep(
    model: nn.Module,
    metric: Metric,
    *,
    num_chips: int = ...,
    times: Sequence[str | float] = ...,
    seed: int = ...,
    compensation: Compensation = ...,
    method: Method | None = ...,
    defects: Defects | None = ...,
    temperature: str | float | None = ...,
    recalibration: Recalibration | None = ...,
    recovery: Recovery | None = ...,
    higher_is_better: bool | None = ...,
    progress: bool = ...,
    folder: str | Path | None = ...,
    processes: int = ...,
    executor: Executor | None = ...,
) -> Sweep: ...


@overload
def sweep(
    model: Mapping[str, nn.Module],
    metric: Metric,
    *,
    num_chips: int = ...,
    times: Sequence[str | float] = ...,
    seed: int = ...,
    compensation: Compensation = ...,
    method: Method | None = ...,
    defects: Defects | None = ...,
    temperature: str | float | None = ...,
    recalibration: Recalibration | None = ...,
    recovery: Recovery | None = ...,
    higher_is_better: bool | None = ...,
    progress: bool = ...,
    folder: str | Path | None = ...,
    processes: int = ...,
    executor: Executor | None = ...,
) -> dict[str, Sweep]: ...


def sweep(
    model: nn.Module | Mapping[str, nn.Module],
    metric: Metric,
    *,
    num_chips: int = 10,
    times: Sequence[str | float] = TIMES,
    seed: int = 0,
    compensation: Compensation = "least_squares",
    method: Method | None = None,
    defects: Defects | None = None,
    temperature: str | float | None = None,
    recalibration: Recalibration | None = None,
    recovery: Recovery | None = None,
    higher_is_better: bool | None = None,
    progress: bool = False,
    folder: str | Path | None = None,
    processes: int = 1,
    executor: Executor | None = None,
) -> Sweep | dict[str, Sweep]:
    """Program several chips and measure a metric on each of them at each time.

    Chip ``i`` is the same for every model and every call with the same ``seed``, so that two
    models, or two trainings, are compared on the same devices.

    Args:
        model: a converted model; or several by name, such as ``{"direct": a, "trained": b}``, on
            the same chips. Chips x times x models are then one work, which is shared and resumed as
            a whole; ``folder`` has a folder for each name.
        metric: a function of the model on a chip that returns a number (``Metric``), such as
            ``at.metrics.accuracy(batches)``, which knows its name, direction and bounds, or
            ``lambda m: at.accuracy(m, batches)``, which does not.
        num_chips: number of chips, >= 1.
        times: times after programming, as ``ProgrammedChip.at`` takes them. A time beyond the data
            of the chip's devices is marked in the result.
        seed: seed of the whole experiment, a signed 64-bit integer.
        compensation: drift compensation, as ``ProgrammedChip.at`` takes it.
        method: how the cells are written, as ``program`` takes it.
        defects: which share of each chip is broken, as ``program`` takes it.
        temperature: temperature of the chips, as ``ProgrammedChip.at`` takes it.
        recalibration: when the compensation is read, as ``ProgrammedChip.at`` takes it, and the
            recovery fitted; None: at each of the times.
        recovery: what else each chip corrects of itself at each of these reads, such as gain and
            offset of its columns, from a few batches without labels; None: nothing.
        higher_is_better: True if a worse model has a smaller metric, such as an accuracy; False for
            an error. It decides which chip is the worst, and on which side of a limit a chip should
            be. None: as the metric says, and True if it says nothing.
        progress: if True, show a progress bar.
        folder: a folder that stores each measurement as soon as it is made; None stores nothing.
            Called again with the same model and options, ``sweep`` measures only what the folder
            lacks; more chips and other times may be added. Several processes, on one machine or on
            several that see the folder, share the work if each calls ``sweep`` with it: a chip is
            measured by one of them, and all return the whole result. The folder knows a metric by
            its name, a lambda, a local function or one of a notebook or script by its code too,
            with the numbers and texts from around it, though not by what else that refers to by
            name, a ``functools.partial`` by its function and the numbers, texts and tuples among
            its arguments, a method by the class and such public attributes of its object, another
            object that can be called likewise, and one of ``at.metrics`` by what it was given.
            Samples are known if they are tensors, arrays, lists and mappings of them, or a
            ``DataLoader`` of a ``TensorDataset``, which a metric of ``at.metrics`` has as batches
            and another one from around it, as an argument or as an attribute; or by a text
            ``samples`` of its own. What a metric changes itself, such as a list that it fills, is
            left out. Use one folder per set of other samples.
            The ``forward`` of a recovery is known as a metric is. The folder knows a model by
            its state, structure and public attributes that are plain values, tensors, arrays, or
            lists and mappings of them; not by private ones (``_cache``), other objects and the code
            of its classes. What a pass without gradients keeps in a public attribute makes another
            model of it; give it a private name.
        processes: number of processes on this machine, >= 1, that measure chips at the same time;
            above 1, each has one thread, and the model must be on the CPU. The results are those
            of one process with one thread (``torch.set_num_threads(1)``).
        executor: runs the measurements instead, each chip of a model as one job: any object with
            the ``submit`` of ``concurrent.futures.Executor``, such as those of Dask, mpi4py and
            submitit. Model and metric are pickled for it, if it pickles. The folder is then written
            by this process alone. Threads share the random generators, so that a metric which draws
            numbers gives others by theirs.

    Returns:
        The metric by chip and time; of several models, by name. Print it for a table. Mean, spread,
        worst chip and quantiles are by time, and so are intervals, yields and verdicts; ``minus``
        compares two sweeps chip by chip. ``plot`` draws the metric, and ``to_csv``,
        ``to_parquet`` and ``to_dict`` write it by chip and time; how the chips differ from chips by
        default is in the table, and in ``conditions`` and ``recovery``. A metric that is a function
        with a name has it in tables and plots.

    Raises:
        ValueError: ``num_chips`` is below 1, ``times`` or ``model`` is empty, the metric is NaN or
            infinite, the folder holds another experiment, ``processes`` is above 1 where that
            cannot be or beside an ``executor``, ``program`` or ``at`` refuses its arguments, the
            recovery fails on a chip, or nothing uses the reads of ``recalibration``.
        TypeError: the model is no module, the metric cannot be called or returns no number, or
            ``method``, ``defects``, ``recalibration``, ``recovery`` or ``executor`` is of another
            type; or, with a folder, batches of the metric or the recovery hold what has no digest,
            such as an object of a class of your own.
        OSError: the folder cannot be written.

    Example:
        >>> metric = at.metrics.accuracy(batches)
        >>> found = at.sweep(model, metric, num_chips=25, folder="runs/direct")
        >>> print(found)
        >>> print(found.keeps(0.99 * at.accuracy(digital, batches))[0])  # iso-accuracy at 0 s
    """
    models = checked_models("sweep", model)
    check_metric("sweep", metric)
    num_chips = checks.count("sweep: num_chips", num_chips)
    for each in models.values():
        processes = checked_processes("sweep", processes, each)
    processes = min(processes, num_chips * len(models))
    check_executor("sweep", executor, processes)
    look = Look(
        compensation=compensation,
        temperature=temperature,
        recalibration=recalibration,
        recovery=recovery,
    )
    look.check("sweep")
    higher_is_better = direction("sweep", metric, higher_is_better)
    bounds = bounds_of("sweep", metric)
    at = checked_times("sweep", times)
    seeds = chip_seeds(seed, num_chips)
    method, defects = checked_method("sweep", method), checked_defects("sweep", defects)
    with contextlib.ExitStack() as stack:
        again = folder is not None  # one for this call alone has nothing to know again
        if folder is None and processes > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="analogtorch-"))
        cells, kept = [], kept_of(metric) if again else {}
        for name, each in models.items():
            journal: Journal | Unkept = Unkept()
            if folder is not None:
                place = checks.path("sweep: folder", folder) / quote(name, safe="")
                whole = experiment("sweep", each, seed, look, method, defects) if again else {}
                journal = Journal(place, whole, kept)
            measured = Experiment(each, metric, look, method, defects)
            cells.append(Cells(measured, seeds, at, journal, of=name))
        total = len(models) * num_chips * len(at)
        with Progress(total=total, desc="chips x times", unit="read", disable=not progress) as bar:
            if executor is not None:
                run_by(executor, cells, bar.update)
            else:
                run(cells, processes, bar.update)
    differing = conditions(
        method, defects, compensation, temperature=temperature, recalibration=recalibration
    )
    found = {}
    for name, of_it in zip(models, cells, strict=True):
        notes = tuple("; ".join(beyond_data(models[name], t)) for t in at)
        rows = [of_it.rows[i] for i in range(num_chips)]
        found[name] = Sweep(
            times=tuple(at.values()),
            values=torch.tensor(rows, dtype=torch.float64, device="cpu"),
            seeds=seeds,
            notes=notes if any(notes) else (),
            metric=heading(metric),
            higher_is_better=higher_is_better,
            bounds=bounds,
            recovery="" if recovery is None else recovery.summary,
            conditions=(*differing.values(), *unrounded(models[name])),
        )
    return found if isinstance(model, Mapping) else found[""]


def checked_models(caller: str, model: Any) -> dict[str, nn.Module]:
    """Return the models by name; one that is given alone has an empty name.

    Raises:
        ValueError: there is none, a name cannot be that of a folder, or a model cannot be
            programmed (``measurable``).
        TypeError: one is no module, or a name is no text.
    """
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    if not models:
        raise ValueError(f"{caller}: model is empty; give a model, or models by name")
    for name, each in models.items():
        if isinstance(model, Mapping) and not (isinstance(name, str) and name.strip(". ")):
            raise ValueError(
                f"{caller}: models have names such as 'direct' and 'trained', got {name!r}"
            )
        measurable(caller, each)
    return models
