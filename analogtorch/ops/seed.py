"""The keys of one noisy forward and the numbers of its samples, under compile and checkpointing.

Both are opaque operators that take a tensor: only this form keeps forward, recomputation and
compiled graphs consistent. A counter in a buffer would give wrong gradients under activation
checkpointing.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from analogtorch.ops import native
from analogtorch.ops.generator import fold
from analogtorch.ops.library import define
from analogtorch.ops.native import loading
from analogtorch.ops.recomputed import drawn
from analogtorch.values.thread_lock import ThreadLock


def draw_keys(like: Tensor, streams: Sequence[int]) -> Tensor:
    """Draw a seed on ``like``'s device and return its fold with each stream: (streams,) int64.

    ``torch.manual_seed`` before a step replays it. One draw serves all streams of a layer, so that
    the number of its row blocks does not change the draw of the next layer.

    Raises:
        RuntimeError: checkpointing recomputes a forward without the random state that it had. Where
            more than 65,536 draws lie between two backwards, this is not known.
    """
    return _draw_keys(like, streams)


@lru_cache(maxsize=4096)
def _on_device(streams: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the streams on the device, copied once, as every copy waits for the GPU."""
    with torch.inference_mode(False):
        return torch.tensor(streams, device=device)


def _draw(like: Tensor, streams: Sequence[int]) -> Tensor:
    seed = torch.randint(-(2**62), 2**62, (), device=like.device)
    drawn.check(seed)
    if like.device.type == "cpu" and loading.available():
        return native.keys(int(seed), streams)
    return fold(seed, _on_device(tuple(streams), like.device))


def _fake(like: Tensor, streams: Sequence[int]) -> Tensor:
    return like.new_empty(len(streams), dtype=torch.int64)


_draw_keys = define(
    "draw_keys(Tensor like, int[] streams) -> Tensor",
    _draw,
    _fake,
    tags=(torch.Tag.nondeterministic_seeded,),
)


class _Scopes:
    """The first sample of each forward in its batch, by the seed of torch's generator.

    Checkpointing restores the state of the generator, including its initial seed, and so finds the
    number of a closed scope. Several scopes may share a seed: the parts of a batch differ in the
    number.
    """

    MOST = 4096

    def __init__(self) -> None:
        self.open: dict[int, list[int]] = {}
        self.closed: OrderedDict[int, set[int]] = OrderedDict()
        self.threads: list[threading.Thread] = []
        """Those that opened the scopes which are open."""
        self.lock = ThreadLock()

    def enter(self, seed: int, first: int) -> None:
        seed %= 2**64  # the form in which generators return it
        with self.lock:
            self._refuse_others()
            self.threads.append(threading.current_thread())
        self.open.setdefault(seed, []).append(first)

    def _refuse_others(self) -> None:
        """Raise RuntimeError if another thread is in a scope, as all share torch's generator."""
        if torch._C._current_graph_task_id() != -1:
            return  # a thread of autograd, for which the one that called backward() waits
        here = threading.current_thread()
        others = [thread for thread in self.threads if thread is not here and thread.is_alive()]
        if others:
            raise RuntimeError(
                f"noise: thread {others[-1].name!r} is inside analogtorch.noise, and "
                f"{here.name!r} would take its random numbers: threads share torch's generator; "
                "close that scope first, such as by a threading.Lock, or use processes"
            )

    def leave(self, seed: int) -> None:
        seed %= 2**64
        with self.lock:
            here = threading.current_thread()
            last = max((i for i, t in enumerate(self.threads) if t is here), default=-1)
            self.threads.pop(last)
        first = self.open[seed].pop()
        if not self.open[seed]:
            del self.open[seed]
        self.closed.setdefault(seed, set()).add(first)
        if len(self.closed) > self.MOST:
            self.closed.popitem(last=False)

    def first(self, seed: int) -> int:
        seed %= 2**64
        if seed in self.open:
            return self.open[seed][-1]
        known = self.closed.get(seed, {0})
        if len(known) > 1:
            raise RuntimeError(
                "a checkpointed layer is recomputed outside the analogtorch.noise scope that it "
                "ran in, and scopes of this seed and step had several first_sample: "
                f"{sorted(known)}; call backward() inside the `with`"
            )
        return next(iter(known))


scopes = _Scopes()
"""The scopes of ``analogtorch.noise``."""


def number_samples(like: Tensor, vectors: int, per_sample: int) -> Tensor:
    """Return the numbers of the input vectors in the output noise: (vectors,) int64.

    They are consecutive from the first sample of the scope.

    Args:
        like: a tensor on the device of the result.
        vectors: number of vectors.
        per_sample: number of vectors of one sample.
    """
    return _number_samples(like, vectors, per_sample)


def _numbered(like: Tensor, vectors: int, per_sample: int) -> Tensor:
    cuda = like.device.type == "cuda"
    generator = torch.default_generator
    if cuda:
        generator = torch.cuda.default_generators[like.device.index]
    first = scopes.first(generator.initial_seed()) * per_sample
    return torch.arange(first, first + vectors, device=like.device)


def _fake_numbered(like: Tensor, vectors: int, per_sample: int) -> Tensor:
    return like.new_empty(vectors, dtype=torch.int64)


_number_samples = define(
    "number_samples(Tensor like, SymInt vectors, SymInt per_sample) -> Tensor",
    _numbered,
    _fake_numbered,
    tags=(torch.Tag.nondeterministic_seeded,),
)
