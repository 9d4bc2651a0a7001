"""The cells of a sweep: a chip of a model at a time, measured once and kept in a journal."""

import contextlib
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import nn

from analogtorch.evaluate.helpers import helpers
from analogtorch.evaluate.journal import Journal, Unkept, key
from analogtorch.evaluate.look import Look
from analogtorch.evaluate.metric import Metric, finite, measure
from analogtorch.simulate.chip import beyond_data, program
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.writing import Method
from analogtorch.values import checks

_PAUSE = 0.02
"""Seconds between two looks at what an executor has finished."""


class Job(Protocol):
    """What an executor returns for a call, such as ``concurrent.futures.Future``."""

    def done(self) -> bool: ...

    def result(self) -> Any: ...


@runtime_checkable
class Executor(Protocol):
    """What runs functions elsewhere: that of ``concurrent.futures``, or one with its ``submit``.

    Dask (``client.get_executor()``), mpi4py and submitit (SLURM) have such executors; for Ray, a
    class of three lines makes one (see the documentation of sweeps).
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


@dataclass(frozen=True)
class Experiment:
    """What a cell needs to be measured anywhere, but for its chip and time."""

    model: nn.Module
    metric: Metric
    look: Look
    method: Method | None
    defects: Defects | None

    def measured(
        self, seed: int, times: dict[float | None, str]
    ) -> Iterator[tuple[float | None, Any]]:
        """Yield each of the times with what the metric gives on the chip of this seed.

        The programmed chip is released at the end, so that the next one has its memory.
        """
        if not times:
            return
        physical = program(self.model, seed=seed, method=self.method, defects=self.defects)
        view = self.look.at(physical)
        for t in times:
            physical.warned.update(beyond_data(self.model, t))  # marked in the table
            yield t, measure(self.metric, view(t))

    def row(self, seed: int, times: dict[float | None, str]) -> list[tuple[float | None, Any]]:
        """Return all that ``measured`` yields."""
        return list(self.measured(seed, times))


@dataclass(frozen=True)
class Cells:
    """The cells of one model: each chip at each time."""

    experiment: Experiment
    seeds: tuple[int, ...]
    times: dict[float | None, str]
    journal: Journal | Unkept
    of: str = ""
    """Which model it is, for messages; empty if there is one."""
    rows: dict[int, list[float]] = field(default_factory=dict)
    """What has been measured, by chip."""

    def free(self, step: Callable[[int], object]) -> None:
        """Measure each chip, but for those that others are measuring."""
        for i in range(len(self.seeds)):
            with contextlib.suppress(BlockingIOError), self.journal.claim(i, wait=False):
                self._measure(i, step)

    def rest(self, step: Callable[[int], object]) -> None:
        """Wait for those that others are measuring, and measure what they leave."""
        for i in range(len(self.seeds)):
            if i not in self.rows:
                with self.journal.claim(i, wait=True):
                    self._measure(i, step)

    def _measure(self, i: int, step: Callable[[int], object]) -> None:
        """Measure what the journal lacks of a claimed chip."""
        done, wanted = self._wanted(i, step)
        self._keep(i, done, self.experiment.measured(self.seeds[i], wanted), step)

    def submit(
        self, executor: Executor, jobs: dict[int, Job], step: Callable[[int], object]
    ) -> None:
        """Add the jobs, by chip, of an executor that measures what the journal lacks."""
        for i, seed in enumerate(self.seeds):
            done, wanted = self._wanted(i, step)
            if wanted:
                with _pickling_named(self.experiment):  # some pickle at once
                    jobs[i] = executor.submit(self.experiment.row, seed, wanted)
            else:
                self._keep(i, done, [], step)

    def collect(self, jobs: dict[int, Job], step: Callable[[int], object]) -> None:
        """Take jobs that are done out of ``jobs``, and keep what they have found.

        The error of one is raised after the others are kept.
        """
        with contextlib.ExitStack() as stack:
            for i in [i for i, job in jobs.items() if job.done()]:
                stack.callback(self._take, i, jobs.pop(i), step)

    def _take(self, i: int, job: Job, step: Callable[[int], object]) -> None:
        """Keep what a job that is done has found of a chip."""
        done = self.journal.read(i, self.seeds[i])
        with _pickling_named(self.experiment):
            found = job.result()
        self._keep(i, done, found, step)

    def _wanted(
        self, i: int, step: Callable[[int], object]
    ) -> tuple[dict[str, float], dict[float | None, str]]:
        """Return what the journal has of a chip, and the times that it lacks."""
        done = self.journal.read(i, self.seeds[i])
        wanted = {t: name for t, name in self.times.items() if key(t) not in done}
        if wanted:
            self.journal.check_writable()
        step(len(self.times) - len(wanted))
        return done, wanted

    def _keep(
        self,
        i: int,
        done: dict[str, float],
        cells: Iterable[tuple[float | None, Any]],
        step: Callable[[int], object],
    ) -> None:
        """Keep what is measured of a chip, cell by cell, beside what was ``done`` before."""
        of = f" of {self.of!r}" if self.of else ""
        for t, given in cells:
            where = f"on chip {i} at {self.times[t]}{of}"
            done[key(t)] = finite("sweep", self.experiment.metric, given, where)
            self.journal.write(i, self.seeds[i], done)
            step(1)
        self.rows[i] = [done[key(t)] for t in self.times]


@contextlib.contextmanager
def _pickling_named(experiment: Experiment) -> Iterator[None]:
    """Name what an executor could not pickle, where that is what failed."""
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        parts = {
            "metric": experiment.metric,
            "model": experiment.model,
            "recovery": experiment.look.recovery,
        }
        for name, part in parts.items():
            try:
                pickle.dumps(part)
            except (pickle.PicklingError, AttributeError, TypeError) as cause:
                if str(cause) != str(error):
                    continue
                raise TypeError(
                    f"sweep: the executor cannot pickle the {name}: {cause}. Use processes=, "
                    "which pickles nothing, or, if the metric draws no random numbers, an executor "
                    "of threads. Functions and classes at the top level of a module can be "
                    "pickled, a lambda cannot"
                ) from error
        raise


def run(cells: Sequence[Cells], processes: int, step: Callable[[int], object]) -> None:
    """Measure cells in this process and ``processes - 1`` others, beside all that share them."""

    def free(step: Callable[[int], object]) -> None:
        for each in cells:
            each.free(step)

    with helpers(processes - 1, partial(free, int)):
        free(step)
        for each in cells:
            each.rest(step)


def check_executor(caller: str, executor: Any, processes: int) -> None:
    """Raise an error unless ``executor`` can be used, or is None.

    Raises:
        TypeError: it has no ``submit``.
        ValueError: ``processes`` are given too.
    """
    if executor is None:
        return
    example = "concurrent.futures.ThreadPoolExecutor(4), or None"
    checks.instance(f"{caller}: executor", executor, Executor, example)
    if processes > 1:
        raise ValueError(
            f"{caller}: processes={processes} beside an executor, which has processes of its own; "
            "leave out one of them"
        )


def run_by(executor: Executor, cells: Sequence[Cells], step: Callable[[int], object]) -> None:
    """Measure cells by an executor; a chip is a job, and kept as soon as it is done.

    After an error jobs that have not begun are cancelled, and the others are kept when they end,
    for which an interruption does not wait.
    """
    jobs: list[dict[int, Job]] = [{} for _ in cells]
    try:
        for each, of_it in zip(cells, jobs, strict=True):
            each.submit(executor, of_it, step)
        while any(jobs):
            _collect(cells, jobs, step)
    except BaseException as error:
        for of_it in jobs:
            for i in [i for i, job in of_it.items() if not job.done() and _cancelled(job)]:
                del of_it[i]
        while any(jobs) and isinstance(error, Exception):
            with contextlib.suppress(Exception):  # the first error is raised
                _collect(cells, jobs, step)
        raise


def _collect(
    cells: Sequence[Cells], jobs: Sequence[dict[int, Job]], step: Callable[[int], object]
) -> None:
    """Keep what the jobs that are done have found, and let the others go on for a while."""
    for each, of_it in zip(cells, jobs, strict=True):
        each.collect(of_it, step)
    time.sleep(_PAUSE if any(jobs) else 0)


def _cancelled(job: Job) -> bool:
    """Cancel a job, if it can be; that of submitit returns None where it has done so."""
    return getattr(job, "cancel", bool)() is not False
