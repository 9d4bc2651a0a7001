"""A model mapped onto chips, as one value."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from analogtorch import chips
from analogtorch.chips import Chip
from analogtorch.files import checked, parse_json, signed
from analogtorch.files.figures import draw
from analogtorch.graph.types import Matrix, Operation
from analogtorch.mapping.types import Block, Placement
from analogtorch.mapping.validity import check
from analogtorch.values.shown import Shown, as_html


@dataclass(frozen=True, kw_only=True)
class ChipMapping(Shown):
    """Which block of which matrix lies on which tile, as ``map_to_chip`` returns it; print it.

    Two mappings of the same model and chip are equal.
    """

    model: str
    """Name of the model's class."""
    chip: Chip
    """The description of each of the ``num_chips`` chips."""
    num_chips: int
    """Number of chips that the model takes."""
    matrices: tuple[Matrix, ...]
    """Every matrix on the chip, in the order in which the model first multiplies by it; then those
    that the example does not reach."""
    operations: tuple[Operation, ...]
    """The operations of the model in order: inputs, products on the chip (``mvm``), digital
    operations, and the output."""
    placements: tuple[Placement, ...]
    """Position of each block, sorted by matrix, copy, row and column."""
    digital_weights: tuple[tuple[str, int], ...] = ()
    """Parameters that are on no tile, with their numbers of weights: biases, norms, embeddings and
    excluded layers."""
    retired: tuple[tuple[int, int], ...] = ()
    """Tiles that must not be used, as (chip, tile)."""
    retired_columns: tuple[tuple[int, int, int], ...] = ()
    """Columns that must not be used, as (chip, tile, column)."""
    example: tuple[str, ...] = ()
    """Shapes and types of the inputs of one inference; all counts are for one run of these."""

    def __post_init__(self) -> None:
        check(self)

    @cached_property
    def _by_matrix(self) -> dict[str, tuple[Placement, ...]]:
        found: dict[str, list[Placement]] = {matrix.name: [] for matrix in self.matrices}
        for placement in self.placements:
            found[placement.block.matrix].append(placement)
        return {name: tuple(listed) for name, listed in found.items()}

    def matrix_blocks(self, name: str) -> tuple[Placement, ...]:
        """Return the placed blocks of the matrix ``name``.

        Blocks of different rows are summed digitally; copies hold the same weights.

        Raises:
            ValueError: no matrix has that name.
        """
        if name not in self._by_matrix:
            near = get_close_matches(str(name), self._by_matrix, n=3) or list(self._by_matrix)[:3]
            raise ValueError(
                f"no matrix is called {name!r}; closest names: {', '.join(map(repr, near))}"
            )
        return self._by_matrix[name]

    @property
    def digital(self) -> tuple[Operation, ...]:
        """The operations that are computed digitally, with their operation counts."""
        return tuple(op for op in self.operations if op.kind not in ("mvm", "input", "output"))

    @property
    def vectors(self) -> dict[str, int]:
        """Number of input vectors of each matrix in one inference."""
        found = {matrix.name: 0 for matrix in self.matrices}
        for op in self.operations:
            if op.matrix is not None:
                found[op.matrix] += op.vectors
        return found

    @property
    def copies(self) -> dict[str, int]:
        """Number of copies of each matrix, of which ``Matrix.cells`` together hold its weights."""
        return {
            name: 1 + max(p.block.copy for p in listed) for name, listed in self._by_matrix.items()
        }

    @property
    def weights(self) -> int:
        """Number of weights on the chip; copies are not counted."""
        return sum(matrix.weights for matrix in self.matrices)

    @property
    def cells(self) -> int:
        """Number of unit cells taken, with copies and the zeros of block-diagonal matrices."""
        return sum(p.block.rows * p.block.cols for p in self.placements)

    @property
    def tiles_used(self) -> int:
        """Number of tiles that hold at least one block."""
        return len(self.tile_utilisation)

    @property
    def tiles_lower_bound(self) -> int:
        """Number of tiles that the cells would fill without waste."""
        return math.ceil(self.cells / (self.chip.array.rows * self.chip.array.columns))

    @property
    def tile_utilisation(self) -> dict[tuple[int, int], float]:
        """Share of the cells taken, 0..1, of each (chip, tile) in use."""
        area = self.chip.array.rows * self.chip.array.columns
        found: dict[tuple[int, int], int] = {}
        for p in self.placements:
            found[p.chip, p.tile] = found.get((p.chip, p.tile), 0) + p.block.rows * p.block.cols
        return {key: found[key] / area for key in sorted(found)}

    @property
    def utilisation(self) -> float:
        """Share of the cells taken, 0..1, of all tiles in use."""
        return self.cells / (self.tiles_used * self.chip.array.rows * self.chip.array.columns)

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping as types that JSON has; ``from_dict`` reads them."""
        return _to_dict(self)

    @staticmethod
    def from_dict(data: Any) -> "ChipMapping":
        """Return the mapping that ``to_dict`` wrote.

        Raises:
            ValueError: the format or version is another, or fields are missing, unknown or
                impossible.
        """
        return _from_dict(data)

    def to_json(self) -> str:
        """Return the mapping as JSON; ``from_json`` reads it."""
        return json.dumps(signed(self.to_dict()), indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes) -> "ChipMapping":
        """Return the mapping that ``to_json`` wrote.

        Raises:
            ValueError: the text is no JSON, is damaged or of another version, or fields are
                missing, unknown or impossible.
        """
        try:
            data = checked(parse_json(text))
        except ValueError as error:
            raise ValueError(f"mapping: {error}") from error
        return _from_dict(data)

    def plot(self, path: str | Path | None = None, *, cost: Any = None) -> Any:
        """Draw the floorplan, the utilisation of each tile in use, and the energy of an inference.

        Args:
            path: see ``analogtorch.files.figures.draw``.
            cost: the cost report of the energy; by default that of the pipelined mode, or none if
                the chip has no cost.

        Raises:
            TypeError: ``cost`` is no cost report.
            ValueError: it is that of another mapping.

        Other errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path, cost=cost)

    def to_html(self, *, cost: Any = None, command: str | None = None) -> str:
        """Return one HTML page that needs no network.

        See ``analogtorch.report.page.mapping.html``.
        """
        return as_html(self, cost=cost, command=command)


