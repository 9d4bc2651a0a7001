"""The networks take log-mel maps, fit the chip, and keep every layer on it."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.speech.models import ConvNet, FullyConnected, KeywordTransformer


@pytest.mark.parametrize("network", [ConvNet, FullyConnected, KeywordTransformer])
def test_shapes_and_placement(network) -> None:
    model = network().eval()
    x = torch.randn(3, 1, 49, 40)
    with torch.no_grad():
        digital = model(x)
    assert digital.shape == (3, 12)
    kinds = nn.Linear, nn.Conv2d, nn.MultiheadAttention  # an attention has a matrix of its own
    layers = sum(isinstance(m, kinds) for m in model.modules())
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


@pytest.mark.parametrize(("classes", "parameters"), [(12, 607_308), (35, 608_803)])
def test_the_keyword_transformer_has_the_published_size(classes: int, parameters: int) -> None:
    model = KeywordTransformer(input_shape=(1, 98, 40), classes=classes)  # frames of 10 ms
    assert sum(p.numel() for p in model.parameters()) == parameters  # "607k" in the paper
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 1, 98, 40)).shape == (2, classes)


def test_every_weight_of_a_keyword_transformer_that_multiplies_is_on_the_chip() -> None:
    model = at.convert(KeywordTransformer(depth=2, patch=7).eval(), at.chips.ideal())
    report = at.guard(model, torch.randn(2, 1, 49, 40))
    assert not report.unused
    assert not report.share.digital
    names = {name for name, _ in at.analog_layers(model)}
    assert {"embedding", "head", "blocks.1.self_attn.in_proj", "blocks.1.linear2"} <= names


def test_tokens_of_several_frames() -> None:
    model = KeywordTransformer(depth=1, patch=3).eval()  # 49 frames: the last token has one
    x = torch.randn(2, 1, 49, 40)
    assert model.positions.shape == (1, 18, 64)
    seen: list[torch.Tensor] = []
    model.embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    torch.testing.assert_close(seen[0][:, 1], x[:, 0, 3:6].flatten(1))
    assert not seen[0][:, -1, 40:].any()
    torch.testing.assert_close(seen[0][:, -1, :40], x[:, 0, 48])
