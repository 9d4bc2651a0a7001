"""Weights of a training step behind the resistance of their columns, as an operator.

It is ``ir_drop.behind_wires`` for wires whose rows are ideal, exact, in one pass over the weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import Array, Wires
from analogtorch.devices import Cell
from analogtorch.ops.library import define
from analogtorch.ops.native import columns as native


def takes(weight: Tensor, wires: Wires, cell: Cell) -> bool:
    """Return whether ``column_drop`` computes the drop of these weights."""
    return wires.row_resistance == 0 and cell.device.g_min == 0 and native.takes(weight)


class Behind(NamedTuple):
    """Weights behind the wires of their columns."""

    weight: Tensor
    """(outputs, rows), differentiable once in the weights."""
    scale: Tensor
    """Weight at full conductance, (row blocks, outputs)."""
    sums: Tensor
    """Sums of the magnitudes of each block and output before the wires, and behind them, (2, row
    blocks, outputs)."""


def column_drop(
    weight: Tensor,
    scale: Tensor | None,
    bounds: Sequence[int],
    columns: Sequence[int],
    wires: Wires,
    cell: Cell,
    array: Array,
) -> Behind:
    """Return the weights as they act behind the wires of their columns.

    Row blocks lie at row 0 of a tile. A weight is held by the cells of its sign, and the others
    conduct nothing.

    Args:
        weight: (outputs, rows), float32.
        scale: weight at full conductance, (row blocks, outputs); None: ``physics.block_scales``.
        bounds: the first row of each block, and the number of rows.
        columns: bounds of the outputs that share a scale.
        wires: the wires of a tile, with ideal rows.
        cell: the unit cell of a weight.
        array: the array of a tile, whose last row a second end of the columns lies behind.
    """
    unit = 1e-6 * cell.g_total * wires.column_resistance
    line = [unit, float(array.rows if wires.column_ends == 2 else 0)]
    left, found, sums = _forward(weight, scale, bounds, columns, line)
    return Behind(left, found if scale is None else scale, sums)


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    weight, scale, bounds, _, line = inputs
    _, found, sums = outputs
    ctx.mark_non_differentiable(found, sums)
    ctx.save_for_backward(weight, found if scale is None else scale)
    ctx.line = bounds, line


def _gradient(
    ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    return _backward(gradient, *saved, *ctx.line), None, None, None, None


def _like(tensor: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _fake(
    weight: Tensor, scale: Tensor | None, bounds: Sequence[int], *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = len(bounds) - 1, len(weight)
    found = weight.new_empty(shape if scale is None else (0,))
    return _like(weight), found, weight.new_empty((2, *shape))


_forward = define(
    "column_drop(Tensor weight, Tensor? scale, int[] bounds, int[] columns, float[] numbers) -> "
    "(Tensor, Tensor, Tensor)",
    native.column_drop,
    _fake,
    save=_save,
    backward=_gradient,
)
_backward = define(
    "column_drop_backward(Tensor gradient, Tensor weight, Tensor scale, int[] bounds, "
    "float[] numbers) -> Tensor",
    native.column_drop_backward,
    _like,
)
