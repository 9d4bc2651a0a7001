"""The settings that a search tries on all layers of a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from analogtorch.chips import Chip
from analogtorch.chips.periphery import WeightScale

Way = Literal["measured", "tile", "percentile", "vector"]
WAYS: tuple[Way, ...] = get_args(Way)
"""Ways to find DAC ranges. ``measured``: as ``method="mse"``. ``tile``: the same for each row
block. ``percentile``: as that method. ``vector``: each input vector sets its own. The largest input
(``absmax``) is not tried: on DNN_L, CNN_L and DS-CNN of ``analogtorch/speech/pretrained.py`` it was
the worst by far."""
_LABELS: dict[Way, str] = {
    "measured": "DAC ranges measured",
    "tile": "DAC ranges measured, per tile",
    "percentile": "DAC ranges by percentile",
    "vector": "DAC ranges per vector",
}


@dataclass(frozen=True)
class Option:
    """One setting of all layers."""

    way: Way
    scale: WeightScale | None = None
    """Unit that has one weight scale; None: as at the conversion."""
    adc: bool = False
    """Whether ADC ranges are found, as ``adc`` of ``calibrate`` asks for."""

    def __str__(self) -> str:
        scale = f", weight scale per {self.scale}" if self.scale else ""
        return f"{_LABELS[self.way]}{scale}{', ADC ranges found' if self.adc else ''}"


def offers_columns(chips: Iterable[Chip]) -> bool:
    """Return whether a chip has a weight scale per block where it could have one per column."""
    return any(c.periphery.weight_scale == "block" and c.periphery.scales_columns for c in chips)


def scaled(chip: Chip, scale: WeightScale | None) -> Chip:
    """Return the chip with a weight scale per unit, where it offers that."""
    if scale is None or chip.periphery.weight_scale == scale or not chip.periphery.scales_columns:
        return chip
    return chip.replace(periphery={"weight_scale": scale})
