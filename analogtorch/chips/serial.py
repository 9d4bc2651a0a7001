"""Chips as plain dictionaries for JSON and YAML, and back: a tagged, versioned round trip of the
dataclasses.
"""

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

from analogtorch import devices
from analogtorch.chips.chip import Chip, TrainingNoise
from analogtorch.chips.cost import Cost, Digital, Figure, Network, Published, Shares
from analogtorch.values import checks

VERSION = 1
"""Raised whenever a field changes its meaning."""

_TYPES: dict[str, type] = {
    t.__name__: t
    for t in (
        Chip,
        TrainingNoise,
        Cost,
        Digital,
        Figure,
        Network,
        Published,
        Shares,
        devices.UnitCell,
        devices.PCM,
        devices.ReRAM,
        devices.Reduced,
        devices.Polynomial,
        devices.LogClip,
        devices.PowerClip,
        devices.Piecewise,
    )
}


def to_dict(chip: Chip) -> dict[str, Any]:
    """The chip as JSON-ready types; ``from_dict`` gives an equal chip back.

    Raises:
        TypeError: ``chip`` is no Chip, or a part of it has no form in a file, such as a curve that
            is a function.
    """
    if not isinstance(chip, Chip):
        raise TypeError(
            f"chip must be a Chip such as analogtorch.chips.hermes64(), got {checks.shown(chip)}"
        )
    return {"version": VERSION, **_encode(chip, "chip")}


def from_dict(data: dict[str, Any]) -> Chip:
    """The chip that ``to_dict`` wrote.

    Raises:
        ValueError: another version, an unknown type, an unknown or missing field, or a value that
            the field refuses.
    """
    if not isinstance(data, dict):
        raise ValueError(
            "chip description must be a mapping such as analogtorch.chips.to_dict(chip), got "
            f"{data!r}"
        )
    version = data.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"chip description has version {version!r}, this AnalogTorch reads version {VERSION}"
        )
    chip = _decode({k: v for k, v in data.items() if k != "version"}, "chip")
    if not isinstance(chip, Chip):
        raise ValueError(f"chip description has type {data.get('type')!r}, expected 'Chip'")
    return chip


def _encode(value: Any, where: str) -> Any:
    kind = type(value)
    if _TYPES.get(kind.__name__) is kind:
        fields = {
            f.name: _encode(getattr(value, f.name), f"{where}.{f.name}")
            for f in dataclasses.fields(value)
        }
        return {"type": kind.__name__, **fields}
    if isinstance(value, tuple):
        return [_encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Real) and math.isfinite(value):
        return int(value) if isinstance(value, Integral) else float(value)
    raise TypeError(
        f"{where} is {checks.shown(value)}, which has no form in a file; what has: numbers, texts "
        f"and {', '.join(sorted(_TYPES))}"
    )


def _decode(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, where) for v in value)
    if not isinstance(value, dict):
        return value
    name = value.get("type")
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(
            f"{where}: unknown type {name!r}{checks.nearest(name, _TYPES)}; known: {sorted(_TYPES)}"
        )
    given = {k: v for k, v in value.items() if k != "type"}
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(given.keys() - known, key=str):
        hint = "".join(checks.nearest(name, known - given.keys()) for name in unknown)
        raise ValueError(
            f"{where}: {kind.__name__} has no field {unknown}{hint}; fields: {sorted(known)}"
        )
    fields = {k: _decode(v, f"{where}.{k}") for k, v in given.items()}
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
