"""A device whose imperfections are scaled or absent."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from analogtorch.devices.device import Around, Device, Growing, check_device
from analogtorch.devices.drift_aware import DriftAware, bare
from analogtorch.devices.registry import register
from analogtorch.values import checks

Imperfection = Literal["programming_noise", "drift", "read_noise"]
IMPERFECTIONS: tuple[Imperfection, ...] = ("programming_noise", "drift", "read_noise")
"""The imperfections that can be scaled, in the order in which they act on a conductance."""
_FIELDS = dict(zip(IMPERFECTIONS, ("programming_scale", "drift_scale", "read_scale"), strict=True))


@register
@dataclass(frozen=True, kw_only=True)
class Scaled(Around):
    """Another device with each imperfection times a factor; 0 leaves it out, 1 leaves it as it is.

    See ``analogtorch.chips.Chip.scaled`` and ``Chip.without``.
    """

    device: Device
    """The device as it is."""
    programming_scale: float = 1.0
    """Factor, >= 0, of the standard deviation of a programmed conductance, before the clamp at 0.
    The variance that time adds to it (``Growing``) stays as it is: it is drift."""
    drift_scale: float = 1.0
    """Factor, >= 0, of the logarithm of the ratio by which drift changes a conductance: of the
    drift exponent in a power law. A conductance that is or becomes 0 changes by the factor
    itself."""
    read_scale: float = 1.0
    """Factor, >= 0, of the deviation of a read."""

    def __post_init__(self) -> None:
        check_device("Scaled.device", self.device)
        checks.numbers(self, *_FIELDS.values(), least=0, remedy="0 leaves the imperfection out")

    @property
    def name(self) -> str:
        """Name of the device and of what is changed."""
        factors = {name: getattr(self, field) for name, field in _FIELDS.items()}
        gone = [name for name, factor in factors.items() if factor == 0]
        other = [f"{name} x {factor:g}" for name, factor in factors.items() if factor not in (0, 1)]
        without = [f"without {', '.join(gone)}"] if gone else []
        return ", ".join([self.device.name, *without, *other])

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of programming ``g``, before the clamp at 0."""
        return self.programming_scale * self.device.programming_sigma(g)

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for the target ``g`` with the normals ``z``."""
        if self.programming_scale == 1:
            return self.device.program(g, z)
        # a device of few states is programmed to one of them, not to the target
        exact = self.device.program(g, torch.zeros_like(g))
        if self.programming_scale == 0:
            return exact
        return (exact + self.programming_sigma(g) * z).clamp_min(0.0)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return what ``drift`` must know of devices with target ``g`` and normals ``z``."""
        if self._growing is not None:
            return torch.stack((g, z))
        return self.device.drift_coefficient(g, z)

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, at time ``t``."""
        if self.drift_scale == 0:
            return g_programmed
        if (device := self._growing) is not None:
            drifted = device.drift_of(g_programmed, nu, t, self.programming_scale)
        else:
            drifted = self.device.drift(g_programmed, nu, t)
        return drifted if self.drift_scale == 1 else self._drifted(g_programmed, drifted)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at time ``t`` gives with the normals ``z``."""
        if self.read_scale == 0:
            return g_drifted
        read = self.device.read(g_programmed, g_drifted, t, z)
        if self.read_scale == 1:
            return read
        return (g_drifted + self.read_scale * (read - g_drifted)).clamp_min(0.0)

    @property
    def _growing(self) -> Growing | None:
        """The device if its error of programming has another size, and grows."""
        if self.programming_scale != 1 and isinstance(self.device, Growing):
            return self.device
        return None

    def _drifted(self, then: Tensor, now: Tensor) -> Tensor:
        """Return ``then`` after this many times the drift that leads to ``now``."""
        lasting = (then > 0) & (now > 0)
        tiny = torch.finfo(then.dtype).tiny
        power = then * (now.clamp_min(tiny) / then.clamp_min(tiny)).pow(self.drift_scale)
        linear = (then + self.drift_scale * (now - then)).clamp_min(0.0)
        return torch.where(lasting, power, linear)


def scaled(device: Device, factors: dict[Imperfection, float]) -> Device:
    """Return the device with these imperfections times these factors.

    Without imperfections it is the device itself. Factors of a device that is ``Scaled`` already
    are multiplied. Targets that allow for drift then allow for what is left of it.
    """
    if not factors:
        return device
    if isinstance(device, DriftAware):
        return replace(device, device=scaled(device.device, factors))
    whole = unscaled(device)
    new = {}
    for name, field in _FIELDS.items():
        before = getattr(device, field) if isinstance(device, Scaled) else 1.0
        new[field] = before * factors.get(name, 1.0)
    return Scaled(device=whole, **new)


def unscaled(device: Device) -> Device:
    """Return the device with all of its imperfections, each as large as it is."""
    inner = bare(device)
    return inner.device if isinstance(inner, Scaled) else inner
