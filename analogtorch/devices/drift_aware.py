"""A device whose targets allow for how it will have drifted."""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from analogtorch.devices.cell import Cell
from analogtorch.devices.curves import Interpolated
from analogtorch.devices.device import Around, Device, check_device
from analogtorch.devices.registry import register
from analogtorch.devices.spread import Spread
from analogtorch.devices.time import duration, seconds
from analogtorch.values import checks

_KNOTS = (0.0, 0.01, 0.02, 0.04, 0.07, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""Wanted conductances, in units of the range, between which targets are interpolated."""
_STEPS, _DRAWS = 512, 4096
"""Targets whose mean conductance is found, and devices that are drawn for each."""
_DECIMALS = 5
"""Targets are rounded to this many, so that all machines find the same."""


@register
@dataclass(frozen=True, kw_only=True)
class DriftAware(Around):
    """Another device, written to targets whose mean conductance is right at a later time.

    Small conductances of phase-change memory fall faster than large ones, so that drift bends
    weights, which no digital gain undoes. Here a device is written to the target whose mean at
    ``time``, over programming noise, drift and read noise, is in proportion to the conductance that
    is wanted, from the smallest to the largest. Largest and smallest targets stay as they are.
    Mackin et al., Nat. Commun. 13, 3765 (2022), optimise the programming of weights likewise, for
    one time or several.

    See ``analogtorch.chips.Chip.drift_aware``.

    Raises:
        ValueError: the device is drift aware already, the time is not after programming, or the
            largest conductance is no larger than an empty one then.
    """

    device: Device
    """The device as it is."""
    time: str | float = "1 day"
    """Time after programming, s, > 0, or a text for ``seconds``."""
    _targets: ClassVar[Interpolated]
    """The target as a function of the wanted conductance, both in units of the range."""

    def __post_init__(self) -> None:
        check_device("DriftAware.device", self.device)
        if isinstance(self.device, DriftAware):
            raise ValueError(
                "DriftAware.device is drift aware already; pass its device, or replace its time"
            )
        t = seconds(self.time)
        if t is None or not t > 0:
            raise ValueError(
                f"DriftAware.time must be after programming, such as '1 day', got {self.time!r}"
            )
        checks.settle(self, "time", t)
        # found now, because torch.compile cannot trace it
        checks.settle(self, "_targets", _curve(self))

    @property
    def name(self) -> str:
        """Name of the device and of what is changed."""
        return f"{self.device.name}, targets for {duration(float(self.time))}"

    def target(self, g: Tensor) -> Tensor:
        """Return the conductances, uS, to write for the wanted ones ``g``, uS, of any shape."""
        span = self.g_max - self.g_min
        return self._targets((g - self.g_min) / span) * span + self.g_min

    def programming_sigma(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of programming ``g``, before the clamp at 0."""
        return self.device.programming_sigma(self.target(g))

    def program(self, g: Tensor, z: Tensor) -> Tensor:
        """Return the conductance, uS, programmed for ``g`` with the normals ``z``."""
        return self.device.program(self.target(g), z)

    def drift_coefficient(self, g: Tensor, z: Tensor) -> Tensor:
        """Return what ``drift`` must know of devices for ``g`` with the normals ``z``."""
        return self.device.drift_coefficient(self.target(g), z)

    def drift(self, g_programmed: Tensor, nu: Tensor, t: float) -> Tensor:
        """Return the conductance, uS, at time ``t``."""
        return self.device.drift(g_programmed, nu, t)

    def read(self, g_programmed: Tensor, g_drifted: Tensor, t: float, z: Tensor) -> Tensor:
        """Return the conductance, uS, that a read at time ``t`` gives with the normals ``z``."""
        return self.device.read(g_programmed, g_drifted, t, z)


def _curve(device: DriftAware) -> Interpolated:
    """Return the target as a function of the wanted conductance, both in units of the range."""
    try:
        return _found(device)
    except TypeError:  # a device of one's own that cannot be hashed
        return _found.__wrapped__(device)


@functools.lru_cache(maxsize=64)
def _found(aware: DriftAware) -> Interpolated:
    device, t = aware.device, float(aware.time)
    span = device.g_max - device.g_min
    with torch.inference_mode(False), torch.no_grad():
        u = torch.quasirandom.SobolEngine(3).draw(_DRAWS, dtype=torch.float64)
        z = torch.special.ndtri(u + 0.5 / _DRAWS).T
        share = torch.linspace(0, 1, _STEPS + 1, dtype=torch.float64, device="cpu").square()
        g = (device.g_min + share * span).unsqueeze(1).expand(-1, _DRAWS)
        programmed, drift, read = (each.expand_as(g) for each in z)
        then = device.program(g, programmed)
        now = device.drift(then, device.drift_coefficient(g, drift), t)
        mean = device.read(then, now, t, read).mean(1)
    rise = (mean - mean[0]).cummax(0).values
    if not rise[-1] > 0:
        raise ValueError(
            f"DriftAware: at {t:g} s the device {device.name!r} of the largest conductance is no "
            "larger than an empty one; give an earlier time"
        )
    shares, rises = share.tolist(), (rise / rise[-1]).tolist()
    return Interpolated(
        points=_KNOTS, values=tuple(round(_inverse(shares, rises, x), _DECIMALS) for x in _KNOTS)
    )


def _inverse(x: list[float], y: list[float], wanted: float) -> float:
    """Return where straight lines through the points (x, y), y never falling, reach ``wanted``."""
    for (a, low), (b, high) in itertools.pairwise(zip(x, y, strict=True)):
        if low < high and wanted <= high:
            return a + (b - a) * max(0.0, (wanted - low) / (high - low))
    return x[-1]


def as_written(device: Device, g: Tensor) -> Tensor:
    """Return the conductances, uS, to which devices are written for the wanted ones ``g``."""
    return device.target(g) if isinstance(device, DriftAware) else g


def bare(device: Device) -> Device:
    """Return the device itself, without what its targets allow for."""
    return device.device if isinstance(device, DriftAware) else device


def kernel_spread(cell: Cell) -> Spread | None:
    """Return the programming noise of a cell in the form of kernels; None: it has no such form.

    Targets that allow for drift have none, but that of the same device without them serves where
    only its size matters: it differs by some 20 %.
    """
    if isinstance(cell.device, DriftAware):
        cell = replace(cell, device=bare(cell.device))  # type: ignore[type-var]
    return cell.spread
