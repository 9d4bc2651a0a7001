"""Phase-change memory (PCM): programming noise, drift and 1/f read noise of one device.

All are pure functions. Each takes the standard-normal draws ``z`` that it needs as an argument, so
that the same draws give the same device.

    r      = g / g_max
    g_p    = max(g + sigma_prog(r) z, 0)         programmed
    nu     = |mean_nu(r) + std_nu(r) z|          drift exponent of the device
    g_d(t) = g_p ((t + t0) / t0)^-nu             drifted
    g(t)   = max(g_d + g_d Q(r_p) sqrt(ln((t + t0 + t_read) / (2 t_read))) z, 0)
                                                 read; Q from the programmed r_p

Sources: Nandakumar et al., ICECS 2019; Joshi et al., Nat. Commun. 11, 2473 (2020); Le Gallo et al.,
Nat. Electron. 6, 680 (2023). The coefficients of the fits are those published in the open simulator
aihwkit (MIT).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices.curves import Curve, LogClip, Piecewise, Polynomial, PowerClip, check_curve
from analogtorch.devices.device import check_conductances
from analogtorch.devices.registry import register
from analogtorch.devices.time import check_time, growth
from analogtorch.values import checks


@register
@dataclass(frozen=True, kw_only=True)
class PCM:
    """One PCM device, or several that one fit describes as one device.

    Conductances are in microsiemens, times in seconds.
    """

    name: str
    """What the fit describes, for reports."""
    g_max: float
    """Largest conductance that weights are mapped to, uS, > 0. Programmed devices may exceed it."""
    g_reference: float
    """``g_max``, uS, > 0, of the chip that ``programming_std`` was fitted on. Another ``g_max``
    scales the fit."""
    t0: float
    """Age of the device when ``t = 0``, s, > 0: its programming pulse came ``t0`` earlier."""
    t_read: float
    """Length of a read, s, > 0. It sets the upper corner of the 1/f noise."""
    programming_std: Curve
    """Standard deviation of the programmed conductance, uS, as a function of the target ``r``."""
    drift_mean: Curve
    """Mean drift exponent as a function of the target ``r``."""
    drift_std: Curve
    """Standard deviation of the drift exponent between devices, as a function of the target
    ``r``."""
    read_noise: Curve
    """``Q`` of the 1/f spectrum ``S_G / G^2 = Q^2 / f`` as a function of the programmed ``r``."""
    programming_scale: float = 1.0
    """Multiplies the programming noise, >= 0; 0 programs exactly."""
    drift_scale: float = 1.0
    """Multiplies every drift exponent, >= 0; 0 is a device that does not drift."""
    read_scale: float = 1.0
    """Multiplies the read noise, >= 0; 0 reads without noise."""
    g_min: float = 0.0
    """Smallest conductance that weights are mapped to, uS, >= 0, < ``g_max``."""
    measured_until: float | None = None
    """Time, s, >= 0, at which the data of the fit end; None: the law of drift is taken to have no
    end."""

    def __post_init__(self) -> None:
        checks.text("PCM.name", self.name, "my PCM")
        check_conductances(self)
        checks.numbers(self, "t0", "t_read", above=0)
        checks.numbers(self, "measured_until", optional=True, least=0)
        if self.t0 <= self.t_read:
            raise ValueError(
                f"PCM.t0 must be longer than t_read, got {self.t0} and {self.t_read} s: a read "
                "comes after"
            )
        for field in ("programming_std", "drift_mean", "drift_std", "read_noise"):
            check_curve(f"PCM.{field}", getattr(self, field))
        scales = ("programming_scale", "drift_scale", "read_scale")
        checks.numbers(self, *scales, least=0, remedy="0 switches the effect off")

    @property
    def valid_until(self) -> float:
        """``measured_until``, or infinity: the power law of drift has no end."""
        return math.inf if self.measured_until is None else self.measured_until

    @property
    def extrapolates(self) -> bool:
        """True: beyond ``valid_until`` the power law continues."""
        return True

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of devices programmed to ``g`` (uS, any shape).

        Conductances are not yet clamped at 0.
        """
        unit = self.programming_scale * self.g_max / self.g_reference
        return self.programming_std(g / self.g_max).clamp_min(0.0) * unit

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for the target ``g``, clamped at 0.

        The normals ``z`` have the shape of ``g``.
        """
        return (g + self.programming_sigma(g) * z).clamp_min(0.0)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the drift exponents, >= 0, for targets ``g`` (uS) and normals ``z``."""
        r = g / self.g_max
        return self.drift_scale * (self.drift_mean(r) + self.drift_std(r) * z).abs()

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, ``t`` seconds (>= 0) after ``t0``, without read noise."""
        check_time(t)
        return g_programmed * torch.pow((t + self.t0) / self.t0, -nu)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at ``t`` gives.

        The draw ``z`` of the accumulated 1/f noise stays the same for that time.
        """
        check_time(t)
        q = self.read_scale * self.read_noise(g_programmed / self.g_max)
        std = q * math.sqrt(growth(t + self.t0, self.t_read))
        return (g_drifted * (1.0 + std * z)).clamp_min(0.0)


