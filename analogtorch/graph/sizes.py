"""How many numbers tensors hold."""

from typing import Any

from torch import Tensor


def numbers(value: Any) -> int:
    """Return how many real numbers a tensor, or nested lists of them, holds.

    A complex one is two of them.
    """
    if isinstance(value, Tensor):
        return value.numel() * (2 if value.is_complex() else 1)
    return sum(map(numbers, value)) if isinstance(value, (tuple, list)) else 0
