"""The seed of one noisy forward, drawn where torch.compile and activation checkpointing both keep it right."""

import torch
from torch import Tensor
from torch.library import custom_op


@custom_op("analogtorch::draw_seed", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def draw_seed(like: Tensor) -> Tensor:
    """One int64 from torch's default generator of ``like``'s device; ``torch.manual_seed`` before a step replays it.

    The op is opaque and takes a tensor because only that form keeps forward, recomputation and compiled graphs in
    step: a counter in a buffer gives silently wrong gradients under activation checkpointing.
    """
    return torch.randint(-(2**62), 2**62, (), device=like.device)


@draw_seed.register_fake
def _(like: Tensor) -> Tensor:
    return like.new_empty((), dtype=torch.int64)
