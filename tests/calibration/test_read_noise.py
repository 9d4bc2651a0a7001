"""Read noise of every MVM beside the error of the ADC, which it can hide."""

import math

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.calibration import adc
from analogtorch.devices import SquareRoot
from analogtorch.ops.physics import wide


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_counts_as_an_error_beside_that_of_the_adc(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32, bias=False).to(dtype), torch.randn(16, 64, dtype=dtype)
    found = []
    for scale in (0.0, 0.1):
        chip = at.chips.ideal().replace(
            mvm_read_noise={"std": SquareRoot(scale=scale)}, adc={"bits": 8}, dac={"bits": 16}
        )
        model = at.convert(nn.Sequential(layer), chip)
        model[0].set_input_range(5.0)
        layers = dict(at.analog_layers(model))
        limits = adc.limits(model, layers, [x], None, None, False)
        found.append(limits["0"].other_error)
    full = layer.weight.detach().abs().max()
    variance = (0.1**2 * full * layer.weight.detach().abs()).to(wide(dtype))
    expected = (x.square() @ variance.T).sum() / layer(x).detach().square().sum()
    assert found[0] < 1e-3
    assert found[1] == pytest.approx(math.sqrt(expected), rel=1e-3)


def test_calibration_and_correction_of_columns_run_with_it() -> None:
    torch.manual_seed(0)
    chip = at.chips.hermes64().replace(mvm_read_noise={"std": SquareRoot(scale=0.0175)})
    layer, x = nn.Linear(64, 32), torch.randn(400, 64)
    model = at.convert(nn.Sequential(layer), chip)
    at.calibrate(model, [x], adc="mse")
    view = at.program(model, seed=1).at("1 day")
    before = (view(x) - layer(x)).square().mean()
    at.correct_columns(view, [x])
    # the correction draws its second MVM with other noise, and is no worse for it
    assert (view(x) - layer(x)).square().mean() < 1.05 * before
