"""An extension of Griffe, which reads the docstrings for the API reference."""

import re
from collections.abc import Iterator
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Shows the section ``Example:`` as code, and functions named like their module."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename ``Example:``, which Griffe takes for a remark, to ``Examples:``."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Let ``at.sweep`` be the function, although a module ``sweep`` holds it.

        Likewise in all rooms, such as ``at.chips.hermes64``.
        """
        loader.resolve_aliases(implicit=True, external=False)
        for room, name, function in list(_functions(pkg)):
            room.members[name] = griffe.Alias(name, function, parent=room)


def _functions(room: griffe.Module) -> Iterator[tuple[griffe.Module, str, griffe.Object]]:
    """Yield the functions that are named like their module, with the room that shows them."""
    for name, member in room.members.items():
        try:
            found = member.final_target if member.is_alias else member
        except griffe.AliasResolutionError:
            continue
        if not found.is_module:
            continue
        own = found.members.get(name)
        if own is not None and not own.is_alias and own.is_function:
            yield room, name, own
        if not member.is_alias:
            yield from _functions(found)
