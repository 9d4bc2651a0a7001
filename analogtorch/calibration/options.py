"""The settings that a search tries on all layers of a model."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from analogtorch.chips import Chip
from analogtorch.chips.choices import Choices, offers_drift_aware
from analogtorch.chips.periphery import WeightScale

Way = Literal["measured", "tile", "percentile", "vector"]
WAYS: tuple[Way, ...] = get_args(Way)
"""Ways to find DAC ranges. ``measured``: as ``method="mse"``. ``tile``: the same for each row
block. ``percentile``: as that method. ``vector``: each input vector sets its own. The largest input
(``absmax``) is not tried: on DNN_L, CNN_L and DS-CNN of ``analogtorch/speech/pretrained.py`` it was
the worst by far."""
LABELS: dict[Way, str] = {
    "measured": "DAC ranges measured",
    "tile": "DAC ranges measured, per tile",
    "percentile": "DAC ranges by percentile",
    "vector": "DAC ranges per vector",
}


@dataclass(frozen=True)
class Option:
    """One setting of all layers."""

    way: Way
    aware: bool = False
    """Whether targets of devices allow for drift, where those of the conversion do not."""
    scale: WeightScale | None = None
    """Unit that has one weight scale; None: as at the conversion."""
    adc: bool = False
    """Whether ADC ranges are found, as ``adc`` of ``calibrate`` asks for."""

    def __str__(self) -> str:
        adc = ", ADC ranges found" if self.adc else ""
        return f"{LABELS[self.way]}{label(self.aware, self.scale)}{adc}"


def label(aware: bool, scale: WeightScale | None) -> str:
    """Return the choices for the chips as they follow another word of a report."""
    targets = ", targets that allow for drift" if aware else ""
    return f"{targets}, weight scale per {scale}" if scale else targets


def by_column(chip: Chip) -> Chip:
    """Return the chip with a weight scale per column, where its digital unit scales columns."""
    return replace(Choices.of(chip), weight_scale="column").made(chip)


def aware(chip: Chip) -> Chip:
    """Return the chip with targets of its devices that allow for drift, where they can."""
    return chip.drift_aware() if offers_drift_aware(chip) else chip


def both(chip: Chip) -> Chip:
    """Return the chip with both, as far as it offers them."""
    return by_column(aware(chip))


def changed(chip: Chip, option: Option) -> Chip:
    """Return the chip with the choices of an option, as far as it offers them."""
    chip = aware(chip) if option.aware else chip
    return by_column(chip) if option.scale == "column" else chip
