"""What tells values from others without computing with them: functions by name or code."""

import contextlib
import dis
import enum
import functools
import inspect
import math
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import nn

from analogtorch.evaluate.batches import PLAIN, without_address
from analogtorch.evaluate.changed import unchanged


def described(value: Any, code: list[Any]) -> Any:
    """Return a setting as plain values: functions by name, and what has no form by its class.

    So are lists and mappings, which a metric may fill as it measures. The code of lambdas and local
    functions is appended to ``code``.
    """
    if isinstance(value, FunctionType):
        value = inspect.unwrap(value)  # or all that one decorator was given would be one
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, tuple):
        return [described(part, code) for part in value]
    if is_plain(value) and not isinstance(value, list):
        return value
    if isinstance(value, (*PLAIN, enum.Enum)):
        return without_address(repr(value))
    if isinstance(value, functools.partial):
        given = {
            "positional": described(value.args, code),
            "keywords": each_described(value.keywords, code),
        }
        return {"function": described(value.func, code), **given}
    if isinstance(value, FunctionType) and not is_named(value):
        defaults = [
            described(value.__defaults__, code),
            each_described(value.__kwdefaults__ or {}, code),
        ]
        enclosed = _enclosed(value)
        code.append([_code_of(value.__code__), defaults, *([enclosed] if enclosed else [])])
        return value.__name__
    if isinstance(value, MethodType) and not isinstance(value.__self__, type | nn.Module):
        return {"method": name_of(value), **_plain_attributes(value.__self__, value.__func__)}
    if has_settings(value):
        called = inspect.getattr_static(value, "__call__")
        return {"object": name_of(value), **_plain_attributes(value, called, lists=True)}
    return name_of(value) if callable(value) else name_of(type(value))


def has_settings(value: Any) -> bool:
    """Return whether a value is called by a method of its class, and has what that computes with.

    What the call itself changes, as it counts its calls, is none of it.
    """
    if isinstance(value, FunctionType | MethodType | functools.partial | type | nn.Module):
        return False
    called = inspect.getattr_static(value, "__call__", None)
    own = isinstance(called, FunctionType)
    return own and len(_plain_attributes(value, called, lists=True)) > 1


def is_plain(value: Any) -> bool:
    """Return whether a value is None, a number, a text, or a list or tuple of the last two."""
    if isinstance(value, tuple | list):
        return all(isinstance(part, bool | int | float | str) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def name_of(function: Any) -> str | None:
    """Return the name of a function with its module, to compare it with another; None for None.

    Of a ``functools.partial`` it is the name of its function; of another object that can be called,
    the name of its class, and its own ``__name__`` if it has one.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if function is None:
        return None
    if hasattr(function, "__qualname__"):
        owner = getattr(function, "__objclass__", None)  # of a method of a built-in class
        module = getattr(function, "__module__", getattr(owner, "__module__", ""))
        return f"{module}.{function.__qualname__}"
    own = getattr(function, "__name__", "")
    return f"{name_of(type(function))} {own}".rstrip()


def each_described(settings: Mapping[str, Any], code: list[Any]) -> dict[str, Any]:
    """Return what ``described`` gives of each value of a mapping with texts as keys."""
    return {name: described(value, code) for name, value in settings.items()}


def is_named(value: Any) -> bool:
    """Return whether a value is a function that its name tells from all others of its module.

    Those of this library are what its version has, as all else that measures. One of a notebook or
    script may be written anew under its name.
    """
    if not isinstance(value, FunctionType) or value.__module__ == "__main__":
        return False
    return "<" not in value.__qualname__ or value.__module__.partition(".")[0] == "analogtorch"


def fixed(value: Any) -> Any:
    """Return an option in a form that cannot change: a list as a tuple, a number as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(value) if isinstance(value, list) else value


def enclosed(function: FunctionType) -> dict[str, Any]:
    """Return what a function has from around it, by its names there, but for what it sets itself.

    It is of the function that encloses it and of its module. A function may count its calls.
    """
    steps = list(dis.get_instructions(function.__code__))
    own = {step.argval for step in steps if step.opname in ("STORE_DEREF", "STORE_GLOBAL")}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = {step.argval: function.__globals__.get(step.argval) for step in steps
            if step.opname == "LOAD_GLOBAL"}  # fmt: skip
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # it is not set yet
            held[name] = cell.cell_contents
    return {name: value for name, value in sorted(held.items()) if name not in own}


def _enclosed(function: FunctionType) -> dict[str, str]:
    """Return the plain values of ``enclosed`` in words."""
    return {
        name: without_address(repr(fixed(value)))
        for name, value in enclosed(function).items()
        if value is not None and _is_set(value)
    }


def _is_set(value: Any) -> bool:
    """Return whether a value is plain and cannot change, as a list can that a metric fills."""
    if isinstance(value, list):
        return False
    return is_plain(value) or isinstance(value, (*PLAIN, enum.Enum, np.generic))


def _plain_attributes(of: Any, called: Any, *, lists: bool = False) -> dict[str, Any]:
    """Return the class of an object, and its public attributes that are plain.

    Those that the method ``called`` changes are left out, and lists unless ``lists``: another
    method may fill them.
    """
    held = vars(of) if hasattr(of, "__dict__") else {}
    if isinstance(called, FunctionType):
        held = unchanged(called, held, of_self=True)
    if lists:
        held = {name: fixed(value) for name, value in held.items()}
    plain = {n: v for n, v in sorted(held.items()) if n[0] != "_" and _is_set(v)}
    return {"class": name_of(type(of)), **each_described(plain, [])}


def _code_of(code: CodeType) -> list[Any]:
    """Return what a function computes, without where it stands."""
    return [[step.opname, _argument(step.argval)] for step in dis.get_instructions(code)]


def _argument(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code_of(value)
    if isinstance(value, frozenset):  # in no order of its own
        return sorted(map(repr, value))
    return [_argument(part) for part in value] if isinstance(value, tuple) else repr(value)
