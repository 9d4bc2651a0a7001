"""The transfer functions of converters: code transition levels, and how they differ.

Everything is in units of a step (LSB). An ADC of ``steps`` on each side of zero has ``2 steps``
transitions between its codes from ``-steps`` to ``steps``. Its integral non-linearity (INL) is the
ideal level of each less the real one (IEEE Std 1241), so that it is positive where codes are too
large. Errors of gain and offset are no part of it: the first and the last transition of what is
drawn here lie at their ideal levels.
"""

import torch
from torch import Tensor


def ideal_transitions(steps: int, floors: bool, like: Tensor) -> Tensor:
    """Return the ideal transition levels, (2 steps,), ascending, of ``like``'s type and device.

    A rounding ADC changes its code half a step before each step, one that ``floors`` at the step.
    """
    k = torch.arange(1, steps + 1, dtype=like.dtype, device=like.device)
    k = k if floors else k - 0.5
    return torch.cat([-k.flip(0), k])


def transitions(steps: int, floors: bool, inl: Tensor) -> Tensor:
    """Return the transition levels of ADCs with this INL, of its shape (..., 2 steps)."""
    return ideal_transitions(steps, floors, inl) - inl


def codes(u: Tensor, levels: Tensor) -> Tensor:
    """Return the code of each number: that of the transitions between which it lies.

    A number at a transition has the code away from zero. NaN stays NaN.

    Args:
        u: numbers in steps, (vectors, outputs, ...).
        levels: transition levels of each output, (outputs or 1, 2 steps), ascending.
    """
    shape = u.transpose(0, 1).shape
    each = u.transpose(0, 1).reshape(shape[0], -1).contiguous()
    levels = levels.to(u.dtype).contiguous()
    levels = levels[0] if len(levels) == 1 else levels
    # below 0 a transition counts if it lies below the number: as one just below the number does
    down = torch.nextafter(each, each.new_tensor(-torch.inf))
    reached = torch.searchsorted(levels, torch.where(each < 0, down, each), right=True)
    found = (reached - levels.shape[-1] // 2).to(u.dtype)
    found = torch.where(each.isnan(), each, found)
    return found.view(shape).transpose(0, 1)


def interpolated(table: Tensor, at: Tensor) -> Tensor:
    """Return a table of values at points that divide [-1, 1] evenly, with straight lines between.

    Args:
        table: (points,), at least 2.
        at: where to read it, in [-1, 1], any shape.
    """
    place = (at + 1) * ((len(table) - 1) / 2)
    low = place.floor().clamp(0, len(table) - 2)
    first = low.long()
    return torch.lerp(table[first], table[first + 1], place - low)


def of_widths(z: Tensor, std: float, steps: int, floors: bool) -> Tensor:
    """Return the INL of ADCs whose codes have independent widths, (columns, 2 steps).

    Widths are normal around the ideal ones; none is below 0. They are scaled together, so that the
    first and the last transition lie at their ideal levels. A column in which none is left has the
    ideal ones.

    Args:
        z: standard normals, (columns, 2 steps - 1).
        std: standard deviation of a width, the differential non-linearity, >= 0.
        steps: steps of the ADC on each side of zero.
        floors: see ``ideal_transitions``.
    """
    ideal = ideal_transitions(steps, floors, z)
    widths = (ideal.diff() + std * z).clamp_min(0)
    none_left = widths.sum(1, keepdim=True) < torch.finfo(z.dtype).tiny
    widths = torch.where(none_left, ideal.diff(), widths)
    total = widths.sum(1, keepdim=True)
    reached = ideal[0] + (widths * ((ideal[-1] - ideal[0]) / total)).cumsum(1)
    inl = torch.zeros(len(z), 2 * steps, dtype=z.dtype, device=z.device)
    inl[:, 1:-1] = ideal[1:-1] - reached[:, :-1].clamp_max(ideal[-1])
    return inl


def of_capacitors(z: Tensor, std: float) -> Tensor:
    """Return the INL of SAR ADCs whose capacitors differ, (columns, 2^bits - 2).

    Bit i has a capacitor of ``2^i`` units, of which each has an independent error. The ADC tries
    the bits from the highest to the lowest and keeps each one whose level the input exceeds; codes
    are offset binary, so that the highest bit decides the sign. Where a level is out of order, this
    search misses codes, as it does in silicon.

    Args:
        z: standard normals, (columns, bits), lowest bit first.
        std: standard deviation of a unit capacitor relative to its mean, >= 0.
    """
    bits = z.shape[1]
    size = 2.0 ** torch.arange(bits, dtype=z.dtype, device=z.device)
    capacitors = (size + std * size.sqrt() * z).clamp_min(0)
    number = torch.arange(2**bits, device=z.device)
    level = z.new_zeros(len(z), 2**bits)
    for bit in range(bits):
        level += capacitors[:, bit : bit + 1] * ((number >> bit) & 1)
    for bit in reversed(range(bits - 1)):  # between the levels that are tried before
        step = 2**bit
        low, high = level[:, : -step : 2 * step], level[:, 2 * step :: 2 * step]
        here = level[:, step :: 2 * step].maximum(low)
        here[:, :-1] = here[:, :-1].minimum(high)
        level[:, step :: 2 * step] = here
    level = level[:, 2:]  # a symmetric range does not use the lowest code
    last = level.shape[1] - 1
    span = (level[:, -1:] - level[:, :1]).clamp_min(torch.finfo(z.dtype).tiny)
    inl = number[: last + 1] - (level - level[:, :1]) / span * last
    inl[:, [0, -1]] = 0.0
    return inl
