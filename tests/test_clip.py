import pytest
import torch
from torch import nn

import analogtorch as at


def test_clips_each_layer_at_its_own_sigma() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8), nn.LayerNorm(8)), at.chips.hermes64())
    nn.init.normal_(model[0].weight, std=3.0)
    bounds = [2.0 * layer.weight.std(correction=0).item() for _, layer in at.analog_layers(model)]
    at.clip_weights_(model, sigma=2.0)
    assert model[0].weight.abs().max().item() == pytest.approx(bounds[0])
    assert model[1].weight.abs().max().item() <= bounds[1] + 1e-6


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_bad_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be a positive number"):
        at.clip_weights_(at.convert(nn.Linear(2, 2), at.chips.hermes64()), sigma)


def test_a_digital_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        at.clip_weights_(nn.Linear(2, 2))


def test_weights_that_are_all_equal_are_left_alone_and_a_tied_weight_is_clipped_once() -> None:
    model = at.convert(nn.Sequential(nn.Linear(1, 1), nn.Linear(8, 8), nn.Linear(8, 8)), at.chips.hermes64())
    model[2].weight = model[1].weight
    before = model[0].weight.clone()
    bound = 1.0 * model[1].weight.std(correction=0).item()
    at.clip_weights_(model, sigma=1.0)
    assert torch.equal(model[0].weight, before)
    assert model[1].weight.abs().max().item() == pytest.approx(bound)
