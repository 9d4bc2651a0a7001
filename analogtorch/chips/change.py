"""Changes of the fields of a chip's parts."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from analogtorch.values import checks

Part = TypeVar("Part")


def changed(part: Part, changes: Mapping[str, Any], where: str) -> Part:
    """Return the part with other fields.

    A field that gets another value loses its source, unless ``sources`` gives a new one.

    Args:
        part: a frozen dataclass.
        changes: new values by field. A field that holds a frozen dataclass takes a whole one, or a
            mapping of the fields to change in it. ``sources`` are added to those that stay.
        where: name of the part in messages, such as ``chip.adc``.

    Returns:
        The new part.

    Raises:
        ValueError: it has no such field, where the nearest one is named, or refuses the value.
    """
    known = [field.name for field in dataclasses.fields(part)]  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise ValueError(
                f"{where}: {type(part).__name__} has no field {name!r}"
                f"{checks.nearest(name, known)}; fields: {known}"
            )
    new = {
        name: new_value(getattr(part, name), value, f"{where}.{name}")
        for name, value in changes.items()
        if name != "sources"
    }
    if "sources" in known:
        sources = getattr(part, "sources")  # noqa: B009 - not every part has them
        kept = {
            name: text
            for name, text in sources.items()
            if name not in new or new[name] == getattr(part, name)
        }
        new["sources"] = {**kept, **_texts(changes.get("sources", {}), where)}
    return dataclasses.replace(part, **new)  # type: ignore[type-var]


def new_value(old: Any, given: Any, where: str) -> Any:
    """Return the new value of a field: ``given``, or ``old`` with the fields of a mapping."""
    if not isinstance(given, Mapping):
        return given
    if not dataclasses.is_dataclass(old):
        raise ValueError(
            f"{where} is {checks.shown(old)}, which has no fields to change; give it whole, got "
            f"{checks.shown(given)}"
        )
    return changed(old, given, where)


def _texts(given: Any, where: str) -> Mapping[str, str]:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{where}.sources must be Sources(field='text', ...), got {checks.shown(given)}"
        )
    return given
