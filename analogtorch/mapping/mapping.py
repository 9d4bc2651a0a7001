"""A model placed on chips, as one value."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from analogtorch import checks
from analogtorch.chips import Chip
from analogtorch.files import checked, parse_json, signed
from analogtorch.mapping import split
from analogtorch.mapping.types import Block, Matrix, Operation, Placement


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """What ``map_to_chip`` returns; print it. Two mappings of the same model and chip are equal."""

    model: str
    """Class of the model."""
    chip: Chip
    chips: int
    """Chips that it takes."""
    matrices: tuple[Matrix, ...]
    """Every matrix that is placed, in the order in which it is first applied."""
    operations: tuple[Operation, ...]
    """What the model computes, in order: products on the chip (``mvm``) and everything digital."""
    placements: tuple[Placement, ...]
    """Where each block lies, by matrix, copy, row and column."""
    digital_weights: tuple[tuple[str, int], ...] = ()
    """Parameters that are on no tile, with their numbers of weights: biases, norms, embeddings, excluded layers."""
    retired: tuple[tuple[int, int], ...] = ()
    """(chip, tile) that must not be used."""
    retired_columns: tuple[tuple[int, int, int], ...] = ()
    """(chip, tile, column) that must not be used."""
    example: tuple[str, ...] = ()
    """Shapes and types of the inputs of one inference: everything is counted per run of these."""

    def __post_init__(self) -> None:
        _check(self)

    def __str__(self) -> str:
        from analogtorch.mapping.text import table

        return table(self)

    @cached_property
    def _by_matrix(self) -> dict[str, tuple[Placement, ...]]:
        found: dict[str, list[Placement]] = {matrix.name: [] for matrix in self.matrices}
        for placement in self.placements:
            found[placement.block.matrix].append(placement)
        return {name: tuple(listed) for name, listed in found.items()}

    def matrix_blocks(self, name: str) -> tuple[Placement, ...]:
        """The placed blocks of the matrix ``name``: rows are summed digitally, copies hold the same weights.

        Raises:
            ValueError: no matrix has that name.
        """
        if name not in self._by_matrix:
            near = get_close_matches(str(name), self._by_matrix, n=3) or list(self._by_matrix)[:3]
            raise ValueError(f"no matrix is called {name!r}; closest names: {', '.join(map(repr, near))}")
        return self._by_matrix[name]

    @property
    def digital(self) -> tuple[Operation, ...]:
        """What is computed digitally, with its operation counts."""
        return tuple(op for op in self.operations if op.kind != "mvm")

    @property
    def vectors(self) -> dict[str, int]:
        """Input vectors that each matrix meets in one inference."""
        found = {matrix.name: 0 for matrix in self.matrices}
        for op in self.operations:
            if op.matrix is not None:
                found[op.matrix] += op.vectors
        return found

    @property
    def copies(self) -> dict[str, int]:
        """Copies of each matrix."""
        return {name: 1 + max(p.block.copy for p in listed) for name, listed in self._by_matrix.items()}

    @property
    def weights(self) -> int:
        """Weights on the chip, each counted once however many copies there are."""
        return sum(matrix.weights for matrix in self.matrices)

    @property
    def cells(self) -> int:
        """Unit cells that are taken: copies and the zeros of block-diagonal matrices included."""
        return sum(p.block.rows * p.block.cols for p in self.placements)

    @property
    def tiles_used(self) -> int:
        """Tiles that hold at least one block."""
        return len(self.tile_utilisation)

    @property
    def tiles_lower_bound(self) -> int:
        """Tiles that the cells would fill without any waste."""
        return math.ceil(self.cells / (self.chip.rows * self.chip.cols))

    @property
    def tile_utilisation(self) -> dict[tuple[int, int], float]:
        """Share of the cells taken, 0..1, of each (chip, tile) in use."""
        area, found = self.chip.rows * self.chip.cols, dict[tuple[int, int], int]()
        for p in self.placements:
            found[p.chip, p.tile] = found.get((p.chip, p.tile), 0) + p.block.rows * p.block.cols
        return {key: found[key] / area for key in sorted(found)}

    @property
    def utilisation(self) -> float:
        """Share of the cells taken, 0..1, of all tiles in use."""
        return self.cells / (self.tiles_used * self.chip.rows * self.chip.cols)

    def remap(
        self,
        *,
        retired: Iterable[tuple[int, int]] = (),
        retired_columns: Iterable[tuple[int, int, int]] = (),
        chips: int | None = None,
        spread: bool = False,
    ) -> "Mapping":
        """The same model placed anew around tiles and columns that have failed since; earlier ones stay retired.

        Args:
            retired: further (chip, tile) that must not be used.
            retired_columns: further (chip, tile, column) that must not be used.
            chips: chips there are; None (default): as many as now.
            spread: as in ``map_to_chip``.

        Raises:
            ValueError: it no longer fits, or a tile or column that the chips do not have.
        """
        from analogtorch.mapping.map import check_chips, placed

        check_chips("remap", chips, none="as many as now")
        retired = checks.items("remap: retired", retired, "[(0, 5)]")
        retired_columns = checks.items("remap: retired_columns", retired_columns, "[(0, 5, 17)]")
        return placed(
            model=self.model,
            chip=self.chip,
            chips=chips or self.chips,
            matrices=self.matrices,
            operations=self.operations,
            copies=self.copies,
            digital_weights=self.digital_weights,
            retired=(*self.retired, *retired),
            retired_columns=(*self.retired_columns, *retired_columns),
            spread=spread,
            example=self.example,
        )

    def to_json(self) -> str:
        """As JSON; ``from_json`` gives an equal mapping back."""
        from analogtorch.mapping.serial import to_dict

        return json.dumps(signed(to_dict(self)), indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> "Mapping":
        """The mapping that ``to_json`` wrote.

        Raises:
            ValueError: no JSON, damaged, of another version, or fields that are missing, unknown or impossible.
        """
        from analogtorch.mapping.serial import from_dict

        try:
            data = checked(parse_json(text))
        except ValueError as error:
            raise ValueError(f"mapping: {error}") from error
        return from_dict(data)

    def plot(self, path: str | Path | None = None, *, cost: Any = None) -> Any:
        """Draw floorplan, utilisation and energy; see ``analogtorch.mapping.draw.plot``."""
        from analogtorch.mapping.draw import plot

        return plot(self, path, cost=cost)

    def to_html(self, *, cost: Any = None) -> str:
        """One HTML page that needs no network; see ``analogtorch.mapping.page.html``."""
        from analogtorch.mapping.page import html

        return html(self, cost=cost)


def _check(mapping: Mapping) -> None:
    """Blocks inside their tiles, none over another, all cells of every matrix placed.

    Raises:
        ValueError: one of these does not hold.
    """
    chip, on_tile = mapping.chip, dict[tuple[int, int], list[Placement]]()
    held: dict[str, dict[int, list[Block]]] = {m.name: {} for m in mapping.matrices}
    if len(held) < len(mapping.matrices):
        raise ValueError("Mapping.matrices: two have the same name")
    unusable = _Unusable.of(mapping)
    for p in mapping.placements:
        b = p.block
        if not all(type(n) is int for n in (p.chip, p.tile, p.row, p.col, b.row, b.col, b.rows, b.cols, b.copy)):
            raise ValueError(f"Mapping.placements: {p} must be made of integers")
        if not (0 <= p.chip < mapping.chips and 0 <= p.tile < chip.tiles):
            raise ValueError(f"Mapping.placements: {p} is on no tile of {mapping.chips} x {chip.name}")
        if not (
            min(p.row, p.col) >= 0 < min(b.rows, b.cols) and p.row + b.rows <= chip.rows and p.col + b.cols <= chip.cols
        ):
            raise ValueError(f"Mapping.placements: {p} reaches beyond its tile of {chip.rows}x{chip.cols}")
        if b.matrix not in held:
            raise ValueError(f"Mapping.placements: {p} belongs to no matrix of the mapping")
        if unusable.meets(p):
            raise ValueError(f"Mapping.placements: {p} lies on a retired tile or column")
        held[b.matrix].setdefault(b.copy, []).append(b)
        on_tile.setdefault((p.chip, p.tile), []).append(p)
    for listed in on_tile.values():
        for i, p in enumerate(listed):
            if any(_overlap(p, q) for q in listed[:i]):
                raise ValueError(f"Mapping.placements: {p} lies over another block of its tile")
    for matrix in mapping.matrices:
        copies = held[matrix.name]
        if sorted(copies) != list(range(len(copies))):
            raise ValueError(f"Mapping.placements: the copies of {matrix.name!r} are {sorted(copies)}, not 0, 1, ...")
        for own in copies.values() or [[]]:
            if not split.make_up(own, matrix, chip):
                raise ValueError(
                    f"Mapping.placements: the blocks of {matrix.name!r} do not make up the matrix: every weight must "
                    "be placed once in each copy"
                )


@dataclass(frozen=True)
class _Unusable:
    """What is retired, as quick to ask about."""

    tiles: frozenset[tuple[int, int]]
    columns: dict[tuple[int, int], tuple[int, ...]]

    @classmethod
    def of(cls, mapping: Mapping) -> "_Unusable":
        """What ``mapping`` must not use."""
        columns: dict[tuple[int, int], tuple[int, ...]] = {}
        for chip, tile, column in mapping.retired_columns:
            columns[chip, tile] = (*columns.get((chip, tile), ()), column)
        return cls(frozenset(mapping.retired), columns)

    def meets(self, p: Placement) -> bool:
        """Whether ``p`` lies on any of it."""
        own = self.columns.get((p.chip, p.tile), ())
        return (p.chip, p.tile) in self.tiles or any(p.col <= c < p.col + p.block.cols for c in own)


def _overlap(p: Placement, q: Placement) -> bool:
    rows = p.row < q.row + q.block.rows and q.row < p.row + p.block.rows
    return rows and p.col < q.col + q.block.cols and q.col < p.col + p.block.cols
