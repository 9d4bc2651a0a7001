"""Measurements as a table of devices, times and reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

_EQUAL = 1e-9
"""Part of the largest read by which equal reads may differ: numbers of a table are rounded."""


@dataclass(frozen=True)
class Grid:
    """Reads of devices at times; NaN where there is none."""

    target: Tensor
    """(devices,), uS."""
    times: Tensor
    """(times,), s after programming, ascending."""
    reads: Tensor
    """(devices, times, reads), uS."""

    @property
    def counts(self) -> Tensor:
        """Reads of each device at each time, (devices, times)."""
        return self.reads.isfinite().sum(2)

    @property
    def means(self) -> Tensor:
        """Mean read of each device at each time, uS, (devices, times); NaN where there is none."""
        return self.reads.nanmean(2)

    @property
    def repeated(self) -> bool:
        """Whether a device has several reads at one time, which determine the read noise."""
        return bool((self.counts > 1).any())

    @property
    def alike(self) -> bool:
        """Whether all repeated reads are equal, but for rounding: they tell nothing of noise."""
        spans = self.reads.nan_to_num(-torch.inf).amax(2) - self.reads.nan_to_num(torch.inf).amin(2)
        spans, largest = spans[self.counts > 1], self.reads.abs().nan_to_num(0.0).max()
        return len(spans) > 0 and bool((spans <= _EQUAL * largest).all())

    @property
    def followed(self) -> Tensor:
        """Which devices were read at several times, (devices,)."""
        return (self.counts > 0).sum(1) > 1

    def at(self, time: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return which devices were read at a time, by number; their targets and mean reads, uS."""
        index = (self.counts[:, time] > 0).nonzero().squeeze(1)
        return index, self.target[index], self.means[index, time]

    def deviations(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return reads about the mean of their device and time, and the device and time of each.

        They are scaled to the spread of one read.
        """
        counts = self.counts
        scale = (counts / (counts - 1).clamp_min(1)).sqrt().unsqueeze(2)
        deviation = (self.reads - self.means.unsqueeze(2)) * scale
        which = (deviation.isfinite() & (counts > 1).unsqueeze(2)).nonzero()
        return deviation[tuple(which.T)], which[:, 0], which[:, 1]

    def take(self, index: Tensor) -> "Grid":
        """Return the grid of those devices, which may repeat."""
        return Grid(self.target[index], self.times, self.reads[index])


def grid(target: Tensor, measured: Tensor, time: Tensor, device: Tensor) -> Grid:
    """Put measurements into a grid.

    Args:
        target: (n,), uS; the same for all reads of a device.
        measured: (n,), uS.
        time: (n,), s; times within 5 % of each other become one, their mean.
        device: (n,), the number of the device, from 0.
    """
    times, column = _times(time)
    devices = int(device.max()) + 1
    cell = device * len(times) + column
    order = torch.argsort(cell, stable=True)
    sorted_cells = cell[order]
    first = torch.searchsorted(sorted_cells, sorted_cells)
    number = torch.arange(len(cell), device="cpu") - first
    reads = measured.new_full((devices, len(times), int(number.max()) + 1), torch.nan)
    reads[device[order], column[order], number] = measured[order]
    targets = measured.new_zeros(devices)
    targets[device] = target
    return Grid(targets, times, reads)


def _times(time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the times that differ by more than 5 %, and which of them each row belongs to."""
    distinct = time.unique()
    group = [0]
    start = float(distinct[0])
    for value in distinct[1:].tolist():
        new = value > 1.05 * start
        start = value if new else start
        group.append(group[-1] + int(new))
    groups = torch.tensor(group, device="cpu")
    means = torch.stack([distinct[groups == g].mean() for g in range(group[-1] + 1)])
    return means, groups[torch.searchsorted(distinct, time)]
