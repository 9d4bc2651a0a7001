"""The digital-to-analog converter (DAC): clip and round the input, learn the range from what it clips."""

import torch
from torch import Tensor
from torch.library import custom_op

from analogtorch.ops import native
from analogtorch.ops.quantize import levels, rounded


def dac(x: Tensor, bound: Tensor, bits: int | None) -> Tensor:
    """``x`` clipped to ``[-bound, bound]`` and rounded to ``2^bits - 2`` equal steps, half to even.

    Gradients: of ``x``, the incoming one inside the bound and zero where clipped; of ``bound``, the incoming one where
    ``x`` is clipped from above minus that where it is clipped from below. A zero bound gives zeros, NaN stays NaN.

    Args:
        x: any shape, floating point. Half precision is quantised in float32 and returned as it came.
        bound: positive; of shape (1,), or broadcastable to ``x`` and varying over leading dimensions only.
        bits: 2..16; None clips nothing and returns ``x``.
    """
    return x if bits is None else _dac(x, bound, bits)


@custom_op("analogtorch::dac", mutates_args=())
def _dac(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    if x.numel() and native.available(x, bound):
        return native.dac(_as_rows(x, bound), bound.reshape(-1), levels(bits)).view(x.shape)
    return rounded(x, bound, bits).contiguous()


@_dac.register_fake
def _(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _as_rows(x: Tensor, bound: Tensor) -> Tensor:
    """Two dimensions: a row for each bound, or, where one bound serves all, rows to share among threads."""
    rows = bound.numel() if bound.numel() > 1 else (x.shape[0] if x.dim() > 1 else 1)
    return x.contiguous().view(rows, -1)


@custom_op("analogtorch::dac_backward", mutates_args=())
def _dac_backward(g: Tensor, x: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel() and native.available(g, x, bound):
        gx, sums = native.dac_backward(_as_rows(g, bound), _as_rows(x, bound), bound.reshape(-1))
        sums = sums if bound.numel() > 1 else sums.sum()
        return gx.view(x.shape), sums.reshape(bound.shape).to(bound.dtype)
    above, below = x > bound, x < -bound
    taught = (g * above - g * below).to(torch.promote_types(g.dtype, torch.float32)).sum_to_size(bound.shape)
    return g.masked_fill(above | below, 0.0).contiguous(), taught.to(bound.dtype)


@_dac_backward.register_fake
def _(g: Tensor, x: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(bound)


def _save(ctx, inputs, output) -> None:
    x, bound, _ = inputs
    ctx.save_for_backward(x, bound)


def _backward(ctx, g: Tensor):
    x, bound = ctx.saved_tensors
    gx, g_bound = _dac_backward(g, x, bound)
    return gx, g_bound if ctx.needs_input_grad[1] else None, None


_dac.register_autograd(_backward, setup_context=_save)
