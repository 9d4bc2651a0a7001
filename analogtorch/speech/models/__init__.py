"""Keyword spotters for analog tiles, from features to a logit for each class.

One file for each family of networks. Each takes ``classes``, their number, and ``input_shape``, the
shape of the features of one clip.
"""

from collections.abc import Callable

from torch import nn

from analogtorch.speech.models.conv import ConvNet
from analogtorch.speech.models.fully_connected import FullyConnected
from analogtorch.speech.models.transformer import KeywordTransformer

__all__ = ["NETWORKS", "ConvNet", "FullyConnected", "KeywordTransformer"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "conv": ConvNet,
    "fully_connected": FullyConnected,
    "transformer": KeywordTransformer,
}
"""The networks by their names in configurations."""
