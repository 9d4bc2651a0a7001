"""The layers that ``convert`` makes."""

import sys
from typing import Any

from torch import nn

from analogtorch.nn.attention import AnalogMultiheadAttention
from analogtorch.nn.cells import AnalogGRUCell, AnalogLSTMCell, AnalogRNNCell
from analogtorch.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from analogtorch.nn.embedding import AnalogEmbedding
from analogtorch.nn.linear import AnalogLinear
from analogtorch.nn.recurrent import AnalogGRU, AnalogLSTM, AnalogRNN
from analogtorch.nn.transposed import (
    AnalogConvTranspose1d,
    AnalogConvTranspose2d,
    AnalogConvTranspose3d,
)

KINDS: tuple[Any, ...] = (
    *(AnalogLinear, AnalogConv1d, AnalogConv2d, AnalogConv3d),
    *(AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d),
    *(AnalogRNN, AnalogLSTM, AnalogGRU, AnalogMultiheadAttention),
    *(AnalogRNNCell, AnalogLSTMCell, AnalogGRUCell),
    AnalogEmbedding,
)
"""The kinds that ``convert`` makes, each from its ``digital`` layer."""


def kinds() -> tuple[Any, ...]:
    """Return ``KINDS``, and the kinds for libraries that the process has imported.

    A model with a layer of such a library has imported it.
    """
    if "transformers.pytorch_utils" not in sys.modules:
        return KINDS
    from analogtorch.nn.huggingface import AnalogConv1D

    return (*KINDS, AnalogConv1D)


def kind_of(module: nn.Module) -> Any:
    """Return the kind of analog layer that ``module`` would become; None if there is none.

    Reasons against it are ignored.
    """
    return next((kind for kind in kinds() if isinstance(module, kind.digital)), None)
