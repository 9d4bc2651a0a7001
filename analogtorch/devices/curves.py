"""Fitted curves of the device papers, as data: functions of the normalised conductance ``r = g / g_max``."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Curve(Protocol):
    """A function of ``r`` (any shape, ``r >= 0``) that returns a tensor of the same shape."""

    def __call__(self, r: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """``c0 + c1 r + c2 r^2 + ...``."""

    coefficients: tuple[float, ...]
    """Ascending: constant first."""

    def __call__(self, r: Tensor) -> Tensor:
        value = torch.full_like(r, self.coefficients[-1])
        for coefficient in reversed(self.coefficients[:-1]):
            value = value * r + coefficient
        return value


@dataclass(frozen=True, kw_only=True)
class LogClip:
    """``clip(slope ln r + offset, low, high)``; at ``r = 0`` the bound that the slope runs into."""

    slope: float
    offset: float
    low: float
    high: float

    def __call__(self, r: Tensor) -> Tensor:
        return (self.slope * r.log() + self.offset).clamp(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class PowerClip:
    """``min(scale / max(r^power, floor), high)``."""

    scale: float
    power: float
    floor: float
    high: float

    def __call__(self, r: Tensor) -> Tensor:
        return (self.scale / r.pow(self.power).clamp_min(self.floor)).clamp_max(self.high)


@dataclass(frozen=True, kw_only=True)
class Piecewise:
    """``below`` for ``r < split``, ``above`` otherwise."""

    split: float
    below: LogClip
    above: Polynomial

    def __call__(self, r: Tensor) -> Tensor:
        return torch.where(r < self.split, self.below(r), self.above(r))
