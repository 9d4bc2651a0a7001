"""Resistive memory (ReRAM) whose error is known at a few times: it spreads, with no mean drift.

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
from analogtorch.values import checks


@dataclass(frozen=True, kw_only=True)
class ReRAM:
    """One ReRAM device. Conductances in microsiemens, times in seconds. Same methods as ``PCM``."""

    name: str
    """What the fit describes, for reports."""
    g_max: float
    """Largest conductance that weights are mapped to, uS, > 0."""
    g_reference: float
    """``g_max`` of the devices that the fits were made on, uS, > 0; another ``g_max`` scales
    them."""
    times: tuple[float, ...]
    """Times of the fits, s after programming, > 0, ascending."""
    stds: tuple[Curve, ...]
    """Standard deviation of the conductance, uS, as a function of the target ``r``: one curve per
    time."""
    read_std: float = 0.0
    """Standard deviation of a read in units of ``g_max``, >= 0; drawn once per time, frozen for
    it."""
    programming_scale: float = 1.0
    """Multiplies the error at all times, >= 0; 0 programs exactly."""

    def __post_init__(self) -> None:
        checks.text("ReRAM.name", self.name, "my ReRAM")
        checks.numbers(self, "g_max", "g_reference", above=0)
        checks.numbers(
            self, "read_std", "programming_scale", least=0, remedy="0 switches the effect off"
        )
        for field in ("times", "stds"):
            if not isinstance(getattr(self, field), tuple | list):
                raise ValueError(
                    f"ReRAM.{field} must be a tuple, got {checks.shown(getattr(self, field))}"
                )
            checks.settle(self, field, tuple(getattr(self, field)))
        times = tuple(
            checks.number(f"ReRAM.times[{i}]", t, above=0) for i, t in enumerate(self.times)
        )
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
        """Time of the last fit, s: later the error is held at that, which nothing measured
        supports.
        """
        return self.times[-1]

    @property
    def programming_std(self) -> Curve:
        """The curve at the first time."""
        return self.stds[0]

    def sigma(self, g: Tensor, t: float) -> Tensor:
        """Standard deviation, uS, of the target ``g`` (uS, any shape) ``t`` seconds (>= 0) after
        programming.
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
        """Standard deviation, uS, of programming the target ``g`` (uS, any shape) before the clamp
        at 0.
        """
        return self.sigma(g, self.times[0])

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Conductance, uS, after programming the target ``g`` with the normals ``z`` (same shape);
        clamped at 0.
        """
        return (g + self.programming_sigma(g) * z).clamp_min(0.0)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """What ``drift`` must know of a device: its target ``g`` (uS). ``z`` is not needed."""
        return g

    def drift(self, g_programmed: Tensor, target: Tensor, t: float) -> Tensor:
        """Conductance, uS, at ``t``: the deviation from ``target`` has grown as ``sigma`` has.

        A device that was clamped at 0 stays there while ``sigma`` grows, as the draw itself would
        have it.
        """
        first = self.programming_sigma(target)
        growth = torch.where(
            first > 0, self.sigma(target, t) / first.clamp_min(torch.finfo(first.dtype).tiny), 1.0
        )
        return (target + (g_programmed - target) * growth).clamp_min(0.0)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Conductance, uS, as read at ``t`` with the normals ``z`` (same shape)."""
        return (g_drifted + self.read_std * self.g_max * z).clamp_min(0.0)


def rram_wan() -> ReRAM:
    """The 130-nm RRAM of NeuRRAM (Wan et al., Nature 608, 504 (2022)), ``g_max`` 40 uS; fits at 1
    s, 1 day, 2 days.

    ``read_std``: about 1 % of a weight's full scale, shared by the two devices of a pair.
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
