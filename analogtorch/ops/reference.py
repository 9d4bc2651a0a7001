"""The analog product in plain torch: it defines the kernels, and runs if there is none.

A layer's product is a convolution (a linear layer is one with a single position). With ``r`` the
input range (of all row blocks, or one for each) and ``s`` the weight scale of a row block and
output:

    xq = round(clip(x, -r, r) L / r) r / L                  L = 2^(input bits - 1) - 1
    wn = w + weight_noise * s * spread(w / s) * normal
    p  = sum of xq wn over the block's rows                 its partial sum
    q  = sum of (xq read_noise)^2 variance over the rows    of the read noise, in units of s^2
         + shot r / s sum of |xq wn| over the rows          of the shot noise of light
    v  = p + s * sqrt((r * output_noise)^2 + q) * normal
    b  = r * s * output bound,  A = 2^(output bits - 1) - 1
    u  = gain * round(clip(v, -b, b) A / b) b / A           its ADC output
    o  = r * s * output range,  U = 2^(unit bits - 1) - 1
    y += round(clip(u, -o, o) U / o) o / U                  the digital unit

With ``plan.phases`` ADC outputs to a partial sum, those of ``x+ = max(xq, 0)`` and ``x- = max(-xq,
0)``, and of the polarities ``w+`` and ``w-`` of ``wn = w+ - w-``, go through the third and fourth
line separately:

    v  = v(x+, wn) - v(x-, wn)                                      2 phases
    v  = v(x+, w+) - v(x+, w-) - v(x-, w+) + v(x-, w-)              4 phases

If ``plan.balanced``, each phase is read once more with exchanged polarities and noise of its own:
``u = (u(v) - u(-v)) / 2``.

``A`` may be given instead (``output_steps``). With ``floors`` the ADC rounds toward zero; with
``adc_inl`` its code is the number of its transition levels below ``v A / b``, less ``A``. The last
line is that of a tile whose digital unit scales each column before it outputs 8 bits; without
output ranges, ``y += u``.

With ``curvatures`` w2 and w3, ``p += sum of xq^2 w2 / r + sum of xq^3 w3 / r^2``.

Each phase has separate read noise too, of the inputs and the devices that it reads. IR drop that
depends on the inputs is subtracted from ``p`` of each phase (``ops/input_drop.py``).

The gradient is straight-through: 1 where a converter neither clips nor saturates, 0 where it does,
in any phase; the range learns from the clipped inputs. Noise of partial sums is a constant. Normals
are keyed by position (``ops/generator.py``), so the backward pass has exactly the noise of the
forward.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.blocks import seen_by
from analogtorch.ops.converters import (
    adc,
    adc_outputs,
    beside,
    dac,
    digital_unit,
)
from analogtorch.ops.mask import MASK, packed, unpacked
from analogtorch.ops.noise import normal
from analogtorch.ops.operands import Gradients, Operands, Outputs, per_block, vector_numbers
from analogtorch.ops.partial_sums import bent, noise_stds, part, read_shape
from analogtorch.ops.physics import (
    block_scales,
    noisy,
    over_rows,
    phase_keys,
    phases,
    wide,
)
from analogtorch.ops.plan import Plan


def noisy_weight(
    w: Tensor,
    scale: Tensor,
    key: Tensor | None,
    plan: Plan,
    spread: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the weights of a training step, of ``w``'s shape and type.

    ``spread`` is the deviation as ``physics.weight_sigma`` takes it; None: that of the plan.
    """
    if key is None or plan.weight_noise == 0:
        return w
    flat, full = w.flatten(1), over_rows(scale, plan.bounds)
    outputs, rows = flat.shape
    number = torch.arange(outputs, device=w.device)
    # each group has other rows
    first = plan.first_row + number // (outputs // plan.groups) * rows
    z = normal(key, number + plan.first_output, first, rows)
    return noisy(flat, full, z, plan.weight_noise, spread or plan.spread).view(w.shape)


