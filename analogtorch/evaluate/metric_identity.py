"""What a folder knows metrics and other functions by, so that it never mixes up two of them."""

import contextlib
import dis
import enum
import functools
import inspect
import json
import math
import sys
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import nn

from analogtorch.evaluate.batches import PLAIN, without_address
from analogtorch.evaluate.identity import is_plain, name_of, public, short_digest
from analogtorch.evaluate.metric import title
from analogtorch.evaluate.task_metric import TaskMetric
from analogtorch.values import checks

_SETTINGS = "metric settings"
KEPT = ("metric", "samples", _SETTINGS, "metric code")
"""What a head has of a metric; those that an earlier version wrote lack some of it."""
KEPT_OF_FORWARD = ("forward settings", "forward code")
"""What a head has of a ``forward`` beside its name; earlier versions did not keep it."""
_PYTHON = sys.implementation.cache_tag or sys.version.split()[0]
"""The version of Python, as names of compiled files have it: it decides what code compiles to."""
_LONGEST = 2000
"""Characters of settings that a head has as they are."""


def kept_of(metric: Any) -> dict[str, Any]:
    """Return what a folder keeps of a metric, as JSON gives it back; None is no metric.

    Beside its name and its samples, empty if they are not known, these are settings: the function
    of a ``functools.partial`` and its arguments, those that are plain and cannot change, the class
    of an object without a name, with plain attributes that of a bound method, and what a metric of
    ``at.metrics`` was given. Of lambdas, local functions and those of notebooks and scripts
    (``__main__``), among the settings too, it is the code, below decorators, with plain values from
    around it, which has the version of Python before it: only code of one version can be compared.

    Raises:
        TypeError: the samples are no text.
    """
    samples = getattr(metric, "samples", "")
    if not isinstance(samples, str):
        raise TypeError(
            "samples of the metric must be a text that tells them from others, such as a digest, "
            f"got {checks.shown(samples)}"
        )
    code: list[Any] = []
    settings = _settings(metric, code)
    return {"metric": title(metric), "samples": samples, **_kept("metric", settings, code)}


def forward_of(forward: Any) -> dict[str, Any]:
    """Return what a folder keeps of a function that runs the model; None is no function.

    Beside its name it is what ``kept_of`` keeps of a metric that is no named function.
    """
    code: list[Any] = []
    settings = None if _is_named(forward) else _described(forward, code)
    return {"forward": name_of(forward), **_kept("forward", settings, code)}


def _kept(of: str, settings: Any, code: list[Any]) -> dict[str, Any]:
    """Return settings, long ones by their digest, and the digest of the code."""
    text = json.dumps(settings)
    return {
        f"{of} settings": settings if len(text) <= _LONGEST else short_digest(text),
        f"{of} code": f"{_PYTHON} {short_digest(json.dumps(code))}" if code else None,
    }


