"""The physics of the analog product: each effect as one pure function of tensors and numbers.

Products (``ops/reference.py``), embeddings, training noise, programming and its loops, calibration
and read-out call these; the kernels compute the same. A function has no state and draws nothing: it
takes the standard normals that it needs. Inputs and weights have their units, partial sums the
product of both. ``full`` is full-scale input x weight at full conductance, for weights only the
latter: the unit of noise and ranges.

A converter of b bits has ``2^b - 2`` steps, so that 0 is one of its codes, and noise is added to a
partial sum before it is rounded (Rasch et al., Nat. Commun. 14, 5282 (2023)).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops.constants import LEAST_BOUND
from analogtorch.ops.generator import fold

_GAIN, _OFFSET = (
    next(i for i, error in enumerate(ADC_ERRORS) if error.kind == kind)
    for kind in ("gain", "offset")
)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of converters, noise and scales: at least float32."""
    return torch.promote_types(dtype, torch.float32)


# converters


def levels(bits: int) -> int:
    """Return the steps of a converter on each side of zero: ``2^bits - 2`` in all."""
    return 2 ** (bits - 1) - 1


def in_steps(x: Tensor, bound: Tensor, steps: int) -> Tensor:
    """Return ``x`` clipped to ``[-bound, bound]`` and rounded to ``steps`` on each side of zero.

    It rounds half to even and passes no gradients. Half precision is quantised in float32 and
    returned in its type. A bound below ``LEAST_BOUND`` counts as that. NaN stays NaN.
    """
    dtype = wide(x.dtype)
    y, limit = x.detach().to(dtype), bound.detach().to(dtype).clamp_min(LEAST_BOUND)
    clipped = torch.where(y > limit, limit, torch.where(y < -limit, -limit, y))
    # a true division: number / tensor would multiply by the reciprocal
    up = torch.full_like(limit, steps) / limit
    return (torch.round(clipped * up) * (limit / steps)).to(x.dtype)


