"""The converters of an analog product: DAC, ADC and the digital unit, as pure functions of tensors.

A converter of b bits has ``2^b - 2`` steps, so that 0 is one of its codes, and noise is added to a
partial sum before it is rounded (Rasch et al., Nat. Commun. 14, 5282 (2023)). Products, embeddings,
calibration and read-out call these; the kernels compute the same. ``full`` is full-scale input x
weight at full conductance, the unit of noise and ranges.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.chips.converters import levels
from analogtorch.ops.constants import LEAST_BOUND
from analogtorch.ops.physics import output_noise, wide
from analogtorch.ops.transfer import codes, transitions

_GAIN, _OFFSET = (
    next(i for i, error in enumerate(ADC_ERRORS) if error.kind == kind)
    for kind in ("gain", "offset")
)
_LOST = 32
"""What the arithmetic of a partial sum may lose of the range, in units of its precision: that of a
sum of a thousand products that are rounded one by one."""
_SLACK = 1 / 64
"""Most of a step that a counter allows for it: fine steps are lost in the arithmetic anyway."""


def in_steps(
    x: Tensor, bound: Tensor, steps: int, code: Callable[[Tensor], Tensor] = torch.round
) -> Tensor:
    """Return ``x`` clipped to ``[-bound, bound]`` and rounded to ``steps`` on each side of zero.

    It rounds half to even and passes no gradients. Half precision is quantised in float32 and
    returned in its type. A bound below ``LEAST_BOUND`` counts as that. NaN stays NaN. ``code``
    rounds numbers in units of a step.
    """
    dtype = wide(x.dtype)
    y, limit = x.detach().to(dtype), bound.detach().to(dtype).clamp_min(LEAST_BOUND)
    if type(y) is Tensor and not torch.compiler.is_compiling():
        clipped = torch.maximum(torch.minimum(y, limit), -limit)
    else:  # the same; but ONNX' optimizer makes an invalid graph of the faster one
        clipped = torch.where(y > limit, limit, torch.where(y < -limit, -limit, y))
    # a true division: number / tensor would multiply by the reciprocal
    up = torch.full_like(limit, steps) / limit
    return (code(clipped * up) * (limit / steps)).to(x.dtype)


def rounded(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    """Return ``in_steps`` for a converter of this many bits."""
    return in_steps(x, bound, levels(bits))


def dac_codes(x: Tensor, bound: Tensor, bits: int) -> Tensor:
    """Return ``rounded`` in units of a step: integers in floating point."""
    limit = bound.detach().to(wide(x.dtype)).clamp_min(LEAST_BOUND)
    return torch.round(rounded(x, bound, bits).to(limit.dtype) * (levels(bits) / limit))


def dac(
    x: Tensor, input_range: Tensor, bits: int, dtype: torch.dtype, inl: Tensor | None = None
) -> Tensor:
    """Return the inputs as the DACs of the rows output them, in ``dtype``.

    Args:
        x: the inputs, of any shape.
        input_range: DAC range, > 0: one for all, or one per vector (linear) or sample
            (convolution).
        bits: 2..16; 0: the DAC neither clips nor rounds.
        dtype: type of the product.
        inl: INL of the output of each code, in steps, (2 levels + 1,); None: 0.
    """
    if not bits:
        return x.to(dtype)
    steps, bound = levels(bits), beside(input_range, x)

    def output(u: Tensor) -> Tensor:
        code = torch.round(u)
        if inl is None:
            return code
        return code + inl.to(u.dtype)[code.nan_to_num(0.0).long() + steps]

    return in_steps(x.to(wide(x.dtype)), bound, steps, output).to(dtype).contiguous()


def pulses(x: Tensor, input_range: Tensor, bits: int, split: int) -> Tensor:
    """Return the variance of the duration of each input's pulses, in units of that of one pulse.

    1 where there is a pulse. If the low ``split`` bits have a pulse of their own, that of the
    others counts ``2^split`` times as much, and its variance ``4^split`` times.

    Args:
        x: inputs behind the DAC.
        input_range: see ``dac``.
        bits: bits of the DAC, 2..16.
        split: 0: one pulse has all bits.
    """
    bound = beside(input_range, x).to(x.dtype).clamp_min(LEAST_BOUND)
    code = torch.round(x.abs() * (levels(bits) / bound)).clamp_max(levels(bits))
    if not split:
        return (code > 0).to(x.dtype)
    high = torch.floor(code / 2**split)
    low = code - high * 2**split
    return (low > 0).to(x.dtype) + 4.0**split * (high > 0).to(x.dtype)


def beside(input_range: Tensor, x: Tensor) -> Tensor:
    """Return the DAC range in a shape that broadcasts to ``x``.

    It is one for all, or one per vector (linear) or sample (convolution).
    """
    if input_range.dim() == x.dim() or input_range.numel() == 1:
        return input_range
    lead = x.shape[:-1] if input_range.numel() == math.prod(x.shape[:-1]) else x.shape[:1]
    return input_range.reshape(*lead, *[1] * (x.dim() - len(lead)))


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


def adc(
    v: Tensor, bound: Tensor, steps: int, floors: bool = False, inl: Tensor | None = None
) -> Tensor:
    """Return the ADC outputs for partial sums.

    Args:
        v: partial sums of any shape, noise included; with ``inl`` (vectors, outputs, ...).
        bound: ADC range, > 0, broadcastable to ``v``.
        steps: steps on each side of zero; 0: no ADC, which neither clips nor rounds.
        floors: whether it rounds toward zero, and not to the nearest step. A sum that lacks a step
            by no more than its arithmetic may have lost has reached it.
        inl: INL of the ADC of each output at its code transitions, see ``codes``; None: 0.
    """
    if not steps:
        return v

    def code(u: Tensor) -> Tensor:
        if floors:
            u = u + u.sign() * lost(steps, u.dtype)
        if inl is not None:
            # in the type of u: half precision has no 422.5
            return codes(u, transitions(steps, floors, inl.to(u.dtype)))
        return torch.trunc(u) if floors else torch.round(u)

    return in_steps(v, bound, steps, code)


def lost(steps: int, dtype: torch.dtype) -> float:
    """Return what the arithmetic of a partial sum may lose, in units of an ADC step."""
    return min(_LOST * torch.finfo(dtype).eps * steps, _SLACK)


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
    convert: Callable[[Tensor, Tensor, int], Tensor] = adc,
    balanced: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Return the signed sum of the phases' ADC outputs, and which of each read were clipped.

    Args:
        sums: partial sums of each phase, all of one shape.
        signs: sign of each phase in the sum; that of the first is 1.
        full: full-scale input x weight scale, broadcastable to each.
        bound: ADC range in units of ``full``, broadcastable to each.
        steps: see ``adc``; 0: none is clipped.
        std: standard deviation of the output noise of each, in units of ``full``.
        normals: ``normals(number)`` returns standard normals of the shape of a sum, for the read
            of that number; called only if there is noise.
        errors: errors of the ADCs, see ``at_adc``.
        read: for each phase, ``read_std`` of its sums, if there is read noise.
        convert: ``adc``, or that with more of its arguments.
        balanced: whether each sum is read once more with the opposite sign, and half the difference
            of both is its output; the second read of phase i of n has number ``n + i``.
    """
    total: Tensor | None = None
    clipped = []
    reads = [(v, sign, i) for i, (v, sign) in enumerate(zip(sums, signs, strict=True))]
    if balanced:
        reads += [(-v, -sign, i) for v, sign, i in reads]
    for number, (v, sign, phase) in enumerate(reads):
        if read and v.numel():
            v = output_noise(v, read[phase], 1.0, normals(number).to(v.dtype))
        elif std > 0 and v.numel():
            v = output_noise(v, full, std, normals(number).to(v.dtype))
        v, limit = at_adc(v, full, bound, errors)
        if steps:
            clipped.append(v.abs() > limit)
            v = convert(v, limit, steps)
        total = v if total is None else total + sign * v
    assert total is not None
    return total / 2 if balanced else total, clipped


def digital_unit(v: Tensor, limit: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the outputs of a tile's digital unit, and which of them it clipped.

    Args:
        v: ADC outputs after their gain, of any shape.
        limit: range of the unit, > 0, broadcastable to ``v``.
        bits: 2..16.
    """
    return rounded(v, limit, bits), v.abs() > limit
