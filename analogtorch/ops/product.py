"""The analog product: row blocks computed apart, each read through the ADC, the readings summed digitally.

A layer's product is a convolution (a linear layer is one without places). Row block ``i`` sees some of the channels
and kernel taps; its partial sums ``p`` are read as

    y = p + full * noise * normal            full = unit * scale[i]: full-scale input x weight at full conductance
    r = clip(round(y / step) * step, +-full * bound) * gain[i],  step = full * bound / (2^(bits - 1) - 1)

and the ``r`` of all blocks are added. The gradient is straight-through: 1 where a reading is inside the bound, 0 where
it saturates. Without saturation the backward pass is the digital layer's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional as F

from analogtorch.ops import native
from analogtorch.ops.noise import normal
from analogtorch.ops.quantize import levels, rounded

Span = tuple[slice, ...]
"""A row block: channels, then kernel taps."""


@dataclass(frozen=True)
class Geometry:
    """How a product runs over its input; for a linear layer every list is empty."""

    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def part(x: Tensor, w: Tensor, span: Span, g: Geometry) -> Tensor:
    """The partial sums of the row block ``span``, differentiable; the input is never unfolded.

    Args:
        x: (*, channels) for a linear layer, else (N, channels, *places).
        w: (outputs, channels / groups, *kernel).
        span: within ``w.shape[1:]``; a block that cuts the kernel asks for an input that is padded already.
        g: the geometry.
    """
    seen = _seen(x, w.shape[1:], span, g)
    if not g.stride:
        return F.linear(seen, w[:, span[0]])
    seen = seen.flatten(1, 2) if g.groups > 1 else seen
    return _CONVOLVE[len(span) - 1](seen, w[(slice(None), *span)], None, g.stride, g.padding, g.dilation, g.groups)


def _seen(x: Tensor, rows: torch.Size, span: Span, g: Geometry) -> Tensor:
    """The view of ``x`` that a row block sees; with groups, the channels are two dimensions: (groups, channels)."""
    if not g.stride:
        return x[..., span[0]]
    channels, *taps = span
    if g.groups > 1:
        x = x.unflatten(1, (g.groups, rows[0]))[:, :, channels]
    elif channels != slice(0, rows[0]):
        x = x[:, channels]
    if all(tap == slice(0, size) for tap, size in zip(taps, rows[1:], strict=True)):
        return x
    if any(g.padding):
        raise ValueError("a row block that cuts the kernel needs an input that is padded already")
    sizes = x.shape[-len(taps) :]
    places: list[Any] = [_meets(sizes[d], rows[1 + d], tap, g.stride[d], g.dilation[d]) for d, tap in enumerate(taps)]
    return x[tuple([..., *places])]


def _meets(size: int, kernel: int, tap: slice, stride: int, dilation: int) -> slice:
    """The part of a dimension of the padded input that the kernel's taps in ``tap`` meet."""
    outputs = (size - dilation * (kernel - 1) - 1) // stride + 1
    start = tap.start * dilation
    return slice(start, start + (outputs - 1) * stride + (tap.stop - tap.start - 1) * dilation + 1)


def product(
    x: Tensor,
    w: Tensor,
    unit: Tensor,
    scale: Tensor,
    *,
    spans: tuple[Span, ...],
    geometry: Geometry,
    bits: int | None,
    bound: float,
    noise: float = 0.0,
    keys: Tensor | None = None,
    samples: Tensor | None = None,
    first_output: int = 0,
    total_outputs: int = 0,
    gain: Tensor | None = None,
) -> Tensor:
    """The readings of all row blocks, summed: see the module's docstring.

    Args:
        x: (*, channels) for a linear layer, else (N, channels, *places); quantised by ``dac``.
        w: (outputs, channels / groups, *kernel).
        unit: full-scale input, (1,) or one per vector (linear) or sample (convolution).
        scale: weight at full conductance, (blocks, outputs).
        spans: the row blocks; together they are ``w.shape[1:]``.
        geometry: the convolution's; empty for a linear layer.
        bits: of the ADC; None reads exactly.
        bound: of the ADC, in units of ``unit * scale``.
        noise: standard deviation of the output noise, in the same units.
        keys: (blocks,) int64, the noise's; needed where ``noise > 0``.
        samples: (vectors,) int64, place of each vector or sample in the noise; None: 0, 1, 2, ...
        first_output: position of output 0 in the layer, and
        total_outputs: outputs of the layer: the noise is keyed by position.
        gain: digital correction of each reading, (blocks, outputs).

    Returns:
        (*, outputs), or (N, outputs, *places), of ``x``'s dtype.
    """
    numbers = [n for span in spans for s in span for n in (s.start, s.stop)]
    learns = torch.is_grad_enabled() and (x.requires_grad or w.requires_grad)
    lists = (list(geometry.stride), list(geometry.padding), list(geometry.dilation), geometry.groups)
    positions = (first_output, total_outputs or w.shape[0])
    y, _, _ = _product(
        x, w, unit, scale, gain, keys, samples, numbers, *lists, bits or 0, bound, noise, *positions, learns
    )
    return y


