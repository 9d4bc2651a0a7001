"""What a function changes of what it has from outside, as its source says."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor

_METHODS = ("append", "extend", "insert", "add", "update", "clear", "pop", "remove", "setdefault")
"""Methods that change lists, sets and mappings; tensors have some that change nothing."""

Place = tuple[str, ...]
"""A name, and the attributes that lead from it to what is changed, outermost first."""


def unchanged(
    function: FunctionType, held: Mapping[str, Any], *, of_self: bool = False
) -> dict[str, Any]:
    """Return those of the values ``held`` that a function does not change.

    What it sets is changed, an item or an attribute of it too, and what a method changes, such as
    ``append``, or one of torch whose name ends in ``_``. What it changes by another name or another
    function is not seen, nor anything without a source, as of ``exec``.

    Args:
        function: a function or, with ``of_self``, of a method.
        held: by its names there; with ``of_self`` the attributes of its first parameter.
        of_self: see ``held``.
    """
    own = next(iter(function.__code__.co_varnames), "") if of_self else None
    changes = [
        (place[of_self], method)
        for place, method in _changes(function)
        if len(place) > of_self and own in (None, place[0])
    ]
    return {
        name: value
        for name, value in held.items()
        if not any(name == at and _is_of(value, method) for at, method in changes)
    }


def _is_of(value: Any, method: str | None) -> bool:
    """Return whether a method, or setting an item or an attribute (None), changes a value."""
    return method not in _METHODS or not isinstance(value, Tensor | np.ndarray)


def _changes(function: FunctionType) -> Iterator[tuple[Place, str | None]]:
    """Yield the places that a function changes, and the method that does; None: it sets them.

    Names that it sets are its own, or become so, and are left out.
    """
    nodes = [node for tree in _trees(function) for node in ast.walk(tree)]
    is_set = (ast.Store, ast.Del)
    own = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, is_set)}
    for node in nodes:
        place, method = None, None
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, is_set):
            place = _place(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method = node.func.attr
            if method in _METHODS or (method.endswith("_") and not method.startswith("_")):
                place = _place(node.func.value)
        if place is not None and place[0] not in own:
            yield place, method


def _trees(function: FunctionType) -> list[ast.AST]:
    """Return the source of a function; that of a lambda with all others of its statement."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # of exec, or a lambda in the midst of a statement
        return []
    if function.__name__ != "<lambda>":
        return [tree]
    return [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]


def _place(node: ast.AST) -> Place | None:
    """Return the place of a value, up to its first item; None: it is what an expression gives."""
    found: Place = ()
    while isinstance(node, ast.Attribute | ast.Subscript):
        found = (node.attr, *found) if isinstance(node, ast.Attribute) else ()
        node = node.value
    return (node.id, *found) if isinstance(node, ast.Name) else None