FORMAT = "analogtorch.mapping"
VERSION = 2
"""Version of the form; it rises when a field changes its name or meaning. Earlier versions are
read, and those without a field that has come since."""


def _to_dict(mapping: ChipMapping) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": mapping.model,
        "chip": chips.to_dict(mapping.chip),
        "num_chips": mapping.num_chips,
        "matrices": [asdict(m) for m in mapping.matrices],
        "operations": [asdict(op) for op in mapping.operations],
        "placements": [{**asdict(p.block), **_position(p)} for p in mapping.placements],
        "digital_weights": [list(entry) for entry in mapping.digital_weights],
        "retired": [list(entry) for entry in mapping.retired],
        "retired_columns": [list(entry) for entry in mapping.retired_columns],
        "example": list(mapping.example),
    }


def _from_dict(data: Any) -> ChipMapping:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(
            f"mapping: not written by ChipMapping.to_json: its 'format' is not {FORMAT!r}"
        )
    version = data.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(
            f"mapping: has version {version!r}, this AnalogTorch reads versions 1 to {VERSION}"
        )
    if version == 1:  # num_chips was chips, and example came later
        data = {
            "example": [],
            **{"num_chips" if name == "chips" else name: value for name, value in data.items()},
        }
    known = {"format", "version", *(f.name for f in fields(ChipMapping))}
    if data.keys() != known:
        raise ValueError(
            f"mapping: missing fields {sorted(known - data.keys())}, unknown "
            f"{sorted(data.keys() - known)}"
        )
    try:
        return ChipMapping(
            model=data["model"],
            chip=chips.from_dict(data["chip"]),
            num_chips=data["num_chips"],
            matrices=tuple(_matrix(m, version) for m in data["matrices"]),
            operations=tuple(
                Operation(
                    **{**op, "inputs": tuple(op["inputs"]), "taken": tuple(op.get("taken", ()))}
                )
                for op in data["operations"]
            ),
            placements=tuple(map(_placement, data["placements"])),
            digital_weights=tuple((name, count) for name, count in data["digital_weights"]),
            retired=tuple((c, t) for c, t in data["retired"]),
            retired_columns=tuple((c, t, column) for c, t, column in data["retired_columns"]),
            example=tuple(data["example"]),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"mapping: a field has the wrong shape: {error}") from error


def _named_layer(name: str) -> dict[str, Any]:
    """Return layer, outputs and form of a matrix of version 1, which has them in its name.

    An example is ``in_proj_weight[0:64].T``.
    """
    layer, form = name, 0
    while layer.endswith(".T"):
        layer, form = layer.removesuffix(".T"), form + 1
    if (part := re.fullmatch(r"(.*)\[(\d+):(\d+)\]", layer)) is not None:
        return {"layer": part[1], "outputs": (int(part[2]), int(part[3])), "form": form}
    return {"layer": "" if "[" in layer else layer, "outputs": None, "form": form}


def _matrix(data: dict[str, Any], version: int) -> Matrix:
    if version == 1:
        data = {**data, **_named_layer(str(data["name"]))}
    outputs = data["outputs"]
    return Matrix(
        **{
            **data,
            "shape": tuple(data["shape"]),
            "outputs": None if outputs is None else tuple(outputs),
        }
    )


def _position(p: Placement) -> dict[str, int]:
    return {"chip": p.chip, "tile": p.tile, "tile_row": p.row, "tile_col": p.col}


def _placement(data: dict[str, Any]) -> Placement:
    block = {f.name: data[f.name] for f in fields(Block)}
    return Placement(
        block=Block(**block),
        chip=data["chip"],
        tile=data["tile"],
        row=data["tile_row"],
        col=data["tile_col"],
    )
