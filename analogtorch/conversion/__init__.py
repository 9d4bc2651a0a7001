"""Conversion of a model's layers to analog ones, and the proof that they run on the chip."""

from analogtorch.conversion.fold import fold_batch_norm
from analogtorch.conversion.guard import GuardReport, guard
from analogtorch.conversion.int8 import quantise_digital
from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.share import Share
from analogtorch.conversion.swap import convert, to_digital

__all__ = [
    "GuardReport",
    "Share",
    "analog_layers",
    "convert",
    "fold_batch_norm",
    "guard",
    "quantise_digital",
    "to_digital",
]
