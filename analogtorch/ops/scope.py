"""Noise scopes: fix or replay the noise of a step, or compare models under the same noise."""

import contextlib
import threading
from collections.abc import Iterable, Iterator

import torch

from analogtorch.ops import fold, seed_tensor, stream
from analogtorch.ops.seed import scopes
from analogtorch.values import checks
from analogtorch.values.thread_lock import ThreadLock


@contextlib.contextmanager
def noise(seed: int, *, step: int = 0, rank: int = 0, first_sample: int = 0) -> Iterator[None]:
    """Draw all random numbers inside the ``with`` from (seed, step, rank).

    Outside, torch's generators continue as if nothing happened. The analog layers take the seed of
    each forward from torch's generator. So a step that ran under ``noise(seed, step=n)`` is
    replayed by the same line in any process, two models of one architecture get the same noise
    under the same line, and activation checkpointing recomputes it in a ``backward`` outside the
    ``with``. Dropout and everything else that torch draws is fixed as well, by seed, step and rank.

    Programmed chips do not need it: ``program(model, seed=...)`` fixes their noise.

    Threads share torch's generators: one thread at a time may be inside, and no other should draw
    from torch meanwhile.

    Args:
        seed: seed of the run, a signed 64-bit integer.
        step: step of the training; each has different noise.
        rank: rank of the process under data parallelism, such as ``torch.distributed.get_rank()``,
            for different noise on each rank; leave it out for the same noise on all.
        first_sample: index of the first sample in the batch of the step, if a forward gets only a
            part of it: a micro-batch under gradient accumulation, or the share of a rank. The parts
            then have the noise that one forward of the whole batch would have, but for the columns
            that ``TrainingNoise.corrected`` fits to each part. The first dimension of inputs counts
            their samples. Dropout does not know it: its masks are the same in all parts.

    Raises:
        TypeError, ValueError: the seed is not a signed 64-bit integer, or another number is
            negative.
        RuntimeError: a ``backward`` outside the ``with`` recomputes checkpointed layers, and the
            parts of one step's batch had different ``first_sample``: call it inside. Or another
            thread is inside such a ``with``.

    Example:
        >>> with at.noise(seed=5, step=120):
        ...     loss = model(x).square().mean()
    """
    step = checks.count("noise: step", step, least=0, largest=checks.INT64)
    rank = checks.count("noise: rank", rank, least=0)
    first_sample = checks.count("noise: first_sample", first_sample, least=0, largest=checks.INT64)
    on_host = seed_tensor(seed, torch.device("cpu"))  # whatever the default device is
    key = int(fold(on_host, stream("noise scope", step, rank)).item())
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    scopes.enter(key, first_sample)
    try:
        with torch.random.fork_rng(devices=devices):
            # not torch.manual_seed, which would also reset a GPU that is not used yet
            torch.default_generator.manual_seed(key)
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(key)
            yield
    finally:
        scopes.leave(key)


TURN = ThreadLock(threading.RLock)
"""Held by the thread of the package that draws from torch's generators, or puts their states back,
as those are the same in all threads."""


@contextlib.contextmanager
def noise_in_turn(seed: int, *, step: int = 0) -> Iterator[None]:
    """Open ``noise`` inside the package: threads that do so wait for each other.

    Args:
        seed: as ``noise`` takes it.
        step: the same.

    Raises:
        RuntimeError: another thread is inside a ``noise`` that its caller opened.
    """
    with TURN, noise(seed, step=step):
        yield


@contextlib.contextmanager
def random_kept(devices: Iterable[int] = ()) -> Iterator[None]:
    """Restore the states of torch's generators at the end, of the CPU and of some GPUs.

    No other thread is inside ``noise_in_turn`` while they are read or restored: its noise would be
    drawn anew, or its seed would stay behind.

    Args:
        devices: the numbers of the GPUs.
    """
    kept = torch.random.fork_rng(devices=list(devices))
    with TURN:
        kept.__enter__()
    try:
        yield
    finally:
        with TURN:
            kept.__exit__(None, None, None)
