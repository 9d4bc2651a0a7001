"""A chip without imperfections, which computes what the digital model computes."""

from analogtorch.chips.array import Array
from analogtorch.chips.chip import Chip
from analogtorch.chips.converters import ADC, DAC
from analogtorch.chips.training import TrainingNoise
from analogtorch.devices import DifferentialPair, ideal_device
from analogtorch.values.sources import Sources

_SIZE = "that of hermes64"
_EXACT = "no imperfections, by definition"


def ideal() -> Chip:
    """Return a chip of 64 tiles of 256x256 exact cells without quantisation or noise.

    It is the baseline that must equal the digital net.
    """
    return Chip(
        name="ideal",
        array=Array(
            rows=256,
            columns=256,
            tiles=64,
            sources=Sources(rows=_SIZE, columns=_SIZE, tiles=_SIZE),
        ),
        dac=DAC(bits=None, sources=Sources(bits=_EXACT)),
        cell=DifferentialPair(device=ideal_device(), sources=Sources(device=_EXACT)),
        adc=ADC(sources=Sources(bits=_EXACT, steps=_EXACT, noise=_EXACT, gain_std=_EXACT)),
        training=TrainingNoise(weight="none", output=False),
        sources=Sources(training=_EXACT),
    )
