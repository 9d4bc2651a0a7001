"""Training on several devices, each by a forked process that cannot hold up the others."""

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

_forks = False  # whether a process that is forked now trains


def _die_of_signals() -> None:
    """Let signals end a process that trains, also while it waits for another one.

    Python's own handler waits until then, and Lightning's for the next step: for ever, if the other
    process is gone.
    """
    if _forks:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _begin() -> None:
    """Leave the garbage of the first process alone, which may own threads that are not here."""
    if _forks:
        gc.freeze()
        _die_of_signals()


os.register_at_fork(after_in_child=_begin)


class DieOfSignals(L.Callback):
    """Undo Lightning's handler of SIGTERM in a process that trains on one of several devices."""

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        _die_of_signals()


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Let the processes that Lightning forks in the meantime train, or end with a named error.

    Torch computes on one thread: a forked process waits for ever for the others of a pool.

    Raises:
        RuntimeError: a process was killed, or autograd cannot run in forked processes any more.
    """
    global _forks
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _forks = True
    try:
        yield
    except ProcessRaisedException as error:
        if "Autograd-and-Fork" in str(error):
            raise RuntimeError(
                "after torch.compile, torch cannot train in forked processes: train on several "
                "devices in a process that has not compiled (`analogtorch kws` is one), or with "
                "devices=1"
            ) from error
        if "Connection closed by peer" in str(error):
            raise _lost("one of the processes") from error
        raise
    except ProcessExitedException as error:
        by = error.signal_name or f"exit code {error.exit_code}"
        raise _lost(f"process {error.error_index} ({by})") from error
    finally:
        _forks = False
        torch.set_num_threads(threads)


def _lost(which: str) -> RuntimeError:
    return RuntimeError(
        f"training on several devices: {which} has ended, and the others with it; the state after "
        "the last whole epoch is kept: resume from it (`analogtorch kws ... --resume`)"
    )
