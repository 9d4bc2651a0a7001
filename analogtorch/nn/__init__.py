"""Analog layers: the digital layers of the same names, with the product on a chip."""

import sys
from typing import Any

from analogtorch.nn.attention import AnalogMultiheadAttention
from analogtorch.nn.base import AnalogLayer, Programmed
from analogtorch.nn.cells import AnalogGRUCell, AnalogLSTMCell, AnalogRecurrentCell, AnalogRNNCell
from analogtorch.nn.composite import AnalogComposite, AnalogMatrix
from analogtorch.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from analogtorch.nn.embedding import AnalogEmbedding
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.recurrent import AnalogGRU, AnalogLSTM, AnalogRecurrent, AnalogRNN
from analogtorch.nn.transposed import AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d

KINDS: tuple[Any, ...] = (
    *(AnalogLinear, AnalogConv1d, AnalogConv2d, AnalogConv3d),
    *(AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d),
    *(AnalogRNN, AnalogLSTM, AnalogGRU, AnalogMultiheadAttention),
    *(AnalogRNNCell, AnalogLSTMCell, AnalogGRUCell),
    AnalogEmbedding,
)
"""What ``convert`` makes, each of its ``digital`` layer."""


def kinds() -> tuple[Any, ...]:
    """``KINDS``, and those of libraries that the process has imported: a model with such a layer has done so."""
    if "transformers.pytorch_utils" not in sys.modules:
        return KINDS
    from analogtorch.nn.huggingface import AnalogConv1D

    return (*KINDS, AnalogConv1D)


__all__ = [
    "KINDS",
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
    "Programmed",
    "kinds",
]
