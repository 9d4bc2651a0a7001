"""Read noise in units of the conductance: straight lines between knots, or a power law of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices.curves import Curve, PowerClip
from analogtorch.devices.fitting.functions import hats, interpolated, knots, powers
from analogtorch.devices.fitting.likelihood import Normal, fit_normal

_POWERS = torch.linspace(0, 2, 201, dtype=torch.float64, device="cpu")
"""Exponents of the power law that are tried."""


@dataclass(frozen=True)
class ReadShare:
    """Standard deviation of a read in units of the conductance, over ``r``."""

    std: Tensor
    """Its values at the knots, or that of the power law at ``r = 1``, (1,)."""
    at: tuple[float, ...]
    """Knots; of a power law, the ``r`` below which it is held."""
    power: float | None
    """The law is ``r^-power``; None: straight lines between the knots."""

    def __call__(self, r: Tensor) -> Tensor:
        """Return the deviation at each ``r`` (n,)."""
        return _basis(r, self.at, self.power) @ self.std

    def curve(self) -> Curve:
        """Return it as a curve of a device."""
        if self.power is None:
            return interpolated(self.std, self.at)
        scale, floor = float(self.std), self.at[0] ** self.power
        return PowerClip(scale=scale, power=self.power, floor=floor, high=scale / floor)


def fit_read_share(
    error: Tensor, r: Tensor, independent: float, like: ReadShare | None
) -> ReadShare | None:
    """Fit the deviation to errors of reads in units of the conductance.

    Its form is that of the smallest information criterion: a power law takes two numbers where
    straight lines take many, but not all devices follow one.

    Args:
        error: (n,).
        r: (n,).
        independent: share of the errors that are independent of each other, as those of two reads
            about their mean are not.
        like: a fit whose form is kept; None: it is searched.

    Returns:
        The fit; None: there are too few errors.
    """

    def lines(at: tuple[float, ...]) -> tuple[float, ReadShare]:
        found = _fitted(error, _basis(r, at, None))
        return _information(found, len(at), independent), ReadShare(
            found.std.clamp_min(0.0), at, None
        )

    def law(low: float) -> tuple[float, ReadShare]:
        x = r.clamp_min(low).log()
        # at each power the best scale, and the log likelihood with it
        scales = (error.square() * torch.exp(2 * _POWERS.unsqueeze(1) * x)).mean(1)
        likelihood = _POWERS * x.sum() - 0.5 * len(error) * scales.clamp_min(1e-300).log()
        power = round(float(_POWERS[likelihood.argmax()]), 2)
        found = _fitted(error, _basis(r, (low,), power))
        return _information(found, 2, independent), ReadShare(found.std, (low,), power)

    if len(error) < 2 * (2 if like is None else len(like.at)):
        return None
    if like is not None:
        return (lines(like.at) if like.power is None else law(like.at[0]))[1]
    tried = [law(float(r.min())), *(lines(at) for at in knots(r))]
    return min(tried, key=lambda each: each[0])[1]


def _basis(r: Tensor, at: tuple[float, ...], power: float | None) -> Tensor:
    if power is None:
        return hats(r, at)
    return r.clamp_min(at[0]).pow(-power).unsqueeze(1)


def _fitted(error: Tensor, basis: Tensor) -> Normal:
    return fit_normal(error, powers(error, -1), basis)


def _information(found: Normal, parameters: int, independent: float) -> float:
    return 2 * parameters - 2 * independent * found.log_likelihood
