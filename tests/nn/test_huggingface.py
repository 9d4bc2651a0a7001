"""transformers' Conv1D: nn.Linear's product from a transposed weight."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.nn.kinds import KINDS, kinds
from tests.crossbar import crossbar
from tests.nn import lasting

Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D


def _layer() -> nn.Module:
    torch.manual_seed(0)
    layer = Conv1D(11, 37)
    nn.init.uniform_(layer.weight, -0.16, 0.16)
    nn.init.uniform_(layer.bias, -0.16, 0.16)
    return layer


X = torch.randn(3, 4, 37, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("x", [X, X[0], X[0, 0]], ids=["3d", "2d", "1d"])
def test_an_ideal_chip_gives_its_numbers_and_gradients(x: Tensor) -> None:
    digital = _layer().double()
    analog, x = at.convert(copy.deepcopy(digital), at.chips.ideal()), x.double()
    expected = digital(x).view(*x.shape[:-1], 11)
    assert torch.allclose(analog(x), expected, atol=1e-12)
    for layer in (analog, digital):
        layer(x).square().sum().backward()
    for key, p in digital.named_parameters():
        assert torch.allclose(analog.get_parameter(key).grad, p.grad, atol=1e-10)


@pytest.mark.parametrize("mode", [True, False])
def test_it_computes_what_a_linear_layer_of_the_transposed_weight_does(mode: bool) -> None:
    digital = _layer()
    linear = nn.Linear(37, 11)
    linear.load_state_dict({"weight": digital.weight.T, "bias": digital.bias})
    results = []
    for layer in (digital, linear):
        analog = lasting.converted(layer, X).train(mode)
        with at.noise(1):
            y = analog(X)
        y.square().sum().backward()
        results.append(
            (
                y,
                analog.weight.grad.T if layer is linear else analog.weight.grad,
                analog.input_range.grad,
            )
        )
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*results, strict=True))
    views = [
        at.program(lasting.converted(layer, X), seed=3).at("1 day")(X)
        for layer in (digital, linear)
    ]
    assert torch.allclose(*views, atol=1e-5)


def test_a_mapping_places_it() -> None:
    model = at.convert(nn.Sequential(_layer()), lasting.SMALL)
    mapping = at.map_to_chip(model, X, chip=lasting.SMALL)
    physical = at.program(model, seed=1, mapping=mapping, defects=at.Defects(tiles=1.0))
    assert set(physical.yield_map()) == set(mapping.tile_utilisation)
    assert not physical.at("1 h")[0].programmed.weights[0].any()


def test_it_shows_its_chip_and_refuses_other_shapes() -> None:
    layer = at.convert(_layer(), crossbar())
    assert repr(layer) == "AnalogConv1D(nf=11, nx=37, chip=crossbar, range=absmax)"
    with pytest.raises(ValueError, match=r"layer '' takes \(\*, 37\) inputs, got shape \(2, 11\)"):
        layer(torch.zeros(2, 11))
    with pytest.raises(TypeError, match="float32 weights and got a torch.float64"):
        layer(X.double())
    assert layer.to(torch.bfloat16)(X.bfloat16()).dtype == torch.bfloat16


def test_it_is_known_only_where_transformers_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds()[:-1] == KINDS
    monkeypatch.delitem(sys.modules, "transformers.pytorch_utils")
    assert kinds() == KINDS
    assert "transformers.pytorch_utils" not in sys.modules


DIGITAL = nn.Sequential(_layer())


def test_copies_reports_and_replay() -> None:
    lasting.check_copies(DIGITAL, X)
    lasting.check_reports(DIGITAL, X, ["0"])
    lasting.check_replay(DIGITAL, X)


def test_checkpoints(tmp_path: Path) -> None:
    lasting.check_checkpoint(DIGITAL, X, tmp_path)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
def test_compilers() -> None:
    lasting.check_compilers(DIGITAL, X)