@custom_op("analogtorch::product", mutates_args=())
def _product(
    x: Tensor,
    w: Tensor,
    unit: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    keys: Tensor | None,
    samples: Tensor | None,
    numbers: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    bits: int,
    bound: float,
    noise: float,
    first_output: int,
    total_outputs: int,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
    total: Tensor | None = None
    mask, saturated = None, []
    for i, span in enumerate(_spans(numbers, w.dim() - 1)):
        p = part(x, w, span, geometry).contiguous()
        z = None
        if noise > 0 and p.numel():
            assert keys is not None
            z = _output_noise(p, keys[i], samples, bool(stride), first_output, total_outputs)
        flat = p.view(*_read_shape(p.shape, bool(stride)))
        if learns and mask is None:
            mask = torch.empty(len(scale), *p.shape, dtype=torch.uint8, device=p.device)
        column_gain = None if gain is None else gain[i]
        where = None if mask is None else mask[i].view(flat.shape)
        total, any_ = _read(total, flat, z, unit.reshape(-1), scale[i], column_gain, bound, noise, bits, where)
        saturated.append(any_)
    assert total is not None
    y = total.view(p.shape)
    if mask is None:
        mask = y.new_empty(0, dtype=torch.uint8)
    return y, mask, torch.tensor(saturated, device=y.device)


@_product.register_fake
def _(
    x, w, unit, scale, gain, keys, samples, numbers, stride, padding, dilation, groups, bits, bound, noise, a, b, learns
):
    geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
    y = part(x, w, _spans(numbers, w.dim() - 1)[0], geometry)
    y = torch.empty_like(y, memory_format=torch.contiguous_format)
    mask = y.new_empty((len(scale), *y.shape) if learns else (0,), dtype=torch.uint8)
    return y, mask, y.new_empty(len(scale), dtype=torch.bool)


def _spans(numbers: list[int], dims: int) -> list[Span]:
    pairs = [slice(a, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    return [tuple(pairs[i : i + dims]) for i in range(0, len(pairs), dims)]


def _read_shape(shape: torch.Size, convolution: bool) -> tuple[int, int, int]:
    """(vectors, outputs, places) of an output."""
    if convolution:
        return shape[0], shape[1], shape[2:].numel()
    return shape[:-1].numel(), shape[-1], 1


def _output_noise(p: Tensor, key: Tensor, samples: Tensor | None, convolution: bool, first: int, total: int) -> Tensor:
    """Normals of ``p``'s shape: keyed by vector and output, or by sample, output and place."""
    n, outputs, places = _read_shape(p.shape, convolution)
    vectors = torch.arange(n, device=p.device) if samples is None else samples
    if not convolution:
        return normal(key, vectors, torch.full_like(vectors, first), outputs).view(p.shape)
    rows = (vectors.unsqueeze(1) * total + torch.arange(first, first + outputs, device=p.device)).flatten()
    return normal(key, rows, torch.zeros_like(rows), places).view(p.shape)


def _read(
    total: Tensor | None,
    p: Tensor,
    z: Tensor | None,
    unit: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    bound: float,
    noise: float,
    bits: int,
    mask: Tensor | None,
) -> tuple[Tensor, bool]:
    """Add the readings of one block's partial sums ``p`` (vectors, outputs, places) to ``total``."""
    if bits and native.available(p, unit, scale):
        return native.adc(total, p, z, unit, scale, gain, bound, noise, levels(bits), mask)
    wide = torch.promote_types(p.dtype, torch.float32)
    full = unit.to(wide).view(-1, 1, 1) * scale.to(wide).view(1, -1, 1)
    y = p if z is None else p + full * noise * z.view(p.shape)
    reading = rounded(y, full * bound, bits) if bits else y
    if gain is not None:
        reading = reading * gain.view(1, -1, 1)
    reading = reading.to(p.dtype)
    any_ = False
    if mask is not None:
        outside = y.abs() > full * bound if bits else torch.zeros_like(y, dtype=torch.bool)
        mask.copy_(outside)
        any_ = bool(outside.any())
    return (reading if total is None else total + reading), any_


@custom_op("analogtorch::product_backward", mutates_args=())
def _product_backward(
    g: Tensor,
    x: Tensor,
    w: Tensor,
    gain: Tensor | None,
    mask: Tensor,
    saturated: Tensor,
    numbers: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
    if gain is None and not saturated.any():  # then it is the digital layer's
        gx, gw = _gradients(g, x, w, geometry, needs)
        return _or_nothing(gx, x), _or_nothing(gw, w)
    spans = _spans(numbers, w.dim() - 1)
    # blocks that hold whole kernels share no input: they write where others must add
    whole = all(tap == slice(0, size) for span in spans for tap, size in zip(span[1:], w.shape[2:], strict=True))
    gx = torch.empty_like(x, memory_format=torch.contiguous_format) if needs[0] else None
    gw = torch.empty_like(w, memory_format=torch.contiguous_format) if needs[1] else None
    if gx is not None and not whole:
        gx.zero_()
    for i, span in enumerate(spans):
        passed = g.masked_fill(mask[i].bool(), 0.0) if saturated[i] else g
        if gain is not None:
            passed = passed * gain[i].view(-1, *[1] * len(stride)).to(g.dtype)
        _put_block(gx, gw, passed, x, w, span, geometry, add=not whole)
    return _or_nothing(gx, x), _or_nothing(gw, w)


@_product_backward.register_fake
def _(g, x, w, gain, mask, saturated, numbers, stride, padding, dilation, groups, needs):
    gx, gw = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, w))
    return _or_nothing(gx if needs[0] else None, x), _or_nothing(gw if needs[1] else None, w)


def _or_nothing(gradient: Tensor | None, like: Tensor) -> Tensor:
    """An operator must return a tensor: an empty one stands for a gradient that nobody asked for."""
    return like.new_empty(0) if gradient is None else gradient.contiguous()


def _gradients(
    g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of a digital product, with respect to ``x`` and ``w``."""
    if not geometry.stride:
        gx = g @ w if needs[0] else None
        gw = g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1]) if needs[1] else None
        return gx, gw
    run = (geometry.stride, geometry.padding, geometry.dilation)
    zero, wanted = [0] * len(geometry.stride), [*needs, False]
    gx, gw, _ = torch.ops.aten.convolution_backward(g, x, w, None, *run, False, zero, geometry.groups, wanted)
    return gx, gw


def _put_block(
    gx: Tensor | None, gw: Tensor | None, g: Tensor, x: Tensor, w: Tensor, span: Span, geometry: Geometry, *, add: bool
) -> None:
    """Write the gradients of one row block into those of the whole; ``add``: to what ``gx`` holds."""
    index = (slice(None), *span)
    seen, rows, grouped = _seen(x, w.shape[1:], span, geometry), w.shape[1:], geometry.groups > 1
    needs = (gx is not None, gw is not None)
    block_gx, block_gw = _gradients(g, seen.flatten(1, 2) if grouped else seen, w[index], geometry, needs)
    if gx is not None and block_gx is not None:
        place, block_gx = _seen(gx, rows, span, geometry), block_gx.view(seen.shape)
        _ = place.add_(block_gx) if add else place.copy_(block_gx)
    if gw is not None and block_gw is not None:
        gw[index] = block_gw


def _save(ctx, inputs, output) -> None:
    x, w, _, _, gain, _, _, *ctx.lists = inputs
    ctx.lists = ctx.lists[:5]
    _, mask, saturated = output
    ctx.mark_non_differentiable(mask, saturated)
    ctx.save_for_backward(x, w, gain, mask, saturated)


def _backward(ctx, g: Tensor, *_):
    x, w, gain, mask, saturated = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:2])
    gx, gw = _product_backward(g.contiguous(), x, w, gain, mask, saturated, *ctx.lists, needs)
    return gx if needs[0] else None, gw if needs[1] else None, *[None] * 16


_product.register_autograd(_backward, setup_context=_save)
