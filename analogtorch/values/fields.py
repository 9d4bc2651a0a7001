"""The docstrings of fields, which Python throws away, as part of their class's own: what
``help(Chip)`` shows.

The texts are read from the source when somebody asks for them, so that importing costs nothing.
"""

import ast
import dataclasses
import inspect
import textwrap
from types import ModuleType


class _Whole:
    """A docstring with a list of the fields behind it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, instance: object, owner: type) -> str:
        lines = [
            line
            for cls in reversed(owner.__mro__)
            if dataclasses.is_dataclass(cls)
            for line in _fields(cls)
        ]
        text = inspect.cleandoc(self.text)
        return "\n".join([text, "", "Attributes:", *lines]) if lines else text


def describe_fields(*rooms: ModuleType) -> None:
    """Let the docstring of every dataclass that the rooms name list the fields, with their types
    and defaults.
    """
    for room in rooms:
        for value in list(vars(room).values()):
            if not isinstance(value, type) or not dataclasses.is_dataclass(value):
                continue
            text = vars(value).get("__doc__")
            if value.__module__.startswith("analogtorch.") and isinstance(text, str):
                value.__doc__ = _Whole(text)  # type: ignore[assignment]


def _fields(cls: type) -> list[str]:
    """The fields that a class itself defines, each with its docstring; nothing where there is no
    source.
    """
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError):
        return []
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation)
            plain = node.value is not None and not (isinstance(node.value, ast.Call))
            default = f" = {ast.unparse(node.value)}" if plain and node.value is not None else ""
            text = after.value if isinstance(after, ast.Expr) else None
            doc = (
                inspect.cleandoc(text.value)
                if isinstance(text, ast.Constant) and isinstance(text.value, str)
                else ""
            )
            found.append(
                f"    {node.target.id} ({kind}{default}): {doc}".rstrip().replace(
                    "\n", "\n        "
                )
            )
    return found
