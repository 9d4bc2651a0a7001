"""Bit slices: a product whose weights and inputs are cut into digits, in plain torch.

With ``s`` the weight scale, ``W`` steps of a weight and ``X`` of an input on each side of zero:

    q = round(w W / s) = sum of d_j 2^(b j)          digits of a weight, one a column
    w_j = s d_j / D,  D = 2^b - 1                    its columns, at most full conductance
    round(clip(x) X / r) = sum of e_i 2^(p i)        digits of an input, one a pulse
    x_i = r e_i / E,  E = 2^p - 1                    its pulses, at most full scale
    y = sum over i and j of (E 2^(p i) / X) (D 2^(b j) / W) y_ij,   y_ij = mvm(x_i, w_j)

Each ``y_ij`` is the product of ``ops/reference.py``: to it, the columns are further outputs and the
pulses further vectors, each with its ADC output and its noise. A digit has the sign of its number;
in two's complement that of a weight has none, and one more column counts ``-2^(bits - 1) / W``.

The gradient is straight-through: that of the plain product of the inputs after the DAC with the
sum of the columns as the cells hold them, noise included. Unlike that of a product without slices,
it passes outputs that an ADC has clipped.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.chips.slices import Slicing
from analogtorch.chips.tiling import Section
from analogtorch.ops.constants import LEAST_BOUND
from analogtorch.ops.converters import beside, in_steps, levels
from analogtorch.ops.operands import Operands, per_block
from analogtorch.ops.physics import block_scales, over_rows, relative, wide
from analogtorch.ops.plan import Plan
from analogtorch.ops.reference import gradients, noisy_weight, through_dac

Multiply = Callable[[Operands, Plan], Tensor]


def digits(codes: Tensor, bits: int, count: int) -> list[Tensor]:
    """Return the digits of integers, the least significant first, each with the sign of its number.

    Args:
        codes: integers of any shape, in floating point; NaN stays NaN.
        bits: bits of a digit.
        count: number of digits.
    """
    sign, left = codes.sign(), codes.abs()
    found = []
    for _ in range(count):
        above = torch.floor(left * 2.0**-bits)
        found.append(sign * (left - above * 2.0**bits))
        left = above
    return found


def columns(w: Tensor, full: Tensor, slicing: Slicing) -> Tensor:
    """Return the columns that hold weights, (outputs x columns of a weight, ...).

    Gradients reach ``w`` straight through: a change of the weight is shared among its columns so
    that the sum of the columns, as they count, changes by as much.

    Args:
        w: (outputs, ...), floating point.
        full: weight at full conductance, of the same shape.
        slicing: the digits.
    """
    return _Columns.apply(w, full, slicing)


def _digits_of(w: Tensor, full: Tensor, slicing: Slicing) -> Tensor:
    """Return ``columns`` without a gradient."""
    q = torch.round(relative(w, full).clamp(-1, 1) * slicing.weight_steps)
    below = q
    if slicing.complement:
        negative = (q < 0).to(q.dtype)
        below = q + negative * 2.0 ** (slicing.weight_bits - 1)
    found = digits(below, slicing.bits_per_slice, slicing.digits)
    found = [digit / slicing.full_digit for digit in found]
    if slicing.complement:
        found.append(negative)
    planes = torch.stack([full * share for share in found], 1)
    return planes.flatten(0, 1).to(w.dtype)


class _Columns(torch.autograd.Function):
    """``columns``: the gradient of each is shared by the squares of what they count for."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, full: Tensor, slicing: Slicing) -> Tensor:
        ctx.slicing = slicing
        return _digits_of(w, full, slicing)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> Any:
        factors = ctx.slicing.slice_factors
        total = sum(f * f for f in factors)
        each = g[0].unflatten(0, (-1, len(factors)))
        return _weighted(each, [f / total for f in factors], 1), None, None


