"""The digital unit behind the ADCs of a tile."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from analogtorch.chips.converters import BITS
from analogtorch.chips.non_ideality import fewer_bits, non_ideality
from analogtorch.devices import register
from analogtorch.values import checks
from analogtorch.values.sources import Sources, check_sources

WeightScale = Literal["block", "column"]


@register
@dataclass(frozen=True, kw_only=True)
class Periphery:
    """The digital operations of a tile on its ADC outputs."""

    output_bits: int | None = field(
        default=None,
        metadata=non_ideality("digital_unit", absent=None, behind="adc", grown=fewer_bits),
    )
    """Bits that leave the tile, sign included, 2..16. The digital unit scales the ADC outputs of
    each column and rounds them to this many bits, in ranges that ``analogtorch.calibrate`` finds
    for every column; without calibration they are passed on as they are. None: it rounds nothing,
    and the ADC outputs leave the tile."""
    column_calibration: bool = False
    """Whether the chip calibrates the gain of each column digitally after programming, from MVMs of
    random inputs, as a digital unit with a scale per column can; see ``analogtorch.program``."""
    weight_scale: WeightScale = "block"
    """Unit that has one weight scale: the ``block`` on a tile, or each ``column`` of it."""
    sources: Sources = field(default=Sources(), compare=False)
    """Source of each number, by the name of its field."""

    def __post_init__(self) -> None:
        checks.counts(self, "output_bits", optional=True, **BITS)
        checks.flag("Periphery.column_calibration", self.column_calibration)
        checks.choice("Periphery.weight_scale", self.weight_scale, get_args(WeightScale))
        check_sources(self)

    @property
    def scales_columns(self) -> bool:
        """Whether the digital unit scales each column, and so can apply a weight scale of each."""
        return self.weight_scale == "column" or self.offers_scales

    @property
    def offers_scales(self) -> bool:
        """Whether software may choose ``weight_scale``, whatever it is.

        A unit that calibrates the gains of the columns, or rounds each of them in a range, scales
        them in any case.
        """
        return self.column_calibration or self.output_bits is not None
