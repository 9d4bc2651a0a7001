"""A fitted device with the quality of the fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analogtorch.devices.fitting.grid import Grid
from analogtorch.devices.pcm import PCM
from analogtorch.devices.timed import TimedDevice
from analogtorch.files import figures
from analogtorch.values.shown import Shown

Law = Literal["power", "times"]
"""``power``: drift is a power law of time; ``times``: fits at the measured times."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """A fitted curve with its 95 % confidence band, from devices drawn anew (bootstrap)."""

    x: tuple[float, ...]
    """Targets, uS, or times, s."""
    value: tuple[float, ...]
    """Value of the fit, uS."""
    low: tuple[float, ...]
    """2.5 % of the fits to devices drawn anew lie below, uS."""
    high: tuple[float, ...]
    """2.5 % of them lie above, uS."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Mean and spread over time of devices of one target."""

    target: float
    """uS."""
    mean: Band
    """Mean conductance over time."""
    spread: Band
    """Standard deviation over time, read noise included."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well the fitted device agrees with the measurements of one time.

    The fitted device is programmed to the measured targets, many times over, and read.
    """

    time: float
    """s after programming."""
    devices: int
    """Devices read then."""
    mean: tuple[float, float]
    """Mean deviation from the target, uS: measured, fitted."""
    spread: tuple[float, float]
    """Root mean square deviation from the target, uS: measured, fitted."""
    distance: float
    """Largest difference of the two cumulative distributions of the deviation, from 0 to 1
    (Kolmogorov-Smirnov)."""
    chance: float
    """Probability, about, of a distance as large when the fitted device itself is measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit(Shown):
    """A device fitted to measurements by ``analogtorch.devices.fit``.

    ``str(fit)`` is a table of its quality.
    """

    device: PCM | TimedDevice
    """The device; it can be used as any other."""
    law: Law
    """The law of its drift."""
    programming: Band
    """Standard deviation of the conductance over the target at the first time, read noise
    included."""
    read_noise: Band | None
    """Standard deviation of one read over the conductance at the first time; None: the measurements
    do not determine it."""
    drift: tuple[Drift, ...]
    """Drift of some targets."""
    quality: tuple[Quality, ...]
    """One per measured time."""
    notes: tuple[str, ...]
    """Notes on what the measurements do not determine."""
    gap: tuple[float, float] | None
    """Neighbouring targets, uS, so far apart that the curves between them are interpolated, and the
    true ones may lie outside of the bands there; None: there are none."""
    measurements: Grid
    """The measurements that were fitted."""

    def interpolated(self, g: float) -> bool:
        """Return whether a target or conductance ``g``, uS, lies in the gap."""
        return self.gap is not None and self.gap[0] < g < self.gap[1]

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw measured and fitted: the programming error over target, and the drift over time.

        Args:
            path: file to write, ``.png``, ``.svg`` or ``.pdf``; None writes none.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: the file is of another kind.
            OSError: the file cannot be written.
        """
        return figures.draw(self, path)