def cells(section: Section, weight: Tensor) -> Tensor:
    """Return the weights that the cells of a section are to hold, of ``section.shape``.

    Args:
        section: the section.
        weight: the weight of its layer, ``(out, channels / groups, *kernel)``.
    """
    w, slicing = section.weight(weight), section.slicing
    if not slicing.weight_bits:
        return w
    each = slicing.columns
    shared = tuple(bound // each for bound in section.columns)
    full = over_rows(block_scales(w, section.bounds, shared), section.bounds)
    return columns(w, full.view(w.shape), slicing)


def row_limits(input_range: Tensor, x: Tensor, w: Tensor, plan: Plan) -> Tensor:
    """Return the DAC range of each input, which broadcasts to ``x``.

    Raises:
        ValueError: each row block has its own range, and blocks cut a kernel.
    """
    limit = input_range.abs()
    if not per_block(limit):
        return beside(limit, x)
    taps = w[0, 0].numel() if plan.dims else 1
    if any(bound % taps for bound in plan.bounds):
        raise ValueError(
            "input slices need one DAC range where row blocks cut a kernel; call "
            "calibrate(model, batches, per='layer'), or set_input_range with one number"
        )
    sizes = [(b - a) // taps for a, b in zip(plan.bounds[:-1], plan.bounds[1:], strict=True)]
    each = torch.cat([limit[i].expand(size) for i, size in enumerate(sizes)])
    each = each.repeat(plan.groups)
    return each.view(*[1] * (x.dim() - 1 - plan.dims), -1, *[1] * plan.dims)


def unfolded(operands: Operands, plan: Plan) -> tuple[Operands, Plan]:
    """Return operands and plan of the products of all pulses and columns, without the bias.

    The pulses of a vector, or sample of a convolution, follow each other.
    """
    x, input_range, w = operands.x, operands.input_range, operands.w
    count = plan.slicing.pulses(plan.input_bits)
    if count == 1:
        return operands._replace(bias=None), plan.unsliced
    limit = row_limits(input_range, x, w, plan).detach().to(wide(x.dtype))
    steps, full = levels(plan.input_bits), 2.0**plan.slicing.bits_per_pulse - 1
    codes = in_steps(x.to(limit.dtype), limit, steps) * (steps / limit.clamp_min(LEAST_BOUND))
    codes = torch.round(codes)
    pulses = [d * (limit / full) for d in digits(codes, plan.slicing.bits_per_pulse, count)]
    samples = operands.samples
    if samples is not None:
        samples = (samples.view(-1, 1) * count + torch.arange(count, device=x.device)).flatten()
    if plan.dims:
        apart = torch.stack(pulses, 1).flatten(0, 1)
        if input_range.dim() == x.dim():
            input_range = input_range.repeat_interleave(count, 0)
    else:
        apart = torch.stack(pulses, -2)
        if input_range.dim() == x.dim() and input_range.numel() > 1:
            input_range = input_range.unsqueeze(-2).expand(*apart.shape[:-1], 1).contiguous()
    operands = operands._replace(x=apart, input_range=input_range, bias=None, samples=samples)
    return operands, plan.unsliced


def combined(y: Tensor, plan: Plan) -> Tensor:
    """Return the shifted and added ADC outputs of ``unfolded`` operands.

    Args:
        y: (*, pulses, outputs x columns), or (N x pulses, outputs x columns, *sizes).
        plan: the plan of the whole product.
    """
    pulses = plan.slicing.pulse_factors(plan.input_bits)
    y = shifted(y.to(wide(y.dtype)), plan.slicing, 1 if plan.dims else y.dim() - 1)
    if len(pulses) == 1:
        return y
    if plan.dims:
        return _weighted(y.unflatten(0, (-1, len(pulses))), pulses, 1)
    return _weighted(y, pulses, y.dim() - 2)


def shifted(y: Tensor, slicing: Slicing, dim: int = 1) -> Tensor:
    """Return the sums of the columns of each weight as they count; ``dim`` counts the columns."""
    if not slicing.weight_bits:
        return y
    return _weighted(y.unflatten(dim, (-1, slicing.columns)), slicing.slice_factors, dim + 1)


def _weighted(y: Tensor, factors: Sequence[float], dim: int) -> Tensor:
    """Return the sum of ``y`` along ``dim`` with these factors, the last first."""
    total: Tensor | None = None
    for i in reversed(range(len(factors))):
        part = y.select(dim, i)
        total = part * factors[i] if total is None else total.add_(part, alpha=factors[i])
    assert total is not None
    return total


def sliced(operands: Operands, plan: Plan, multiply: Multiply) -> Tensor:
    """Return the product of a plan with slices; ``multiply`` computes one without them."""
    x, w, bias = operands.x, operands.w, operands.bias
    learning = (x, operands.input_range, w)
    if torch.is_grad_enabled() and any(t.requires_grad for t in learning):
        limit = row_limits(operands.input_range, x, w, plan)
        y = _Sliced.apply(x, limit, w, operands, plan, multiply)
    else:
        y = combined(multiply(*unfolded(operands, plan)), plan)
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *[1] * plan.dims)
    return y.to(w.dtype)


class _Sliced(torch.autograd.Function):
    """The product without bias, with the gradient of the plain product of what it adds up."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        limit: Tensor,
        w: Tensor,
        operands: Operands,
        plan: Plan,
        multiply: Multiply,
    ) -> Tensor:
        y = combined(multiply(*unfolded(operands, plan)), plan)
        ctx.plan = plan
        saved = (x, limit, w, operands.scale, operands.gain, operands.key)
        ctx.save_for_backward(*saved)
        return y

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        x, limit, w, scale, gain, key = ctx.saved_tensors
        plan, (g,) = ctx.plan, gradient
        needs_x, needs_limit, needs_w, *_ = ctx.needs_input_grad
        each, factors = plan.slicing.columns, plan.slicing.slice_factors
        if scale is None:
            scale = block_scales(w, plan.bounds, plan.columns)
        held, xq = noisy_weight(w, scale, key, plan).to(g.dtype), x.to(g.dtype)
        counts = w.new_tensor(factors).view(1, each, *[1] * (w.dim() - 1)).to(g.dtype)
        if gain is not None:
            rows = over_rows(gain, plan.bounds).view(-1, each, *w.shape[1:])
            counts = counts * rows.to(g.dtype)
        effective = (held.unflatten(0, (-1, each)) * counts).sum(1)
        if plan.input_bits:
            xq = in_steps(xq, limit.to(g.dtype), levels(plan.input_bits))
        wanted = needs_x or needs_limit, needs_w
        gx, gw = gradients(g.contiguous(), xq, effective, plan, wanted)
        g_limit = None
        if gx is not None and plan.input_bits:
            gx, g_limit = through_dac(gx, x, limit, needs_limit)
        if needs_limit and g_limit is None:
            g_limit = torch.zeros_like(limit)
        if gw is not None:
            gw = (gw.unsqueeze(1) * counts).flatten(0, 1).to(w.dtype)
        return gx.to(x.dtype) if gx is not None and needs_x else None, g_limit, gw, None, None, None
