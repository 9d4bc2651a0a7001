"""The partial sums of a row block, and the standard deviation of their noise, in plain torch."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from analogtorch.chips.converters import levels
from analogtorch.chips.tiling import RowBlock
from analogtorch.ops.blocks import seen_by
from analogtorch.ops.constants import LEAST_BOUND
from analogtorch.ops.converters import beside, dac, pulses
from analogtorch.ops.operands import Operands, per_block
from analogtorch.ops.physics import Phase, phase_variances, read_std, rounded_square
from analogtorch.ops.plan import Plan

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def part(
    x: Tensor,
    w: Tensor,
    span: RowBlock,
    plan: Plan,
    own_range: Tensor | None = None,
    *,
    of: Callable[[Tensor], Tensor] | None = None,
    inl: Tensor | None = None,
) -> Tensor:
    """Return the partial sums of a row block; the input is never unfolded.

    Args:
        x: the input; after the DAC, unless ``own_range`` is given.
        w: the whole weight.
        span: the rows of the row block.
        plan: the plan of the product.
        own_range: (1,), the DAC range of this row block: its inputs are then quantised here.
        of: function of the inputs after the DAC, such as their square; None: they themselves.
        inl: see ``converters.dac``.
    """
    seen = seen_by(x, w.shape[1:], span, plan)
    if own_range is not None:
        seen = dac(seen, own_range, plan.input_bits, w.dtype, inl)
    if of is not None:
        seen = of(seen.to(w.dtype))
    if not plan.dims:
        return F.linear(seen, w[:, span[0]])
    seen = seen.flatten(1, 2) if plan.groups > 1 else seen
    w = w[(slice(None), *span)]
    return _CONVOLVE[plan.dims](
        seen, w, None, plan.stride, plan.padding, plan.dilation, plan.groups
    )


def bent(x: Tensor, span: RowBlock, r: Tensor, inputs: Operands, plan: Plan) -> Tensor:
    """Return what ``Operands.curvatures`` add to the partial sums of a row block.

    Args:
        x: the input of a phase, as ``part`` takes it.
        span: the rows of the row block.
        r: the DAC range of the row block.
        inputs: the operands.
        plan: the plan of the product.
    """
    assert inputs.curvatures is not None
    own_range, total = r if per_block(inputs.input_range) else None, None

    def powered(x: Tensor, power: int) -> Tensor:
        return x * (x / beside(r, x).to(x.dtype).clamp_min(LEAST_BOUND)) ** (power - 1)

    for power, w in zip((2, 3), inputs.curvatures, strict=True):
        of = functools.partial(powered, power=power)
        y = part(x.detach(), w, span, plan, own_range, of=of, inl=inputs.dac_inl)
        total = y if total is None else total + y
    assert total is not None
    return total


def noise_stds(
    parts: list[Phase],
    full: Tensor,
    scale: Tensor,
    span: RowBlock,
    r: Tensor,
    inputs: Operands,
    plan: Plan,
) -> list[Tensor]:
    """Return ``physics.read_std`` of each phase of a row block.

    It is empty without read noise, jitter and shot noise. ``r`` is the DAC range of the row block.
    """
    reads = inputs.read_variances is not None and plan.read_noise > 0
    if not (reads or plan.jitter or plan.shot):
        return []
    own_range, found = r if per_block(inputs.input_range) else None, []
    inl, noise = inputs.dac_inl, plan.output_noise

    def sums(x: Tensor, w: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        y = part(x.detach(), w, span, plan, own_range, of=of, inl=inl).to(full.dtype)
        return y.reshape(read_shape(y.shape, plan))

    def jitter(each: Phase) -> Tensor:
        bits, split = plan.input_bits, plan.split
        y = sums(each.x, each.w.detach().square(), lambda x: pulses(x, r, bits, split))
        lsb = plan.jitter * r.to(full.dtype).reshape(-1, 1, 1) / levels(bits)
        return lsb.square() * y

    def shot(each: Phase) -> Tensor:
        return plan.shot * full * sums(each.x, each.w.detach().abs(), torch.abs)

    variances: list[Tensor | None] = [None] * len(parts)
    if reads and inputs.read_variances is not None:
        variances = [*phase_variances(inputs.read_variances.detach(), plan.phases)]
    for each, variance in zip(parts, variances, strict=True):
        more = jitter(each) if plan.jitter else None
        if plan.shot:
            more = shot(each) if more is None else more + shot(each)
        squares = full.new_zeros(())
        if variance is not None:
            squares = sums(each.x, variance.to(full.dtype), rounded_square)
        multiple = 0.0 if variance is None else plan.read_noise
        found.append(read_std(full, noise, scale.view(1, -1, 1), multiple, squares, more))
    return found


def read_shape(shape: torch.Size, plan: Plan) -> tuple[int, int, int]:
    """Return (vectors, outputs, positions) of an output."""
    if plan.dims:
        # Size.numel() would fix a batch size that is traced
        return shape[0], shape[1], math.prod(shape[2:])
    return math.prod(shape[:-1]), shape[-1], 1


def by_vector(y: Tensor, plan: Plan) -> Tensor:
    """Return outputs of a product, or its partial sums, as (vectors, outputs)."""
    outputs = y.shape[1 if plan.dims else -1]
    return (y.movedim(1, -1) if plan.dims else y).reshape(-1, outputs)
