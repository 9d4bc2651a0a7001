"""Pin the noise of a run, replay the noise of one training step, compare two models under the same
noise.
"""

import contextlib
from collections.abc import Iterator

import torch

from analogtorch.ops import fold, seed_tensor, stream
from analogtorch.ops.seed import scopes


@contextlib.contextmanager
def noise(seed: int, *, step: int = 0, rank: int = 0, first_sample: int = 0) -> Iterator[None]:
    """Draw everything random inside from (seed, step, rank); outside, torch's generators go on as
    if nothing happened.

    The analog layers take the seed of each forward from torch's generator. So a step that ran under
    ``noise(seed, step=n)`` is replayed by the same line in any process, two models of one
    architecture see the same noise under the same line, and activation checkpointing recomputes it
    in a ``backward`` outside the ``with``. Dropout and everything else that torch draws is pinned
    as well.

    Programmed chips do not need it: ``program(model, seed=...)`` fixes their noise for good.

    Args:
        seed: of the run, a signed 64-bit integer.
        step: of the training; each has noise of its own.
        rank: of the process under data parallelism, such as ``torch.distributed.get_rank()``, for
            noise of its own on each rank; leave it out for the same noise on all.
        first_sample: place of the first sample in the batch of the step, where a forward sees only
            a part of it: a micro-batch under gradient accumulation, or a rank's share. The parts
            then see the noise that one forward of the whole batch would see. Inputs count their
            samples along their first dimension.

    Raises:
        TypeError, ValueError: the seed is not a signed 64-bit integer, or another number is
            negative.
        RuntimeError: in a ``backward`` outside the ``with`` that recomputes checkpointed layers,
            where parts of one step's batch had different ``first_sample``: call it inside.

    Example:
        >>> with at.noise(seed=5, step=120):
        ...     loss = model(x).square().mean()
    """
    for name, value in (("step", step), ("rank", rank), ("first_sample", first_sample)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"noise: {name} must be an integer >= 0, got {value!r}")
    key = int(fold(seed_tensor(seed), stream("noise scope", step, rank)).item())
    with torch.random.fork_rng(
        devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    ):
        # not torch.manual_seed, which would also reset a GPU that is not used yet
        torch.default_generator.manual_seed(key)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(key)
        scopes.enter(key, first_sample)
        try:
            yield
        finally:
            scopes.leave(key)
