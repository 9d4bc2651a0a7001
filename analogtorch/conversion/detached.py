"""Copies of models whose modules keep tensors with a history of gradients."""

import copy
from typing import TypeVar

from torch import Tensor, nn

from analogtorch.conversion.weights import tensors

M = TypeVar("M", bound=nn.Module)


def deep_copy(model: M) -> M:
    """Return a deep copy, also of what ``copy.deepcopy`` refuses; see ``detached``."""
    return copy.deepcopy(model, detached(model))


def detached(model: nn.Module) -> dict[int, Tensor]:
    """Return what a copy of a model holds in place of results that its modules keep, by ``id``.

    Pruning and the weight norm of ``torch.nn.utils`` keep a weight that is computed from
    Parameters, and compute it anew in each run; other modules keep outputs of their last run.
    """
    kept = (t for module in model.modules() for t in tensors(vars(module)))
    return {id(t): t.detach().clone() for t in kept if not t.is_leaf}
