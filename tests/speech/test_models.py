"""The networks have their published sizes, fit the chip, and keep every layer on it."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import analogtorch as at
from analogtorch.speech.features import LogMel
from analogtorch.speech.models import NETWORKS, ConvNet, FullyConnected, KeywordTransformer

# name, options, parameters, weights of matrices, multiplications in thousands, and the source of
# the parameters: "published" where a paper or its code has them
SIZES = [
    ("conv", {}, (1, 49, 40), 166_812, 166_096, None),
    ("fully_connected", {}, (1, 49, 40), 793_612, 792_576, 793),
    ("hermes_conv", {}, (1, 1984, 64), 494_156, 492_288, 118_277),  # 492k weights, 118M: published
    ("neurram_lstm", {}, (1, 49, 40), 264_432, 260_928, None),
    ("analognet", {}, (1, 49, 10), 301_740, 300_864, 37_723),
    ("tc_resnet", {}, (1, 98, 40), 65_180, 64_512, 1_523),  # 66k, 1.5M: published
    ("bc_resnet", {}, (1, 98, 40), 9_232, 6_804, None),  # 9.2k: published
    ("bc_resnet", {"scale": 8}, (1, 98, 40), 321_068, 301_728, None),  # 321k: published
    ("transformer", {}, (1, 98, 40), 607_308, 593_152, None),  # 607k: published
    ("ds_cnn", {}, (1, 49, 10), 23_756, 22_016, 2_657),  # 23,756 of MLPerf Tiny: published
    ("hello_edge_dnn", {}, (1, 25, 10), 79_644, 79_200, 79),  # 79,644: Arm's weights
    ("hello_edge_cnn", {}, (1, 49, 10), 69_610, 69_024, None),  # 69,610: Arm's weights
    ("hello_edge_lstm", {}, (1, 49, 10), 62_788, 61_832, None),
    ("hello_edge_gru", {}, (1, 49, 10), 78_552, 77_616, None),
]


def seeded(name: str, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name](**options).eval()


@pytest.mark.parametrize(("name", "options", "shape", "parameters", "weights", "macs"), SIZES)
def test_sizes_are_the_published_ones(
    name: str,
    options: dict,
    shape: tuple[int, ...],
    parameters: int,
    weights: int,
    macs: int | None,
) -> None:
    model = seeded(name, **options, input_shape=shape)
    assert sum(p.numel() for p in model.parameters()) == parameters
    matrices = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    matrices += [m for m in model.modules() if isinstance(m, nn.RNNBase | nn.MultiheadAttention)]
    found = [p for m in matrices for p in m.parameters(recurse=False) if p.dim() > 1]
    assert sum(p.numel() for p in found) == weights
    if macs is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randn(1, *shape))
        assert round(counter.get_total_flops() / 2000) == macs


def test_recurrent_nets_of_hello_edge_take_the_memory_of_the_paper() -> None:
    """Its table has kilobytes of 8-bit weights and activations, with one bias for a gate."""
    for name, hidden, kilobytes in (
        ("hello_edge_lstm", 118, 63.3), ("hello_edge_lstm", 344, 494.5),
        ("hello_edge_gru", 154, 78.8), ("hello_edge_gru", 400, 499.7),
    ):  # fmt: skip
        model = seeded(name, hidden=hidden)
        one_bias = sum(p.numel() for n, p in model.named_parameters() if "bias_hh" not in n)
        assert one_bias / 1000 == pytest.approx(kilobytes, rel=0.02)
        assert one_bias / 1000 < kilobytes


@pytest.mark.filterwarnings("ignore:calibrate. the fixed range of the ADC")  # of depthwise layers
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_converts_maps_and_runs_on_hermes64(name: str) -> None:
    small = {"transformer": {"depth": 1}, "conv": {"stem_stride": (2, 2)}}
    model = seeded(name, classes=3, **small.get(name, {}))
    shape = inspect.signature(NETWORKS[name]).parameters["input_shape"].default
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        digital = model(x)
    assert digital.shape == (2, 3)
    at.convert(model, at.chips.hermes64())
    assert not at.guard(model, x).unused
    mapping = at.map_to_chip(model, x[:1])
    assert mapping.num_chips == 1
    assert mapping.tiles_used <= 64
    at.calibrate(model, [x], effort="ranges")
    with torch.no_grad():
        analog = model(x)
        seen = at.program(model, seed=0).at("1 day")(x)
    assert (analog - digital).norm() < 0.1 * digital.norm()
    assert seen.isfinite().all()
    assert not torch.equal(seen, analog)


@pytest.mark.parametrize("name", ["neurram_lstm", "hello_edge_lstm"])
def test_untrained_lstms_keep_their_state_over_frames(name: str) -> None:
    lstm = next(m for m in seeded(name).modules() if isinstance(m, nn.LSTM))
    full = torch.ones(1, lstm.hidden_size)
    with torch.no_grad():
        _, (_, left) = lstm(torch.zeros(3, lstm.input_size), (torch.zeros_like(full), full))
    # torch's biases leave 0.125 of it after three frames; sigmoid(1)^3 is 0.39
    assert left.mean().item() == pytest.approx(0.39, abs=0.05)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_other_numbers_of_frames_and_classes(name: str) -> None:
    frames = 500 if name == "hermes_conv" else 61
    filters = {"bc_resnet": 40, "hermes_conv": 32}.get(name, 13)
    model = seeded(name, classes=5, input_shape=(1, frames, filters))
    with torch.no_grad():
        assert model(torch.randn(3, 1, frames, filters)).shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hermes_conv", {"input_shape": (1, 430, 64)}, "need 431 frames or more: shorten the hop"),
        ("bc_resnet", {"input_shape": (1, 98, 32)}, "this net is made for 40 filters"),
        ("bc_resnet", {"scale": 0.1}, "scale must be a number >= 0.5, got 0.1"),
        ("tc_resnet", {"widths": ()}, "widths must hold one or more integers >= 1"),
        ("ds_cnn", {"input_shape": (16,)}, r"input_shape must be \(1, frames, filters\)"),
        ("hello_edge_cnn", {"input_shape": (1, 18, 10)}, "frames of input_shape must be .* >= 19"),
        ("neurram_lstm", {"blocks": 0}, "blocks must be an integer >= 1, got 0"),
        ("transformer", {"patch": 50}, r"patch must be an integer in \[1, 49\], got 50"),
        ("conv", {"classes": 1}, "classes must be an integer >= 2, got 1"),
        ("analognet", {"dropout": 1}, r"dropout must be a number in \[0, 1\), got 1"),
    ],
)
def test_arguments_are_checked(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NETWORKS[name](**options)


def test_the_hermes_net_takes_the_published_frames() -> None:
    features = LogMel(window_ms=8.5, hop_ms=0.5, mels=64)
    assert features(torch.zeros(1, 16_000)).shape == (1, 1, 1984, 64)


def test_an_analognet_fills_half_of_its_crossbar() -> None:
    model = seeded("analognet")
    rows = [m.weight[0].numel() for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert max(rows) == 1008
    mapping = at.map_to_chip(model, torch.zeros(1, 1, 49, 10), chip=at.chips.hermes64())
    assert sum(mapping.vectors.values()) == 991
    assert round(1 / (991 * 130e-9)) == 7762  # inferences a second of the paper


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
