"""What one input vector takes of a block of weights: MVMs, and what each of them uses."""

from dataclasses import dataclass

from analogtorch.chips import Chip
from analogtorch.graph.types import Matrix
from analogtorch.mapping.types import Block


@dataclass(frozen=True, kw_only=True)
class Use:
    """The MVMs of a block for one input vector, without passes of signs and pulses."""

    mvms: int
    """Number of MVMs: one, or one per group where the chip runs one group at a time."""
    cols: float
    """Number of columns that each MVM converts."""
    cells: float
    """Number of cells with weights that each MVM uses."""


def use_of(block: Block, matrix: Matrix, chip: Chip) -> Use:
    """Return what an input vector of ``matrix`` takes of one of its blocks."""
    if chip.array.grouped == "sequential":
        groups = groups_of(block, matrix, chip)
        cells = block.rows * block.cols
        return Use(mvms=groups, cols=block.cols / groups, cells=cells / groups)
    return Use(mvms=1, cols=float(block.cols), cells=_on_diagonal(block, matrix, chip))


def groups_of(block: Block, matrix: Matrix, chip: Chip) -> int:
    """Return the number of groups that the block's columns belong to."""
    per_group = max(chip.slices.slicing.columns * matrix.cols // matrix.groups, 1)
    return (block.col + block.cols - 1) // per_group - block.col // per_group + 1


def _on_diagonal(block: Block, matrix: Matrix, chip: Chip) -> float:
    """Return the number of cells with weights in a block of a block-diagonal matrix.

    They are the cells where a group's rows cross its columns.
    """
    cols, total = chip.slices.slicing.columns * matrix.cols // matrix.groups, 0
    for group in range(block.col // cols, (block.col + block.cols - 1) // cols + 1):
        high = min(block.row + block.rows, (group + 1) * matrix.rows) - max(
            block.row, group * matrix.rows
        )
        wide = min(block.col + block.cols, (group + 1) * cols) - max(block.col, group * cols)
        total += max(high, 0) * wide
    return float(total)
