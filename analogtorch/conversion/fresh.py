"""Copies of batches and examples: a model may write into what it gets, in every run."""

import copy
import dataclasses
import functools
import sys
from collections import UserDict, deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from analogtorch.conversion.detached import deep_copy

T = TypeVar("T")


def fresh(given: T) -> T:
    """Return a copy of what a user gave, for one run of a model.

    The next run would get what the last one has left otherwise: pictures that are normalised in
    place again and again, mappings without the entries that were taken out, and caches of
    transformers with a longer context.

    Tensors, caches, mappings, tuples, lists and dataclasses are copied, and those in them; what is
    there twice is there twice in the copy. All else is the same object. A copy of a tensor that
    learns has a gradient of its own.
    """
    library = sys.modules.get("transformers.cache_utils")  # without it there is no cache
    copied: T = _fresh(given, () if library is None else library.Cache, {})
    return copied


def _fresh(given: Any, caches: type | tuple[type, ...], memo: dict[int, Any]) -> Any:
    """Return what ``fresh`` does.

    Args:
        given: the whole, or a part of it.
        caches: kinds that are copied with all that they hold.
        memo: what is done, by ``id``, as that of a deep copy.
    """
    if id(given) in memo:
        return memo[id(given)]
    memo.setdefault(id(memo), []).append(given)  # as deepcopy does: a lazy part is freed else
    if isinstance(given, caches):
        return deep_copy(given, memo)
    if isinstance(given, Tensor):
        memo[id(given)] = given.detach().clone().requires_grad_(given.requires_grad)
    elif isinstance(given, dict | UserDict | list | deque):
        copied = memo[id(given)] = copy.copy(given)  # first: it may hold itself
        parts = list(given.items() if isinstance(given, Mapping) else enumerate(given))
        for key, part in parts:
            if (own := _fresh(part, caches, memo)) is not part:
                copied[key] = own  # an output of transformers refuses update
    elif isinstance(given, Mapping):
        parts = list(given.items())
        copies = {key: _fresh(part, caches, memo) for key, part in parts}
        if isinstance(given, MappingProxyType):  # which cannot be copied
            return memo.setdefault(id(given), copies)
        memo.update((id(part), copies[key]) for key, part in parts)
        return deep_copy(given, memo)  # a shallow one may write into the one that was given
    elif isinstance(given, tuple):
        found = [_fresh(part, caches, memo) for part in given]
        if any(own is not part for own, part in zip(found, given, strict=True)):  # no shape
            make = getattr(given, "_make", functools.partial(tuple.__new__, type(given)))
            memo[id(given)] = make(found)
    elif dataclasses.is_dataclass(given) and not isinstance(given, type):
        twin = memo[id(given)] = copy.copy(given)
        for name in (field.name for field in dataclasses.fields(given)):
            if hasattr(given, name):  # a frozen one has no other way
                object.__setattr__(twin, name, _fresh(getattr(given, name), caches, memo))
    return memo.get(id(given), given)
