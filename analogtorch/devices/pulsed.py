"""A device that is written in pulses of one size: electrochemical memory and capacitors."""

import math
from dataclasses import dataclass

from torch import Tensor

from analogtorch.devices.device import check_conductances
from analogtorch.devices.registry import register
from analogtorch.devices.time import check_time
from analogtorch.values import checks


@register
@dataclass(frozen=True, kw_only=True)
class PulsedDevice:
    """One device whose programming error is that of its pulses, the same in every state.

    Closed-loop writing ends within half a pulse of the target. The error has the variance of that,
    ``pulse^2 / 12``, and is drawn from a normal distribution. A leak takes the conductance back to
    ``g_min`` exponentially.
    """

    name: str
    """What the figures describe, for reports."""
    g_max: float
    """Largest conductance that weights are mapped to, uS, > 0."""
    pulse: float
    """Change of conductance by one pulse, uS, > 0."""
    g_min: float = 0.0
    """Smallest conductance that weights are mapped to, uS, >= 0, < ``g_max``."""
    leak_time: float | None = None
    """Time, s, > 0, in which the conductance above ``g_min`` falls to 37 %; None: it stays."""
    read_std: float = 0.0
    """Standard deviation of a read, uS, >= 0; drawn once per time, frozen for it."""

    def __post_init__(self) -> None:
        checks.text("PulsedDevice.name", self.name, "my ECRAM")
        check_conductances(self)
        checks.numbers(self, "pulse", above=0)
        checks.numbers(self, "leak_time", optional=True, above=0, remedy="None is no leak")
        checks.numbers(self, "read_std", least=0)

    @property
    def valid_until(self) -> float:
        """0 s: the figures are those of programming."""
        return 0.0

    @property
    def extrapolates(self) -> bool:
        """True where a leak continues beyond the data."""
        return self.leak_time is not None

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of devices programmed to ``g`` (uS, any shape)."""
        return g.new_full(g.shape, self.pulse / math.sqrt(12))

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for the target ``g``, clamped at 0.

        The normals ``z`` have the shape of ``g``.
        """
        return (g + self.programming_sigma(g) * z).clamp_min(0.0)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return ``g``: all devices leak alike."""
        return g

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, at time ``t``."""
        check_time(t)
        if self.leak_time is None:
            return g_programmed
        return self.g_min + (g_programmed - self.g_min) * math.exp(-t / self.leak_time)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at ``t`` gives.

        The normals ``z`` have the shape of ``g_drifted``.
        """
        check_time(t)
        return (g_drifted + self.read_std * z).clamp_min(0.0)


def ecram() -> PulsedDevice:
    """Return lithium electrochemical memory, of 1,000 pulses over its range.

    Source: Tang et al., IEDM 2018, as the training device of the open simulator aihwkit (MIT) has
    it: a pulse of 0.002 on a range from -0.8276 to 1.1724. ILLUSTRATIVE: ``g_max`` 1 uS, as only
    the ratio of a pulse to the range counts here. Retention is not modelled; every time after
    programming is beyond the data.
    """
    return PulsedDevice(
        name="lithium ECRAM (Tang 2018)", g_max=1.0, pulse=0.002 / (1.1724 + 0.8276)
    )


def ecram_metal_oxide() -> PulsedDevice:
    """Return metal-oxide electrochemical memory, of about 7,000 pulses over its range.

    Source: Kim et al., IEDM 2019, as the training device of the open simulator aihwkit (MIT) has
    it: a pulse of 2.8214e-4 on a range of 2. ILLUSTRATIVE: ``g_max`` 1 uS, as for ``ecram``. Every
    time after programming is beyond the data.
    """
    return PulsedDevice(name="metal-oxide ECRAM (Kim 2019)", g_max=1.0, pulse=2.8214e-4 / 2)


def capacitor(*, leak_time: float | None = None) -> PulsedDevice:
    """Return a capacitor whose charge sets a transistor's conductance, of 400 pulses.

    Source: Li et al., VLSI 2018, as the training device of the open simulator aihwkit (MIT) has it:
    a pulse of 0.005 on a range of 2. ILLUSTRATIVE: ``g_max`` 1 uS, as for ``ecram``, and the leak,
    which no source here states.

    Args:
        leak_time: time, s, > 0, in which the charge falls to 37 %; None: it stays.

    Raises:
        ValueError: the time is not positive.

    Example:
        >>> at.devices.capacitor(leak_time=0.1)
    """
    leak = "" if leak_time is None else f", illustrative leak of {leak_time:g} s"
    return PulsedDevice(
        name=f"capacitor cell (Li 2018){leak}", g_max=1.0, pulse=0.005 / 2, leak_time=leak_time
    )
