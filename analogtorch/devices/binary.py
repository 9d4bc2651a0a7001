"""A device of two states: binary resistive memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices.device import check_conductances
from analogtorch.devices.registry import register
from analogtorch.devices.time import check_time
from analogtorch.values import checks

_ROUNDING = 1e-6
"""Excess over the middle of the range, relative to it, that may be one of rounding: a target in the
middle, as of a weight of 0 in an offset cell, is programmed to ``g_min`` on every machine."""


@register
@dataclass(frozen=True, kw_only=True)
class BinaryDevice:
    """One device that holds ``g_min`` or ``g_max``, uS, each with a spread; it does not drift.

    A target between them is programmed to the nearer state, so a pair of these holds the weights
    -1, 0 and 1, and ``n`` devices per polarity with ``split="sequential"`` hold ``2 n + 1`` levels.
    """

    name: str
    """What the figures describe, for reports."""
    g_max: float
    """Conductance of the state of low resistance, uS, > 0."""
    g_min: float
    """Conductance of the state of high resistance, uS, >= 0, < ``g_max``."""
    high_std: float
    """Standard deviation of ``g_max``, uS, >= 0."""
    low_std: float
    """Standard deviation of ``g_min``, uS, >= 0."""
    read_std: float = 0.0
    """Standard deviation of a read, uS, >= 0; drawn once per time, frozen for it."""

    def __post_init__(self) -> None:
        checks.text("BinaryDevice.name", self.name, "my binary ReRAM")
        check_conductances(self)
        checks.numbers(self, "high_std", "low_std", "read_std", least=0)

    @property
    def valid_until(self) -> float:
        """0 s: the figures are those of programming."""
        return 0.0

    def state(self, g: Tensor) -> Tensor:
        """Return the conductance, uS, of the state that is nearer to the target ``g`` (uS)."""
        return torch.full_like(g, self.g_min).masked_fill(self._high(g), self.g_max)

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of the state that ``g`` is programmed to."""
        return torch.full_like(g, self.low_std).masked_fill(self._high(g), self.high_std)

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for the target ``g``, clamped at 0.

        The normals ``z`` have the shape of ``g``.
        """
        return (self.state(g) + self.programming_sigma(g) * z).clamp_min(0.0)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return ``g``: the device does not drift."""
        return g

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the programmed conductance, uS, at any time ``t``."""
        check_time(t)
        return g_programmed

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at ``t`` gives.

        The normals ``z`` have the shape of ``g_drifted``.
        """
        check_time(t)
        return (g_drifted + self.read_std * z).clamp_min(0.0)

    def _high(self, g: Tensor) -> Tensor:
        return g > (1 + _ROUNDING) * 0.5 * (self.g_min + self.g_max)
