"""Caches of transformers in batches and examples, to which a model appends as it runs."""

import copy
import sys
from collections import UserDict
from collections.abc import Mapping
from typing import Any, TypeVar

from analogtorch.conversion.detached import deep_copy

T = TypeVar("T")


def fresh(given: T) -> T:
    """Return what a user gave for one run of a model, with a copy of each cache of transformers.

    The next run would see a longer context otherwise, which the last one has filled. Caches are
    copied where they are in mappings, tuples and lists, with the containers around them. All else
    is the same object, and so is what holds no cache.
    """
    library = sys.modules.get("transformers.cache_utils")  # without it there is no cache
    return given if library is None else _fresh(given, library.Cache, {})


def _fresh(given: Any, kind: type, memo: dict[int, Any]) -> Any:
    """Return what ``fresh`` does; ``memo`` has what is done, by ``id``, as that of a deep copy."""
    if isinstance(given, kind):
        return deep_copy(given, memo)
    if not isinstance(given, (tuple, list, Mapping)):  # a union is slow, and lists may be long
        return given
    if id(given) in memo:
        return memo[id(given)]
    memo[id(given)] = given  # it may hold itself
    entries = dict(given.items() if isinstance(given, Mapping) else enumerate(given))
    found = {key: _fresh(part, kind, memo) for key, part in entries.items()}
    changed = {key: part for key, part in found.items() if part is not entries[key]}
    if changed:
        memo[id(given)] = _replaced(given, found, changed)
    return memo[id(given)]


def _replaced(given: Any, found: dict[Any, Any], changed: dict[Any, Any]) -> Any:
    """Return a container with the parts ``found``, of which some have ``changed``."""
    if isinstance(given, dict | UserDict | list):
        copied = copy.copy(given)
        for key, part in changed.items():  # an output of transformers refuses update
            copied[key] = part
        return copied
    if isinstance(given, Mapping):  # its copy may write into the one that was given
        return found
    if hasattr(given, "_make"):
        return given._make(found.values())
    return tuple.__new__(type(given), found.values())
