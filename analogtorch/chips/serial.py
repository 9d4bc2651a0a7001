"""Chips as plain dictionaries for JSON and YAML, and back: a tagged, versioned round trip of the dataclasses."""

import dataclasses
from typing import Any

from analogtorch import devices
from analogtorch.chips.chip import Chip, TrainingNoise

VERSION = 1
"""Raised whenever a field changes its meaning."""

_TYPES: dict[str, type] = {
    t.__name__: t
    for t in (
        Chip,
        TrainingNoise,
        devices.UnitCell,
        devices.PCM,
        devices.Polynomial,
        devices.LogClip,
        devices.PowerClip,
        devices.Piecewise,
    )
}


def to_dict(chip: Chip) -> dict[str, Any]:
    """The chip as JSON-ready types; ``from_dict`` gives an equal chip back."""
    return {"version": VERSION, **_encode(chip)}


def from_dict(data: dict[str, Any]) -> Chip:
    """The chip that ``to_dict`` wrote.

    Raises:
        ValueError: another version, an unknown type, an unknown or missing field, or a value that the field refuses.
    """
    version = data.get("version")
    if version != VERSION:
        raise ValueError(f"chip description has version {version!r}, this AnalogTorch reads version {VERSION}")
    chip = _decode({k: v for k, v in data.items() if k != "version"}, "chip")
    if not isinstance(chip, Chip):
        raise ValueError(f"chip description has type {data.get('type')!r}, expected 'Chip'")
    return chip


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    return [_encode(v) for v in value] if isinstance(value, tuple) else value


def _decode(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, where) for v in value)
    if not isinstance(value, dict):
        return value
    kind = _TYPES.get(value.get("type", ""))
    if kind is None:
        raise ValueError(f"{where}: unknown type {value.get('type')!r}; known: {sorted(_TYPES)}")
    given = {k: v for k, v in value.items() if k != "type"}
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"{where}: {kind.__name__} has no field {unknown}; fields: {sorted(known)}")
    try:
        return kind(**{k: _decode(v, f"{where}.{k}") for k, v in given.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
