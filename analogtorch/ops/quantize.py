"""Clipping and rounding of DAC and ADC, with straight-through gradients."""

import torch
from torch import Tensor


def quantize(x: Tensor, bound: Tensor, bits: int | None) -> Tensor:
    """``x`` clipped to ``[-bound, bound]`` and rounded to ``2^bits - 2`` equal steps, half to even.

    Gradients: of ``x``, the incoming one inside the bound and zero where clipped; of ``bound``, the incoming one where
    ``x`` is clipped from above minus that where it is clipped from below. A zero bound gives zeros, NaN stays NaN.

    Args:
        x: any shape, floating point. Half precision is quantised in float32 and returned as it came.
        bound: positive, broadcastable to ``x``.
        bits: 2..16; None clips nothing and returns ``x``.
    """
    if bits is None:
        return x
    wide, limit = (
        x.to(torch.promote_types(x.dtype, torch.float32)),
        bound.to(torch.promote_types(x.dtype, torch.float32)),
    )
    clipped = torch.where(wide > limit, limit, torch.where(wide < -limit, -limit, wide))
    with torch.no_grad():
        steps = 2 ** (bits - 1) - 1
        safe = limit.clamp_min(torch.finfo(limit.dtype).tiny)
        rounded = torch.round(clipped / safe * steps) * (safe / steps)
    return (rounded + (clipped - clipped.detach())).to(x.dtype)
