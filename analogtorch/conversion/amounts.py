"""How many different numbers a tensor holds that is computed from weights alone.

Copies count once, as the weights of a convolution do. A bank of filters ``torch.cos(f * n)``, of 64
frequencies and 400 times, has 25,600.
"""

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.conversion.weights import Storage, is_product, operator_name, storage, tensors

_DISTANCES = frozenset({"_cdist_forward", "_euclidean_dist"})
"""Operators that compute a number from each pair of rows, and are no products."""
_SCALINGS = frozenset({"mul", "div", "neg", "_to_copy", "clone", "copy"})
"""Operators of one tensor whose results are its numbers, but for a factor that all have."""


class Part(NamedTuple):
    """Numbers that an operator made, or that a weight holds, wherever they are copied to."""

    key: Storage | tuple[int]
    amount: int
    how: frozenset[str] = frozenset()
    """Names of the operators that they went through, but for those that copy or scale."""
    repeats: bool = False
    """Whether they are computed from copies, and so may be copies of each other."""


class Amounts:
    """Amounts of numbers, by storage."""

    def __init__(self) -> None:
        self._parts: dict[Storage, set[Part]] = {}
        self._keys = itertools.count()

    def of(self, t: Tensor) -> int:
        """Return how many different numbers ``t`` holds, at most."""
        own = _without_expanded(t).numel()
        if self._repeats(t):
            own = min(own, _without_copies(t))
        return min(own, self.whole(t))

    def whole(self, t: Tensor) -> int:
        """Return how many the storage of ``t`` holds, at most, whichever of them ``t`` shows."""
        return sum(part.amount for part in self._of(t))

    def how(self, t: Tensor) -> frozenset[str]:
        """Return the names of the operators that computed ``t``, in any order."""
        return frozenset().union(*(part.how for part in self._of(t)))

    def add(self, func: Any, weights: list[Tensor], others: list[Tensor], result: Any) -> None:
        """Add what an operator computed from weights.

        Args:
            func: the operator.
            weights: the tensors that it reads which are weights or computed from them.
            others: the other constants that it reads, such as ``torch.arange(400)``.
            result: what it returned.
        """
        name, pointwise = operator_name(func), torch.Tag.pointwise in func.tags
        read = [*weights, *(t for t in others if not _is_mask(t))]
        for t in tensors(result):
            key = storage(t)
            held = self._parts.get(key, set())
            changed = [t] if held and pointwise else []  # in place
            operands = [*read, *changed]
            if len(operands) == 1 and name in _SCALINGS:
                new = self._of(operands[0])
            elif pointwise or is_product(name) or name in _DISTANCES:
                new = {self._computed(name, operands, t, bounded=not is_product(name))}
            else:
                new = set().union(*map(self._of, weights))
            # what is written part by part, such as filters one by one, adds up
            self._parts[key] = self._limited(held | new, t)

    def _computed(self, name: str, operands: list[Tensor], result: Tensor, bounded: bool) -> Part:
        repeats = any(map(self._repeats, operands))
        amount = _without_copies(result) if repeats else result.numel()
        if bounded:  # a number for each combination of theirs, and no sum over several
            amount = min(amount, math.prod(map(self.of, operands)))
        how = frozenset({name}).union(*map(self.how, operands))
        return Part((next(self._keys),), amount, how, repeats)

    def _limited(self, parts: set[Part], t: Tensor) -> set[Part]:
        """Return parts as one if a storage cannot hold them all: some have been overwritten."""
        size = _size(t)
        if len(parts) == 1 or sum(part.amount for part in parts) <= size:
            return parts
        how = frozenset().union(*(part.how for part in parts))
        return {Part((next(self._keys),), size, how, any(part.repeats for part in parts))}

    def _of(self, t: Tensor) -> set[Part]:
        key = storage(t)
        return self._parts.get(key) or {Part(key, _size(t))}

    def _repeats(self, t: Tensor) -> bool:
        """Return whether ``t`` may hold copies."""
        return t.numel() > self.whole(t) or any(part.repeats for part in self._of(t))


def _without_copies(t: Tensor) -> int:
    """Return the size of ``t`` without dimensions along which its numbers repeat.

    Where all numbers are the same, as zeros before training are, it is that of what is stored.
    """
    least = t = _without_expanded(t)
    if not _is_readable(t):
        return t.numel()
    for d in range(t.dim()):
        first = least.narrow(d, 0, min(1, least.shape[d]))
        if torch.equal(least, first.expand_as(least)):
            least = first
    return t.numel() if least.numel() == 1 else least.numel()


def _without_expanded(t: Tensor) -> Tensor:
    """Return ``t`` with a size of 1 in the dimensions that it is expanded along."""
    if t.layout is torch.strided and not t.is_nested and t.numel():
        for d in range(t.dim()):
            t = t.narrow(d, 0, 1) if t.stride(d) == 0 else t
    return t


def _is_mask(t: Tensor) -> bool:
    """Return whether a constant holds zeros and one other value at most: it selects numbers."""
    if not _is_readable(t):
        return False
    values = t[t != 0]
    return bool((values == values[:1]).all())


def _is_readable(t: Tensor) -> bool:
    """Return whether the numbers of ``t`` can be compared."""
    strided = t.layout is torch.strided and not (t.is_nested or t.is_meta or t.is_quantized)
    return strided and not (t.is_floating_point() and t.element_size() == 1)  # as float8 is


def _size(t: Tensor) -> int:
    """Return how many numbers its storage holds."""
    if isinstance(storage(t), int):
        return t.numel()
    return t.untyped_storage().nbytes() // t.element_size()
