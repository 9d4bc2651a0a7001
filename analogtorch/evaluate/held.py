"""The samples that a metric holds: tensors, and batches of them, that a function has from outside.

What a function changes as it measures, such as a list that it fills, is no sample of it.
"""

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from analogtorch.calibration.batches import parts_of
from analogtorch.evaluate.batches import batches_digest
from analogtorch.evaluate.changed import unchanged
from analogtorch.evaluate.described import enclosed, is_named


def held_digest(metric: Any) -> str:
    """Return a digest of the samples that a metric holds; empty if there are none that are known.

    They are tensors and arrays, also in lists, tuples, mappings and loaders (``_loaded``): of a
    lambda, a local function or one of a notebook or script those from around it, of a
    ``functools.partial`` among its arguments, of another object among its attributes.
    """
    if isinstance(getattr(metric, "samples", None), str):  # one of at.metrics
        return _digest(metric) or ""
    found = [kept for value in _held(metric, set()) if (kept := _digest(value)) is not None]
    return batches_digest(found) if found else ""


def _loaded(batches: Any) -> Any:
    """Return the tensors that a ``DataLoader`` of a ``TensorDataset`` or a list loads, or of parts.

    Their order does not matter, so that it may shuffle them. Other batches are returned as they
    are.
    """
    return _dataset(batches.dataset) if type(batches) is DataLoader else batches


def _dataset(data: Any) -> Any:
    if type(data) is Subset:
        return [_dataset(data.dataset), list(data.indices)]
    return list(data.tensors) if type(data) is TensorDataset else data


def _held(metric: Any, seen: set[int]) -> Iterator[Any]:
    """Yield what a metric has from outside, and what functions among that have."""
    if metric is None or id(metric) in seen or isinstance(metric, type | nn.Module):
        return
    seen.add(id(metric))
    if isinstance(metric, functools.partial):
        yield from _given(metric)
        yield from _held(metric.func, seen)
    elif isinstance(metric, FunctionType):
        metric = inspect.unwrap(metric)
        if isinstance(metric, FunctionType) and not is_named(metric):
            for value in unchanged(metric, {**enclosed(metric), **_defaults(metric)}).values():
                yield value
                if isinstance(value, FunctionType | MethodType | functools.partial):
                    yield from _held(value, seen)
    else:
        method = isinstance(metric, MethodType)
        of = metric.__self__ if method else metric
        function = metric.__func__ if method else inspect.getattr_static(metric, "__call__", None)
        if isinstance(function, FunctionType) and not isinstance(of, type | nn.Module):
            yield from unchanged(function, getattr(of, "__dict__", {}), of_self=True).values()


def _given(partial: functools.partial[Any]) -> Iterable[Any]:
    """Return the arguments of a function that it does not change."""
    if isinstance(partial.func, FunctionType):
        with contextlib.suppress(TypeError):  # it does not take them, and says so when it is called
            given = inspect.signature(partial.func).bind_partial(*partial.args, **partial.keywords)
            return unchanged(partial.func, given.arguments).values()
    return (*partial.args, *partial.keywords.values())


def _defaults(function: FunctionType) -> dict[str, Any]:
    """Return the values of parameters that are not given, by their names."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _digest(value: Any) -> str | None:
    """Return a digest of a value that holds numbers; None: it holds none, or has no digest."""
    if isinstance(own := getattr(value, "samples", None), str):
        return own or _digest(getattr(value, "batches", None))
    value = _loaded(value)
    try:
        if not isinstance(value, nn.Parameter) and _has_numbers(value):
            return batches_digest([value])
    except (TypeError, RecursionError):  # other objects, or a list that holds itself
        pass
    return None


def _has_numbers(value: Any) -> bool:
    """Return whether a value is a tensor or an array, or holds one as batches do."""
    return isinstance(value, Tensor | np.ndarray) or any(map(_has_numbers, parts_of(value)))
