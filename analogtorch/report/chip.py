"""A chip as text: every field with its value and its source."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from analogtorch.chips import Chip, Figure
from analogtorch.devices import Device
from analogtorch.values.shown import as_text

Row = tuple[str, str, str]
"""Name of a field with that of its part, value and source."""


@as_text.register
def table(chip: Chip) -> str:
    """Return the chip for a terminal: its fields part by part, with values and sources."""
    return described(chip)


def described(chip: Any) -> str:
    """Return ``table`` of any frozen dataclass of parts with sources."""
    rows = [("field", "value", "source"), *_rows(chip, "")]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(
        f"{name:<{width}}  {value:<20}  {source}".rstrip() for name, value, source in rows
    )


def _rows(part: Any, where: str) -> Iterator[Row]:
    sources = getattr(part, "sources", {})
    for field in fields(part):
        name, value = f"{where}{field.name}", getattr(part, field.name)
        source = " ".join(sources.get(field.name, "").split())
        if field.name == "sources":
            continue
        if isinstance(value, Figure):
            yield name, f"{value.value:.4g} ({value.kind})", value.source
        elif isinstance(value, Device):
            yield name, value.name, source
        elif is_dataclass(value):
            if source:
                yield name, "", source
            yield from _rows(value, f"{name}.")
        elif not (isinstance(value, tuple) and any(map(is_dataclass, value))):
            yield name, _value(value), source
        else:
            for number, each in enumerate(value):
                yield from _rows(each, f"{name}[{number}].")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
