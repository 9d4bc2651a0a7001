"""The integral non-linearity (INL) of a converter as a table of numbers."""

from collections.abc import Sequence
from typing import Any

from analogtorch.values import checks


def larger(inl: tuple[float, ...], factor: float) -> tuple[float, ...]:
    """Return the table times a factor."""
    return tuple(factor * value for value in inl)


def check_inl(name: str, inl: Any, levels: int, sign: float) -> tuple[float, ...]:
    """Return a table of INL as a tuple of numbers.

    Args:
        name: name of the field in messages.
        inl: the table, in LSB, at codes that divide the range evenly.
        levels: steps of the converter on each side of zero.
        sign: 1 if the table is subtracted from ideal transition levels, -1 if it is added to ideal
            output levels.

    Raises:
        ValueError: it is no odd number of finite numbers, or makes the transfer function fall.
    """
    if isinstance(inl, str) or not isinstance(inl, Sequence):
        raise ValueError(
            f"{name} must be a tuple of numbers in LSB such as (0.0, 0.4, 0.0), got "
            f"{checks.shown(inl)}"
        )
    found = tuple(checks.number(f"{name}[{i}]", value) for i, value in enumerate(inl))
    if len(found) < 3 or len(found) % 2 == 0:
        raise ValueError(
            f"{name} must have an odd number of values, at least 3, so that one is that of 0, got "
            f"{len(found)}; {2 * levels + 1} are one for each code"
        )
    apart = 2 * levels / (len(found) - 1)
    for i, (a, b) in enumerate(zip(found, found[1:], strict=False)):
        if sign * (b - a) > apart:
            raise ValueError(
                f"{name} must not make the transfer function turn back: from value {i} to {i + 1}, "
                f"which are {apart:g} LSB apart, it changes by {b - a:g} LSB, got {a:g} and {b:g}; "
                "is the table in LSB?"
            )
    return found
