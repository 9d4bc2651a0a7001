"""Conductances behind noisy reads: what target and reads of a device say together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices.fitting.functions import powers
from analogtorch.devices.fitting.grid import Grid
from analogtorch.devices.fitting.likelihood import least_squares

_MOST = 4
"""Highest power of ``r`` in the mean over targets."""
_MOST_VARIANCE = 2
"""Highest power of ``r`` in the variances about it."""


@dataclass(frozen=True)
class Conductances:
    """Conductance of each device at each time, without read noise; NaN where there is no read.

    Read noise is a function of the conductance. Taken at the mean read itself, it would follow that
    read's own noise: a read that came out large would count as a noisy one.
    """

    of_target: Tensor
    """Mean of devices of the same target, uS, (devices, times)."""
    mean: Tensor
    """Expected conductance, given the reads, uS, (devices, times)."""
    square: Tensor
    """Expected square, given the reads, uS^2, (devices, times)."""


def conductances(grid: Grid, g_max: float) -> Conductances:
    """Return the conductances behind the reads of a grid.

    At each time, the mean read of a device counts as far as devices of its target differ by more
    than their reads do (Bayes' rule for normal distributions); without repeated reads, all of it.
    """
    r, means, counts = grid.target / g_max, grid.means, grid.counts
    levels = len(grid.target.unique())
    over, about = (powers(r, min(most, levels - 1)) for most in (_MOST, _MOST_VARIANCE))
    scatter = (grid.reads - means.unsqueeze(2)).square().nansum(2) / (counts - 1).clamp_min(1)
    of_target, mean, square = (torch.full_like(means, torch.nan) for _ in range(3))
    for time in range(len(grid.times)):
        seen, repeated = counts[:, time] > 0, counts[:, time] > 1
        read = means[seen, time]
        known = over[seen] @ least_squares(over[seen], read)
        total = about[seen] @ least_squares(about[seen], (read - known).square())
        noise = about[seen] @ least_squares(about[repeated], scatter[repeated, time])
        noise = noise.clamp_min(0.0) / counts[seen, time]
        share = (1 - noise / total.clamp_min(1e-300)).clamp(0.0, 1.0)
        guess = (known + share * (read - known)).clamp_min(0.0)
        of_target[seen, time] = known.clamp_min(0.0)
        mean[seen, time] = guess
        square[seen, time] = guess.square() + share * noise
    return Conductances(of_target, mean, square)
