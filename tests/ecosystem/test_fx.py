"""torch.fx, and torchvision's feature extraction on top of it, see an analog layer as one call."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from transformers.pytorch_utils import Conv1D

import analogtorch as at
from tests.crossbar import crossbar

CHIP = crossbar()


class Padded(nn.Conv2d):
    """A layer that pads, as detectors and TensorFlow have it."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(input, (1, 1, 1, 1)))


class First(nn.Module):
    """The first output of a recurrent layer or an attention."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(*[x] * self.times)[0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (2, 5, 4)),
        (nn.Conv1d(4, 3, 2), (2, 4, 6)),
        (nn.Conv2d(4, 3, 2), (2, 4, 6, 6)),
        (nn.Conv3d(4, 3, 2), (2, 4, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 3, 2, stride=2), (2, 4, 3, 3)),
        (Padded(4, 3, 2), (2, 4, 6, 6)),
        (Conv1D(3, 4), (2, 5, 4)),
        (First(nn.LSTM(4, 3)), (6, 2, 4)),
        (First(nn.GRUCell(4, 3)), (2, 4)),
        (First(nn.MultiheadAttention(4, 2), 3), (6, 2, 4)),
    ],
)
def test_a_graph_calls_the_layer_and_computes_the_same(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(layer, nn.ReLU()), CHIP).eval()
    graph = torch.fx.symbolic_trace(model)
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    assert called == {"0.layer" if isinstance(layer, First) else "0", "1"}
    assert dict(at.analog_layers(graph)).keys() == dict(at.analog_layers(model)).keys()
    x = torch.randn(shape)
    assert torch.equal(graph(x), model(x))


def test_embeddings_too() -> None:
    model = at.convert(nn.Sequential(nn.Embedding(9, 4), nn.ReLU()), CHIP, embeddings=True).eval()
    tokens = torch.arange(9)
    assert torch.equal(torch.fx.symbolic_trace(model)(tokens), model(tokens))


def test_features_of_a_converted_net() -> None:
    torch.manual_seed(0)
    digital = resnet18(num_classes=10).eval()
    names = get_graph_node_names(digital)[1]
    model = at.convert(copy.deepcopy(digital), CHIP)
    assert get_graph_node_names(model)[1] == names
    x = torch.randn(1, 3, 32, 32)
    features = create_feature_extractor(model, ["layer1.0.conv1", "layer2", "fc"])(x)
    assert torch.equal(features["fc"], model(x))
    assert features["layer1.0.conv1"].shape == (1, 64, 8, 8)
    assert at.guard(create_feature_extractor(model, ["fc"]), x).layers[0].name == "conv1"


def test_a_layer_by_itself_has_no_graph() -> None:
    with pytest.raises(TypeError, match="trace a model that holds it"):
        torch.fx.symbolic_trace(at.convert(nn.Linear(4, 3), CHIP))
