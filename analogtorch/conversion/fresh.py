"""Copies of batches and examples: a model may write into what it gets, in every run."""

import copy
import dataclasses
import functools
import sys
from collections import UserDict, deque
from collections.abc import Mapping, MutableMapping
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
    whole = (MutableMapping,) if library is None else (MutableMapping, library.Cache)
    copied: T = _fresh(given, whole, {})
    return copied


def _fresh(given: Any, whole: tuple[type, ...], memo: dict[int, Any]) -> Any:
    """Return what ``fresh`` does.

    Args:
        given: the whole, or a part of it.
        whole: kinds that are copied with all that they hold, if no other way is known.
        memo: what is done, by ``id``, as that of a deep copy.
    """
    if id(given) in memo:
        return memo[id(given)]
    memo.setdefault(id(memo), []).append(given)  # as deepcopy does: a lazy part is freed else
    if isinstance(given, Tensor):
        memo[id(given)] = given.detach().clone().requires_grad_(given.requires_grad)
    elif isinstance(given, dict | UserDict | list | deque):
        copied = memo[id(given)] = copy.copy(given)  # first: it may hold itself
        parts = list(given.items() if isinstance(given, Mapping) else enumerate(given))
        for key, part in parts:
            if (own := _fresh(part, whole, memo)) is not part:
                copied[key] = own  # an output of transformers refuses update
    elif isinstance(given, whole):
        return deep_copy(given, memo)
    elif isinstance(given, Mapping):  # nobody writes into it
        memo[id(given)] = {key: _fresh(part, whole, memo) for key, part in given.items()}
    elif isinstance(given, tuple):
        found = [_fresh(part, whole, memo) for part in given]
        if any(own is not part for own, part in zip(found, given, strict=True)):  # no shape
            make = getattr(given, "_make", functools.partial(tuple.__new__, type(given)))
            memo[id(given)] = make(found)
    elif dataclasses.is_dataclass(given) and not isinstance(given, type):
        twin = memo[id(given)] = copy.copy(given)
        for name in (field.name for field in dataclasses.fields(given)):
            if hasattr(given, name):  # a frozen one has no other way
                object.__setattr__(twin, name, _fresh(getattr(given, name), whole, memo))
    return memo.get(id(given), given)
