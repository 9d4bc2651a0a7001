"""Drift as a power law: ``g(t) = g_p ((t + tau) / (t_first + tau))^-nu``, ``nu`` of each device."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices.curves import Polynomial
from analogtorch.devices.fitting.conductances import conductances
from analogtorch.devices.fitting.functions import hats, interpolated, knots, polynomial, powers
from analogtorch.devices.fitting.grid import Grid
from analogtorch.devices.fitting.likelihood import Normal, fit_normal
from analogtorch.devices.fitting.read_share import ReadShare, fit_read_share
from analogtorch.devices.pcm import PCM
from analogtorch.devices.time import growth

LOW = 0.05
"""Targets below this share of ``g_max`` are too small beside their noise for a logarithm."""
_EXACT = 1e-12
"""Smallest variance of exponents, for data without any spread."""
_MOST = 4
"""Highest power of ``r`` in the spread of programming."""
TIMES = 3
"""Times that a law of time needs: two fit any."""


@dataclass(frozen=True)
class PowerLaw:
    """A fitted power law."""

    g_max: float
    first: float
    """First measured time, s: time 0 of the fitted device."""
    last: float
    """Last measured time, s."""
    tau: float
    """Age of the devices at the zero of the measured times, s."""
    t_read: float
    spread: Normal
    """Spread of programming, uS, over powers of ``r``."""
    exponents: Normal
    """Drift exponents, over hats; a mean below 0 is within its error, and counts as 0."""
    errors: Tensor
    """Standard errors of the mean exponents."""
    read: ReadShare | None
    """``Q`` of the read noise; None if the measurements do not determine it."""
    at: tuple[float, ...]
    """Knots of the exponents."""

    def moments(self, target: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, uS, of reads of targets (n,), uS, at ``t``, s.

        ``t`` is a measured time. The cut at 0 is ignored.
        """
        r, x = target / self.g_max, self._span(t)
        basis = hats(r, self.at)
        mean, std = basis @ self._falling, (basis @ self.exponents.std).clamp_min(0.0)
        kept = torch.exp(-mean * x + 0.5 * (std * x).square())
        programmed = target.square() + self._programming(r).square()
        drifted = programmed * torch.exp(-2 * mean * x + 2 * (std * x).square())
        noise = drifted * self._read_share(r, t)
        m = target * kept
        return m, (drifted - m.square() + noise).clamp_min(0.0).sqrt()

    def programmed(self, target: Tensor) -> Tensor:
        """Return the standard deviation of programming, uS, of targets (n,), uS."""
        return self._programming(target / self.g_max)

    def read_std(self, g: Tensor) -> Tensor:
        """Return the standard deviation, uS, of a read of conductances (n,) at the first time."""
        return g * self._read_share(g / self.g_max, self.first).sqrt()

    def device(self, name: str, g_min: float) -> PCM:
        """Return the device of that law, whose time 0 is the first measured one."""
        return PCM(
            name=name,
            g_max=self.g_max,
            g_reference=self.g_max,
            g_min=g_min,
            t0=self.first + self.tau,
            t_read=self.t_read,
            programming_std=polynomial(self.spread.std),
            drift_mean=interpolated(self._falling, self.at),
            drift_std=interpolated(self.exponents.std.clamp_min(0.0), self.at),
            read_noise=self.read.curve() if self.read else Polynomial(coefficients=(0.0,)),
            measured_until=self.last - self.first,
        )

    @property
    def _falling(self) -> Tensor:
        return self.exponents.mean.clamp_min(0.0)

    def _span(self, t: float) -> float:
        return math.log((t + self.tau) / (self.first + self.tau))

    def _programming(self, r: Tensor) -> Tensor:
        return (powers(r, len(self.spread.std) - 1) @ self.spread.std).clamp_min(0.0)

    def _read_share(self, r: Tensor, t: float) -> Tensor:
        """Return the variance of a read at ``t`` in units of the squared conductance."""
        if self.read is None:
            return torch.zeros_like(r)
        return self.read(r).square() * growth(t + self.tau, self.t_read)


def usable(grid: Grid, g_max: float) -> Tensor:
    """Return which devices determine drift, bool (devices,): followed, and never read as 0.

    A read of 0 has no logarithm.
    """
    there = (grid.means > 0) | (grid.counts == 0)
    return (grid.target >= LOW * g_max) & grid.followed & there.all(1)


def fit_power(grid: Grid, g_max: float, t_read: float, like: PowerLaw | None = None) -> PowerLaw:
    """Fit the law to devices that were read at three times or more.

    Args:
        grid: the measurements.
        g_max: uS.
        t_read: length of a read, s.
        like: a fit whose knots, powers and ``tau`` are kept; None: they are searched.
    """
    r, first = grid.target / g_max, float(grid.times[0])
    means, counts = grid.means, grid.counts
    used = usable(grid, g_max)
    choices = knots(r[used])
    logs = torch.where(counts > 0, means.clamp_min(1e-300).log(), torch.nan)
    tau = like.tau if like else _tau(logs[used], grid.times)
    x = torch.log((grid.times + tau) / (first + tau))
    ages = [growth(float(t) + tau, t_read) for t in grid.times]
    scales = torch.tensor(ages, dtype=torch.float64, device="cpu")
    read = _read(grid, logs, x, scales, used, g_max, like)
    share = read(r).square() if read else torch.zeros_like(r)
    slopes, lever = _slopes(logs[used], x, scales / counts[used].clamp_min(1))
    known = lever * share[used]
    at, exponents = _exponents(r[used], -slopes, known, like, choices)
    errors = _errors(r[used], at, exponents, known)
    spread = _spread(grid, g_max, share * scales[0], like.spread if like else None)
    last = float(grid.times[-1])
    return PowerLaw(g_max, first, last, tau, t_read, spread, exponents, errors, read, at)


