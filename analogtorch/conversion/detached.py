"""Copies of models whose modules keep tensors with a history of gradients."""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def deep_copy(model: M) -> M:
    """Return a deep copy, also of what ``copy.deepcopy`` refuses; see ``detached``."""
    return copy.deepcopy(model, detached(model))


def detached(model: nn.Module) -> dict[int, Tensor]:
    """Return what a copy of a model holds in place of results that its modules keep, by ``id``.

    Pruning and the weight norm of ``torch.nn.utils`` keep a weight that is computed from
    Parameters, and compute it anew in each run; other modules keep outputs of their last run.
    """
    return results(map(vars, model.modules()))


def results(held: Iterable[dict[str, Any]]) -> dict[int, Tensor]:
    """Return copies of the tensors with a history in these, and in what they hold, by ``id``."""
    waiting: list[Any] = list(held)
    seen, found = set[int](), dict[int, Tensor]()
    while waiting:  # lists may hold themselves, and be deep
        group = waiting.pop()
        for item in group.values() if isinstance(group, dict) else group:
            if isinstance(item, Tensor) and not item.is_leaf and id(item) not in found:
                found[id(item)] = item.detach().clone()
            elif isinstance(item, dict | list | tuple) and id(item) not in seen:
                seen.add(id(item))
                waiting.append(item)
    return found
