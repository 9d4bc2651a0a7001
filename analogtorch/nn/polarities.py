"""The polarities of weights without a chip of their own, for reads of each in a separate phase."""

from collections.abc import Sequence

from torch import Tensor

from analogtorch.devices import Cell
from analogtorch.devices import cell as cells
from analogtorch.ops import over_rows
from analogtorch.ops.physics import relative


def negatives(weight: Tensor, scale: Tensor, bounds: Sequence[int], cell: Cell) -> Tensor:
    """Return the part of each weight in its negative polarity: ``Operands.negatives``.

    It has the shape of the weight, and is differentiable, as IR drop needs it; products take it as
    a constant.

    Args:
        weight: (outputs, ...) as cells hold it; its other dimensions, flattened, are the rows.
        scale: weight at full conductance, (row blocks, outputs).
        bounds: bounds of the row blocks.
        cell: the unit cell.
    """
    full = over_rows(scale, bounds).view(weight.shape)
    return (full * cells.negatives(cell, relative(weight, full))).to(weight.dtype)