def _exponents(
    r: Tensor, found: Tensor, known: Tensor, like: PowerLaw | None, choices: list[tuple[float, ...]]
) -> tuple[tuple[float, ...], Normal]:
    """Return the knots of the drift exponents, and their mean and spread there.

    Args:
        r: (n,), targets of the devices.
        found: (n,), their exponents.
        known: (n,), variance of the exponents by read noise.
        like: a fit whose knots are kept.
        choices: choices of knots.
    """

    def fit(at: tuple[float, ...], start: Normal | None = None) -> Normal:
        basis = hats(r, at)
        return fit_normal(found, basis, basis, known=known, start=start)

    if like:
        return like.at, fit(like.at, like.exponents)
    fits = [(at, fit(at)) for at in choices]
    return min(fits, key=lambda each: each[1].information)


def _errors(r: Tensor, at: tuple[float, ...], found: Normal, known: Tensor) -> Tensor:
    """Return the standard errors of the mean exponents at the knots, for targets ``r`` (n,)."""
    basis = hats(r, at)
    variance = ((basis @ found.std).square() + known).clamp_min(_EXACT)
    return torch.linalg.pinv(basis.T @ (basis / variance.unsqueeze(1))).diagonal().sqrt()


def _slopes(logs: Tensor, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slope of each device's logarithms (n, times) over ``x``, and its variance.

    Args:
        logs: NaN where there is none.
        x: (times,).
        variance: (n, times), of the logarithms.
    """
    there = logs.isfinite()
    seen = there.to(logs.dtype)
    middle = (seen * x).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
    arm = seen * (x - middle)
    arm = arm / arm.square().sum(1, keepdim=True)
    return (arm * logs.nan_to_num()).sum(1), (arm.square() * variance).sum(1)


def _tau(logs: Tensor, times: Tensor) -> float:
    """Return the age, s, of the devices at time 0 that makes their mean drift a straight line.

    It is 0 where that fits as well.
    """
    change = logs - logs[:, :1]
    n = change.isfinite().sum(0)[1:]
    mean = change.nanmean(0)[1:]
    centred = (change - change.nanmean(0)).nan_to_num().square().sum(0)[1:]
    weight = n * (n - 1) / centred.clamp_min(1e-300)
    if len(mean) < TIMES - 1:
        return 0.0

    def misfit(tau: float) -> float:
        x = torch.log((times[1:] + tau) / (times[0] + tau))
        slope = (weight * x * mean).sum() / (weight * x.square()).sum()
        return float((weight * (mean - slope * x).square()).sum())

    first, last = math.log(float(times[0]) / 100), math.log(float(times[-1]))
    tried = torch.linspace(first, last, 400, dtype=torch.float64, device="cpu").exp().tolist()
    best = min(tried, key=misfit)
    # the reads of a device share its first: so much better must a second parameter be
    return best if misfit(0.0) - misfit(best) > 10 else 0.0


def _read(
    grid: Grid,
    logs: Tensor,
    x: Tensor,
    scales: Tensor,
    used: Tensor,
    g_max: float,
    like: PowerLaw | None,
) -> ReadShare | None:
    """Return ``Q`` from repeated reads, else from the scatter about each line."""
    behind = conductances(grid, g_max)
    start = behind.mean[:, 0]
    start = torch.where(start.isnan(), grid.target, start) / g_max  # if it was not read at first
    if grid.repeated:
        deviation, device, time = grid.deviations()
        square = behind.square[device, time]
        kept = used[device] & (square > 0)
        error = (deviation / (square * scales[time]).sqrt())[kept]
        r = start[device][kept]
        counts = grid.counts[device, time][kept]
        independent = float((1 - 1 / counts).mean()) if len(counts) else 1.0
    else:
        there = logs.isfinite() & used.unsqueeze(1)
        enough = there.sum(1) >= TIMES
        slope, _ = _slopes(logs[enough], x, torch.ones_like(logs[enough]))
        level = logs[enough] - slope.unsqueeze(1) * x
        residual = level - level.nanmean(1, keepdim=True)
        free = there[enough].sum(1, keepdim=True)
        independent = float((free - 2).sum() / free.sum()) if len(free) else 1.0
        residual = residual * (free / (free - 2)).sqrt() / scales.sqrt()
        which = residual.isfinite()
        error = residual[which]
        r = start[enough].unsqueeze(1).expand_as(residual)[which]
    return fit_read_share(error, r.clamp_min(LOW), independent, like.read if like else None)


def _spread(grid: Grid, g_max: float, share: Tensor, like: Normal | None) -> Normal:
    """Return the spread of programming over powers of ``r``, from the first read of each device."""
    index, target, mean = grid.at(0)
    r, count = target / g_max, grid.counts[index, 0]
    ratio = share[index] / count
    # of the squared target and the spread of programming about it, not of a noisy mean read
    known = target.square() * ratio
    error, none = mean - target, powers(r, -1)

    def spread(degree: int) -> Normal:
        basis = powers(r, degree) * (1 + ratio).sqrt().unsqueeze(1)
        start = like if like and len(like.std) == degree + 1 else None
        return fit_normal(error, none, basis, known=known, limit=-target, start=start)

    if like:
        return spread(len(like.std) - 1)
    levels = len(target.unique())
    return min(
        (spread(degree) for degree in range(min(_MOST, levels - 1) + 1)),
        key=lambda found: found.information,
    )
