"""Chips as plain dictionaries for JSON and YAML.

The dictionaries have types and a version; they hold the dataclasses that
``analogtorch.devices.register`` knows.
"""

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

from analogtorch.chips.chip import Chip
from analogtorch.chips.flat import upgraded
from analogtorch.devices import registered
from analogtorch.values import checks
from analogtorch.values.sources import Sources

VERSION = 2
"""Version of the form; it rises when a field changes its meaning. Version 1, the flat form, is
read."""


def to_dict(chip: Chip) -> dict[str, Any]:
    """Return the chip as JSON-ready types; ``from_dict`` returns an equal chip.

    Raises:
        TypeError: ``chip`` is no Chip, or a part of it has no form in a file: a curve that is a
            function, or a class that is not registered with ``analogtorch.devices.register``.
    """
    if not isinstance(chip, Chip):
        raise TypeError(
            f"chip must be a Chip such as analogtorch.chips.hermes64(), got {checks.shown(chip)}"
        )
    return {"version": VERSION, **_encode(chip, "chip")}


def from_dict(data: dict[str, Any]) -> Chip:
    """Return the chip that ``to_dict`` wrote.

    Raises:
        ValueError: the version is another, a type is unknown, a field is unknown or missing, or
            refuses its value.
    """
    if not isinstance(data, dict):
        raise ValueError(
            "chip description must be a mapping such as analogtorch.chips.to_dict(chip), got "
            f"{data!r}"
        )
    version = data.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(
            f"chip description has version {version!r}, this AnalogTorch reads versions 1 to "
            f"{VERSION}"
        )
    whole = {k: v for k, v in data.items() if k != "version"}
    chip = _decode(upgraded(whole) if version == 1 else whole, "chip")
    if not isinstance(chip, Chip):
        raise ValueError(f"chip description has type {data.get('type')!r}, expected 'Chip'")
    return chip


def _encode(value: Any, where: str) -> Any:
    kind = type(value)
    if registered().get(kind.__name__) is kind:
        fields = {
            f.name: _encode(getattr(value, f.name), f"{where}.{f.name}")
            for f in dataclasses.fields(value)
        }
        return {"type": kind.__name__, **fields}
    if isinstance(value, Sources):
        return dict(value)
    if isinstance(value, tuple):
        return [_encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Real) and math.isfinite(value):
        return int(value) if isinstance(value, Integral) else float(value)
    remedy = (
        f"register its class: analogtorch.devices.register({kind.__name__})"
        if dataclasses.is_dataclass(kind)
        else "what has: numbers, texts and frozen dataclasses given to analogtorch.devices.register"
    )
    raise TypeError(f"{where} is {checks.shown(value)}, which has no form in a file; {remedy}")


def _decode(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, where) for v in value)
    if not isinstance(value, dict):
        return value
    kind = _kind(value.get("type"), where)
    given = {k: v for k, v in value.items() if k != "type"}
    known = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(given.keys() - known, key=str):
        hint = "".join(checks.nearest(name, known - given.keys()) for name in unknown)
        raise ValueError(
            f"{where}: {kind.__name__} has no field {unknown}{hint}; fields: {sorted(known)}"
        )
    fields = {
        k: v if k == "sources" and isinstance(v, dict) else _decode(v, f"{where}.{k}")
        for k, v in given.items()
    }
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _kind(name: Any, where: str) -> type:
    kinds = registered()
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(
            f"{where}: unknown type {name!r}{checks.nearest(name, kinds)}; known: {sorted(kinds)}. "
            "Your own class is known once its module, which calls "
            "analogtorch.devices.register, is imported"
        )
    return kinds[name]
