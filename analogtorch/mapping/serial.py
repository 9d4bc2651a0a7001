"""Mappings as plain dictionaries for JSON, and back."""

from dataclasses import asdict, fields
from typing import Any

from analogtorch import chips
from analogtorch.mapping.mapping import Mapping
from analogtorch.mapping.types import Block, Matrix, Operation, Placement

FORMAT = "analogtorch.mapping"
VERSION = 1
"""Raised whenever a field changes its meaning."""


def to_dict(mapping: Mapping) -> dict[str, Any]:
    """The mapping as JSON-ready types."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": mapping.model,
        "chip": chips.to_dict(mapping.chip),
        "chips": mapping.chips,
        "matrices": [asdict(m) for m in mapping.matrices],
        "operations": [asdict(op) for op in mapping.operations],
        "placements": [{**asdict(p.block), **_position(p)} for p in mapping.placements],
        "digital_weights": [list(entry) for entry in mapping.digital_weights],
        "retired": [list(entry) for entry in mapping.retired],
        "retired_columns": [list(entry) for entry in mapping.retired_columns],
        "example": list(mapping.example),
    }


def from_dict(data: Any) -> Mapping:
    """The mapping that ``to_dict`` wrote.

    Raises:
        ValueError: another format or version, or fields that are missing, unknown or impossible.
    """
    if isinstance(data, dict):
        data = {"example": [], **data}  # came after version 1
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"mapping: not written by Mapping.to_json: its 'format' is not {FORMAT!r}")
    if data.get("version") != VERSION:
        raise ValueError(f"mapping: has version {data.get('version')!r}, this AnalogTorch reads version {VERSION}")
    known = {"format", "version", *(f.name for f in fields(Mapping))}
    if data.keys() != known:
        raise ValueError(
            f"mapping: missing fields {sorted(known - data.keys())}, unknown {sorted(data.keys() - known)}"
        )
    try:
        return Mapping(
            model=data["model"],
            chip=chips.from_dict(data["chip"]),
            chips=data["chips"],
            matrices=tuple(Matrix(**{**m, "shape": tuple(m["shape"])}) for m in data["matrices"]),
            operations=tuple(Operation(**{**op, "inputs": tuple(op["inputs"])}) for op in data["operations"]),
            placements=tuple(map(_placement, data["placements"])),
            digital_weights=tuple((name, count) for name, count in data["digital_weights"]),
            retired=tuple((c, t) for c, t in data["retired"]),
            retired_columns=tuple((c, t, column) for c, t, column in data["retired_columns"]),
            example=tuple(data["example"]),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"mapping: a field has the wrong shape: {error}") from error


def _position(p: Placement) -> dict[str, int]:
    return {"chip": p.chip, "tile": p.tile, "tile_row": p.row, "tile_col": p.col}


def _placement(data: dict[str, Any]) -> Placement:
    block = {f.name: data[f.name] for f in fields(Block)}
    return Placement(
        block=Block(**block), chip=data["chip"], tile=data["tile"], row=data["tile_row"], col=data["tile_col"]
    )
