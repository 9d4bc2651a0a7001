"""IR drop: the loss of a crossbar's products in the resistance of its wires.

A tile of ohmic cells behind resistive wires is a linear network, so its outputs are those of other
conductances on ideal wires, whatever the inputs. Along one wire these follow exactly from a ladder:
the cells ``g`` hang on a line whose segments have the resistance ``r`` and whose end is held at
ground. A cell ``k`` acts with the share ``1 - a_k`` of its conductance, where

    (L / r + diag(g)) a = g

and ``L`` is the Laplacian of the line with its grounded end, or two of them: the second lies behind
the last row or column of the tile, used or not. The column of a tile (bit line) ends in the ADC,
its row (word line) in the driver of the input; the shares of the two multiply. This is exact if one
of the wires is ideal. Otherwise it is exact but for the effect of a column's drop on the rows,
which is computed for equal inputs: against the whole network (``simulate.nodal``) the outputs of
256 x 256 cells of 0 to 20 uS err by 0.01 % where the drop is 13 %, and by 0.1 to 0.5 % where inputs
have both signs.

Every cell is assumed to load its column at every input, as with inputs that are voltages. In a
product by pulses, a cell that is switched off loads nothing, and the drop is smaller.
"""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import Array, Wires
from analogtorch.devices import Cell

TOLERANCE = 1e-5
"""Share of a conductance that the series of a line may omit."""
_MOST_TERMS = 12
"""Largest number of terms of the series; a line that needs more is solved by elimination."""
TRAINING_TERMS = 3
"""Terms of the series in training: 256 cells of half of 20.7 uS behind 0.35 ohm a segment lose 6 to
12 % of their conductance at the far end, of which three terms omit 0.1 %."""


class Block(NamedTuple):
    """A part of a matrix that lies on one tile in one piece."""

    outputs: slice
    rows: slice
    first_row: int = 0
    """Row of the tile at which it begins."""
    first_column: int = 0
    """Column of the tile at which it begins, a weight of two polarities counting as one."""


