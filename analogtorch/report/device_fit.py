"""A fitted device and its measurements: as a table for the terminal and as a plot."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.devices.fitting import Band, Drift, Fit
from analogtorch.devices.time import duration
from analogtorch.files.figures import new_figure
from analogtorch.report.columns import ruled
from analogtorch.values.shown import as_figure, as_text

_LAWS = {
    "power": "drift is a power law of time",
    "times": "fits at the measured times",
}
_DOTS = 2000
"""Devices that a plot shows, at most."""
_NEAR = 0.05
"""Largest distance from a target, in units of the range, of devices whose measured mean a plot
shows."""


@as_text.register
def table(fit: Fit) -> str:
    """Return a row per measured time: distances of the conductances from their targets.

    Each is measured and fitted.
    """
    device = fit.device
    rows: list[tuple[str, ...]] = [
        ("time", "devices", "mean, uS", "fitted", "spread, uS", "fitted", "distance", "chance")
    ]
    for q in fit.quality:
        numbers = (*q.mean, *q.spread)
        rows.append(
            (
                duration(float(f"{q.time:.3g}")),
                f"{q.devices:,}",
                *(f"{x:.4g}" for x in numbers),
                f"{q.distance:.3f}",
                f"{q.chance:.2g}",
            )
        )
    return "\n".join(
        [
            f"{device.name}: {type(device).__name__}, {_LAWS[fit.law]}, "
            f"{device.g_min:g} to {device.g_max:g} uS",
            "spread of the first reads, with their noise, and its 95 % confidence:",
            *_spreads(fit, fit.programming),
            *_read_noise(fit),
            "deviation from the target:",
            *ruled(rows, left=()),
            "distance: of the measured distribution from the fitted one (Kolmogorov-Smirnov);",
            "chance: of as large a distance if the fitted device itself had been measured",
            *(f"note: {note}" for note in fit.notes),
        ]
    )


def _read_noise(fit: Fit) -> list[str]:
    if fit.read_noise is None:
        return []
    return ["noise of one read, and its 95 % confidence:", *_spreads(fit, fit.read_noise)]


def _spreads(fit: Fit, band: Band) -> list[str]:
    """Return the band at the lowest, the middle and the highest target."""
    lines = []
    for i in (0, len(band.x) // 2, len(band.x) - 1):
        known = f"{band.low[i]:.3g} to {band.high[i]:.3g}"
        known = "interpolated" if fit.interpolated(band.x[i]) else known
        lines.append(f"  {band.value[i]:.3g} uS ({known}) at {band.x[i]:.3g} uS")
    return lines


@as_figure.register
def plot(fit: Fit) -> Any:
    """Draw measured and fitted: the error of programming over target, and the drift over time."""
    figure = new_figure(11, 4.2)
    left, middle, right = figure.subplots(1, 3)
    _programming(left, fit)
    for number, drift in enumerate(fit.drift):
        _over_time((middle, right), drift, f"C{number}", fit)
    middle.set_ylabel("mean conductance, uS")
    right.set_ylabel("spread of reads, uS")
    for axes in (middle, right):
        axes.set_xscale("log")
        axes.set_xlabel("time after programming, s")
        axes.set_ylim(bottom=0)
    right.legend(fontsize="small")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{fit.device.name}: {_LAWS[fit.law]}; dots measured, lines fitted (95 %)")
    return figure


def _programming(axes: Any, fit: Fit) -> None:
    """Errors of single devices over their targets, and one standard deviation on either side."""
    grid, band = fit.measurements, fit.programming
    _, target, read = grid.at(0)
    known = [not fit.interpolated(g) for g in band.x]
    few = torch.linspace(
        0, len(target) - 1, min(_DOTS, len(target)), dtype=torch.float32, device="cpu"
    ).long()
    axes.plot(target[few].tolist(), (read - target)[few].tolist(), ".", color="0.6", markersize=2)
    for sign in (1, -1):
        low, high = _times(sign, band.low), _times(sign, band.high)
        axes.fill_between(band.x, low, high, where=known, color="C3", alpha=0.4)
        axes.plot(band.x, _times(sign, band.value), color="C3", linewidth=1)
    axes.set_xlabel("target, uS")
    axes.set_ylabel(f"error after {duration(float(grid.times[0]))}, uS")


def _over_time(both: Sequence[Any], drift: Drift, colour: str, fit: Fit) -> None:
    """Mean and spread of devices of one target; without bands where the fit interpolates."""
    times, *measured = _measured(fit, drift.target)
    between = fit.interpolated(drift.target)
    label = f"target {drift.target:.3g} uS" + ", interpolated" * between
    for axes, band, dots in zip(both, (drift.mean, drift.spread), measured, strict=True):
        axes.plot(times, dots, "o", color=colour, markersize=4)
        axes.plot(band.x, band.value, "--" if between else "-", color=colour, label=label)
        if not between:
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.25, linewidth=0)


def _measured(fit: Fit, target: float) -> tuple[list[float], list[float], list[float]]:
    """Return times, and mean and spread of devices near a target, as they would be at it."""
    grid, device = fit.measurements, fit.device
    near = (grid.target - target).abs() <= _NEAR * (device.g_max - device.g_min)
    times: list[float] = []
    means: list[float] = []
    spreads: list[float] = []
    for number, time in enumerate(grid.times.tolist()):
        read = grid.reads[near, number, 0]
        seen = read.isfinite()
        if int(seen.sum()) > 2:
            mean, spread = _at(grid.target[near][seen] - target, read[seen])
            times.append(time)
            means.append(mean)
            spreads.append(spread)
    return times, means, spreads


def _at(offset: Tensor, read: Tensor) -> tuple[float, float]:
    """Return mean and spread where ``offset`` is 0, of reads that lie about a straight line."""
    centred = offset - offset.mean()
    squares = centred.square().sum()
    slope = (
        (centred * read).sum() / squares
        if float(squares) > 0
        else torch.tensor(0.0, dtype=torch.float32, device="cpu")
    )
    return float(read.mean() - slope * offset.mean()), float((read - slope * centred).std())


def _times(factor: float, values: Sequence[float]) -> list[float]:
    return [factor * value for value in values]
