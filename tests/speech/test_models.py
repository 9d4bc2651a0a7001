"""The networks take log-mel maps, fit the chip, and keep every layer on it."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.speech.models import ConvNet, FullyConnected


@pytest.mark.parametrize("network", [ConvNet, FullyConnected])
def test_shapes_and_placement(network) -> None:
    model = network().eval()
    x = torch.randn(3, 1, 49, 40)
    with torch.no_grad():
        digital = model(x)
    assert digital.shape == (3, 12)
    layers = sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in model.modules())
    at.convert(model, at.chips.ideal())
    summary = at.summary(model)
    assert len(summary.layers) == layers
    assert summary.tiles <= 64
    with torch.no_grad():
        torch.testing.assert_close(model(x), digital, rtol=1e-4, atol=1e-4)


def test_fully_connected_has_1024_inputs() -> None:
    first, *_, last = (m for m in FullyConnected().modules() if isinstance(m, nn.Linear))
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (
        1024,
        512,
        512,
        12,
    )
    assert "UNVERIFIED" in (FullyConnected.__doc__ or "")


def test_conv_net_has_no_depthwise_layer_and_options_count() -> None:
    convs = [
        m
        for m in ConvNet(widths=(4, 8, 16), stem_stride=(2, 2)).modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert all(m.groups == 1 for m in convs)
    assert [m.out_channels for m in convs] == [4, 8, 8, 16, 16]
    assert convs[0].stride == (2, 2)
