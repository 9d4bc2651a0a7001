"""Weights of a training step behind the resistance of their columns, as an operator.

It is ``ir_drop.behind_wires`` for wires whose rows are ideal, exact, in one pass over the weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.chips import Wires
from analogtorch.devices import Cell
from analogtorch.ops.library import define
from analogtorch.ops.native import columns


def takes(weight: Tensor, wires: Wires, cell: Cell) -> bool:
    """Return whether ``column_drop`` computes the drop of these weights."""
    return wires.row_resistance == 0 and cell.device.g_min == 0 and columns.takes(weight)


def column_drop(
    weight: Tensor, scale: Tensor, bounds: Sequence[int], wires: Wires, cell: Cell
) -> Tensor:
    """Return the weights as they act behind the wires of their columns.

    They are differentiable once, in ``weight``. Row blocks lie at row 0 of a tile. A weight is held
    by the cells of its sign, and the others conduct nothing.

    Args:
        weight: (outputs, rows), float32.
        scale: the largest weight of each row block and output, (row blocks, outputs).
        bounds: the first row of each block, and the number of rows.
        wires: the wires of a tile, with ideal rows.
        cell: the unit cell of a weight.
    """
    unit = 1e-6 * cell.g_total * wires.column_resistance
    scale = scale.clamp_min(torch.finfo(scale.dtype).tiny)  # as in ``physics.relative``
    return _forward(weight, scale, bounds, [unit, float(wires.column_ends == 2)])


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: Tensor) -> None:
    weight, scale, *ctx.line = inputs
    ctx.save_for_backward(weight, scale)


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
    return _backward(gradient, *ctx.saved_tensors, *ctx.line), None, None, None


def _like(tensor: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


_forward = define(
    "column_drop(Tensor weight, Tensor scale, int[] bounds, float[] numbers) -> Tensor",
    columns.column_drop,
    _like,
    save=_save,
    backward=_gradient,
)
_backward = define(
    "column_drop_backward(Tensor gradient, Tensor weight, Tensor scale, int[] bounds, "
    "float[] numbers) -> Tensor",
    columns.column_drop_backward,
    _like,
)
