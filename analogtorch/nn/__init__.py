"""Analog layers: the digital layers of the same names, with the product on a chip."""

from analogtorch.nn.base import AnalogLayer, Programmed
from analogtorch.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.recurrent import RECURRENT, AnalogGRU, AnalogLSTM, AnalogMatrix, AnalogRecurrent, AnalogRNN

__all__ = [
    "RECURRENT",
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogGRU",
    "AnalogLSTM",
    "AnalogLayer",
    "AnalogLinear",
    "AnalogMatrix",
    "AnalogRNN",
    "AnalogRecurrent",
    "Programmed",
]
