"""What DAC and ADC do to a number, in plain torch: the reference of the kernels."""

import torch
from torch import Tensor


def levels(bits: int) -> int:
    """Steps on each side of zero: ``2^bits - 2`` in all."""
    return 2 ** (bits - 1) - 1


def rounded(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    """``in_steps`` for a converter of so many bits."""
    return in_steps(x, bound, levels(bits))


def in_steps(x: Tensor, bound: Tensor, steps: int) -> Tensor:
    """``x`` clipped to ``[-bound, bound]`` and rounded to ``steps`` on each side of zero, half to even; no gradients.

    Half precision is quantised in float32 and returned as it came. A bound below 1e-30 counts as 1e-30, so that an
    input or a block of zeros gives zeros. NaN stays NaN.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y, limit = x.detach().to(wide), bound.detach().to(wide).clamp_min(1e-30)
    clipped = torch.where(y > limit, limit, torch.where(y < -limit, -limit, y))
    up = torch.full_like(limit, steps) / limit  # a true division: number / tensor would multiply by the reciprocal
    return (torch.round(clipped * up) * (limit / steps)).to(x.dtype)
