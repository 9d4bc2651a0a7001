"""IR drop that depends on the inputs, as what it takes from each partial sum.

``ir_drop`` replaces the weights once, as if every cell loaded its column at every input. The two
models here take more products in every forward instead. With ``x`` the input behind the DAC, ``r``
its range and ``p_j = 1 - (1 - j / n)^2`` for row ``j`` of ``n``:

- ``standard``, the closed form of the standard crossbar model (Rasch et al., Nat. Commun. 14, 5282
  (2023)), with the conductances of full weights times the resistance of a segment, ``load``:

      a_i = n load sum_j |w_ij| |x_j| / (r scale_i),  c_i = a_i (a_i (0.05 a_i - 0.2) + 0.5)
      drop_i = c_i sum_j w_ij p_j x_j

  It has the column at its mean current, as if the signs of all inputs agreed.
- ``pulses``: inputs are pulses that begin together, of a width ``u_j = |x_j| / r``, and a cell that
  is switched off loads nothing. Two cells load each other as long as both are on, for
  ``min(u_j, u_k)`` of the longest pulse. The drop of cell ``j`` is that of the ladder, which all
  cells load for the whole of its pulse, times the share of the cells that are on during it:

      drop_i = sum_j lost_ij sign(x_j) r h(u_j),   h(u) = mean_k min(u, u_k) <= u

  where ``lost`` is what ``ir_drop`` takes from the weights. Replacing the sum over the cells of one
  column by the mean over its rows (mean field) is exact to first order if inputs and weights are
  independent. What it omits is a share of the column's current, and so a larger one of the output
  of a pair of columns behind inputs of one sign, the difference of two such currents. ``min`` is
  expanded in steps of time ``[t, t + d]``, by ``q(u) = clip((u - t) / d, 0, 1)``: ``min(a, b) = sum
  of d q(a) q(b)`` unless both end in the same step. There the product is too small, on average over
  pulses that end anywhere in the step by ``d e(a) e(b) 3`` with ``e = q (1 - q)``, which is added.

DACs count as linear here. Everything is differentiable in the inputs, their range and the weights.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from analogtorch.chips import Wires
from analogtorch.chips.converters import levels
from analogtorch.devices import Cell
from analogtorch.ops.converters import beside, dac
from analogtorch.ops.ir_drop import Block
from analogtorch.ops.operands import Operands, per_block
from analogtorch.ops.partial_sums import part
from analogtorch.ops.physics import Phase, block_scales, phases, relative
from analogtorch.ops.plan import Plan
from analogtorch.ops.pulse_overlap import pulse_overlap, takes
from analogtorch.ops.reference import passed_by

STEPS = (0.0, 1 / 16, 1 / 4, 1.0)
"""Bounds of the steps of time, in units of the longest pulse. They grow, as most inputs are small.
Against the tile solved at every time, 256 rows of 0 to 20 uS behind 0.35 ohm, these three leave
errors of 0.1 to 0.3 % of a column's output where mean fields alone leave 0.1 to 0.2 % and the drop
is 2 to 5 %, for uniform inputs and for Gaussian ones down to a standard deviation of 0.05 of the
range."""

_END = 1 + 1e-6
"""End of a step in units of its width: a full input ends within its step, whatever is rounded."""


class InputDrop(NamedTuple):
    """What a product needs to know of its wires."""

    model: str
    """``standard`` or ``pulses``."""
    lost: Tensor
    """Weights of the drop, of the shape of the weights: ``w p`` or ``lost`` of the formulas."""
    negatives: Tensor | None = None
    """Their part in the negative polarity, >= 0; None: each weight has one polarity."""
    load: float = 0.0
    """Conductance of a full weight times the resistance of a segment, of ``standard``."""


def unit_load(wires: Wires, cell: Cell) -> float:
    """Return the conductance of the largest weight times the resistance of a column's segment."""
    return 1e-6 * cell.g_total * wires.column_resistance


def parabola(w: Tensor, blocks: list[Block]) -> Tensor:
    """Return ``w p`` of the standard model; a block far from the ADC lies behind more segments.

    Args:
        w: (outputs, rows).
        blocks: all parts of the matrix. Free rows before a block, which the published formula does
            not have, add the drop of as many segments with the whole current.
    """
    found = torch.empty_like(w)
    for block in blocks:
        n = block.rows.stop - block.rows.start
        row = torch.arange(n, device=w.device, dtype=w.dtype) / n
        p = 1 - (1 - row).square() + 2 * block.first_row / n
        found[block.outputs, block.rows] = w[block.outputs, block.rows] * p
    return found


def share(a: Tensor) -> Tensor:
    """Return ``c`` of the standard model: a parabola's factor, by the load ``a`` of a column."""
    return a * (a * (0.05 * a - 0.2) + 0.5)


def full_inputs(w: Tensor, blocks: list[Block], load: float) -> Tensor:
    """Return the weights that the standard model leaves of ``w`` for inputs of the full range.

    Args:
        w: weights in units of the largest, (outputs, rows).
        blocks: all parts of the matrix.
        load: see ``unit_load``.
    """
    found, lost = w.clone(), parabola(w, blocks)
    for block in blocks:
        index, n = (block.outputs, block.rows), block.rows.stop - block.rows.start
        a = n * load * w[index].abs().sum(1, keepdim=True)
        found[index] -= share(a) * lost[index]
    return found


