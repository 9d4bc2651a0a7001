"""Processes that help with a work which they share with this one through its journal."""

import contextlib
import gc
import multiprocessing
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from analogtorch.values import checks
from analogtorch.values.warned import warn

_OF_PARENT: list[Any] = []
"""Iterators of this process' parent, which are not to end here."""
_LONGEST = 1000
"""Characters of an error that a helper passes on, which a pipe takes before anyone reads it."""


def checked_processes(caller: str, processes: int, model: nn.Module) -> int:
    """Return the number of processes of a work on ``model``.

    Raises:
        ValueError: it is below 1; or above 1, and the platform cannot fork, or the model is on a
            GPU, which a forked process cannot use.
    """
    processes = checks.count(f"{caller}: processes", processes)
    if processes == 1:
        return 1
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError(
            f"{caller}: processes must be 1 on this platform, which cannot fork, got {processes}; "
            "start several processes yourself with the same folder: they share the work"
        )
    devices = {t.device.type for t in (*model.parameters(), *model.buffers())} - {"cpu"}
    if devices:
        raise ValueError(
            f"{caller}: processes must be 1 for a model on {', '.join(sorted(devices))}, got "
            f"{processes}; start several processes yourself with the same folder (such as by "
            "torchrun): they share the work"
        )
    return processes


@contextlib.contextmanager
def helpers(count: int, work: Callable[[], object]) -> Iterator[None]:
    """Let ``count`` forked processes do ``work`` while the context lasts, and wait for their end.

    All processes, this one included, have one thread of torch in the meantime, so that results do
    not depend on which of them computes what, and begin with the same states of the random
    generators. An error in the work of a helper ends it: what it leaves undone is for this process,
    where the error may appear again. Helpers end with this process, even if it is killed.

    Warns:
        RuntimeWarning: a helper was killed, or ended by an error that did not come up here.
    """
    if count == 0:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    state = random.getstate()  # Python seeds its generator anew in each process that is forked
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    given = work, state, _with_workers()
    started = [context.Process(target=_help, args=(*given, end)) for _, end in pipes]
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads, which stop at locks of other threads; like
            # workers of DataLoader, a helper has one thread and never waits for torch's others
            warnings.simplefilter("ignore", DeprecationWarning)
            for process in started:
                process.start()
        yield
        for process in started:
            process.join()
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
        torch.set_num_threads(threads)
    reasons = [_reason(p.exitcode, end) for p, (end, _) in zip(started, pipes, strict=True)]
    if ended := list(filter(None, reasons)):
        warn(
            f"{len(ended)} of {count} helping processes ended early ({'; '.join(ended)}); this one "
            "has done their work",
            RuntimeWarning,
        )


def _reason(code: int | None, end: Connection) -> str:
    """Return why a helper ended before its work was done; empty if it did not."""
    if not code:
        return ""
    if code < 0:
        return f"killed by signal {-code}"
    return end.recv() if end.poll() else f"exit code {code}"


def _help(
    work: Callable[[], object],
    state: tuple[Any, ...],
    loaders: list[DataLoader[Any]],
    reason: Connection,
) -> None:
    """Do the work in a helper, without this process' handlers at its exit.

    ``loaders`` start workers of their own there. Their iterators are kept, as the end of one would
    stop the workers of its process.
    """
    for each in loaders:
        _OF_PARENT.append(each._iterator)
        each._iterator = None
    gc.freeze()  # what its parent no longer needs may own threads, for which it would wait for ever
    tqdm.set_lock(threading.RLock())  # for bars of a metric: see Progress
    torch.set_num_threads(1)
    random.setstate(state)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work()
    except BaseException as error:
        reason.send(f"{type(error).__name__}: {error}"[:_LONGEST])
        os._exit(1)
    os._exit(0)


def _with_workers() -> list[DataLoader[Any]]:
    """Return what has workers that persist: they serve this process, and no helper."""
    if not multiprocessing.active_children():  # a look at all objects takes long
        return []
    loaders = (each for each in gc.get_objects() if issubclass(type(each), DataLoader))
    return [each for each in loaders if each._iterator is not None]


def _end_with_parent() -> None:
    """End this process when the one that forked it has ended, which may have been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
