"""The variance of weights whose devices fluctuate independently."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analogtorch.devices.cell import Cell, conductances_as_written
from analogtorch.devices.curves import Curve

POINTS = 257
"""Weights of ``Fluctuations.table``. Training interpolates the variance between them, within 1e-4
of it where the curve is a polynomial and devices hold any conductance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fluctuations:
    """Fluctuations of the devices of a cell, in the units of its weights."""

    cell: Cell
    """The unit cell, whose weight is a linear function of its conductances."""
    std: Curve
    """Standard deviation of the conductance of a device in units of ``g_max``, as a function of
    ``r = g / g_max``."""
    shares: tuple[tuple[float, ...], tuple[float, ...]]
    """Squared weight that ``g_max`` of each device adds to the positive and the negative
    polarity."""
    table: tuple[float, ...]
    """Variances of cells that hold ``POINTS`` weights from -1 to 1 exactly."""

    @classmethod
    def of(cls, cell: Cell, std: Curve) -> "Fluctuations":
        """Return the fluctuations of a cell."""
        # column 0: all devices at 0; column i: device i - 1 at g_max
        g = cell.device.g_max * torch.eye(cell.devices, dtype=torch.float64, device="cpu")
        g = torch.cat((torch.zeros_like(g[:, :1]), g), 1)
        negative = cell.negatives(g)
        both = torch.stack((cell.weights(g) + negative, negative))
        squares = (both[:, 1:] - both[:, :1]).square().tolist()
        found = cls(cell=cell, std=std, shares=(tuple(squares[0]), tuple(squares[1])), table=())
        w = torch.linspace(-1, 1, POINTS, dtype=torch.float64, device="cpu")
        table = found.of_weights(w).sum(0).tolist()
        return replace(found, table=tuple(table))

    def of_weights(self, w: Tensor) -> Tensor:
        """Return ``variances`` of cells that hold exactly what is written for the weights ``w``."""
        return self.variances(conductances_as_written(self.cell, w))

    def variances(self, g: Tensor, noisy: Tensor | None = None) -> Tensor:
        """Return the variances of both polarities of weights in cells of these conductances.

        Args:
            g: conductances, uS, of shape (devices, *S).
            noisy: bool of the same shape, which devices fluctuate; None: all.

        Returns:
            (2, *S), those of the positive polarity first, in units of the largest weight squared.
        """
        each = self._of_devices(g)
        each = each if noisy is None else each * noisy
        return torch.stack([_weighted(shares, each) for shares in self.shares])

    def _of_devices(self, g: Tensor) -> Tensor:
        """Return the variance of each device in units of ``g_max`` squared."""
        return self.std(g / self.cell.device.g_max).clamp_min(0.0).square()


def _weighted(shares: Sequence[float], each: Tensor) -> Tensor:
    total = torch.zeros_like(each[0])
    for share, variance in zip(shares, each, strict=True):
        if share:
            total.add_(variance, alpha=share)
    return total
