"""Drift at the measured times: mean and spread over conductance at each."""

import math
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from analogtorch.devices.fitting.conductances import Conductances, conductances
from analogtorch.devices.fitting.functions import polynomial, powers
from analogtorch.devices.fitting.grid import Grid
from analogtorch.devices.fitting.likelihood import Normal, fit_normal
from analogtorch.devices.time import growth
from analogtorch.devices.timed import TimedDevice

_MOST = 4
"""Highest power of ``r`` in mean and spread."""
_MOST_READ = 2
"""Highest power of ``r`` in the spread of reads."""


_criterion = attrgetter("information")


@dataclass(frozen=True)
class ReadNoise:
    """Spread of reads over powers of the present ``r``."""

    std: Tensor
    """Coefficients, uS."""
    t_read: float | None
    """Length of a read, s, if the noise grows as that of a 1/f spectrum; None: it does not."""

    def variance(self, r: Tensor, t: float) -> Tensor:
        """Return the variance of one read, uS^2."""
        base = (powers(r, len(self.std) - 1) @ self.std).clamp_min(0.0).square()
        return base * _growth(t, self.t_read)


@dataclass(frozen=True)
class AtTimes:
    """Fits at the measured times."""

    g_max: float
    times: tuple[float, ...]
    fits: tuple[Normal, ...]
    """Deviation from the target, uS, over powers of ``r``, without read noise."""
    read: ReadNoise | None

    def moments(self, target: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, uS, of reads of targets (n,) at one of the times."""
        number, r = self.times.index(t), target / self.g_max
        fit = self.fits[number]
        mean = target + powers(r, len(fit.mean) - 1) @ fit.mean
        variance = self._std(number, target).square()
        if self.read is not None:
            variance = variance + self.read.variance(mean / self.g_max, t)
        return mean, variance.sqrt()

    def programmed(self, target: Tensor) -> Tensor:
        """Return the standard deviation of targets (n,), uS, at the first time, without reads."""
        return self._std(0, target)

    def read_std(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of a read of conductances (n,) at the first time."""
        if self.read is None:
            return torch.zeros_like(g)
        return self.read.variance(g / self.g_max, self.times[0]).sqrt()

    def _std(self, number: int, target: Tensor) -> Tensor:
        std = self.fits[number].std
        return (powers(target / self.g_max, len(std) - 1) @ std).clamp_min(0.0)

    def device(self, name: str, g_min: float) -> TimedDevice:
        """Return the device of those fits."""
        moves = any(len(fit.mean) for fit in self.fits)
        return TimedDevice(
            name=name,
            g_max=self.g_max,
            g_reference=self.g_max,
            g_min=g_min,
            times=self.times,
            stds=tuple(polynomial(fit.std) for fit in self.fits),
            shifts=tuple(polynomial(fit.mean) for fit in self.fits) if moves else (),
            read_std=None if self.read is None else polynomial(self.read.std),
            t_read=None if self.read is None else self.read.t_read,
        )


def fit_times(grid: Grid, g_max: float, t_read: float, like: AtTimes | None = None) -> AtTimes:
    """Fit mean and spread at each time.

    Args:
        grid: the measurements.
        g_max: uS.
        t_read: length of a read, s, if the noise grows as that of a 1/f spectrum.
        like: a fit whose powers of ``r`` are kept; None: they are searched.
    """
    behind = conductances(grid, g_max)
    read = _read(grid, behind, g_max, t_read, like.read if like else None)
    times = tuple(grid.times.tolist())
    fits = tuple(
        _at(grid, behind, number, g_max, read, like.fits[number] if like else None)
        for number in range(len(times))
    )
    return AtTimes(g_max, times, fits, read)


def _at(
    grid: Grid,
    behind: Conductances,
    number: int,
    g_max: float,
    read: ReadNoise | None,
    like: Normal | None,
) -> Normal:
    index, target, mean = grid.at(number)
    r, t = target / g_max, float(grid.times[number])
    known = None
    if read is not None:
        expected = behind.of_target[index, number]
        known = read.variance(expected / g_max, t) / grid.counts[index, number]

    def fit(mean_degree: int, std_degree: int) -> Normal:
        return fit_normal(
            mean - target,
            powers(r, mean_degree),
            powers(r, std_degree),
            known=known,
            limit=-target,
            start=like,
        )

    if like:
        return fit(len(like.mean) - 1, len(like.std) - 1)
    top = min(_MOST, len(target.unique()) - 1)
    best = min((fit(top, degree) for degree in range(top + 1)), key=_criterion)
    std_degree = len(best.std) - 1
    return min((fit(degree, std_degree) for degree in range(-1, top + 1)), key=_criterion)


def _read(
    grid: Grid, behind: Conductances, g_max: float, t_read: float, like: ReadNoise | None
) -> ReadNoise | None:
    """Return the spread of repeated reads, which grows with time if that is likelier."""
    if not grid.repeated:
        return None
    deviation, device, time = grid.deviations()
    r = behind.mean[device, time] / g_max

    def fit(degree: int, length: float | None) -> tuple[float, ReadNoise]:
        scale = torch.tensor(
            [math.sqrt(_growth(float(t), length)) for t in grid.times],
            dtype=torch.float64,
            device="cpu",
        )[time]
        found = fit_normal(deviation / scale, powers(r, -1), powers(r, degree))
        # the scale is a change of variable
        cost = found.information + 2 * float(scale.log().sum())
        return cost, ReadNoise(found.std, length)

    if like:
        return fit(len(like.std) - 1, like.t_read)[1]
    tried = [fit(d, length) for d in range(_MOST_READ + 1) for length in (None, t_read)]
    return min(tried, key=lambda found: found[0])[1]


def _growth(t: float, t_read: float | None) -> float:
    """Return the variance of reads at ``t``, in units of that of the curve."""
    return 1.0 if t_read is None else growth(t, t_read)
