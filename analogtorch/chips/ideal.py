"""A chip without any imperfection: what is placed on it computes what the digital model
computes.
"""

from analogtorch.chips.chip import Chip, TrainingNoise
from analogtorch.devices import UnitCell, ideal_device


def ideal() -> Chip:
    """64 tiles of 256x256 exact cells without quantisation or noise: the baseline that must equal
    the digital net.
    """
    return Chip(
        name="ideal",
        tiles=64,
        rows=256,
        cols=256,
        cell=UnitCell(device=ideal_device()),
        input_bits=None,
        output_bits=None,
        training=TrainingNoise(weight="none", output=False),
        sources=("no imperfections, by definition; the size is hermes64's",),
    )
