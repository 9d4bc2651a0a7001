"""The physics of the analog product: each effect as one pure function of tensors and numbers.

Products (``ops/reference.py``), embeddings, training noise, programming and its loops, calibration
and read-out call these; the kernels compute the same. A function has no state and draws nothing: it
takes the standard normals that it needs. Inputs and weights have their units, partial sums the
product of both. ``full`` is full-scale input x weight at full conductance, for weights only the
latter: the unit of noise and ranges.

Converters have a file of their own, ``ops/converters.py``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from analogtorch.ops.generator import fold


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of converters, noise and scales: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def output_noise(v: Tensor, full: Tensor | float, std: float, z: Tensor) -> Tensor:
    """Return partial sums ``v`` with the noise of one MVM.

    Args:
        v: partial sums of any shape.
        full: unit of the deviation, broadcastable to ``v``.
        std: standard deviation in units of ``full``, >= 0.
        z: standard normals of ``v``'s shape and type.
    """
    return v + full * std * z


def read_std(
    full: Tensor,
    std: float,
    scale: Tensor,
    multiple: float,
    variance: Tensor,
    more: Tensor | None = None,
) -> Tensor:
    """Return the standard deviation of the noise of one MVM, in units of the sums.

    Output noise, read noise, the jitter of pulses and shot noise of many electrons are normal and
    independent, so that one normal draws them.

    Args:
        full: full-scale input x weight scale, broadcastable to ``variance``.
        std: standard deviation of the output noise in units of ``full``, >= 0.
        scale: weight scale, broadcastable to ``variance``.
        multiple: multiple of the standard deviation of the read noise, >= 0.
        variance: sums of (variance of a weight in units of ``scale`` squared) x input^2.
        more: variance of jitter and shot noise, in units of the sums squared; None: 0.
    """
    total = (full * std).square() + (scale * multiple).square() * variance
    return torch.sqrt(total if more is None else total + more)


def rounded_square(x: Tensor) -> Tensor:
    """Return the squares of inputs that variances are multiplied with, in the type of ``x``.

    They are rounded to bfloat16, as variances are: processors multiply those twice as fast, and all
    must draw the same noise. Both factors are off by at most 2^-8, and so is a standard deviation;
    where the errors of hundreds of products cancel, by some 1e-5.
    """
    return x.square().bfloat16().to(x.dtype)


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
    """Return the keys of the output noise of read ``number`` of ``count``.

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
    if columns == tuple(range(0, columns[-1] + 1, columns[1])):  # thousands in one reduction
        return scale.unflatten(1, (-1, columns[1])).amax(2).repeat_interleave(columns[1], 1)
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