def rounded(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    """Return ``in_steps`` for a converter of so many bits."""
    return in_steps(x, bound, levels(bits))


def dac(x: Tensor, input_range: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Return the inputs as the DACs of the rows output them, in ``dtype``.

    Args:
        x: the inputs, of any shape.
        input_range: DAC range, > 0: one for all, or one per vector (linear) or sample
            (convolution).
        bits: 2..16; 0: the DAC neither clips nor rounds.
        dtype: type of the product.
    """
    if not bits:
        return x.to(dtype)
    return rounded(x.to(wide(x.dtype)), beside(input_range, x), bits).to(dtype).contiguous()


def beside(input_range: Tensor, x: Tensor) -> Tensor:
    """Return the DAC range in a shape that broadcasts to ``x``.

    It is one for all, or one per vector (linear) or sample (convolution).
    """
    if input_range.dim() == x.dim() or input_range.numel() == 1:
        return input_range
    lead = x.shape[:-1] if input_range.numel() == math.prod(x.shape[:-1]) else x.shape[:1]
    return input_range.reshape(*lead, *[1] * (x.dim() - len(lead)))


def output_noise(v: Tensor, full: Tensor | float, std: float, z: Tensor) -> Tensor:
    """Return partial sums ``v`` with the noise of one MVM.

    Args:
        v: partial sums of any shape.
        full: unit of the deviation, broadcastable to ``v``.
        std: standard deviation in units of ``full``, >= 0.
        z: standard normals of ``v``'s shape and type.
    """
    return v + full * std * z


def read_std(full: Tensor, std: float, scale: Tensor, multiple: float, variance: Tensor) -> Tensor:
    """Return the standard deviation of output noise and read noise together, in units of the sums.

    Both are normal and independent, so that one normal draws them.

    Args:
        full: full-scale input x weight scale, broadcastable to ``variance``.
        std: standard deviation of the output noise in units of ``full``, >= 0.
        scale: weight scale, broadcastable to ``variance``.
        multiple: multiple of the standard deviation of the read noise, >= 0.
        variance: sums of (variance of a weight in units of ``scale`` squared) x input^2.
    """
    return torch.sqrt((full * std).square() + (scale * multiple).square() * variance)


def at_adc(
    v: Tensor, full: Tensor, bound: Tensor | float, errors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return partial sums and ADC range as an ADC with errors compares them, in units of the sums.

    An ADC of gain g clips and rounds its input at 1 / g of its range; its offset is a share of its
    range that is added before. Its outputs are then correct in the units of the sums except for the
    offset and ``digital_factor``.

    Args:
        v: partial sums of any shape, noise included.
        full: full-scale input x weight scale, broadcastable to ``v``.
        bound: ADC range in units of ``full``, > 0.
        errors: (kinds, ...), each broadcastable to ``v``, in the order of
            ``analogtorch.chips.ADC_ERRORS``; None: no errors.
    """
    if errors is None:
        return v, full * bound
    limit = full * (bound / errors[_GAIN])
    return v + errors[_OFFSET] * limit, limit


def digital_factor(errors: Tensor) -> Tensor:
    """Return the factor of ADC outputs after ``at_adc``, of the shape of one kind of error.

    It is the quotient of the output of the ADC and that value.
    """
    return errors[_GAIN]


def scaled(errors: Tensor, factor: Tensor) -> Tensor:
    """Return the errors of ADCs with gains multiplied by ``factor``, which broadcasts to a kind."""
    found = errors.clone()
    found[_GAIN] = (found[_GAIN] * factor).clamp_min(ADC_ERRORS[_GAIN].least)
    return found


def adc_input(v: Tensor, bound: float, errors: Tensor) -> Tensor:
    """Return partial sums as an ADC with errors converts them, in the units of its outputs.

    Args:
        v: partial sums of any shape, noise included.
        bound: ADC range in the same units, > 0.
        errors: (kinds, ...), each broadcastable to ``v``.
    """
    return v * errors[_GAIN] + errors[_OFFSET] * bound


def adc(v: Tensor, bound: Tensor, steps: int) -> Tensor:
    """Return the ADC outputs for partial sums.

    Args:
        v: partial sums of any shape, noise included.
        bound: ADC range, > 0, broadcastable to ``v``.
        steps: steps on each side of zero; 0: no ADC, which neither clips nor rounds.
    """
    return in_steps(v, bound, steps) if steps else v


def adc_outputs(
    sums: Iterable[Tensor],
    signs: Iterable[float],
    full: Tensor,
    bound: Tensor | float,
    steps: int,
    std: float,
    normals: Callable[[int], Tensor],
    errors: Tensor | None = None,
    read: Sequence[Tensor] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Return the signed sum of the phases' ADC outputs, and which of each phase were clipped.

    Args:
        sums: partial sums of each phase, all of one shape.
        signs: sign of each phase in the sum; that of the first is 1.
        full: full-scale input x weight scale, broadcastable to each.
        bound: ADC range in units of ``full``, broadcastable to each.
        steps: see ``adc``; 0: none is clipped.
        std: standard deviation of the output noise of each, in units of ``full``.
        normals: ``normals(number)`` returns standard normals of the shape of a sum, for the phase
            of that number; called only if there is noise.
        errors: errors of the ADCs, see ``at_adc``.
        read: for each phase, ``read_std`` of its sums, if there is read noise.
    """
    total: Tensor | None = None
    clipped = []
    for number, (v, sign) in enumerate(zip(sums, signs, strict=True)):
        if read and v.numel():
            v = output_noise(v, read[number], 1.0, normals(number).to(v.dtype))
        elif std > 0 and v.numel():
            v = output_noise(v, full, std, normals(number).to(v.dtype))
        v, limit = at_adc(v, full, bound, errors)
        if steps:
            clipped.append(v.abs() > limit)
            v = adc(v, limit, steps)
        total = v if total is None else total + sign * v
    assert total is not None
    return total, clipped


def digital_unit(v: Tensor, limit: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the outputs of a tile's digital unit, and which of them it clipped.

    Args:
        v: ADC outputs after their gain, of any shape.
        limit: range of the unit, > 0, broadcastable to ``v``.
        bits: 2..16.
    """
    return rounded(v, limit, bits), v.abs() > limit


class Phase(NamedTuple):
    """One of the ADC outputs that make up a partial sum."""

    sign: float
    """Sign in the sum; that of the first is 1."""
    x: Tensor
    """The part of the input that drives the rows; after the DAC, if it has not been applied
    already."""
    w: Tensor
    """The part of the weight that is read."""


def phases(x: Tensor, w: Tensor, negatives: Tensor | None, count: int) -> list[Phase]:
    """Return the phases that make up a partial sum of ``x`` and ``w``.

    Args:
        x: the input.
        w: the weight.
        negatives: the part of the weight in its negative polarity, >= 0; None: each weight has one
            polarity.
        count: 1; 2, one per sign of the inputs; or 4, one per pair of signs of inputs and weights.
    """
    if count == 1:
        return [Phase(1.0, x, w)]
    by_input = [(1.0, x.clamp_min(0)), (-1.0, (-x).clamp_min(0))]
    if count == 2:
        return [Phase(sign, seen, w) for sign, seen in by_input]
    minus = (-w).clamp_min(0) if negatives is None else negatives
    by_weight = [(1.0, w + minus), (-1.0, minus)]
    return [Phase(a * b, seen, read) for a, seen in by_input for b, read in by_weight]


def phase_variances(variances: Tensor, count: int) -> list[Tensor]:
    """Return the variances of the weights that each of ``phases`` reads.

    Args:
        variances: (1, *S), or for 4 phases (2, *S), those of the positive polarity first.
        count: see ``phases``.
    """
    return [*variances] * (2 if count > 1 else 1)


def phase_keys(output_keys: Tensor, number: int, count: int) -> Tensor:
    """Return the keys of the output noise of phase ``number`` of ``count``.

    They have the shape of ``output_keys``.
    """
    return output_keys if count == 1 else fold(output_keys, number)


# weights and conductances


def block_scales(w: Tensor, bounds: Sequence[int], columns: Sequence[int] = ()) -> Tensor:
    """Return the weight at full conductance, (blocks, outputs), at least float32.

    It has no gradient; NaN stays NaN.

    Args:
        w: (outputs, ...); its other dimensions, flattened, are the rows.
        bounds: bounds of the row blocks, from 0 to the number of rows.
        columns: bounds of the outputs that share a scale; empty: each output has its own.
    """
    flat = w.detach().flatten(1).to(wide(w.dtype))
    blocks = zip(bounds[:-1], bounds[1:], strict=True)
    scale = torch.stack([flat[:, a:b].abs().amax(1) for a, b in blocks])
    if not columns:
        return scale
    groups = zip(columns[:-1], columns[1:], strict=True)
    return torch.cat([scale[:, a:b].amax(1, keepdim=True).expand(-1, b - a) for a, b in groups], 1)


def over_rows(values: Tensor, bounds: Sequence[int]) -> Tensor:
    """Return ``values`` (blocks, outputs) repeated over the rows of each block: (outputs, rows)."""
    sizes = [b - a for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    blocks = zip(values, sizes, strict=True)
    return torch.cat([v.unsqueeze(1).expand(-1, size) for v, size in blocks], dim=1)


def relative(w: Tensor, full: Tensor) -> Tensor:
    """Return ``w`` in units of ``full``: weights of their scale, or partial sums of full scale.

    A ``full`` below the smallest normal number counts as that, so that zeros stay zeros. This is
    the only guard against a block of zeros.

    Args:
        w: of any shape.
        full: >= 0, broadcastable to ``w``.
    """
    return w.to(full.dtype) / full.clamp_min(torch.finfo(full.dtype).tiny)


def weight_sigma(
    r: Tensor, full: Tensor, strength: float, spread: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the standard deviation of weights in cells, in the units of ``full``.

    Args:
        r: weights in units of ``full``, any shape.
        full: weight at full conductance, of the same shape.
        strength: multiple of the deviation, >= 0.
        spread: deviation in units of ``full`` by ``r``, such as a ``Spread`` or
            ``Cell.programming_sigma``.
    """
    return full * strength * spread(r)


def noisy(
    w: Tensor, full: Tensor, z: Tensor, strength: float, spread: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return weights with the noise of their cells, of ``w``'s shape and type.

    The sum is computed in the type of ``full``.

    Args:
        w: any shape.
        full: weight at full conductance, of the same shape.
        z: standard normals of the same shape.
        strength: see ``weight_sigma``.
        spread: see ``weight_sigma``.
    """
    sigma = weight_sigma(relative(w, full), full, strength, spread)
    return torch.addcmul(w.to(full.dtype), sigma, z.to(full.dtype)).to(w.dtype)
