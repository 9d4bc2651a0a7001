"""The check that the placements of a mapping make up its matrices."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analogtorch.chips import Chip
from analogtorch.graph.types import Matrix
from analogtorch.mapping import split
from analogtorch.mapping.types import Block, Placement

if TYPE_CHECKING:
    from analogtorch.mapping.mapping import ChipMapping


def check(mapping: "ChipMapping") -> None:
    """Raise an error unless all cells of every matrix are placed, inside tiles and without overlap.

    Raises:
        ValueError: a block reaches beyond its tile, covers another one, or cells of a matrix are
            missing.
    """
    on_tile: dict[tuple[int, int], list[Placement]] = {}
    held: dict[str, dict[int, list[Block]]] = {m.name: {} for m in mapping.matrices}
    if len(held) < len(mapping.matrices):
        raise ValueError("ChipMapping.matrices: two have the same name")
    for matrix in mapping.matrices:
        _check_matrix(matrix)
    unusable = _Unusable.of(mapping)
    for p in mapping.placements:
        _check_inside(p, mapping)
        if p.block.matrix not in held:
            raise ValueError(f"ChipMapping.placements: {p} belongs to no matrix of the mapping")
        if unusable.covers(p):
            raise ValueError(f"ChipMapping.placements: {p} lies on a retired tile or column")
        held[p.block.matrix].setdefault(p.block.copy, []).append(p.block)
        on_tile.setdefault((p.chip, p.tile), []).append(p)
    for listed in on_tile.values():
        for i, p in enumerate(listed):
            if any(_overlap(p, q) for q in listed[:i]):
                raise ValueError(f"ChipMapping.placements: {p} lies over another block of its tile")
    for matrix in mapping.matrices:
        _check_whole(matrix, held[matrix.name], mapping.chip)


def _check_matrix(matrix: Matrix) -> None:
    part = matrix.outputs
    good = part is None or (
        len(part) == 2 and all(type(n) is int for n in part) and 0 <= part[0] < part[1]
    )
    if not (good and isinstance(matrix.layer, str) and type(matrix.form) is int):
        raise ValueError(
            f"ChipMapping.matrices: {matrix.name!r} must have a layer by name, a form that is "
            "an integer, and as outputs None or two integers, from and to; got "
            f"{matrix.layer!r}, {matrix.form!r}, {part!r}"
        )


def _check_inside(p: Placement, mapping: "ChipMapping") -> None:
    chip, b = mapping.chip, p.block
    numbers = (p.chip, p.tile, p.row, p.col, b.row, b.col, b.rows, b.cols, b.copy)
    if not all(type(n) is int for n in numbers):
        raise ValueError(f"ChipMapping.placements: {p} must be made of integers")
    if not (0 <= p.chip < mapping.num_chips and 0 <= p.tile < chip.array.tiles):
        raise ValueError(
            f"ChipMapping.placements: {p} is on no tile of {mapping.num_chips} x {chip.name}"
        )
    if not (
        min(p.row, p.col) >= 0 < min(b.rows, b.cols)
        and p.row + b.rows <= chip.array.rows
        and p.col + b.cols <= chip.array.columns
    ):
        raise ValueError(
            f"ChipMapping.placements: {p} reaches beyond its tile of "
            f"{chip.array.rows}x{chip.array.columns}"
        )


def _check_whole(matrix: Matrix, copies: dict[int, list[Block]], chip: Chip) -> None:
    if sorted(copies) != list(range(len(copies))):
        raise ValueError(
            f"ChipMapping.placements: the copies of {matrix.name!r} are {sorted(copies)}, not "
            "0, 1, ..."
        )
    if type(matrix.cells) is not int or matrix.cells < 1 or len(copies) % matrix.cells:
        raise ValueError(
            f"ChipMapping.matrices: cells of {matrix.name!r} must be an integer >= 1 that divides "
            f"the number of its copies, {len(copies)}; got {matrix.cells!r}"
        )
    for copy in copies.values() or [[]]:
        if not split.make_up(copy, matrix, chip):
            raise ValueError(
                f"ChipMapping.placements: the blocks of {matrix.name!r} do not make up the "
                "matrix: every weight must be placed once in each copy"
            )


@dataclass(frozen=True)
class _Unusable:
    """The retired tiles and columns, in a form that is quick to query."""

    tiles: frozenset[tuple[int, int]]
    columns: dict[tuple[int, int], tuple[int, ...]]

    @classmethod
    def of(cls, mapping: "ChipMapping") -> "_Unusable":
        """Return what ``mapping`` must not use."""
        columns: dict[tuple[int, int], tuple[int, ...]] = {}
        for chip, tile, column in mapping.retired_columns:
            columns[chip, tile] = (*columns.get((chip, tile), ()), column)
        return cls(frozenset(mapping.retired), columns)

    def covers(self, p: Placement) -> bool:
        """Return whether ``p`` lies on a retired tile or column."""
        columns = self.columns.get((p.chip, p.tile), ())
        on_column = any(p.col <= column < p.col + p.block.cols for column in columns)
        return on_column or (p.chip, p.tile) in self.tiles


def _overlap(p: Placement, q: Placement) -> bool:
    rows = p.row < q.row + q.block.rows and q.row < p.row + p.block.rows
    return rows and p.col < q.col + q.block.cols and q.col < p.col + p.block.cols
