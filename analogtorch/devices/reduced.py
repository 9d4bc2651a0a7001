"""Any device without some of its imperfections."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from analogtorch.devices.device import Device, check_device
from analogtorch.values import checks

Imperfection = Literal["programming_noise", "drift", "read_noise"]
IMPERFECTIONS: tuple[Imperfection, ...] = ("programming_noise", "drift", "read_noise")
"""What a device can be without, in the order in which a conductance meets them."""


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A device that lacks some imperfections of another one; see
    ``analogtorch.chips.Chip.without``.
    """

    device: Device
    """The whole device."""
    without: tuple[Imperfection, ...]
    """What is left out. ``programming_noise``: targets are met exactly. ``drift``: a conductance
    stays what was programmed, and an error of programming stays as large. ``read_noise``: it is
    read as it is."""

    def __post_init__(self) -> None:
        check_device("Reduced.device", self.device)
        if not (isinstance(self.without, tuple | list) and self.without):
            raise ValueError(
                f"Reduced.without must be a tuple of some of {IMPERFECTIONS}, got {self.without!r}"
            )
        for name in self.without:
            checks.choice("Reduced.without", name, IMPERFECTIONS)
        checks.settle(
            self, "without", tuple(name for name in IMPERFECTIONS if name in self.without)
        )

    @property
    def name(self) -> str:
        """That of the device, and what it lacks."""
        return f"{self.device.name}, without {', '.join(self.without)}"

    @property
    def g_max(self) -> float:
        """Largest conductance, uS."""
        return self.device.g_max

    @property
    def valid_until(self) -> float:
        """Last time, s, that the data of the device speak about."""
        return self.device.valid_until

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Standard deviation, uS, of programming the target ``g``, before the clamp at 0."""
        sigma = self.device.programming_sigma(g)
        return sigma.new_zeros(sigma.shape) if "programming_noise" in self.without else sigma

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Conductance, uS, after programming the target ``g`` with the normals ``z``."""
        return (
            g.clamp_min(0.0) if "programming_noise" in self.without else self.device.program(g, z)
        )

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """What ``drift`` must know of a device whose target was ``g``, with the normals ``z``."""
        return self.device.drift_coefficient(g, z)

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Conductance, uS, at ``t``."""
        return g_programmed if "drift" in self.without else self.device.drift(g_programmed, nu, t)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Conductance, uS, as read at ``t`` with the normals ``z``."""
        return (
            g_drifted
            if "read_noise" in self.without
            else self.device.read(g_programmed, g_drifted, t, z)
        )