def forward(inputs: Operands, plan: Plan, learns: bool) -> Outputs:
    """Return the product; ``learns``: whether a backward pass may follow."""
    x, input_range, w, bias, scale, gain, *_ = inputs
    input_range, output_ranges = input_range.abs(), inputs.output_ranges
    scale = block_scales(w, plan.bounds, plan.columns) if scale is None else scale.to(wide(w.dtype))
    by_block, wn = per_block(input_range), noisy_weight(w, scale, inputs.key, plan)
    inl = inputs.dac_inl
    xq = x if by_block else dac(x, input_range, plan.input_bits, w.dtype, inl)
    parts = phases(xq, wn, inputs.negatives, plan.phases)
    total: Tensor | None = None
    masks = []
    for block in range(plan.blocks):
        r = input_range[block : block + 1] if by_block else input_range
        own_range = r if by_block else None
        span = plan.span(block, w.shape[1:])
        sums = [
            part(each.x, each.w, span, plan, own_range, inl=inl).to(scale.dtype) for each in parts
        ]
        if inputs.curvatures is not None:
            sums = [
                y + bent(each.x, span, r, inputs, plan).to(scale.dtype)
                for y, each in zip(sums, parts, strict=True)
            ]
        if inputs.drops is not None:
            pairs = zip(sums, inputs.drops[:, block], strict=True)
            sums = [v - lost.to(v.dtype) for v, lost in pairs]
        shape = sums[0].shape
        full = r.to(scale.dtype).reshape(-1, 1, 1) * scale[block].view(1, -1, 1)
        std = noise_stds(parts, full, scale[block], span, r, inputs, plan)
        v, clipped = _read(sums, [each.sign for each in parts], full, std, block, inputs, plan)
        if gain is not None:
            v = v * gain[block].view(1, -1, 1).to(v.dtype)
        if plan.unit_bits and output_ranges is not None:
            limit = full * output_ranges[block].view(1, -1, 1).to(full.dtype)
            v, beyond = digital_unit(v, limit, plan.unit_bits)
            clipped.append(beyond)
        if learns and plan.saturates:
            masks.append(packed(_any(clipped, v).reshape(_mask_rows(shape, plan))))
        total = v.view(shape) if total is None else total + v.view(shape)
    assert total is not None
    if bias is not None:
        total = total + bias.to(total.dtype).view(-1, *[1] * plan.dims)
    mask = torch.stack(masks) if masks else x.new_empty(0, dtype=MASK)
    saturated = x.new_zeros(plan.blocks, dtype=torch.uint8)
    if mask.numel():
        saturated = mask.flatten(1).amax(1)
    return Outputs(total.to(w.dtype).contiguous(), scale, mask, saturated)


def _read(
    sums: list[Tensor],
    signs: list[float],
    full: Tensor,
    read: list[Tensor],
    block: int,
    inputs: Operands,
    plan: Plan,
) -> tuple[Tensor, list[Tensor]]:
    """Return ``converters.adc_outputs`` of a row block: (vectors, outputs, positions)."""
    ranges, errors = inputs.adc_ranges, inputs.adc_errors
    shape = read_shape(sums[0].shape, plan)
    bound = plan.adc_range if ranges is None else ranges[block].view(1, -1, 1).to(full.dtype)
    if errors is not None:
        errors = errors[:, block].view(len(errors), 1, -1, 1).to(full.dtype)

    def normals(number: int) -> Tensor:
        assert inputs.output_keys is not None
        key = phase_keys(inputs.output_keys[block], number, plan.reads)
        return _output_normals(shape, key, inputs.samples, plan)

    flat, noise, inl = [p.reshape(shape) for p in sums], plan.output_noise, inputs.adc_inl
    inl = None if inl is None else inl[block if len(inl) > 1 else 0]
    convert = functools.partial(adc, floors=bool(plan.floors), inl=inl)
    return adc_outputs(
        flat,
        signs,
        full,
        bound,
        plan.steps,
        noise,
        normals,
        errors,
        read,
        convert,
        bool(plan.balanced),
    )


def backward(
    g: Tensor, inputs: Operands, outputs: Outputs, plan: Plan, needs: Sequence[bool]
) -> Gradients:
    """Return the gradients of x, the input range, w and the bias that ``needs`` asks for."""
    x, signed, w, _, _, gain, key, *_ = inputs
    input_range, by_block = signed.abs(), per_block(signed)
    needs_x, needs_range, needs_w, needs_bias = needs
    xq, mask = x if by_block else dac(x, input_range, plan.input_bits, w.dtype), outputs.mask
    wn = noisy_weight(w, outputs.scale, key, plan)
    wanted, clipped = (needs_x or needs_range, needs_w), None
    if gain is None and not mask.numel() and not by_block:  # as in the digital layer
        gx, gw = _gradients(g, xq, wn, plan, wanted)
    else:
        ranges = input_range if by_block else None
        gx, gw, clipped = _by_blocks(g, xq, wn, gain, mask, ranges, plan, wanted)
    if gx is not None and plan.input_bits and not by_block:
        gx, clipped = _through_dac(gx, x, input_range, needs_range)
    g_range = None
    if needs_range:
        g_range = torch.zeros_like(input_range) if clipped is None else clipped * signed.sign()
    g_bias = None
    if needs_bias:
        g_bias = g.sum((0, *range(2, g.dim()))) if plan.dims else g.reshape(-1, g.shape[-1]).sum(0)
    return gx.to(x.dtype) if gx is not None and needs_x else None, g_range, gw, g_bias


