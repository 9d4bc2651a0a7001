"""The single-ended cell: one device per digit, whose smallest conductance stands for 0."""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from analogtorch.devices.cell import total
from analogtorch.devices.device import Device, check_device
from analogtorch.devices.registry import register
from analogtorch.devices.spread import Spread, programmed_sigma
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources


@register
@dataclass(frozen=True, kw_only=True)
class SingleEndedCell:
    """A cell without a sign: ``w = (g - g_min) / g_total`` in [0, 1], as of a bit of a number.

    It holds the slices of weights in two's complement (``Slices.signs="complement"``), with the
    fewest devices of all cells. The current of ``g_min`` in all driven rows is subtracted as a
    constant: a trimmed current in proportion to what the DACs apply to the rows. What devices in
    that state differ from it stays.
    """

    device: Device
    """A model that follows the protocol ``Device``, such as ``BinaryDevice``."""
    devices_per_weight: int = 1
    """Number of devices that share the digit equally, >= 1."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    paired = False
    signed = False

    def __post_init__(self) -> None:
        check_device("SingleEndedCell.device", self.device)
        checks.counts(self, "devices_per_weight")
        check_sources(self)

    @property
    def devices(self) -> int:
        """Number of devices in the cell."""
        return self.devices_per_weight

    @property
    def g_total(self) -> float:
        """The conductance beyond the smallest, uS, that stands for ``w = 1``."""
        return self.devices_per_weight * (self.device.g_max - self.device.g_min)

    @property
    def spread(self) -> Spread | None:
        """None: kernels know deviations of weights of either sign."""
        return None

    def targets(self, w: Tensor) -> Tensor:
        """Return the target conductances, uS, (devices, *S), of weights ``w`` (S) in [0, 1]."""
        each = self.device.g_min + w.clamp_min(0) * (self.device.g_max - self.device.g_min)
        return torch.stack([each] * self.devices)

    def weights(self, g: Tensor) -> Tensor:
        """Return the weights (S) that the conductances ``g`` (devices, *S), uS, stand for."""
        return total(g) / self.g_total - self.negatives(g)

    def negatives(self, g: Tensor) -> Tensor:
        """Return the subtracted constant in units of ``g_total``, in the shape S of weights."""
        return torch.full_like(g[0], self.devices * self.device.g_min / self.g_total)

    def programming_sigma(self, w: Tensor) -> Tensor:
        """Return the standard deviation of cells programmed to the weights ``w`` in [0, 1]."""
        variances = programmed_sigma(self.device, self.targets(w)).square()
        return variances.sum(0).sqrt() / self.g_total

    def changes(self, change: Tensor, target: Tensor) -> Tensor:
        """Return changes of conductance, uS, (devices, *S), in equal shares."""
        each = change * (self.g_total / self.devices)
        return each.expand(self.devices, *change.shape).clone()

    def enlarged(self, times: int) -> Self:
        """Return a cell with ``times`` as many devices."""
        return replace(self, devices_per_weight=times * self.devices_per_weight)