def one_row(w: Tensor, drop: InputDrop, rows: Tensor) -> Tensor:
    """Return what the drop takes from the cells of a row that is driven alone, of ``w``'s shape.

    Args:
        w: weights of the row in units of the largest.
        drop: the drop, with the weights of that row.
        rows: number of rows of the row block of each, broadcastable to ``w``.
    """
    if drop.model == "standard":
        return share(rows * drop.load * w.abs()) * drop.lost
    return drop.lost / rows


def drops(operands: Operands, plan: Plan, drop: InputDrop) -> Tensor:
    """Return what IR drop takes from each partial sum: ``Operands.drops`` of this product."""
    x, w, ranges = operands.x, operands.w, operands.input_range.abs()
    scale = operands.scale
    scale = block_scales(w, plan.bounds, plan.columns) if scale is None else scale
    by_block, found = per_block(ranges), []
    for block in range(plan.blocks):
        r = ranges[block : block + 1] if by_block else ranges
        if (at_once := _by_kernel(x, r, drop, block, plan)) is not None:
            found.append(at_once)
            continue
        if by_block or block == 0:
            xq, limit = _behind_dac(x, r, plan, w.dtype), beside(r, x).to(w.dtype)
        currents = phases(xq, w, operands.negatives, plan.phases)
        losses = phases(xq, drop.lost.to(w.dtype), drop.negatives, plan.phases)
        for current, loss in zip(currents, losses, strict=True):
            if drop.model == "standard":
                full = limit * scale[block].to(w.dtype).view(-1, *[1] * plan.dims)
                found.append(_standard(current, loss, full, drop.load, block, plan))
            else:
                found.append(_pulses(loss, limit, block, plan))
    phased = torch.stack(found)
    return phased.unflatten(0, (plan.blocks, -1)).transpose(0, 1)


def _by_kernel(x: Tensor, r: Tensor, drop: InputDrop, block: int, plan: Plan) -> Tensor | None:
    """Return the drop of a row block if the kernel of ``pulse_overlap`` computes its pulses."""
    if drop.model != "pulses" or plan.phases > 1 or plan.dims or drop.lost.dtype != torch.float32:
        return None
    rows = slice(plan.bounds[block], plan.bounds[block + 1])
    seen = x[..., rows].reshape(-1, rows.stop - rows.start)
    if not takes(seen, r, STEPS):
        return None
    steps = levels(plan.input_bits)
    lost = F.linear(pulse_overlap(seen, r.abs(), STEPS, steps), drop.lost[:, rows])
    return lost.view(*x.shape[:-1], -1)


def _behind_dac(x: Tensor, r: Tensor, plan: Plan, dtype: torch.dtype) -> Tensor:
    """Return ``physics.dac``, with the straight-through gradients of the inputs and the range."""
    out = dac(x.detach(), r.detach(), plan.input_bits, dtype)
    if not (torch.is_grad_enabled() and (x.requires_grad or r.requires_grad)):
        return out
    bound = beside(r, x)
    clipped = x
    if plan.input_bits:
        clipped = torch.where(x > bound, bound, torch.where(x < -bound, -bound, x))
    clipped = clipped.to(dtype)
    return out + (clipped - clipped.detach())


def _standard(
    current: Phase, loss: Phase, full: Tensor, load: float, block: int, plan: Plan
) -> Tensor:
    span = plan.span(block, current.w.shape[1:])
    n = plan.bounds[block + 1] - plan.bounds[block]
    magnitude = part(current.x.abs(), current.w.abs(), span, plan)
    a = n * load * relative(magnitude, full)
    return share(a) * part(loss.x, loss.w, span, plan)


def _pulses(loss: Phase, limit: Tensor, block: int, plan: Plan) -> Tensor:
    n, span = plan.bounds[block + 1] - plan.bounds[block], plan.span(block, loss.w.shape[1:])
    limit = limit.clamp_min(torch.finfo(limit.dtype).tiny)
    if not plan.dims:
        x = loss.x[..., span[0]]
        u = x.abs() / limit
        return F.linear(x.sign() * (limit * overlap(u)), loss.w[:, span[0]])
    u, sign = loss.x.abs() / limit, loss.x.sign()
    ones = loss.w.new_ones(plan.groups, *loss.w.shape[1:])
    each, lost = loss.w.shape[0] // plan.groups, []
    for weight, term in _terms(u):
        on = part(term, ones, span, plan).repeat_interleave(each, 1) / n
        lost.append(weight * on * part(sign * term, loss.w, span, plan))
    return limit * functools.reduce(torch.add, lost)


def overlap(u: Tensor) -> Tensor:
    """Return ``h`` of the pulses, of ``u``'s shape.

    Args:
        u: widths in units of the longest pulse, (*, rows); those beyond 1 count as 1.
    """
    terms = (term * (weight * term.mean(-1, keepdim=True)) for weight, term in _terms(u))
    return functools.reduce(torch.add, terms)


def _terms(u: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Yield weights and functions f of the widths: min(a, b) is the sum of weight f(a) f(b)."""
    for start, end in itertools.pairwise(STEPS):
        width = end - start
        q = ((u - start) / width).clamp(0, _END)
        yield width, q
        yield 3 * width, q * (1 - q)


def drops_gradient(
    g: Tensor, mask: Tensor, saturated: Tensor, gain: Tensor | None, plan: Plan
) -> Tensor:
    """Return the gradient of ``Operands.drops``, straight through the converters.

    Args:
        g: the gradient of the product.
        mask: see ``Outputs.mask``.
        saturated: see ``Outputs.saturated``.
        gain: see ``Operands.gain``.
        plan: the plan of the product.
    """
    each = torch.stack([-passed_by(g, mask, gain, block, plan) for block in range(plan.blocks)])
    return torch.stack([sign * each for sign in plan.signs])
