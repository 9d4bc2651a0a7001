"""A device with an error known at a few times after programming, such as ReRAM or SONOS.

Its drift need follow no power law.

    sigma(r, t)  total spread, fitted at each time      r = g / g_max of the target
    shift(r, t)  change of the mean since programming, fitted at each time
    rho(r, t)    spread that relaxation adds by itself, fitted at each time
    g_p  = max(g + sigma(r, t_first) z, 0)                               programmed
    g(t) = max(g + shift(r, t) + sigma(r, t) z + rho(r, t) z', 0)        the same draws at all times
    read = max(g(t) + s(r_now) a(t) z'', 0)                              one draw per time

Between the fitted times the fits are interpolated, linear in log t or in t. Before the first time
they keep its value; after the last they keep the last value, or continue in a straight line.
``a(t)`` is 1, or ``sqrt(ln((t + t_read) / (2 t_read)))`` for noise of a 1/f spectrum, which is that
of the first time before it, too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from analogtorch.devices.curves import Curve, check_curve
from analogtorch.devices.device import check_conductances
from analogtorch.devices.registry import register
from analogtorch.devices.time import check_time, growth
from analogtorch.values import checks

_FITS = ("stds", "shifts", "relaxations")
_NONE = "0 switches the effect off"


@register
@dataclass(frozen=True, kw_only=True)
class TimedDevice:
    """One device, fitted at some times.

    Conductances are in microsiemens, times in seconds after programming.
    """

    name: str
    """What the fits describe, for reports."""
    g_max: float
    """Largest conductance that weights are mapped to, uS, > 0."""
    g_reference: float
    """``g_max`` of the devices that the fits were made on, uS, > 0; another ``g_max`` scales
    them."""
    times: tuple[float, ...]
    """Times of the fits, s after programming, ascending, >= 0; the first > 0 where ``between`` is
    ``log`` and there are several."""
    stds: tuple[Curve, ...]
    """Standard deviation of the conductance, uS, as a function of the target ``r``: one curve per
    time. The same draw at all times: a fit is the total error at its time, but where the first is
    0: what is written exactly stays exact. Errors that time alone makes are ``relaxations``, or
    begin at a small number."""
    shifts: tuple[Curve, ...] = ()
    """Change of the mean since programming, uS, as a function of the target ``r``: one curve per
    time; empty: the mean stays."""
    relaxations: tuple[Curve, ...] = ()
    """Standard deviation, uS, that is added to the error of programming by a draw of its own: one
    curve per time; empty: none."""
    between: Literal["log", "linear"] = "log"
    """Interpolation of the fits: linear in the logarithm of time, or in time."""
    extrapolates: bool = False
    """Whether the last two fits are continued beyond the last time; otherwise the last value is
    kept. No measurement supports either."""
    read_std: Curve | None = None
    """Standard deviation of the read noise, uS, as a function of the present ``r``; drawn once per
    time. None: there is none."""
    t_read: float | None = None
    """Length of a read, s, > 0: the read noise has a 1/f spectrum and grows with time from the
    first of ``times`` on. None: it does not grow."""
    g_min: float = 0.0
    """Smallest conductance that weights are mapped to, uS, >= 0, < ``g_max``."""
    programming_scale: float = 1.0
    """Multiplies ``stds`` at all times, >= 0; 0 programs exactly."""
    drift_scale: float = 1.0
    """Multiplies ``shifts`` and ``relaxations``, >= 0; 0 leaves the error of programming."""
    read_scale: float = 1.0
    """Multiplies the read noise, >= 0; 0 reads without noise."""

    def __post_init__(self) -> None:
        checks.text("TimedDevice.name", self.name, "my ReRAM")
        check_conductances(self)
        checks.numbers(
            self, "programming_scale", "drift_scale", "read_scale", least=0, remedy=_NONE
        )
        checks.numbers(self, "t_read", optional=True, above=0)
        checks.choice("TimedDevice.between", self.between, ("log", "linear"))
        checks.flag("TimedDevice.extrapolates", self.extrapolates)
        self._check_times()
        for field in _FITS:
            self._check_fits(field)
        if self.read_std is not None:
            check_curve("TimedDevice.read_std", self.read_std)

    def _check_times(self) -> None:
        given = self.times
        if not isinstance(given, tuple | list):
            raise ValueError(f"TimedDevice.times must be a tuple, got {checks.shown(given)}")
        times = tuple(
            checks.number(f"TimedDevice.times[{i}]", t, least=0) for i, t in enumerate(given)
        )
        if not times or sorted(set(times)) != list(times):
            raise ValueError(f"TimedDevice.times must be ascending, got {times}")
        if self.between == "log" and len(times) > 1 and times[0] == 0:
            raise ValueError(
                f"TimedDevice.times must be positive and ascending, got {times}: the logarithm "
                "of time has no 0; give the first read after programming, or between='linear'"
            )
        checks.settle(self, "times", times)

    def _check_fits(self, field: str) -> None:
        fits, times = getattr(self, field), self.times
        if not isinstance(fits, tuple | list):
            raise ValueError(f"TimedDevice.{field} must be a tuple, got {checks.shown(fits)}")
        if len(fits) != len(times) and not (field != "stds" and not fits):
            raise ValueError(
                f"TimedDevice.{field} needs one curve per time, got {len(fits)} for {len(times)} "
                "times"
            )
        for i, curve in enumerate(fits):
            check_curve(f"TimedDevice.{field}[{i}]", curve)
        checks.settle(self, field, tuple(fits))

    @property
    def valid_until(self) -> float:
        """Time of the last fit, s; no measurement supports what comes later."""
        return self.times[-1]

    @property
    def programming_std(self) -> Curve:
        """The curve at the first time."""
        return self.stds[0]

    def sigma(self, g: Tensor, t: float) -> Tensor:
        """Return the standard deviation, uS, at ``t`` seconds (>= 0) after programming ``g``.

        ``g`` is in uS and has any shape. The deviation is that of the draw of programming.
        """
        return self._fitted(self.stds, g, t, _not_negative) * self._unit(self.programming_scale)

    def shift(self, g: Tensor, t: float) -> Tensor:
        """Return the change of the mean, uS, of the target ``g`` (uS) at ``t`` seconds (>= 0)."""
        return self._fitted(self.shifts, g, t, _as_it_is) * self._unit(self.drift_scale)

    def relaxation(self, g: Tensor, t: float) -> Tensor:
        """Return the standard deviation, uS, that relaxation adds to the target ``g`` at ``t``."""
        return self._fitted(self.relaxations, g, t, _not_negative) * self._unit(self.drift_scale)

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
        """Return what ``drift`` must know of a device: its target ``g``, uS.

        For a device that relaxes, it is the target and the normals ``z``, stacked.
        """
        return torch.stack((g, z)) if self.relaxations else g

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, at time ``t``.

        The deviation from the target has grown as ``sigma`` has. A device that was clamped at 0
        stays at 0 while ``sigma`` grows, as its draw would.
        """
        check_time(t)
        target, z = nu if self.relaxations else (nu, None)
        first = self.programming_sigma(target)
        ratio = torch.where(first > 0, self.sigma(target, t) / first.clamp_min(_tiny(first)), 1.0)
        now = target + (g_programmed - target) * ratio
        if self.shifts:
            now = now + self.shift(target, t)
        if z is not None:
            now = now + self.relaxation(target, t) * z
        return now.clamp_min(0.0)

    def drift_of(self, g_programmed: Tensor, nu: Tensor, t: float, scale: float) -> Tensor:
        """Return the conductance, uS, at time ``t`` of devices with another error of programming.

        Its standard deviation is ``scale`` times that of ``programming_sigma``; the variance that
        time adds stays as it is. It is in the deviation from the target, as in ``drift``, or a draw
        of its own where devices are programmed exactly. Targets and the normals of drift are
        ``nu``, stacked.
        """
        check_time(t)
        target, z = nu
        first, relaxed = self.programming_sigma(target), self.relaxation(target, t)
        added = self.sigma(target, t).square() - first.square()
        if scale == 0:
            now = g_programmed + (added.clamp_min(0.0) + relaxed.square()).sqrt() * z
        else:
            held = scale * first
            sigma = (held.square() + added).clamp_min(0.0).sqrt()
            ratio = torch.where(held > 0, sigma / held.clamp_min(_tiny(held)), 1.0)
            now = target + (g_programmed - target) * ratio + relaxed * z
        if self.shifts:
            now = now + self.shift(target, t)
        return now.clamp_min(0.0)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at ``t`` gives.

        The normals ``z`` have the shape of ``g_drifted``.
        """
        check_time(t)
        if self.read_std is None:
            return g_drifted
        std = self.read_std(g_drifted / self.g_max).clamp_min(0.0)
        scale = self._unit(self.read_scale)
        if self.t_read is not None:
            scale = scale * math.sqrt(growth(max(t, self.times[0]), self.t_read))
        return (g_drifted + std * scale * z).clamp_min(0.0)

    def _unit(self, scale: float) -> float:
        return scale * self.g_max / self.g_reference

    def _fitted(
        self, fits: tuple[Curve, ...], g: Tensor, t: float, bound: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return what the fits give at ``t``, each held within ``bound``."""
        r, times = g / self.g_max, self.times
        if not fits:
            return torch.zeros_like(r)
        t = max(t, times[0])
        if not (self.extrapolates and len(times) > 1):
            t = min(t, times[-1])
        after = next((i for i, time in enumerate(times) if time >= t), len(times) - 1)
        value = bound(fits[after](r))
        if t == times[after]:
            return value
        share = self._share(times[after - 1], times[after], t)
        return bound(torch.lerp(bound(fits[after - 1](r)), value, share))

    def _share(self, a: float, b: float, t: float) -> float:
        """Return how far ``t`` lies on the way from ``a`` to ``b``; more than 1 after ``b``."""
        if self.between == "linear":
            return (t - a) / (b - a)
        return math.log(t / a) / math.log(b / a)


def _tiny(value: Tensor) -> float:
    return torch.finfo(value.dtype).tiny


def _not_negative(value: Tensor) -> Tensor:
    return value.clamp_min(0.0)


def _as_it_is(value: Tensor) -> Tensor:
    return value
