"""A fitted device, with what supports it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analogtorch.devices.fitting.grid import Grid
from analogtorch.devices.pcm import PCM
from analogtorch.devices.timed import TimedDevice
from analogtorch.values import shown

Law = Literal["power", "times"]
"""``power``: drift is a power law of time; ``times``: fits at the measured times."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """A fitted curve with its 95 % confidence band, from devices drawn anew (bootstrap)."""

    x: tuple[float, ...]
    """Targets, uS, or times, s."""
    value: tuple[float, ...]
    """What the fit is there, uS."""
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
    """About how often as large a distance would come of measuring the fitted device itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A device fitted to measurements by ``analogtorch.devices.fit``.

    ``str(fit)`` is a table of its quality.
    """

    device: PCM | TimedDevice
    """The device, to be used as any other."""
    law: Law
    """What its drift follows."""
    programming: Band
    """Standard deviation of the conductance over the target at the first time, read noise
    included."""
    drift: tuple[Drift, ...]
    """Of some targets."""
    quality: tuple[Quality, ...]
    """One per measured time."""
    notes: tuple[str, ...]
    """What the measurements could not tell."""
    measurements: Grid
    """What was fitted."""

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw measured and fitted: the programming error over target, and the drift over time.

        Args:
            path: file to write, ``.png``, ``.svg`` or ``.pdf``; None writes none.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: another kind of file.
            OSError: the file cannot be written.
        """
        return shown.draw(self, path)

    def __str__(self) -> str:
        return shown.as_text(self)
