"""Analog layers as functions: the numbers and gradients of the layers with the same tensors."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.nn import functional as F
from tests.crossbar import crossbar
from tests.nn.layers import Case, cases

SMALL = crossbar(array={"rows": 24, "columns": 7}, adc={"noise": 0.03})
HERMES = at.chips.hermes64().replace(array={"rows": 24, "columns": 7})
CASES = [c for c in cases() if isinstance(c.layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
CASES = [c for c in CASES if getattr(c.layer, "padding_mode", "zeros") == "zeros"]


def _function(layer: nn.Module) -> tuple[Any, dict[str, Any]]:
    if isinstance(layer, nn.Linear):
        return F.analog_linear, {}
    functions = {1: F.analog_conv1d, 2: F.analog_conv2d, 3: F.analog_conv3d}
    names = ("stride", "padding", "dilation", "groups")
    return functions[layer.weight.dim() - 2], {name: getattr(layer, name) for name in names}


def _gradients(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), leaves))


@pytest.mark.parametrize("chip", [SMALL, HERMES], ids=["crossbar", "hermes64"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_numbers_and_gradients_are_those_of_the_layer(
    case: Case, calibrated: bool, training: bool, chip: at.Chip
) -> None:
    layer = at.convert(copy.deepcopy(case.layer), chip).train(training)
    function, options = _function(case.layer)
    ranges = {}
    if calibrated:
        layer.set_input_range(1.5)
        ranges = {"adc_ranges": torch.rand(layer.adc_shape) + 0.5, "output_ranges": 2.0}
        layer.set_adc_ranges(ranges["adc_ranges"])
        layer.set_output_ranges(2.0)
        ranges["input_range"] = layer.input_range.detach().clone().requires_grad_()
    x = case.x.clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    bias = None if layer.bias is None else layer.bias.detach().clone().requires_grad_()
    with at.noise(7):
        expected = layer(x)
    with at.noise(7):
        y = function(x, weight, chip, bias=bias, training=training, **options, **ranges)
    assert torch.equal(y, expected)
    theirs = [x, layer.weight] + [layer.input_range] * calibrated
    ours = [x, weight, *([ranges["input_range"]] if calibrated else [])]
    if bias is not None:
        theirs, ours = [*theirs, layer.bias], [*ours, bias]
    for a, b in zip(_gradients(expected, theirs), _gradients(y, ours), strict=True):
        assert torch.equal(a, b)


def test_the_name_keys_the_noise_and_the_scope_pins_it() -> None:
    x, weight = torch.randn(3, 20), torch.randn(4, 20)

    def run(name: str) -> Tensor:
        with at.noise(1):
            return F.analog_linear(x, weight, SMALL, training=True, name=name)

    assert torch.equal(run("a"), run("a"))
    assert not torch.equal(run("a"), run("b"))
    layer = at.nn.AnalogLinear(20, 4, bias=False, chip=SMALL, name="a")
    layer.weight.data.copy_(weight)
    with at.noise(1):
        assert torch.equal(run("a"), layer(x))


def test_ranges_are_numbers_or_tensors_of_one_or_of_each_row_block() -> None:
    x, weight = torch.randn(3, 40), torch.randn(4, 40)
    one = F.analog_linear(x, weight, SMALL, input_range=1.5)
    assert torch.equal(one, F.analog_linear(x, weight, SMALL, input_range=torch.tensor(1.5)))
    assert torch.equal(one, F.analog_linear(x, weight, SMALL, input_range=torch.tensor([-1.5])))
    each = torch.tensor([1.5, 0.5], requires_grad=True)
    y = F.analog_linear(x, weight, SMALL, input_range=each)
    assert not torch.equal(y, one)
    y.sum().backward()
    assert each.grad is not None
    assert (each.grad != 0).all()


def test_an_ideal_chip_gives_torchs_numbers() -> None:
    x, weight, bias = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    expected = nn.functional.conv2d(x, weight, bias, stride=2, padding=1)
    y = F.analog_conv2d(x, weight, at.chips.ideal(), bias=bias, stride=2, padding=1)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_are_those_of_the_weight(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 20, dtype=dtype), torch.randn(4, 20, dtype=dtype)
    assert F.analog_linear(x, weight, SMALL, input_range=2.0).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            F.analog_linear(torch.randn(3, 20), torch.randn(4, 20), SMALL).dtype == torch.bfloat16
        )


X, W = torch.randn(3, 20), torch.randn(4, 20)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, W, "hermes64"), {}, TypeError, "analog_linear: chip must be a Chip such as"),
        ((X, None, SMALL), {}, TypeError, "analog_linear: weight must be a floating-point tensor"),
        ((X.int(), W, SMALL), {}, TypeError, "analog_linear: x must be a floating-point tensor"),
        ((X, W[0], SMALL), {}, ValueError, r"weight must be \(outputs, inputs\) with 2 dim"),
        ((X, W[:0], SMALL), {}, ValueError, "none of them 0"),
        ((X[:, :5], W, SMALL), {}, ValueError, r"layer 'me' takes \(\*, 20\) inputs, got shape"),
        ((X.double(), W, SMALL), {}, TypeError, "weights and got a torch.float64"),
        ((X, W, SMALL), {"bias": X[0]}, ValueError, r"bias must be \(4,\), one number for each"),
        ((X, W, SMALL), {"input_range": 0.0}, ValueError, "must be a positive finite number"),
        ((X, W, SMALL), {"input_range": X[0, :3]}, ValueError, r"its 1 row blocks, got shape \(3"),
        ((X, W, SMALL), {"adc_ranges": -1.0}, ValueError, "must be positive finite numbers"),
        ((X, W, SMALL), {"output_ranges": X}, ValueError, "must be one number, or one for each of"),
        ((X, W, SMALL), {"training": 1}, ValueError, "training must be True or False"),
        ((X, W, SMALL), {"name": 3}, TypeError, "name must be a text"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        F.analog_linear(*arguments, **({"name": "me"} | options))


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 1.5},
        {"stride": "a"},
        {"stride": (1, 2)},
        {"stride": 0},
        {"padding": "sam"},
        {"padding": -1},
        {"dilation": None},
    ],
)
def test_a_geometry_that_is_none_is_refused_by_name(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    message = f"analog_conv1d: {name} must be an integer >= .*, got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=message):
        F.analog_conv1d(torch.randn(2, 6, 9), torch.randn(4, 6, 2), SMALL, **options)


def test_groups_must_divide_the_outputs() -> None:
    for groups in (3, 0, 1.5):
        with pytest.raises(ValueError, match="groups must be an integer >= 1 that divides the 4"):
            F.analog_conv1d(torch.randn(2, 6, 9), torch.randn(4, 2, 3), SMALL, groups=groups)
