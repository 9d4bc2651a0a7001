"""The samples that a metric holds: tensors, and batches of them, that a function has from outside.

What a function fills as it measures is no sample of it, so that those of functions that change
anything are left out.
"""

import functools
import inspect
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from analogtorch.evaluate.batches import batches_digest
from analogtorch.evaluate.described import changes, enclosed, is_named


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
        yield from (*metric.args, *metric.keywords.values())
        yield from _held(metric.func, seen)
    elif isinstance(metric, FunctionType):
        metric = inspect.unwrap(metric)
        if isinstance(metric, FunctionType) and not is_named(metric) and not changes(metric):
            defaults = (*(metric.__defaults__ or ()), *(metric.__kwdefaults__ or {}).values())
            for value in (*enclosed(metric).values(), *defaults):
                yield value
                if isinstance(value, FunctionType | MethodType | functools.partial):
                    yield from _held(value, seen)
    else:
        method = isinstance(metric, MethodType)
        of = metric.__self__ if method else metric
        function = metric.__func__ if method else inspect.getattr_static(metric, "__call__", None)
        if isinstance(function, FunctionType) and not isinstance(of, type | nn.Module):
            yield from () if changes(function) else getattr(of, "__dict__", {}).values()


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
    """Return whether a value is a tensor or an array, or holds one in lists, tuples or mappings."""
    if isinstance(value, dict):
        return any(map(_has_numbers, value.values()))
    return isinstance(value, Tensor | np.ndarray) or (
        isinstance(value, list | tuple) and any(map(_has_numbers, value))
    )
