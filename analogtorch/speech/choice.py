"""The choice of a network or front end: one of the package by its name, or code of yours."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from analogtorch.files import is_code, load_code
from analogtorch.values import checks

Maker = Callable[..., Any]


def maker(field: str, name: str, known: Mapping[str, Maker]) -> Maker:
    """Return the class or function called ``name``, to be called with options.

    Args:
        field: the field that holds the name, for messages, such as ``model.name``.
        name: a key of ``known``, or code as ``load_code`` takes it, which is imported.
        known: what the package has.

    Raises:
        ValueError: there is nothing of that name, or it is no class or function.
        FileNotFoundError: there is no such file.
        ImportError: the module is not installed.
    """
    if not is_code(name):
        if name not in known:
            raise ValueError(
                f"{field}={name!r} is unknown; use {', '.join(known)}, or code of yours such as "
                f"my_net.py:Net or my_package.nets:Net{checks.nearest(name, known)}"
            )
        return known[name]
    found = load_code(name, where=field)
    if isinstance(found, nn.Module) or not callable(found):
        raise ValueError(
            f"{field}={name!r} is an object of type {type(found).__name__}; name a class, or a "
            "function that returns a module"
        )
    return found


def settled(field: str, make: Maker, options: Any, *, given: tuple[str, ...]) -> dict[str, Any]:
    """Return the options as JSON would give them, after a check of their names.

    Args:
        field: the field that holds them, for messages, such as ``model.options``.
        make: what they are for.
        options: arguments of ``make`` by name.
        given: names of arguments that are no options, as the caller gives them.

    Raises:
        ValueError: ``make`` has no such argument or needs another one, or a value is no plain one.
    """
    try:
        plain = json.loads(json.dumps(options))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field} must hold numbers, texts and lists: {error}") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{field} must be names and values, got {checks.shown(options)}")
    wanted = arguments(make)
    free = {name for name in wanted if name not in given}
    if not takes_any(make) and (wrong := [name for name in plain if name not in free]):
        raise ValueError(
            f"{field} has {wrong[0]!r}; {_name(make)} takes "
            f"{', '.join(sorted(free)) or 'no options'}{checks.nearest(wrong[0], free)}"
        )
    absent = [n for n, p in wanted.items() if p.default is p.empty and n not in (*plain, *given)]
    if absent:
        raise ValueError(f"{field} lacks {absent[0]!r}, which {_name(make)} needs")
    return plain


def arguments(make: Maker) -> dict[str, inspect.Parameter]:
    """Return the arguments of ``make`` that can be given by name."""
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = inspect.signature(make).parameters
    return {name: p for name, p in parameters.items() if p.kind in kinds}


def takes_any(make: Maker) -> bool:
    """Return whether ``make`` takes arguments of any name, as ``**options`` does."""
    kinds = (p.kind for p in inspect.signature(make).parameters.values())
    return inspect.Parameter.VAR_KEYWORD in kinds


def stated(make: Maker, options: dict[str, Any], given: tuple[str, ...]) -> dict[str, Any]:
    """Return ``options`` with the default of each option that is not given."""
    defaults = {n: p.default for n, p in arguments(make).items() if n not in given}
    return json.loads(json.dumps(defaults | options))


def _name(make: Maker) -> str:
    return getattr(make, "__name__", str(make))
