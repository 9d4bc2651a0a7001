"""Field docstrings, which Python throws away, as part of the docstring of their class.

``help(Chip)`` shows them. The texts are read from the source when somebody asks for them, so that
importing costs nothing.
"""

import ast
import dataclasses
import inspect
import textwrap
from types import ModuleType


class _Whole:
    """A docstring followed by a list of the fields."""

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
    """Make the docstring of every dataclass in ``rooms`` list its fields, types and defaults."""
    for room in rooms:
        for value in list(vars(room).values()):
            if not isinstance(value, type) or not dataclasses.is_dataclass(value):
                continue
            text = vars(value).get("__doc__")
            if value.__module__.startswith("analogtorch.") and isinstance(text, str):
                whole = _Whole(text)
                # pydoc finds a lazy text of classes only whose metaclass is type: not of a Mapping
                lazy = type(value) is type
                value.__doc__ = whole if lazy else whole.__get__(None, value)  # type: ignore[assignment]


def _fields(cls: type) -> list[str]:
    """Return one entry per field that ``cls`` itself defines, with its docstring.

    The list is empty where there is no source.
    """
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    except (OSError, TypeError):
        return []
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation)
            value = _default(node.value)
            default = "" if value is None else f" = {ast.unparse(value)}"
            entry = f"    {node.target.id} ({kind}{default}): {_text(after)}".rstrip()
            found.append(entry.replace("\n", "\n        "))
    return found


def _text(node: ast.stmt | None) -> str:
    """Return the text of a statement that is a string alone, else an empty text."""
    text = node.value if isinstance(node, ast.Expr) else None
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return inspect.cleandoc(text.value)
    return ""


def _default(value: ast.expr | None) -> ast.expr | None:
    """Return the default value of a field; None if it has none or a call makes it."""
    if isinstance(value, ast.Call):
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        return _default(given.get("default"))
    return value
