"""The mean conductance that a chip has left, which the cells' share of the energy follows."""

import math

import torch
from torch import Tensor

from analogtorch.devices import Cell
from analogtorch.devices.cell import check_cell
from analogtorch.devices.drift_aware import as_written, bare
from analogtorch.values import checks

_CLIP = 2.5
"""Standard deviations at which weights are commonly clipped (Joshi et al., Nat. Commun. 11, 2473
(2020): 2 to 2.5)."""


def mean_conductance(cell: Cell, t: float, weights: Tensor | None = None) -> float:
    """Return the mean conductance of cells after drift, as a multiple of that of their weights.

    It is 1 for cells that were just written to their weights, and more for those whose targets
    allow for drift (``Chip.drift_aware``), as these are larger. All devices drift with the mean
    drift exponent of their target. Noise is left out: its mean is 0, but for devices that are to
    conduct nothing and cannot conduct less, by which PCM has 1 to 2 % more.

    Args:
        cell: the unit cell.
        t: seconds after programming, >= 0.
        weights: weights in units of the largest, [-1, 1], any shape; by default a normal
            distribution clipped at 2.5 standard deviations.

    Raises:
        ValueError: ``t`` is negative or infinite, or weights are all 0 or beyond [-1, 1].
    """
    check_cell("mean_conductance: cell", cell)
    t = checks.number("t", t, least=0, what="finite number of seconds")
    if weights is None:
        middles = (torch.arange(2001, dtype=torch.float32, device="cpu") + 0.5) / 2001
        weights = (math.sqrt(2) * torch.erfinv(2 * middles - 1)).clamp(-_CLIP, _CLIP) / _CLIP
    if not isinstance(weights, Tensor) or weights.numel() == 0:
        raise TypeError(
            f"weights must be a tensor of weights in [-1, 1], got {checks.shown(weights)}"
        )
    if not (weights.abs().max() <= 1 and weights.any()):
        raise ValueError("weights must lie in [-1, 1] and not all be 0; divide them by the largest")
    wanted = cell.targets(weights.detach().float())
    targets = as_written(cell.device, wanted)
    nu = bare(cell.device).drift_coefficient(targets, torch.zeros_like(targets))
    now = cell.device.drift(targets, nu, t)
    return (now.double().sum() / wanted.double().sum()).item()
