"""Fitted curves of device papers, as functions of the normalised conductance ``r = g / g_max``."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from analogtorch.devices.registry import register
from analogtorch.values import checks

_TINY = torch.finfo(torch.float32).tiny


class Curve(Protocol):
    """A function of ``r`` (any shape, ``r >= 0``) that returns a tensor of the same shape."""

    def __call__(self, r: Tensor) -> Tensor: ...


def check_curve(name: str, curve: Any) -> None:
    """Raise an error unless ``curve`` can be called with a tensor.

    Raises:
        TypeError: it is a class, or cannot be called.
    """
    if isinstance(curve, type) or not callable(curve):
        raise TypeError(
            f"{name} must be a curve, such as Polynomial(coefficients=(0.05,)), got "
            f"{checks.shown(curve)}"
        )


@register
@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """The polynomial ``c0 + c1 r + c2 r^2 + ...``."""

    coefficients: tuple[float, ...]
    """Coefficients, constant first; at least one, all finite. A list becomes a tuple."""

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


@register
@dataclass(frozen=True, kw_only=True)
class LogClip:
    """The curve ``clip(slope ln r + offset, low, high)``.

    At ``r = 0`` it takes the bound that the slope runs into.
    """

    slope: float
    """Slope per unit of ``ln r``; not 0."""
    offset: float
    """Value at ``r = 1``, before clipping."""
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
        if isinstance(r, Tensor) and self._settled:
            r = r.clamp_min(_TINY)  # same result; torch needs nine times as long for ln 0
        return (self.slope * r.log() + self.offset).clamp(self.low, self.high)

    @property
    def _settled(self) -> bool:
        """Whether the curve is at its bound for all ``r`` up to ``_TINY``."""
        value = self.slope * math.log(_TINY) + self.offset
        return value > self.high if self.slope < 0 else value < self.low


@register
@dataclass(frozen=True, kw_only=True)
class PowerClip:
    """The curve ``min(scale / max(r^power, floor), high)``."""

    scale: float
    """Value at ``r = 1``, >= 0, before clipping."""
    power: float
    """Exponent of ``r``, >= 0."""
    floor: float
    """Smallest divisor, > 0."""
    high: float
    """Largest value, >= 0."""

    def __post_init__(self) -> None:
        checks.numbers(self, "scale", "power", "high", least=0)
        checks.numbers(self, "floor", above=0)

    def __call__(self, r: Tensor) -> Tensor:
        return (self.scale / r.pow(self.power).clamp_min(self.floor)).clamp_max(self.high)


@register
@dataclass(frozen=True, kw_only=True)
class Piecewise:
    """Two curves: ``below`` for ``r < split``, and ``above`` for the rest."""

    split: float
    """The ``r`` at which ``above`` begins."""
    below: Curve
    """Curve for ``r < split``."""
    above: Curve
    """Curve for ``r >= split``."""

    def __post_init__(self) -> None:
        checks.numbers(self, "split")
        for name in ("below", "above"):
            check_curve(f"Piecewise.{name}", getattr(self, name))

    def __call__(self, r: Tensor) -> Tensor:
        return torch.where(r < self.split, self.below(r), self.above(r))


@register
@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """Straight lines through points, held before the first and after the last."""

    points: tuple[float, ...]
    """Values of ``r``, ascending; at least two."""
    values: tuple[float, ...]
    """What the curve is there; as many."""

    def __post_init__(self) -> None:
        for field in ("points", "values"):
            given = getattr(self, field)
            if not isinstance(given, tuple | list):
                raise ValueError(
                    f"Interpolated.{field} must be a tuple of numbers such as (0.0, 1.0), got "
                    f"{checks.shown(given)}"
                )
            found = (checks.number(f"Interpolated.{field}[{i}]", x) for i, x in enumerate(given))
            checks.settle(self, field, tuple(found))
        if len(self.points) < 2 or sorted(set(self.points)) != list(self.points):
            raise ValueError(
                f"Interpolated.points must be at least two, ascending, got {self.points}"
            )
        if len(self.values) != len(self.points):
            raise ValueError(
                f"Interpolated.values needs one value per point, got {len(self.values)} for "
                f"{len(self.points)} points"
            )

    def __call__(self, r: Tensor) -> Tensor:
        value = torch.full_like(r, self.values[0])
        knots = list(zip(self.points, self.values, strict=True))
        for (a, low), (b, high) in zip(knots, knots[1:], strict=False):
            value = value + ((r - a) / (b - a)).clamp(0.0, 1.0) * (high - low)
        return value


@register
@dataclass(frozen=True, kw_only=True)
class Saturating:
    """The curve ``scale (1 - exp(-r / rate))``."""

    scale: float
    """What it goes to, >= 0."""
    rate: float
    """``r`` at which it has reached 63 % of that, > 0."""

    def __post_init__(self) -> None:
        checks.numbers(self, "scale", least=0)
        checks.numbers(self, "rate", above=0)

    def __call__(self, r: Tensor) -> Tensor:
        return self.scale * -torch.expm1(-r / self.rate)


@register
@dataclass(frozen=True, kw_only=True)
class SquareRoot:
    """The curve ``scale sqrt(r)``, of a deviation whose variance is in proportion to ``r``."""

    scale: float
    """Value at ``r = 1``, >= 0."""

    def __post_init__(self) -> None:
        checks.numbers(self, "scale", least=0)

    def __call__(self, r: Tensor) -> Tensor:
        return self.scale * r.clamp_min(0.0).sqrt()


@register
@dataclass(frozen=True, kw_only=True)
class Composed:
    """The curve ``outer(inner(r))``, such as the spread of a device over its drifted ``r``."""

    outer: Curve
    """Applied last."""
    inner: Curve
    """Applied first."""

    def __post_init__(self) -> None:
        for name in ("outer", "inner"):
            check_curve(f"Composed.{name}", getattr(self, name))

    def __call__(self, r: Tensor) -> Tensor:
        return self.outer(self.inner(r))
