"""Registered dataclasses as plain dictionaries for JSON and YAML."""

import dataclasses
import math
from numbers import Integral, Real
from typing import Any

from analogtorch.devices.registry import registered
from analogtorch.values import checks
from analogtorch.values.sources import Sources

LATER = "later"
"""Key of the metadata of a field that came later than files and folders of earlier versions: its
default is not written, so that these read, and find, what they know."""


def written(value: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass that a file has: all but defaults that came later."""
    return [
        f
        for f in dataclasses.fields(value)
        if not (f.metadata.get(LATER) and getattr(value, f.name) == f.default)
    ]


def encode(value: Any, where: str) -> Any:
    """Return ``value`` as JSON-ready types.

    Args:
        value: a registered dataclass, or what one may hold.
        where: name of the value in messages, such as ``chip``.

    Raises:
        TypeError: a part has no form in a file: a curve that is a function, or a class that is not
            registered.
    """
    kind = type(value)
    if registered().get(kind.__name__) is kind:
        fields = {
            f.name: encode(getattr(value, f.name), f"{where}.{f.name}") for f in written(value)
        }
        return {"type": kind.__name__, **fields}
    if isinstance(value, Sources):
        return dict(value)
    if isinstance(value, tuple):
        return [encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
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


def decode(value: Any, where: str) -> Any:
    """Return the value that ``encode`` wrote.

    Raises:
        ValueError: a type is unknown, a field is unknown or missing, or refuses its value.
    """
    if isinstance(value, list):
        return tuple(decode(v, where) for v in value)
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
    needed = {f.name for f in dataclasses.fields(kind) if _needed(f)}
    if missing := sorted(needed - given.keys()):
        raise ValueError(
            f"{where}: {kind.__name__} lacks the field{'s' * (len(missing) > 1)} {missing}; fields "
            f"that it must have: {sorted(needed)}"
        )
    fields = {
        k: v if k == "sources" and isinstance(v, dict) else decode(v, f"{where}.{k}")
        for k, v in given.items()
    }
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _needed(field: dataclasses.Field[Any]) -> bool:
    """Return whether a dataclass cannot be made without the field."""
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing


def _kind(name: Any, where: str) -> type:
    kinds = registered()
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(
            f"{where}: unknown type {name!r}{checks.nearest(name, kinds)}; known: {sorted(kinds)}. "
            "Your own class is known once its module, which calls "
            "analogtorch.devices.register, is imported"
        )
    return kinds[name]