def pcm_like() -> PCM:
    """Return the statistical PCM model of 1 M devices in 90 nm, with ``g_max`` 25 uS.

    Source: Nandakumar et al. 2019 and Joshi et al. 2020, as in the module's sources.
    """
    return PCM(
        name="PCM statistical model (Nandakumar 2019, Joshi 2020)",
        g_max=25.0,
        g_reference=25.0,
        t0=20.0,
        t_read=250e-9,
        programming_std=Polynomial(coefficients=(0.26348, 1.9650, -1.1731)),
        drift_mean=LogClip(slope=-0.0155, offset=0.0244, low=0.049, high=0.1),
        drift_std=LogClip(slope=-0.0125, offset=-0.0059, low=0.008, high=0.045),
        read_noise=PowerClip(scale=0.0088, power=0.65, floor=1e-3, high=0.2),
    )


_HERMES_DRIFT_MEAN = Piecewise(
    split=0.0945,
    below=LogClip(slope=-0.0387, offset=-0.0182, low=0.0720, high=0.13),
    above=Polynomial(coefficients=(0.0736, -0.0126, -0.0436)),
)


def hermes_one_device() -> PCM:
    """Return the PCM of the HERMES chip with one device per polarity, ``g_max`` 10.35 uS.

    Source: Le Gallo et al. 2023 (14 nm).
    """
    return PCM(
        name="HERMES PCM, one device per polarity (Le Gallo 2023)",
        g_max=10.35,
        g_reference=10.35,
        t0=200.0,
        t_read=512e-9,
        programming_std=Polynomial(coefficients=(0.15781817, 2.32443916, -2.16310839, 0.68841818)),
        drift_mean=_HERMES_DRIFT_MEAN,
        drift_std=Piecewise(
            split=0.3039,
            below=LogClip(slope=-0.0120, offset=-0.0023, low=0.0124, high=0.04),
            above=Polynomial(coefficients=(0.0104, 0.0116, -0.0165)),
        ),
        read_noise=Piecewise(
            split=0.1591,
            below=LogClip(slope=-0.0078, offset=0.0038, low=0.0179, high=0.04),
            above=Polynomial(coefficients=(0.0088, 0.0768, -0.1352, 0.0664)),
        ),
    )


def hermes_two_device() -> PCM:
    """Return two devices per polarity of HERMES as one effective device, ``g_max`` 20.7 uS.

    Its sigma is that of the pair: use it with ``devices_per_polarity=1``, and never draw it twice.
    The pair was programmed by the most-significant-first scheme of Vasilopoulos et al., TED 2023.
    Source: Le Gallo et al. 2023.
    """
    return PCM(
        name="HERMES PCM, two devices per polarity as one effective device (Le Gallo 2023)",
        g_max=20.7,
        g_reference=20.7,
        t0=300.0,
        t_read=512e-9,
        programming_std=Polynomial(coefficients=(0.16603222, 4.71806468, -8.48101252, 4.68961419)),
        drift_mean=_HERMES_DRIFT_MEAN,
        drift_std=Piecewise(
            split=0.3055,
            below=LogClip(slope=-0.0117, offset=-0.0057, low=0.0091, high=0.04),
            above=Polynomial(coefficients=(0.0073, 0.0093, -0.0118)),
        ),
        read_noise=Piecewise(
            split=0.16,
            below=LogClip(slope=-0.0117, offset=-0.0069, low=0.015, high=0.04),
            above=Polynomial(coefficients=(0.0123, 0.0211, -0.0280, 0.0069)),
        ),
    )


def ideal_device() -> PCM:
    """Return a device without programming noise, drift and read noise; ``g_max`` is 1 uS."""
    flat = Polynomial(coefficients=(0.0,))
    return PCM(
        name="ideal device",
        g_max=1.0,
        g_reference=1.0,
        t0=1.0,
        t_read=1e-9,
        programming_std=flat,
        drift_mean=flat,
        drift_std=flat,
        read_noise=flat,
    )
