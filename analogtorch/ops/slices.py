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

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.chips.slices import Slicing
from analogtorch.chips.tiling import Section
from analogtorch.ops.converters import beside, dac_codes
from analogtorch.ops.library import define, once, untraced
from analogtorch.ops.native import slices as native
from analogtorch.ops.operands import Operands, per_block, vector_numbers
from analogtorch.ops.physics import block_scales, over_rows, wide
from analogtorch.ops.plan import Plan

Multiply = Callable[[Operands, Plan], tuple[Tensor, Tensor]]
Differentiate = Callable[[Tensor, Operands, Plan, list[bool]], Sequence[Tensor]]


def digits(numbers: Tensor, bits: int, count: int) -> list[Tensor]:
    """Return the digits of integers, the least significant first, each with the sign of its number.

    Args:
        numbers: integers of any shape, in floating point; NaN stays NaN.
        bits: bits of a digit.
        count: number of digits.
    """
    sign, left = numbers.sign(), numbers.abs()
    found = []
    for _ in range(count):
        above = torch.floor(left * 2.0**-bits)
        found.append(sign * (left - above * 2.0**bits))
        left = above
    return found


def columns(w: Tensor, scale: Tensor, bounds: Sequence[int], slicing: Slicing) -> Tensor:
    """Return the columns that hold weights, (outputs x columns of a weight, ...).

    Gradients reach ``w`` straight through: a change of the weight is shared among its columns so
    that the sum of the columns, as they count, changes by as much.

    Args:
        w: (outputs, ...), floating point; its other dimensions, flattened, are the rows.
        scale: weight at full conductance, (blocks, outputs), at least the largest of its block.
        bounds: bounds of the row blocks.
        slicing: the digits.
    """
    return _slices(w, scale, bounds, _numbers(slicing))


_AT_A_TIME = 1 << 14
"""Weights that are cut together, in some passes each, which then stay in cache. From twice as many
on, torch would divide each pass among threads, which wait for one another."""


