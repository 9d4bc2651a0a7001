"""What software chooses of a chip, which needs no other hardware."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analogtorch.chips.periphery import WeightScale
from analogtorch.devices import DriftAware, Staged
from analogtorch.devices.cell import levels
from analogtorch.devices.drift_aware import bare

if TYPE_CHECKING:
    from analogtorch.chips.chip import Chip


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The choices for one layer; ``calibrate`` may make them."""

    weight_scale: WeightScale
    """Unit that has one weight scale."""
    target_time: float | None
    """Time after programming, s, at which conductances are right (``Chip.drift_aware``); None: at
    once."""

    @classmethod
    def of(cls, chip: "Chip") -> "Choices":
        """Return those of a chip."""
        device = chip.cell.device
        time = float(device.time) if isinstance(device, DriftAware) else None
        return cls(weight_scale=chip.periphery.weight_scale, target_time=time)

    def made(self, chip: "Chip") -> "Chip":
        """Return the chip with these choices, as far as it offers them."""
        periphery = chip.periphery
        if self.weight_scale != periphery.weight_scale and periphery.offers_scales:
            chip = chip.replace(periphery={"weight_scale": self.weight_scale})
        if Choices.of(chip).target_time == self.target_time:
            return chip
        plain = chip.replace(cell={"device": bare(chip.cell.device)})
        if self.target_time is None:
            return plain
        return chip.drift_aware(self.target_time) if offers_drift_aware(plain) else chip


def offers_drift_aware(chip: "Chip") -> bool:
    """Return whether targets of the chip's devices could allow for drift, and do not yet."""
    cell = chip.cell
    free = not isinstance(cell, Staged) and levels(cell) is None
    return free and Choices.of(chip).target_time is None and "drift" in chip.non_idealities()
