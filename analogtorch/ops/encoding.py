"""Frozen dataclasses of numbers as integers and floats for an operator, and back.

The fields keep their order: an ``int`` and a ``float`` as they are, a ``tuple[int, ...]`` after its
length, a tuple of a fixed number of floats and a nested dataclass by their parts.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias, get_args, get_type_hints

Ints: TypeAlias = tuple[int, ...]
Floats: TypeAlias = tuple[float, ...]


def encode(record: Any) -> tuple[Ints, Floats]:
    """Return the integers and the floats of ``record``."""
    ints: list[int] = []
    floats: list[float] = []
    kind_of_record: Any = type(record)
    for name, kind in _fields(kind_of_record):
        value = getattr(record, name)
        if is_dataclass(kind):
            more, rest = encode(value)
            ints += more
            floats += rest
        elif kind is int:
            ints.append(value)
        elif kind is float:
            floats.append(value)
        elif ... in get_args(kind):
            ints += (len(value), *value)
        else:
            floats += value
    return tuple(ints), tuple(floats)


def decode(kind: Any, ints: Ints, floats: Floats) -> Any:
    """Return the record of this ``kind`` for which ``encode`` returned these numbers.

    Raises:
        ValueError: no record has these numbers.
    """
    try:
        record = _decoded(kind, iter(ints), iter(floats))
        example = f", such as {record}"
    except (StopIteration, ValueError) as error:
        record, example = None, f": {error}"
    if record is None or encode(record) != (ints, floats):
        raise ValueError(
            f"ints {ints} and floats {floats} are not those of a {kind.__name__}{example}"
        )
    return record


def _decoded(kind: Any, ints: Iterator[int], floats: Iterator[float]) -> Any:
    found: dict[str, Any] = {}
    for name, part in _fields(kind):
        if is_dataclass(part):
            found[name] = _decoded(part, ints, floats)
        elif part is int:
            found[name] = next(ints)
        elif part is float:
            found[name] = next(floats)
        elif ... in get_args(part):
            found[name] = tuple([next(ints) for _ in range(next(ints))])
        else:
            found[name] = tuple([next(floats) for _ in get_args(part)])
    return kind(**found)


@cache
def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind) if field.init)
