"""Analog layers: the layers of ``torch.nn``, with their matrix products on a chip."""

from analogtorch.nn import functional
from analogtorch.nn.attention import AnalogMultiheadAttention
from analogtorch.nn.base import AnalogLayer
from analogtorch.nn.cells import AnalogGRUCell, AnalogLSTMCell, AnalogRecurrentCell, AnalogRNNCell
from analogtorch.nn.composite import AnalogComposite, AnalogMatrix
from analogtorch.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d, AnalogSensorConv2d
from analogtorch.nn.embedding import AnalogEmbedding
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.recurrent import AnalogGRU, AnalogLSTM, AnalogRecurrent, AnalogRNN
from analogtorch.nn.tap import Tap, tapped
from analogtorch.nn.transposed import (
    AnalogConvTranspose1d,
    AnalogConvTranspose2d,
    AnalogConvTranspose3d,
)

__all__ = [
    "AnalogComposite",
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogConvTranspose1d",
    "AnalogConvTranspose2d",
    "AnalogConvTranspose3d",
    "AnalogEmbedding",
    "AnalogGRU",
    "AnalogGRUCell",
    "AnalogLSTM",
    "AnalogLSTMCell",
    "AnalogLayer",
    "AnalogLinear",
    "AnalogMatrix",
    "AnalogMultiheadAttention",
    "AnalogRNN",
    "AnalogRNNCell",
    "AnalogRecurrent",
    "AnalogRecurrentCell",
    "AnalogSensorConv2d",
    "Tap",
    "functional",
    "tapped",
]
