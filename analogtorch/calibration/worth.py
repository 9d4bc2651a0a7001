"""Whether a choice saves enough of the errors of output vectors to be made."""

import torch
from torch import Tensor

GAIN = 0.01
"""Share of the error that a choice must save: each is a number to keep, and noise makes some."""


def worth(new: Tensor, before: Tensor) -> bool:
    """Return whether the output vectors err less than before, by more than ``GAIN`` and chance.

    Savings are beyond chance by their sizes or, where a few large vectors have most of the error
    and decide both, by the shares that they are of the errors. Where errors are infinite, new ones
    are worth it if all of them are finite.
    """
    saved = before - new
    if not torch.isfinite(saved).all():
        return bool(torch.isfinite(new).all())
    if saved.mean() <= GAIN * before.mean():
        return False
    return _beyond_chance(saved) or _beyond_chance(saved / (before + new).clamp_min(1e-300))


def _beyond_chance(numbers: Tensor) -> bool:
    """Return whether their mean is above 0 by more than two standard errors."""
    return bool(numbers.mean() > 2 * numbers.std(correction=0) / len(numbers) ** 0.5)
