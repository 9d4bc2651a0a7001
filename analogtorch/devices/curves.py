"""Fitted curves of the device papers, as data: functions of the normalised conductance ``r = g /
g_max``.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from analogtorch.values import checks


class Curve(Protocol):
    """A function of ``r`` (any shape, ``r >= 0``) that returns a tensor of the same shape."""

    def __call__(self, r: Tensor) -> Tensor: ...


def check_curve(name: str, curve: Any) -> None:
    """Refuse what is no curve.

    Raises:
        TypeError: it cannot be called with a tensor.
    """
    if isinstance(curve, type) or not callable(curve):
        raise TypeError(
            f"{name} must be a curve, such as Polynomial(coefficients=(0.05,)), got "
            f"{checks.shown(curve)}"
        )


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """``c0 + c1 r + c2 r^2 + ...``."""

    coefficients: tuple[float, ...]
    """Ascending: constant first; at least one, finite. A list becomes a tuple."""

    def __post_init__(self) -> None:
        given = self.coefficients
        if not (isinstance(given, tuple | list) and given):
            raise ValueError(
                "Polynomial.coefficients must be a tuple of numbers such as (0.05, 0.1), got "
                f"{checks.shown(given)}"
            )
        found = (checks.number(f"Polynomial.coefficients[{i}]", c) for i, c in enumerate(given))
        checks.settle(self, "coefficients", tuple(found))

    def __call__(self, r: Tensor) -> Tensor:
        value = torch.full_like(r, self.coefficients[-1])
        for coefficient in reversed(self.coefficients[:-1]):
            value = value * r + coefficient
        return value


@dataclass(frozen=True, kw_only=True)
class LogClip:
    """``clip(slope ln r + offset, low, high)``; at ``r = 0`` the bound that the slope runs into."""

    slope: float
    """Per unit of ``ln r``; not 0."""
    offset: float
    """At ``r = 1``."""
    low: float
    """Smallest value."""
    high: float
    """Largest value, >= ``low``."""

    def __post_init__(self) -> None:
        checks.numbers(self, "slope", "offset", "low", "high")
        if self.low > self.high:
            raise ValueError(f"LogClip.low must not be above high, got {self.low} and {self.high}")
        if self.slope == 0:
            raise ValueError(
                "LogClip.slope must not be 0; a constant is Polynomial(coefficients=(value,))"
            )

    def __call__(self, r: Tensor) -> Tensor:
        return (self.slope * r.log() + self.offset).clamp(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class PowerClip:
    """``min(scale / max(r^power, floor), high)``."""

    scale: float
    """Value at ``r = 1``, >= 0."""
    power: float
    """Of ``r``, >= 0."""
    floor: float
    """Least that is divided by, > 0."""
    high: float
    """Largest value, >= 0."""

    def __post_init__(self) -> None:
        checks.numbers(self, "scale", "power", "high", least=0)
        checks.numbers(self, "floor", above=0)

    def __call__(self, r: Tensor) -> Tensor:
        return (self.scale / r.pow(self.power).clamp_min(self.floor)).clamp_max(self.high)


@dataclass(frozen=True, kw_only=True)
class Piecewise:
    """``below`` for ``r < split``, ``above`` otherwise."""

    split: float
    """Where ``above`` begins."""
    below: Curve
    """Of small ``r``."""
    above: Curve
    """Of ``r >= split``."""

    def __post_init__(self) -> None:
        checks.numbers(self, "split")
        for name in ("below", "above"):
            check_curve(f"Piecewise.{name}", getattr(self, name))

    def __call__(self, r: Tensor) -> Tensor:
        return torch.where(r < self.split, self.below(r), self.above(r))
