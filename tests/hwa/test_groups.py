import math

import pytest
import torch
from torch import nn

import analogtorch as at
from tests.crossbar import crossbar


def _model() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.LSTM(8, 4))
    return at.convert(model, crossbar())


def test_every_parameter_is_in_one_group() -> None:
    model = _model()
    matrices, vectors, ranges = (
        group["params"] for group in at.hwa.parameter_groups(model, weight_decay=0.1)
    )
    named = {id(p): name for name, p in model.named_parameters()}
    assert sorted(named[id(p)] for p in matrices) == [
        "0.weight",
        "1.weight",
        "3.weight_hh_l0",
        "3.weight_ih_l0",
    ]
    assert sorted(named[id(p)] for p in vectors) == [
        *("1.bias", "2.bias", "2.weight", "3.bias_hh_l0", "3.bias_ih_l0")
    ]
    assert [id(p) for p in ranges] == [
        id(layer.input_range) for _, layer in at.analog_layers(model)
    ]
    assert len(matrices) + len(vectors) + len(ranges) == len(named)


def test_ranges_do_not_decay_and_matrices_do() -> None:
    model = at.convert(nn.Linear(8, 4), crossbar())
    optimizer = torch.optim.AdamW(at.hwa.parameter_groups(model, weight_decay=0.5), lr=0.1)
    model.set_input_range(2.0)
    before = model.weight.detach().clone(), model.bias.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert model.input_ranges == (2.0,)
    assert torch.equal(model.bias, before[1])
    assert torch.allclose(model.weight, before[0] * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("weight_decay", [-1.0, math.nan, math.inf, True, "0.1"])
def test_a_decay_that_is_no_number_is_refused(weight_decay: object) -> None:
    with pytest.raises(ValueError, match="weight_decay must be a number >= 0"):
        at.hwa.parameter_groups(_model(), weight_decay=weight_decay)  # type: ignore[arg-type]


def test_models_without_ranges_to_learn_are_refused() -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        at.hwa.parameter_groups(nn.Linear(2, 2), weight_decay=0.1)
    with pytest.raises(ValueError, match="belongs to a programmed chip"):
        at.hwa.parameter_groups(at.program(_model(), seed=0).at("0 s"), weight_decay=0.1)
    with pytest.raises(TypeError, match="must be a torch.nn.Module"):
        at.hwa.parameter_groups([], weight_decay=0.1)  # type: ignore[arg-type]


def test_norms_and_biases_of_several_dimensions_do_not_decay() -> None:
    net = nn.Sequential(
        nn.Linear(16, 32), nn.Unflatten(1, (4, 8)), nn.LayerNorm((4, 8)), nn.RMSNorm((4, 8))
    )
    attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    model = at.convert(nn.ModuleList([net, attention]), at.chips.hermes64())
    names = {id(p): name for name, p in model.named_parameters()}
    matrices, vectors, _ = (
        {names[id(p)] for p in group["params"]} for group in at.hwa.parameter_groups(model, 0.1)
    )
    assert matrices == {"0.0.weight", "1.in_proj_weight", "1.out_proj.weight"}
    assert {"0.2.weight", "0.2.bias", "0.3.weight", "1.bias_k", "1.bias_v"} < vectors
