"""The input of a row block, in plain torch: a view, never unfolded."""

from typing import Any

import torch
from torch import Tensor

from analogtorch.chips.tiling import RowBlock
from analogtorch.ops.plan import Plan


def seen_by(x: Tensor, rows: torch.Size, span: RowBlock, plan: Plan) -> Tensor:
    """Return the view of ``x`` that drives a row block; groups make two dimensions of the channels.

    These dimensions are (groups, channels).
    """
    if not plan.dims:
        return x[..., span[0]]
    channels, *taps = span
    if plan.groups > 1:
        x = x.unflatten(1, (plan.groups, rows[0]))[:, :, channels]
    elif channels != slice(0, rows[0]):
        x = x[:, channels]
    if all(tap == slice(0, size) for tap, size in zip(taps, rows[1:], strict=True)):
        return x
    if any(plan.padding):
        raise ValueError("a row block that cuts the kernel needs an input that is padded already")
    sizes = x.shape[-len(taps) :]
    geometry = zip(sizes, rows[1:], taps, plan.stride, plan.dilation, strict=True)
    parts: list[Any] = [_used(*numbers) for numbers in geometry]
    return x[tuple([..., *parts])]


def _used(size: int, kernel: int, tap: slice, stride: int, dilation: int) -> slice:
    """Return the part of a dimension of the padded input that the kernel's taps in ``tap`` use."""
    outputs = (size - dilation * (kernel - 1) - 1) // stride + 1
    start = tap.start * dilation
    return slice(start, start + (outputs - 1) * stride + (tap.stop - tap.start - 1) * dilation + 1)
