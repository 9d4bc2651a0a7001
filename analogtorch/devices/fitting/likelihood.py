"""Mean and spread of measurements over conductance, by maximum likelihood."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDS = 40
"""Largest number of steps of the search; it ends when nothing changes any more."""
_CLOSE = 1e-7
"""Relative change of the spread at which it ends."""
_LEAST = 0.02
"""Smallest spread of the search, in units of the root mean square: a curve that crosses 0 would end
it."""


@dataclass(frozen=True)
class Normal:
    """Normal distributions whose mean and standard deviation are linear in some functions."""

    mean: Tensor
    """Coefficients of the mean, (p,)."""
    std: Tensor
    """Coefficients of the standard deviation, (q,)."""
    log_likelihood: float
    """Log likelihood of the measurements, up to a constant that all fits of them share."""

    @property
    def information(self) -> float:
        """Akaike's information criterion: the smaller, the better."""
        return 2 * (len(self.mean) + len(self.std)) - 2 * self.log_likelihood


def fit_normal(
    error: Tensor,
    means: Tensor,
    stds: Tensor,
    *,
    known: Tensor | None = None,
    limit: Tensor | None = None,
    start: Normal | None = None,
) -> Normal:
    """Fit ``error ~ N(means @ a, (stds @ b)^2 + known)``.

    Args:
        error: (n,), such as measured minus target.
        means: (n, p), the functions of the mean, at each measurement; p may be 0.
        stds: (n, q), the functions of the standard deviation.
        known: (n,), additional variance, such as that of reads; None: none.
        limit: (n,), an error at or below it was cut off there; None: nothing was cut off.
        start: start of the search; None: a spread that is the same everywhere.

    Returns:
        The coefficients of largest likelihood. If measurements were cut off, their moments are
        expected ones, step by step (EM); the spread takes steps of Fisher scoring.
    """
    known = torch.zeros_like(error) if known is None else known
    cut = None if limit is None else error <= limit
    if not bool(error.any()) and not bool(known.any()):
        zeros = error.new_zeros(means.shape[1]), error.new_zeros(stds.shape[1])
        return Normal(*zeros, math.inf)  # of devices without an error
    scale = float(error.square().mean().sqrt()) or 1.0
    a, b = (start.mean, start.std) if start else (error.new_zeros(means.shape[1]), None)
    b = least_squares(stds, error.new_full((len(error),), scale)) if b is None else b
    std = (stds @ b).clamp_min(_LEAST * scale)
    for _ in range(_ROUNDS):
        variance = std.square() + known
        first, second = _moments(error, means @ a, variance, limit, cut)
        a = least_squares(means, first, 1 / variance)
        mean = means @ a
        square = second - 2 * first * mean + mean.square()
        # of a normal distribution: the information on its deviation, and the step to it
        weight = 2 * std.square() / variance.square()
        b = least_squares(stds, std + (square - variance) / (2 * std), weight)
        before, std = std, (stds @ b).clamp_min(_LEAST * scale)
        if float((std - before).abs().max()) < _CLOSE * scale:
            break
    likelihood = _log_likelihood(error, means @ a, std.square() + known, limit, cut)
    return Normal(a, b, likelihood)


def _moments(
    error: Tensor, mean: Tensor, variance: Tensor, limit: Tensor | None, cut: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the errors and their squares, expected ones where they were cut off."""
    if limit is None or cut is None or not bool(cut.any()):
        return error, error.square()
    std = variance.sqrt()
    z = ((limit - mean) / std).clamp(-8.0, 8.0)
    hazard = _density(z) / torch.special.ndtr(z)
    first = torch.where(cut, mean - std * hazard, error)
    second = mean.square() - 2 * mean * std * hazard + variance * (1 - z * hazard)
    return first, torch.where(cut, second, error.square())


def _log_likelihood(
    error: Tensor, mean: Tensor, variance: Tensor, limit: Tensor | None, cut: Tensor | None
) -> float:
    seen = -0.5 * (variance.log() + (error - mean).square() / variance)
    if limit is not None and cut is not None:
        z = (limit - mean) / variance.sqrt()
        # the constant of the density, which is left out above, belongs to it here
        hidden = torch.special.log_ndtr(z) + 0.5 * math.log(2 * math.pi)
        seen = torch.where(cut, hidden, seen)
    return float(seen.sum())


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def least_squares(functions: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the coefficients (p,) of ``functions`` (n, p) that come nearest to ``y`` (n,)."""
    if functions.shape[1] == 0:
        return y.new_zeros(0)
    weighted = functions if weight is None else functions * weight.unsqueeze(1)
    matrix = weighted.T @ functions
    # functions without a measurement beneath them stay at 0
    ridge = (1e-10 * matrix.diagonal().mean()).clamp_min(1e-300)
    matrix = matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve(matrix, weighted.T @ y)
