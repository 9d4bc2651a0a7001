"""Analog layers: the digital layers of the same names, with the product on a chip."""

from typing import Any

from analogtorch.nn.attention import AnalogMultiheadAttention
from analogtorch.nn.base import AnalogLayer, Programmed
from analogtorch.nn.composite import AnalogComposite, AnalogMatrix
from analogtorch.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.recurrent import AnalogGRU, AnalogLSTM, AnalogRecurrent, AnalogRNN

KINDS: tuple[Any, ...] = (
    *(AnalogLinear, AnalogConv1d, AnalogConv2d, AnalogConv3d),
    *(AnalogRNN, AnalogLSTM, AnalogGRU, AnalogMultiheadAttention),
)
"""What ``convert`` makes, each of its ``digital`` layer."""

__all__ = [
    "KINDS",
    "AnalogComposite",
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogGRU",
    "AnalogLSTM",
    "AnalogLayer",
    "AnalogLinear",
    "AnalogMatrix",
    "AnalogMultiheadAttention",
    "AnalogRNN",
    "AnalogRecurrent",
    "Programmed",
]
