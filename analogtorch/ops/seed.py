"""The keys of one noisy forward, drawn where torch.compile and activation checkpointing both keep them right."""

from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.ops import native
from analogtorch.ops.library import define
from analogtorch.ops.noise import fold


def draw_keys(like: Tensor, streams: Sequence[int]) -> Tensor:
    """Draw a seed from torch's generator of ``like``'s device and fold it with each stream: (streams,) int64.

    ``torch.manual_seed`` before a step replays it. One draw serves all streams of a layer, so that the number of its
    row blocks does not shift what the next layer draws. The operator is opaque and takes a tensor because only that
    form keeps forward, recomputation and compiled graphs in step: a counter in a buffer gives silently wrong gradients
    under activation checkpointing.
    """
    return _draw_keys(like, streams)


def _draw(like: Tensor, streams: Sequence[int]) -> Tensor:
    seed = torch.randint(-(2**62), 2**62, (), device=like.device)
    if like.device.type == "cpu" and native.available():
        return native.keys(int(seed), streams)
    return fold(seed, torch.tensor(streams, device=like.device))


def _fake(like: Tensor, streams: Sequence[int]) -> Tensor:
    return like.new_empty(len(streams), dtype=torch.int64)


_draw_keys = define(
    "draw_keys(Tensor like, int[] streams) -> Tensor", _draw, _fake, tags=(torch.Tag.nondeterministic_seeded,)
)
