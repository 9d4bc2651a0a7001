"""Analog layers: the digital layers of the same names, with the product on a chip."""

from analogtorch.nn.base import AnalogLayer, Programmed
from analogtorch.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from analogtorch.nn.linear import AnalogLinear

__all__ = ["AnalogConv1d", "AnalogConv2d", "AnalogConv3d", "AnalogLayer", "AnalogLinear", "Programmed"]
