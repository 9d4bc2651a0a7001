"""Matrices into the blocks that are placed: those of ``analogtorch.chips.tiling``, which the
simulation computes with.

Rows are cut as full as a tile allows, at whole kernels where a kernel fits: with ``k`` kernel taps
a block holds ``floor(rows / k) * k`` rows. That gives the fewest partial sums (each costs an ADC
reading and a digital addition per output), and keeps a convolution's partial sum a convolution over
some of its channels, so that it is computed without unfolding the input. What it costs in cells is
the rest of ``rows / k``: 252 of 256 rows for a 3x3 kernel, 1.6 %. Evenly sized blocks need as many
partial sums and waste more tiles; blocks that end inside a kernel fill the tile but lose the
shortcut. Columns have converters of their own, so cutting them costs no partial sum: ``pack`` cuts
them further where that saves a tile.
"""

from collections.abc import Iterable, Mapping

from analogtorch.chips import Chip
from analogtorch.chips.tiling import sections
from analogtorch.graph.types import Matrix
from analogtorch.mapping.types import Block


def blocks(matrix: Matrix, chip: Chip, copies: int = 1) -> tuple[Block, ...]:
    """The blocks of every copy of ``matrix`` on ``chip``.

    A grouped convolution follows ``chip.grouped``: groups side by side on the same rows
    (``sequential``), or on the diagonal of a block, whose other cells are programmed to zero and
    are wasted (``block_diagonal``).
    """
    return tuple(
        Block(
            matrix=matrix.name,
            row=_first_row(section.first_row, matrix, chip) + start,
            col=section.outputs.start + columns.start,
            rows=end - start,
            cols=columns.stop - columns.start,
            copy=copy,
        )
        for copy in range(copies)
        for section in sections(matrix.shape or (matrix.cols, matrix.rows), matrix.groups, chip)
        for start, end in zip(section.bounds[:-1], section.bounds[1:], strict=True)
        for columns in section.col_blocks
    )


def all_blocks(matrices: Iterable[Matrix], chip: Chip, copies: Mapping[str, int]) -> list[Block]:
    """The blocks of all matrices, in their order; ``copies`` says how many copies of a matrix, 1 if
    it is not there.
    """
    return [
        block for matrix in matrices for block in blocks(matrix, chip, copies.get(matrix.name, 1))
    ]


def cells(matrix: Matrix, chip: Chip) -> int:
    """Unit cells that one copy takes, those between the groups of a block-diagonal matrix
    included.
    """
    return sum(
        section.cells
        for section in sections(matrix.shape or (matrix.cols, matrix.rows), matrix.groups, chip)
    )


def make_up(own: Iterable[Block], matrix: Matrix, chip: Chip) -> bool:
    """Whether the blocks ``own`` hold every cell of one copy of ``matrix`` once, however its
    columns are cut.
    """
    held = _columns(own)
    return held is not None and held == _columns(blocks(matrix, chip))


def _columns(own: Iterable[Block]) -> dict[tuple[int, int], list[tuple[int, int]]] | None:
    """The runs of columns (first, end) that blocks hold together, by first row and rows; None if
    any overlap.
    """
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for b in sorted(own, key=lambda b: b.col):
        runs = found.setdefault((b.row, b.rows), [])
        first, end = b.col, b.col + b.cols
        if runs and first < runs[-1][1]:
            return None
        if runs and first == runs[-1][1]:
            first = runs.pop()[0]
        runs.append((first, end))
    return found


def _first_row(row: int, matrix: Matrix, chip: Chip) -> int:
    return 0 if matrix.groups > 1 and chip.grouped == "sequential" else row