def in_present_form(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a folder has ``kept`` of a metric or a ``forward`` in the form of ``wanted``.

    That has the code of ``wanted`` if another Python wrote it.
    """
    found = dict(kept)
    if _SETTINGS in found:  # of a version that left samples out where they were not known
        found.setdefault("samples", "")
    for name in ("metric code", "forward code"):
        was, now = found.get(name), wanted.get(name)
        if isinstance(was, str) and isinstance(now, str) and was.split()[:1] != now.split()[:1]:
            found[name] = now
    return found


def options_of(metric: Any) -> dict[str, Any]:
    """Return the options of a metric with ``reset``, which has just been called.

    They are its public attributes; of one of torchmetrics the plain ones, without what it counts.
    """
    if not isinstance(metric, nn.Module):
        state = object.__getstate__(metric)  # those in slots, too
        parts = [part for part in (state if isinstance(state, tuple) else (state,)) if part]
        return {n: _fixed(part[n]) for part in parts for n in sorted(part) if n[0] != "_"}
    return {
        f"{name}.{option}".lstrip("."): _fixed(value)
        for name, module in metric.named_modules()
        for option, value in public(module)
        if is_plain(_fixed(value)) and option not in getattr(module, "_defaults", ())
    }


def _fixed(value: Any) -> Any:
    """Return an option in a form that cannot change: a list as a tuple, a number as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(value) if isinstance(value, list) else value


def _settings(metric: Any, code: list[Any]) -> Any:
    """Return what tells a metric from others of its name, as plain values; None: nothing."""
    if isinstance(metric, TaskMetric):
        return _each({"forward": metric.forward, **metric.settings}, code)
    kinds = FunctionType | MethodType | functools.partial
    recorded = isinstance(metric, kinds) or not title(metric)
    return _described(metric, code) if recorded and not _is_named(metric) else None


def _described(value: Any, code: list[Any]) -> Any:
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
        return [_described(part, code) for part in value]
    if is_plain(value) and not isinstance(value, list):
        return value
    if isinstance(value, (*PLAIN, enum.Enum)):
        return without_address(repr(value))
    if isinstance(value, functools.partial):
        given = {
            "positional": _described(value.args, code),
            "keywords": _each(value.keywords, code),
        }
        return {"function": _described(value.func, code), **given}
    if isinstance(value, FunctionType) and not _is_named(value):
        defaults = [_described(value.__defaults__, code), _each(value.__kwdefaults__ or {}, code)]
        enclosed = _enclosed(value)
        code.append([_code_of(value.__code__), defaults, *([enclosed] if enclosed else [])])
        return value.__name__
    if isinstance(value, MethodType) and not isinstance(value.__self__, type | nn.Module):
        return {"method": name_of(value), **_plain_attributes(value.__self__)}
    return name_of(value) if callable(value) else name_of(type(value))


def _enclosed(function: FunctionType) -> dict[str, Any]:
    """Return plain values that a function has from around it, by their names there.

    They are those of the function that encloses it and of its module, but for what it sets itself,
    as it may count its calls.
    """
    steps = list(dis.get_instructions(function.__code__))
    own = {step.argval for step in steps if step.opname in ("STORE_DEREF", "STORE_GLOBAL")}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = {step.argval: function.__globals__.get(step.argval) for step in steps
            if step.opname == "LOAD_GLOBAL"}  # fmt: skip
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # it is not set yet
            held[name] = cell.cell_contents
    return {
        name: without_address(repr(_fixed(value)))
        for name, value in sorted(held.items())
        if name not in own and value is not None and _is_set(value)
    }


def _is_set(value: Any) -> bool:
    """Return whether a value is plain and cannot change, as a list can that a metric fills."""
    if isinstance(value, list):
        return False
    return is_plain(value) or isinstance(value, (*PLAIN, enum.Enum, np.generic))


def _plain_attributes(of: Any) -> dict[str, Any]:
    """Return the class of an object, and its public attributes that are plain and no lists."""
    held = vars(of) if hasattr(of, "__dict__") else {}
    plain = {n: v for n, v in sorted(held.items()) if n[0] != "_" and _is_set(v)}
    return {"class": name_of(type(of)), **_each(plain, [])}


def _each(settings: Mapping[str, Any], code: list[Any]) -> dict[str, Any]:
    return {name: _described(value, code) for name, value in settings.items()}


def _is_named(value: Any) -> bool:
    """Return whether a value is a function that its name tells from all others of its module.

    Those of this library are what its version has, as all else that measures. One of a notebook or
    script may be written anew under its name.
    """
    if not isinstance(value, FunctionType) or value.__module__ == "__main__":
        return False
    return "<" not in value.__qualname__ or value.__module__.partition(".")[0] == "analogtorch"


def _code_of(code: CodeType) -> list[Any]:
    """Return what a function computes, without where it stands."""
    return [[step.opname, _argument(step.argval)] for step in dis.get_instructions(code)]


def _argument(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _code_of(value)
    if isinstance(value, frozenset):  # in no order of its own
        return sorted(map(repr, value))
    return [_argument(part) for part in value] if isinstance(value, tuple) else repr(value)