def _any(clipped: list[Tensor], v: Tensor) -> Tensor:
    """Return which outputs a converter clipped."""
    if not clipped:  # a digital unit without its ranges, and no ADC
        return torch.zeros_like(v, dtype=torch.bool)
    return functools.reduce(torch.logical_or, clipped)


def _through_dac(
    gx: Tensor, x: Tensor, input_range: Tensor, needs_range: bool
) -> tuple[Tensor, Tensor | None]:
    bound = beside(input_range, x)
    above, below = x > bound, x < -bound
    g_range = None
    if needs_range:
        g_range = (gx * above - gx * below).to(wide(gx.dtype)).sum_to_size(bound.shape)
        g_range = g_range.reshape(input_range.shape).to(input_range.dtype)
    return gx.masked_fill(above | below, 0.0), g_range


def _mask_rows(shape: torch.Size, plan: Plan) -> tuple[int, int]:
    """Return (rows, last) of the mask of an output."""
    vectors, outputs, positions = read_shape(shape, plan)
    return (vectors * outputs, positions) if plan.dims else (vectors, outputs)


def _output_normals(
    shape: tuple[int, int, int], key: Tensor, samples: Tensor | None, plan: Plan
) -> Tensor:
    """Return normals of ``shape`` (vectors, outputs, positions).

    Their keys are the vector, the output and, in a convolution, the position.
    """
    n, outputs, positions = shape
    vectors = torch.arange(n, device=key.device) if samples is None else vector_numbers(samples, n)
    if not plan.dims:
        first = torch.full_like(vectors, plan.first_output)
        return normal(key, vectors, first, outputs).unsqueeze(2)
    numbers = torch.arange(plan.first_output, plan.first_output + outputs, device=key.device)
    rows = (vectors.unsqueeze(1) * (plan.total_outputs or outputs) + numbers).flatten()
    return normal(key, rows, torch.zeros_like(rows), positions).view(shape)


def _gradients(
    g: Tensor, x: Tensor, w: Tensor, plan: Plan, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a digital product with respect to ``x`` and ``w``."""
    if not plan.dims:
        gx = g @ w if needs[0] else None
        gw = g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1]) if needs[1] else None
        return gx, gw
    run = (plan.stride, plan.padding, plan.dilation)
    zero, wanted = [0] * plan.dims, [*needs, False]
    gx, gw, _ = torch.ops.aten.convolution_backward(
        g, x, w, None, *run, False, zero, plan.groups, wanted
    )
    return gx, gw


def passed_by(g: Tensor, mask: Tensor, gain: Tensor | None, block: int, plan: Plan) -> Tensor:
    """Return the gradient of the partial sums of a row block, straight through its converters.

    Args:
        g: the gradient of the product.
        mask: see ``Outputs.mask``.
        gain: see ``Operands.gain``.
        block: number of the row block.
        plan: the plan of the product.
    """
    passed = g
    if mask.numel():
        saturated = unpacked(mask[block], _mask_rows(g.shape, plan)[1])
        passed = g.masked_fill(saturated.view(g.shape), 0.0)
    if gain is not None:
        passed = passed * gain[block].view(-1, *[1] * plan.dims).to(g.dtype)
    return passed


def _by_blocks(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    gain: Tensor | None,
    mask: Tensor,
    ranges: Tensor | None,
    plan: Plan,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, w and the ranges of row blocks, if these have their own.

    In that case ``x`` is not yet quantised.
    """
    # blocks that hold whole kernels share no input: they write where others must add
    form = torch.contiguous_format
    gx = torch.zeros_like(x, dtype=w.dtype, memory_format=form) if needs[0] else None
    gw = torch.empty_like(w, memory_format=form) if needs[1] else None
    g_ranges: list[Any] = []
    for block in range(plan.blocks):
        passed = passed_by(g, mask, gain, block, plan)
        span = plan.span(block, w.shape[1:])
        index, given = (slice(None), *span), seen_by(x, w.shape[1:], span, plan)
        r = None if ranges is None else ranges[block : block + 1]
        seen = given if r is None else dac(given, r, plan.input_bits, w.dtype)
        flat = seen.flatten(1, 2) if plan.groups > 1 else seen
        block_gx, block_gw = _gradients(passed, flat, w[index], plan, needs)
        if gx is not None and block_gx is not None:
            block_gx = block_gx.view(seen.shape)
            if r is not None and plan.input_bits:
                block_gx, g_range = _through_dac(block_gx, given, r, True)
                g_ranges.append(g_range)
            elif r is not None:
                g_ranges.append(torch.zeros_like(r))
            seen_by(gx, w.shape[1:], span, plan).add_(block_gx)
        if gw is not None and block_gw is not None:
            gw[index] = block_gw
    return gx, gw, torch.cat(g_ranges) if g_ranges else None
