"""The split of matrices into blocks: those of ``chips.tiling``, which the simulation uses too.

Rows fill a tile as far as whole kernels allow, where a kernel fits: with ``k`` kernel taps a block
holds ``floor(rows / k) * k`` rows. That gives the fewest partial sums (each costs an ADC output and
a digital addition per output), and keeps a convolution's partial sum a convolution over some of its
channels, so that it is computed without unfolding the input. It costs the cells of the rest of
``rows / k``: a 3x3 kernel uses 252 of 256 rows and loses 1.6 %. Evenly sized blocks need as many
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
    """Return the blocks of every copy of ``matrix`` on ``chip``.

    A grouped convolution follows ``chip.array.grouped``: groups side by side on the same rows
    (``sequential``), or on the diagonal of a block, whose other cells are programmed to zero and
    are wasted (``block_diagonal``).
    """
    return tuple(
        Block(
            matrix=matrix.name,
            row=_first_row(section.first_row, matrix, chip) + start,
            col=section.adcs.start + columns.start,
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
    """Return the blocks of all matrices, in their order.

    ``copies`` gives the number of copies by name of the matrix; the default is 1.
    """
    return [
        block for matrix in matrices for block in blocks(matrix, chip, copies.get(matrix.name, 1))
    ]


def cells(matrix: Matrix, chip: Chip) -> int:
    """Return the number of unit cells that one copy takes.

    Cells between the groups of a block-diagonal matrix count.
    """
    return sum(
        section.cells
        for section in sections(matrix.shape or (matrix.cols, matrix.rows), matrix.groups, chip)
    )


def make_up(copy: Iterable[Block], matrix: Matrix, chip: Chip) -> bool:
    """Return whether blocks hold every cell of one copy of ``matrix`` once.

    The columns of the blocks may be cut in any way.
    """
    held = _columns(copy)
    return held is not None and held == _columns(blocks(matrix, chip))


def _columns(blocks: Iterable[Block]) -> dict[tuple[int, int], list[tuple[int, int]]] | None:
    """Return the runs of columns (first, end) of blocks, by first row and number of rows.

    The result is None if any overlap.
    """
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for b in sorted(blocks, key=lambda b: b.col):
        runs = found.setdefault((b.row, b.rows), [])
        first, end = b.col, b.col + b.cols
        if runs and first < runs[-1][1]:
            return None
        if runs and first == runs[-1][1]:
            first = runs.pop()[0]
        runs.append((first, end))
    return found


def _first_row(row: int, matrix: Matrix, chip: Chip) -> int:
    return 0 if matrix.groups > 1 and chip.array.grouped == "sequential" else row
