"""The standard crossbar model, by which hardware-aware training is compared (Rasch 2023)."""

from analogtorch import devices
from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.periphery import Periphery
from analogtorch.chips.read_noise import MVMReadNoise
from analogtorch.chips.training import TrainingNoise
from analogtorch.chips.wires import Wires
from analogtorch.values.sources import Sources

_PAPER = "Rasch et al., Nat. Commun. 14, 5282 (2023)"
_MODEL = f"{_PAPER}; constants as in aihwkit's StandardHWATrainingPreset"
_SIZE = "ASSUMED: the model has no largest number of columns and no number of tiles"
_WIRES = (
    "DERIVED: 0.35 ohm x 5 uS / 25 uS, so that devices of at most 25 uS lose as much as the "
    f"model's of 5 uS: {_MODEL}"
)
_TRAINING = "ASSUMED: twice the programming noise, as in Le Gallo 2023, Methods"


def standard_crossbar(*, training: TrainingNoise | None = None) -> Chip:
    """Return the standard crossbar model: a common setting for accuracies, and no chip.

    It has 8-bit inputs, ADCs of 8 bits with output noise, a weight scale per column, read noise of
    every MVM, IR drop by a closed form, and phase-change memory of 25 uS. Its MVMs err by 6.5 %
    without devices, and by 13 to 20 % from a second to a year after programming, with one drift
    factor per block, ``at(time, compensation="global")``, as the model has it. It has no cost.

    Args:
        training: noise of HWA training; by default twice the cell's programming noise.
    """
    return Chip(
        name="standard_crossbar",
        array=Array(
            rows=512,
            columns=512,
            tiles=64,
            sources=Sources(rows=_MODEL, columns=_SIZE, tiles=_SIZE),
        ),
        dac=DAC(bits=8, sources=Sources(bits=_MODEL)),
        cell=devices.DifferentialPair(
            device=devices.pcm_like(),
            sources=Sources(device=_MODEL, devices_per_polarity=_MODEL),
        ),
        wires=Wires(
            column_resistance=0.35 * 5 / 25,
            model="standard",
            sources=Sources(column_resistance=_WIRES, model=_MODEL),
        ),
        mvm_read_noise=MVMReadNoise(
            std=devices.SquareRoot(scale=0.0175), sources=Sources(std=_MODEL)
        ),
        adc=ADC(
            bits=8,
            range=10.0,
            noise=0.04,
            sources=Sources(bits=_MODEL, range=_MODEL, noise=_MODEL),
        ),
        periphery=Periphery(weight_scale="column", sources=Sources(weight_scale=_MODEL)),
        training=training or TrainingNoise(),
        sources=Sources(name=_PAPER, **({} if training else {"training": _TRAINING})),
    )