def behind_wires(
    plus: Tensor,
    minus: Tensor,
    blocks: Iterable[Block],
    wires: Wires,
    cell: Cell,
    array: Array,
    terms: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return both polarities of weights as they act behind the wires; differentiable.

    Args:
        plus: weights of the positive polarities in units of the largest weight, (outputs, rows), >=
            0.
        minus: weights of the negative polarities, of the same shape.
        blocks: all parts of the matrix.
        wires: the wires of a tile.
        cell: the unit cell of a weight.
        array: the array of a tile, for its size.
        terms: see ``wire_shares``.
    """
    found = torch.empty_like(plus), torch.empty_like(minus)
    # conductances begin at g_min, so that they exceed the conductance of the largest weight
    span = cell.device.g_max / (cell.device.g_max - cell.device.g_min)
    for block in blocks:
        index, count = (block.outputs, block.rows), block.outputs.stop - block.outputs.start
        rows = block.rows.stop - block.rows.start
        if wires.row_resistance == 0:
            pair = torch.cat((plus[index], minus[index]))
        else:  # columns side by side
            pair = torch.stack((plus[index], minus[index]), 1).flatten(0, 1)
        left = effective(
            pair / span,
            unit=1e-6 * cell.g_total * span,
            wires=wires,
            first_row=block.first_row,
            first_column=2 * block.first_column,
            rows_after=array.rows - block.first_row - rows,
            columns_after=2 * (array.columns - block.first_column - count),
            terms=terms,
        )
        shape = (2, count) if wires.row_resistance == 0 else (count, 2)
        halves = (span * left).unflatten(0, shape).unbind(0 if wires.row_resistance == 0 else 1)
        for each, polarity in zip(found, halves, strict=True):
            each[index] = polarity
    return found


def effective(
    g: Tensor,
    *,
    wires: Wires,
    unit: float = 1.0,
    first_row: int = 0,
    first_column: int = 0,
    rows_after: int = 0,
    columns_after: int = 0,
    terms: int | None = None,
) -> Tensor:
    """Return conductances that give on ideal wires the outputs of ``g`` on real ones.

    They are differentiable.

    Args:
        g: conductances of a tile, (columns, rows), in multiples of ``unit``, mostly in [0, 1].
        wires: the wires of the tile.
        unit: conductance, S.
        first_row: row of the tile at which ``g`` begins; the rows before it are empty.
        first_column: column of the tile at which ``g`` begins.
        rows_after: rows of the tile behind those of ``g``, which are empty.
        columns_after: columns of the tile behind those of ``g``.
        terms: see ``wire_shares``.

    Example:
        >>> effective(torch.full((1, 2), 1e-3), wires=Wires(column_resistance=1.0))
        tensor([[0.0010, 0.0010]])
    """
    resistance = unit * wires.column_resistance
    ends, far = wires.column_ends, rows_after
    g = g * wire_shares(g, resistance, first=first_row, ends=ends, last=far, terms=terms)
    if wires.row_resistance == 0:
        return g
    rows, resistance = g.T.contiguous(), unit * wires.row_resistance
    ends, far = wires.row_ends, columns_after
    return g * wire_shares(rows, resistance, first=first_column, ends=ends, last=far, terms=terms).T


def wire_shares(
    g: Tensor,
    resistance: float,
    *,
    first: int = 0,
    ends: int = 1,
    last: int = 0,
    terms: int | None = None,
) -> Tensor:
    """Return the share of each conductance that remains behind the resistance of its line.

    It is differentiable in ``g``. The series ``a = R g - R diag(g) R g + ...`` is used if it
    converges fast, else one elimination along the line.

    Args:
        g: conductances along lines in multiples of a unit, (lines, cells), >= 0, mostly <= 1; cell
            0 is nearest the grounded end.
        resistance: of one segment of the line, times that unit, >= 0: from each cell to the next,
            and from the end to cell 0.
        first: free segments between the end and cell 0, beyond that one.
        ends: 1; 2: the line is also grounded at its other end.
        last: free segments between the last cell and that other end, beyond one.
        terms: terms of the series; None: as many as lines of ones need to omit no more than
            ``TOLERANCE``.

    Returns:
        (lines, cells), in (0, 1].
    """
    if resistance == 0 or g.numel() == 0:
        return torch.ones_like(g)
    line = first, ends, last
    needed = _terms(resistance, g.shape[1], *line)
    if needed > _MOST_TERMS:
        return 1 - _Ladder.apply(g, resistance, *line)
    lost = drop(g, resistance, *line)
    for _ in range((needed if terms is None else min(terms, needed)) - 1):
        lost = drop(g - g * lost, resistance, *line)
    return 1 - lost


@functools.lru_cache(maxsize=256)
def _terms(each: float, cells: int, first: int, ends: int, last: int) -> int:
    """Return the terms of the series that omit no more than ``TOLERANCE``.

    ``each`` is the conductance of every cell times the resistance of a segment.
    """
    load = each * _kernel(cells, first, ends, last, torch.float64).sum(1).max().item()
    if load >= 0.5:
        return _MOST_TERMS + 1
    return max(1, math.ceil(math.log(TOLERANCE) / math.log(load))) if load > 0 else 1


def drop(
    current: Tensor, resistance: float, first: int = 0, ends: int = 1, last: int = 0
) -> Tensor:
    """Return the potential at each cell, V, of a line into which the cells feed these currents.

    Args:
        current: (lines, cells), A; cell 0 is nearest the grounded end.
        resistance: see ``wire_shares``.
        first: see ``wire_shares``.
        ends: see ``wire_shares``.
        last: see ``wire_shares``.
    """
    kernel = _kernel(current.shape[1], first, ends, last, current.dtype).to(current.device)
    return current @ (resistance * kernel)


@functools.lru_cache(maxsize=64)
def _kernel(cells: int, first: int, ends: int, last: int, dtype: torch.dtype) -> Tensor:
    """Return the segments that the currents of two cells share to ground: (cells, cells)."""
    with torch.inference_mode(False):  # it serves gradients later
        distance = torch.arange(1 + first, cells + 1 + first, dtype=torch.float64, device="cpu")
        shared = torch.minimum(distance.unsqueeze(1), distance)
        if ends == 2:  # the current to the other end, in the ratio of the two distances
            shared = shared - distance.unsqueeze(1) * distance / (first + cells + 1 + last)
        return shared.to(dtype)


class _Ladder(torch.autograd.Function):
    """The lost shares ``a`` by elimination, and their gradient by a second one."""

    @staticmethod
    def forward(ctx, g: Tensor, resistance: float, first: int, ends: int, last: int) -> Tensor:
        lost = _solve(g, g, resistance, first, ends, last)
        ctx.save_for_backward(g, lost)
        ctx.line = resistance, first, ends, last
        return lost

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        g, lost = ctx.saved_tensors
        return _solve(g, gradients[0], *ctx.line) * (1 - lost), None, None, None, None


def _solve(g: Tensor, right: Tensor, resistance: float, first: int, ends: int, last: int) -> Tensor:
    """Return ``x`` of ``(L / r + diag(g)) x = right``, by elimination from the far end (Thomas)."""
    wire = 1 / resistance
    near, far = wire / (1 + first), wire / (1 + last) if ends == 2 else 0.0
    cells, load, source = g.shape[1], g.unbind(1), right.unbind(1)
    pivots, sides = [load[-1] + (wire if cells > 1 else near) + far], [source[-1]]
    for k in range(cells - 2, -1, -1):
        factor = wire / pivots[-1]
        onwards = wire if k else near
        pivots.append(load[k] + onwards + wire - wire * factor)
        sides.append(source[k] + factor * sides[-1])
    found = [sides[-1] / pivots[-1]]
    for pivot, side in zip(pivots[-2::-1], sides[-2::-1], strict=True):
        found.append((side + wire * found[-1]) / pivot)
    return torch.stack(found, 1)
