"""What a folder knows metrics and other functions by, so that it never mixes up two of them."""

import functools
import json
import sys
from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from analogtorch.evaluate.described import (
    described,
    each_described,
    fixed,
    has_settings,
    is_named,
    is_plain,
    name_of,
)
from analogtorch.evaluate.held import held_digest
from analogtorch.evaluate.identity import public, short_digest
from analogtorch.evaluate.metric import title
from analogtorch.evaluate.task_metric import TaskMetric
from analogtorch.values import checks

_SETTINGS, _HELD = "metric settings", "held samples"
KEPT = ("metric", "samples", _HELD, _SETTINGS, "metric code")
"""What a head has of a metric; those that an earlier version wrote lack some of it."""
KEPT_OF_FORWARD = ("forward settings", "forward code")
"""What a head has of a ``forward`` beside its name; earlier versions did not keep it."""
_PYTHON = sys.implementation.cache_tag or sys.version.split()[0]
"""The version of Python, as names of compiled files have it: it decides what code compiles to."""
_LONGEST = 2000
"""Characters of settings that a head has as they are."""


def kept_of(metric: Any) -> dict[str, Any]:
    """Return what a folder keeps of a metric, as JSON gives it back; None is no metric.

    Beside its name and its samples, its own or those that it holds (``held_digest``), empty if they
    are not known, these are settings: the function of a ``functools.partial`` and its arguments,
    those that are plain and cannot change, the class of an object without a name, with plain
    attributes that of a bound method, or of an object that can be called, but for those which it
    changes itself (``unchanged``), and what a metric of ``at.metrics`` was given. Of lambdas, local
    functions and those of notebooks and scripts (``__main__``), among the settings too, it is the
    code, below decorators, with plain values from around it, which has the version of Python before
    it: only code of one version can be compared.

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
    held = "" if samples else held_digest(metric)
    return {
        "metric": title(metric),
        "samples": samples,
        _HELD: held,
        **_kept("metric", settings, code),
    }


def forward_of(forward: Any) -> dict[str, Any]:
    """Return what a folder keeps of a function that runs the model; None is no function.

    Beside its name it is what ``kept_of`` keeps of a metric that is no named function.
    """
    code: list[Any] = []
    settings = None if is_named(forward) else described(forward, code)
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
        return {n: fixed(part[n]) for part in parts for n in sorted(part) if n[0] != "_"}
    return {
        f"{name}.{option}".lstrip("."): fixed(value)
        for name, module in metric.named_modules()
        for option, value in public(module)
        if is_plain(fixed(value)) and option not in getattr(module, "_defaults", ())
    }


def _settings(metric: Any, code: list[Any]) -> Any:
    """Return what tells a metric from others of its name, as plain values; None: nothing."""
    if isinstance(metric, TaskMetric):
        return each_described({"forward": metric.forward, **metric.settings}, code)
    kinds = FunctionType | MethodType | functools.partial
    recorded = isinstance(metric, kinds) or not title(metric) or has_settings(metric)
    return described(metric, code) if recorded and not is_named(metric) else None
