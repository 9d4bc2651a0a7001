"""Whether the numbers of an output are alike, as scores of classes are, or quantities of units."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MANY = 32
"""Numbers from which an output is taken for classes, tokens or features, which are alike."""

_ALIKE = 6.0, 25.0
"""How many times as large as their median the largest variance of scores is at most, and the median
as the smallest: up to 2.3 and 4.8 times in four pretrained keyword spotters."""

_APART = 2500.0
"""How many times as large as the smallest variance the largest one is of quantities that cannot be
scores: those of trained classifiers of 3 to 20 classes, some of them rare or absent, stay below."""

_CHANCE = 4.0
"""Standard errors of the logarithm of a variance by which few vectors may exceed that."""

_FEW = 8
"""Vectors that leave a doubt of any variances."""

_LITTLE = 1e-6
"""Smallest variance of a number in units of its mean square. Assumed: chips are off by more."""

_TINY = torch.finfo(torch.float32).tiny
"""Smallest variance."""


def variances(vectors: Sequence[Tensor]) -> Tensor:
    """Return the variance of each number of an output for all batches, (numbers,) or (1,).

    It is infinite where a number never varies, as one that is masked does not: it does not count.
    Of ``MANY`` numbers or more it is 1 where they do. A number that varies little beside its size
    has at least the share ``_LITTLE`` of its mean square.

    Args:
        vectors: the output for each batch, (vectors, numbers); of other numbers from batch to
            batch, all count as one.
    """
    if len({y.shape[1] for y in vectors}) != 1:
        vectors = [y.flatten().unsqueeze(1) for y in vectors] or [
            torch.zeros(1, 1, dtype=torch.float32, device="cpu")
        ]
    highest = torch.stack([y.amax(0) for y in vectors]).amax(0)
    lowest = torch.stack([y.amin(0) for y in vectors]).amin(0)
    found = torch.ones_like(highest)
    if len(found) < MANY:
        whole = torch.cat(list(vectors)).double()
        least = _LITTLE * whole.square().mean(0)
        found = torch.maximum(whole.var(0, correction=0), least).float().clamp_min(_TINY)
    return torch.where(highest == lowest, torch.inf, found)


def are_alike(found: Tensor, vectors: int) -> bool:
    """Return whether numbers are as alike as scores of classes, not quantities of several units.

    Args:
        found: the variance of each, as ``variances`` has it.
        vectors: the number of vectors that it is of: few differ by chance.
    """
    there = found[found.isfinite()]
    if len(there) < 2:
        return True
    largest, smallest = there.amax() / there.median(), there.median() / there.amin()
    chance = _chance(vectors)
    return bool(largest <= _ALIKE[0] * chance) and bool(smallest <= _ALIKE[1] * chance)


def are_far_apart(found: Tensor, vectors: int) -> bool:
    """Return whether numbers are quantities of several units beyond doubt.

    Args:
        found: the variance of each, as ``variances`` has it.
        vectors: the number of vectors that it is of.
    """
    if vectors < _FEW:
        return False
    there = found[found.isfinite()]
    return len(there) > 1 and bool(there.amax() > _APART * _chance(vectors) * there.amin())


def are_shares(vectors: Sequence[Tensor]) -> bool:
    """Return whether all numbers of an output are from 0 to 1, as probabilities are."""
    return all(bool(((y >= 0) & (y <= 1)).all()) for y in vectors)


def are_in_units(vectors: Sequence[Tensor]) -> bool:
    """Return whether an output is quantities of several units, beyond doubt.

    Probabilities are not, though those of a class that is absent vary by next to nothing.

    Args:
        vectors: the output for each batch, (vectors, numbers).
    """
    if are_shares(vectors):
        return False
    return are_far_apart(variances(vectors), sum(map(len, vectors)))


def _chance(vectors: int) -> float:
    return math.exp(_CHANCE * math.sqrt(2 / max(1, vectors - 1)))
