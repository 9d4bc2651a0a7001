"""The broken devices of a section: what they conduct, whatever is written to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices import Device
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.faults import CODES, FAULTS

Index = tuple[slice, ...]
"""An index into (devices, *shape of the section)."""


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """The faults of a section's devices.

    Devices that are stuck are read with noise. All other faults disconnect a device or short it,
    which leaves neither drift nor noise.
    """

    faults: Tensor
    """(devices, *shape) uint8: codes of ``analogtorch.simulate.faults.FAULTS``, 0 where a device
    works."""
    levels: Tensor | None
    """(devices, *shape): conductance of devices that are stuck on, in units of ``g_max``; None: 1
    everywhere."""
    defects: Defects
    """The defects that the faults were drawn from."""
    device: Device
    """The model of the devices."""

    def held(self, g: Tensor, index: Index) -> Tensor:
        """Return conductances at ``index``, uS, with those of broken devices in their places.

        ``g`` holds the conductances of devices that work, of the shape of the index.
        """
        faults = self.faults[index].reshape(g.shape)
        broken = faults > 0
        return torch.where(broken, self._conductances(faults, index, g), g) if broken.any() else g

    def targets(self, targets: Tensor, g: Tensor, index: Index) -> Tensor:
        """Return the targets by which devices drift, uS; those of devices stuck on are ``g``.

        ``g`` holds the conductances of all devices as programmed.
        """
        if not self.defects.on_drifts:
            return targets
        return torch.where(self.faults[index].reshape(g.shape) == CODES["stuck_on"], g, targets)

    def drifted(self, programmed: Tensor, drifted: Tensor, index: Index) -> Tensor:
        """Return the conductances after drift, uS; broken devices stay as ``programmed``.

        Devices that are stuck on drift if the defects say so.
        """
        faults = self.faults[index].reshape(drifted.shape)
        stays = faults > 0
        if self.defects.on_drifts:
            stays &= faults != CODES["stuck_on"]
        return torch.where(stays, programmed, drifted)

    def read(self, programmed: Tensor, read: Tensor, index: Index) -> Tensor:
        """Return the conductances that a read gives, uS: without noise where there is no device."""
        return torch.where(self.noisy(index).reshape(read.shape), read, programmed)

    def noisy(self, index: Index) -> Tensor:
        """Return which devices at ``index`` are read with noise: none that are open or short."""
        faults = self.faults[index]
        return (faults == 0) | (faults == CODES["stuck_off"]) | (faults == CODES["stuck_on"])

    def _conductances(self, faults: Tensor, index: Index, g: Tensor) -> Tensor:
        """Return what broken devices conduct, uS, of the shape and type of ``g``."""
        device, defects = self.device, self.defects
        off = device.g_min if defects.off_level is None else defects.off_level * device.g_max
        by_code = g.new_zeros(len(FAULTS) + 1)
        by_code[CODES["stuck_off"]] = off
        by_code[CODES["stuck_on"]] = device.g_max
        by_code[CODES["short_devices"]] = defects.short_level * device.g_max
        found = by_code[faults.long()]
        if self.levels is None:
            return found
        levels = self.levels[index].reshape(g.shape).to(g.dtype)
        return torch.where(faults == CODES["stuck_on"], device.g_max * levels, found)
