"""How many different numbers a tensor holds that is computed from weights alone.

Copies count once, as the weights of a convolution do. A bank of filters ``torch.cos(f * n)``, of 64
frequencies and 400 times, has 25,600.
"""

import math
from typing import Any

import torch
from torch import Tensor

from analogtorch.conversion.weights import Storage, is_product, operator_name, storage, tensors


class Amounts:
    """Amounts of numbers, by storage."""

    def __init__(self) -> None:
        self._of: dict[Storage, int] = {}

    def of(self, t: Tensor) -> int:
        """Return how many different numbers ``t`` holds, at most."""
        own = math.prod(size for d, size in enumerate(t.shape) if _varies(t, d))
        return min(own, self._of.get(storage(t), own))

    def add(self, func: Any, weights: list[Tensor], others: list[Tensor], result: Any) -> None:
        """Add what an operator computed from weights.

        Args:
            func: the operator.
            weights: the tensors that it reads which are weights or computed from them.
            others: the other constants that it reads, such as ``torch.arange(400)``.
            result: what it returned.
        """
        for t in tensors(result):
            if is_product(operator_name(func)):
                new = t.numel()
            elif torch.Tag.pointwise in func.tags:
                new = _combinations(t, [*weights, *others])
            else:
                new = self._moved(weights)
            key = storage(t)
            # what is written part by part, such as filters one by one, adds up
            self._of[key] = min(_size(t), self._of.get(key, 0) + new)

    def _moved(self, read: list[Tensor]) -> int:
        amounts: dict[Storage, int] = {}
        for t in read:
            key, amount = storage(t), self.of(t)
            amounts[key] = min(amounts.get(key, 0) + amount, self._of.get(key, _size(t)))
        return sum(amounts.values())


def _combinations(result: Tensor, read: list[Tensor]) -> int:
    """Return the size of a result computed number by number, without dimensions of copies."""
    return math.prod(
        size
        for d, size in zip(range(-result.dim(), 0), result.shape, strict=True)
        if any(t.dim() >= -d and t.shape[d] != 1 and _varies(t, d) for t in read)
    )


def _varies(t: Tensor, d: int) -> bool:
    """Return whether a dimension is no expanded one, which repeats the same numbers."""
    return t.layout is not torch.strided or t.is_nested or t.stride(d) != 0


def _size(t: Tensor) -> int:
    """Return how many numbers its storage holds."""
    if isinstance(storage(t), int):
        return t.numel()
    return t.untyped_storage().nbytes() // t.element_size()
