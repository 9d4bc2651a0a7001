"""Keyword spotters for analog tiles, from features to a logit for each class.

One file for each family of networks. Each takes ``classes``, their number, and ``input_shape``, the
shape of the features of one clip.
"""

from collections.abc import Callable

from torch import nn

from analogtorch.speech.models.analog import AnalogNet, HermesConv
from analogtorch.speech.models.bc_resnet import BCResNet
from analogtorch.speech.models.conv import ConvNet
from analogtorch.speech.models.ds_cnn import DSCNN
from analogtorch.speech.models.fully_connected import FullyConnected
from analogtorch.speech.models.hello_edge import (
    HelloEdgeCNN,
    HelloEdgeDNN,
    HelloEdgeGRU,
    HelloEdgeLSTM,
)
from analogtorch.speech.models.neurram import NeuRRAMLSTM
from analogtorch.speech.models.tc_resnet import TCResNet
from analogtorch.speech.models.transformer import KeywordTransformer

__all__ = [
    "DSCNN", "NETWORKS", "AnalogNet", "BCResNet", "ConvNet", "FullyConnected", "HelloEdgeCNN",
    "HelloEdgeDNN", "HelloEdgeGRU", "HelloEdgeLSTM", "HermesConv", "KeywordTransformer",
    "NeuRRAMLSTM", "TCResNet",
]  # fmt: skip

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "conv": ConvNet,
    "fully_connected": FullyConnected,
    "hermes_conv": HermesConv,
    "neurram_lstm": NeuRRAMLSTM,
    "analognet": AnalogNet,
    "tc_resnet": TCResNet,
    "bc_resnet": BCResNet,
    "transformer": KeywordTransformer,
    "ds_cnn": DSCNN,
    "hello_edge_dnn": HelloEdgeDNN,
    "hello_edge_cnn": HelloEdgeCNN,
    "hello_edge_lstm": HelloEdgeLSTM,
    "hello_edge_gru": HelloEdgeGRU,
}
"""The networks by their names in configurations."""
