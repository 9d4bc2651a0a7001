"""The broken devices of a section: what they conduct, whatever is written to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.devices import Device
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.faults import CODES

Index = tuple[slice, ...]
"""An index into (devices, *shape of the section)."""


@dataclass(frozen=True)
class Broken:
    """What broken devices do, by the codes of their faults.

    Devices that are stuck are read with noise. All other faults disconnect a device or short it,
    which leaves neither drift nor noise. All methods work element by element, of tensors of one
    shape; conductances are in uS, and ``code`` is that of a fault, 0 where a device works.
    """

    defects: Defects
    """The defects that the faults were drawn from."""
    device: Device
    """The model of the devices."""

    def held(self, g: Tensor, code: Tensor, level: Tensor | None = None) -> Tensor:
        """Return the conductances of devices, with those of broken ones in their places.

        ``level`` is the conductance of devices that are stuck on, in units of ``g_max``; None: 1.
        """
        device, defects, g_max = self.device, self.defects, self.device.g_max
        off = device.g_min if defects.off_level is None else defects.off_level * g_max
        found = torch.where(code > 0, 0.0, g)
        found = torch.where(code == CODES["stuck_off"], off, found)
        found = torch.where(code == CODES["short_devices"], defects.short_level * g_max, found)
        return torch.where(
            code == CODES["stuck_on"], g_max if level is None else g_max * level, found
        )

    def target(self, target: Tensor, g: Tensor, code: Tensor) -> Tensor:
        """Return the targets by which devices drift that became ``g``."""
        if not self.defects.on_drifts:
            return target
        return torch.where(code == CODES["stuck_on"], g, target)

    def drifted(self, programmed: Tensor, drifted: Tensor, code: Tensor) -> Tensor:
        """Return the conductances after drift; broken devices stay as ``programmed``.

        Devices that are stuck on drift if the defects say so.
        """
        found = torch.where(code > 0, programmed, drifted)
        if not self.defects.on_drifts:
            return found
        return torch.where(code == CODES["stuck_on"], drifted, found)

    def read(self, programmed: Tensor, read: Tensor, code: Tensor) -> Tensor:
        """Return the conductances that a read gives: without noise where there is no device."""
        found = torch.where(code > 0, programmed, read)
        for stuck in ("stuck_off", "stuck_on"):
            found = torch.where(code == CODES[stuck], read, found)
        return found


@dataclass(frozen=True, kw_only=True)
class Stuck:
    """The faults of a section's devices."""

    faults: Tensor
    """(devices, *shape) uint8: codes of ``analogtorch.simulate.faults.FAULTS``, 0 where a device
    works."""
    levels: Tensor | None
    """(devices, *shape) float32: conductance of devices that are stuck on, in units of ``g_max``;
    None: 1 everywhere."""
    broken: Broken
    """What the faults do."""

    def held(self, g: Tensor, index: Index) -> Tensor:
        """Return conductances at ``index``, uS, with those of broken devices in their places.

        ``g`` holds the conductances of devices that work, of the shape of the index.
        """
        code = self.faults[index].reshape(g.shape)
        level = None if self.levels is None else self.levels[index].reshape(g.shape).to(g.dtype)
        return self.broken.held(g, code, level)

    def codes(self, part: slice) -> Tensor:
        """Return the codes of a run of outputs, float32, (devices, outputs, ...)."""
        return self.faults[:, part].to(torch.float32)

    def levels_of(self, part: slice) -> tuple[Tensor, ...]:
        """Return the levels of each device of a run of outputs, if there are any."""
        return () if self.levels is None else tuple(self.levels[:, part])

    def noisy(self, index: Index) -> Tensor:
        """Return which devices at ``index`` are read with noise: none that are open or short."""
        faults = self.faults[index]
        return (faults == 0) | (faults == CODES["stuck_off"]) | (faults == CODES["stuck_on"])
