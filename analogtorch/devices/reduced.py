"""A device without some of its imperfections."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from analogtorch.devices.device import Device, check_device
from analogtorch.devices.registry import register
from analogtorch.values import checks

Imperfection = Literal["programming_noise", "drift", "read_noise"]
IMPERFECTIONS: tuple[Imperfection, ...] = ("programming_noise", "drift", "read_noise")
"""The imperfections that can be left out, in the order in which they act on a conductance."""


@register
@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Another device without some of its imperfections; see ``analogtorch.chips.Chip.without``."""

    device: Device
    """The complete device."""
    without: tuple[Imperfection, ...]
    """Imperfections to leave out. ``programming_noise``: a device takes its target exactly.
    ``drift``: a conductance stays as programmed, and so does its programming error. ``read_noise``:
    a read gives the conductance itself."""

    def __post_init__(self) -> None:
        check_device("Reduced.device", self.device)
        if not (isinstance(self.without, tuple | list) and self.without):
            raise ValueError(
                f"Reduced.without must be a tuple of some of {IMPERFECTIONS}, got {self.without!r}"
            )
        for name in self.without:
            checks.choice("Reduced.without", name, IMPERFECTIONS)
        without = tuple(name for name in IMPERFECTIONS if name in self.without)
        checks.settle(self, "without", without)

    @property
    def name(self) -> str:
        """Name of the device and of what it lacks."""
        return f"{self.device.name}, without {', '.join(self.without)}"

    @property
    def g_max(self) -> float:
        """Largest conductance, uS."""
        return self.device.g_max

    @property
    def valid_until(self) -> float:
        """Last time, s, that the data of the device cover."""
        return self.device.valid_until

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of programming ``g``, before the clamp at 0."""
        sigma = self.device.programming_sigma(g)
        return sigma.new_zeros(sigma.shape) if "programming_noise" in self.without else sigma

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for the target ``g`` with the normals ``z``."""
        if "programming_noise" in self.without:
            return g.clamp_min(0.0)
        return self.device.program(g, z)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return what ``drift`` must know of devices with target ``g`` and normals ``z``."""
        return self.device.drift_coefficient(g, z)

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, at time ``t``."""
        return g_programmed if "drift" in self.without else self.device.drift(g_programmed, nu, t)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at time ``t`` gives with the normals ``z``."""
        if "read_noise" in self.without:
            return g_drifted
        return self.device.read(g_programmed, g_drifted, t, z)