def _runs(outputs: int, rows: int) -> Iterator[slice]:
    """Yield runs of outputs of about ``_AT_A_TIME`` weights."""
    step = max(1, _AT_A_TIME // max(rows, 1))
    return (slice(a, min(a + step, outputs)) for a in range(0, outputs, step))


def _cut(w: Tensor, scale: Tensor, bounds: Sequence[int], numbers: Sequence[int]) -> Tensor:
    slicing = _slicing(numbers)
    if native.takes(w, scale):
        return native.cut(w, scale, bounds, _table(slicing).float())
    return _by_torch(w, scale, bounds, slicing)


def _by_torch(w: Tensor, scale: Tensor, bounds: Sequence[int], slicing: Slicing) -> Tensor:
    """Return ``columns`` without a gradient, in plain torch."""
    steps, flat = slicing.weight_steps, w.flatten(1)
    table = _table(slicing).to(w.device, scale.dtype)
    planes = scale.new_empty(len(w), slicing.columns, flat.shape[1])
    # weights of a block of zeros stay 0; one with a NaN has a scale that is NaN, so its columns too
    full = torch.where(scale > 0, scale, torch.inf)
    for block, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        for run in _runs(len(w), b - a):
            q = (flat[run, a:b] / full[block, run].unsqueeze(1)).mul_(steps).round_()
            number = q.long().clamp_(-steps, steps).add_(steps).flatten()
            for column, shares in enumerate(table):
                planes[run, column, a:b] = shares.index_select(0, number).view(q.shape)
        planes[:, :, a:b] *= scale[block].view(-1, 1, 1)
    return planes.view(-1, *w.shape[1:]).to(w.dtype)


@functools.lru_cache(maxsize=64)
@untraced
def _table(slicing: Slicing) -> Tensor:
    """Return what each column of a weight holds, in units of the largest digit.

    The shape is (columns, 2 ``weight_steps`` + 1): one number for each integer of a weight, from
    the smallest on.
    """
    steps, top = slicing.weight_steps, 2.0 ** (slicing.weight_bits - 1)
    q = torch.arange(-steps, steps + 1, dtype=torch.float64, device="cpu")
    negative = (q < 0).double()
    below = q + negative * top if slicing.complement else q
    found = digits(below, slicing.bits_per_slice, slicing.digits)
    found = [digit / slicing.full_digit for digit in found]
    return torch.stack([*found, *[negative] * slicing.complement])


def _numbers(slicing: Slicing) -> list[int]:
    """Return the digits of weights as an operator takes them; ``_slicing`` reads them.

    Unlike ``ops/encoding.py``, ``torch.compile`` traces it.
    """
    return [slicing.weight_bits, slicing.bits_per_slice, slicing.complement]


def _slicing(numbers: Sequence[int]) -> Slicing:
    weight_bits, bits_per_slice, complement = numbers
    return Slicing(weight_bits=weight_bits, bits_per_slice=bits_per_slice, complement=complement)


def _fake_cut(w: Tensor, scale: Tensor, bounds: Sequence[int], numbers: Sequence[int]) -> Tensor:
    return w.new_empty(w.shape[0] * _slicing(numbers).columns, *w.shape[1:])


def _plain_cut(w: Tensor, scale: Tensor, bounds: Sequence[int], numbers: Sequence[int]) -> Tensor:
    slicing, flat = _slicing(numbers), w.flatten(1)
    steps, table = slicing.weight_steps, _table(slicing).to(w.device, scale.dtype)
    full = over_rows(scale, bounds)
    q = (flat / torch.where(full > 0, full, torch.inf) * steps).round()
    planes = table[:, (q.long() + steps).clamp(0, 2 * steps)] * full
    return planes.movedim(0, 1).flatten(0, 1).view(-1, *w.shape[1:]).to(w.dtype)


def _save_cut(ctx: Any, arguments: Any, output: Tensor) -> None:
    ctx.slicing = _slicing(arguments[-1])


def _shared(ctx: Any, saved: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradient of each weight: its columns share it by the squares of their factors."""
    factors = ctx.slicing.slice_factors
    total = sum(f * f for f in factors)
    each = g.unflatten(0, (-1, len(factors)))
    return _weighted(each, [f / total for f in factors], 1), None, None, None


_slices = define(
    "slices(Tensor w, Tensor scale, int[] bounds, int[] numbers) -> Tensor",
    _cut,
    _fake_cut,
    save=_save_cut,
    backward=_shared,
    plain=_plain_cut,
)


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
    scale = block_scales(w, section.bounds, shared)
    return columns(w, scale, section.bounds, slicing)


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
    bits, full = plan.slicing.bits_per_pulse, 2.0**plan.slicing.bits_per_pulse - 1
    numbers = dac_codes(x.to(limit.dtype), limit, plan.input_bits)
    pulses = [d * (limit / full) for d in digits(numbers, bits, count)]
    samples = operands.samples
    if samples is not None:
        numbers = vector_numbers(samples, x.shape[0] if plan.dims else math.prod(x.shape[:-1]))
        samples = (numbers.view(-1, 1) * count + torch.arange(count, device=x.device)).flatten()
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


def sliced(
    operands: Operands, plan: Plan, multiply: Multiply, differentiate: Differentiate
) -> Tensor:
    """Return the product of a plan with slices.

    Args:
        operands: those of the product; ``w`` holds the columns of the weights.
        plan: the plan, with ``slicing``.
        multiply: computes a product without slices, and finds its weight scales.
        differentiate: computes the gradients of such a product, with given scales, in which nothing
            is clipped behind the array.
    """
    x, input_range, w, bias = operands.x, operands.input_range, operands.w, operands.bias
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, input_range, w)):
        y = _Sliced.apply(x, input_range, w, operands, plan, multiply, differentiate)
    else:
        y = combined(multiply(*unfolded(operands, plan))[0], plan)
    if bias is not None:
        y = y + bias.to(y.dtype).view(-1, *[1] * plan.dims)
    return y.to(w.dtype)


class _Sliced(torch.autograd.Function):
    """The product without bias, with the gradients of that of the inputs applied at once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_range: Tensor,
        w: Tensor,
        operands: Operands,
        plan: Plan,
        multiply: Multiply,
        differentiate: Differentiate,
    ) -> Tensor:
        y, scale = multiply(*unfolded(operands, plan))
        ctx.plan, ctx.differentiate = plan, differentiate
        ctx.save_for_backward(x, input_range, w, scale, operands.gain, operands.key)
        return combined(y, plan)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        saved = x, input_range, w, scale, gain, key = ctx.saved_tensors
        plan, (g,) = ctx.plan, gradient
        dim = 2 if plan.dims else g.dim()
        factors = g.new_tensor(plan.slicing.slice_factors)
        counted = g.unsqueeze(dim) * factors.view(-1, *[1] * plan.dims)
        operands = Operands(x, input_range, w, scale=scale, gain=gain, key=key)
        needs = [*ctx.needs_input_grad[:3]]
        with torch.no_grad():
            found = ctx.differentiate(
                counted.flatten(dim - 1, dim).to(w.dtype), operands, plan.at_once, needs
            )
        asked = [t if n else None for t, n in zip(found, needs, strict=False)]
        return *once("mvm", asked, (g, *saved)), *[None] * 4
