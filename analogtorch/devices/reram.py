"""Resistive memory (ReRAM) with an error known at a few times, which grows without a mean drift.

    sigma(r, t)                               standard deviation of the error, with r = g / g_max
    g_p  = max(g + sigma(r, t_first) z, 0)    programmed
    g(t) = max(g + sigma(r, t) z, 0)          read, with the same draw z at all times

Between the fitted times sigma is linear in log t; it is constant before the first and after the
last. A fit is the total error at its time, hence the one draw.

Source: Wan et al., Nature 608, 504 (2022); coefficients as published in the open simulator aihwkit
(MIT). There a fit is in microsiemens whatever ``g_max`` is; here it scales with ``g_max /
g_reference``.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices.curves import Curve, Polynomial, check_curve
from analogtorch.devices.registry import register
from analogtorch.values import checks


@register
@dataclass(frozen=True, kw_only=True)
class ReRAM:
    """One ReRAM device, with the methods of ``PCM``.

    Conductances are in microsiemens, times in seconds.
    """

    name: str
    """What the fit describes, for reports."""
    g_max: float
    """Largest conductance that weights are mapped to, uS, > 0."""
    g_reference: float
    """``g_max``, uS, > 0, of the devices that the fits were made on. Another ``g_max`` scales the
    fits."""
    times: tuple[float, ...]
    """Times of the fits, s after programming, > 0, ascending."""
    stds: tuple[Curve, ...]
    """Standard deviation of the conductance, uS, as a function of the target ``r``; one curve per
    time."""
    read_std: float = 0.0
    """Standard deviation of the read noise in units of ``g_max``, >= 0. It is drawn once per
    time."""
    programming_scale: float = 1.0
    """Multiplies the error at all times, >= 0; 0 programs exactly."""

    def __post_init__(self) -> None:
        checks.text("ReRAM.name", self.name, "my ReRAM")
        checks.numbers(self, "g_max", "g_reference", above=0)
        scales = ("read_std", "programming_scale")
        checks.numbers(self, *scales, least=0, remedy="0 switches the effect off")
        for field in ("times", "stds"):
            given = getattr(self, field)
            if not isinstance(given, tuple | list):
                raise ValueError(f"ReRAM.{field} must be a tuple, got {checks.shown(given)}")
            checks.settle(self, field, tuple(given))
        given = enumerate(self.times)
        times = tuple(checks.number(f"ReRAM.times[{i}]", t, above=0) for i, t in given)
        if not times or sorted(set(times)) != list(times):
            raise ValueError(f"ReRAM.times must be positive and ascending, got {times}")
        checks.settle(self, "times", times)
        if len(self.stds) != len(times):
            raise ValueError(
                f"ReRAM.stds needs one curve per time, got {len(self.stds)} for {len(times)} times"
            )
        for i, curve in enumerate(self.stds):
            check_curve(f"ReRAM.stds[{i}]", curve)

    @property
    def valid_until(self) -> float:
        """Time of the last fit, s.

        The error keeps its value afterwards, which no measurement supports.
        """
        return self.times[-1]

    @property
    def programming_std(self) -> Curve:
        """The curve at the first time."""
        return self.stds[0]

    def sigma(self, g: Tensor, t: float) -> Tensor:
        """Return the standard deviation, uS, at ``t`` seconds (>= 0) after programming ``g``.

        ``g`` is in uS and has any shape, which the result shares.
        """
        r, times = g / self.g_max, self.times
        t = min(max(t, times[0]), times[-1])
        after = next(i for i, time in enumerate(times) if time >= t)
        value = self.stds[after](r).clamp_min(0.0)
        if t < times[after]:
            share = math.log(t / times[after - 1]) / math.log(times[after] / times[after - 1])
            value = torch.lerp(self.stds[after - 1](r).clamp_min(0.0), value, share)
        return value * (self.programming_scale * self.g_max / self.g_reference)

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of devices programmed to ``g`` (uS, any shape).

        Conductances are not yet clamped at 0.
        """
        return self.sigma(g, self.times[0])

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for the target ``g``, clamped at 0.

        The normals ``z`` have the shape of ``g``.
        """
        return (g + self.programming_sigma(g) * z).clamp_min(0.0)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return what ``drift`` must know of a device: its target ``g``, uS. ``z`` is not used."""
        return g

    def drift(self, g_programmed: Tensor, target: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, at time ``t``.

        The deviation from ``target`` has grown as ``sigma`` has. A device that was clamped at 0
        stays at 0 while ``sigma`` grows, as its draw would.
        """
        first = self.programming_sigma(target)
        tiny = torch.finfo(first.dtype).tiny
        growth = torch.where(first > 0, self.sigma(target, t) / first.clamp_min(tiny), 1.0)
        return (target + (g_programmed - target) * growth).clamp_min(0.0)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at time ``t`` gives.

        The normals ``z`` have the shape of ``g_drifted``.
        """
        return (g_drifted + self.read_std * self.g_max * z).clamp_min(0.0)


def rram_wan() -> ReRAM:
    """Return the 130-nm RRAM of NeuRRAM, with ``g_max`` 40 uS and fits at 1 s, 1 day and 2 days.

    ``read_std`` is about 1 % of the full scale of a weight, shared by the two devices of a pair.
    Source: Wan et al., Nature 608, 504 (2022).
    """
    fits = {
        1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
        86_400.0: (0.701, 22.086, -50.773, 47.095, -16.458),
        172_800.0: (0.782, 20.274, -43.507, 37.062, -11.934),
    }
    return ReRAM(
        name="130 nm RRAM (Wan 2022)",
        g_max=40.0,
        g_reference=40.0,
        times=tuple(fits),
        stds=tuple(Polynomial(coefficients=c) for c in fits.values()),
        read_std=0.01 / math.sqrt(2),
    )
