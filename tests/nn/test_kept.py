"""Weights that cells hold are kept between forwards in evaluation, and never stale."""

import copy

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.nn import kept
from tests.crossbar import crossbar

CHIPS = {
    "slices": crossbar(slices={"weight_bits": 6, "bits_per_slice": 2}),
    "expansion": crossbar(expansion={"factor": 1.5}),
    "both": crossbar(slices={"weight_bits": 6}, expansion={"factor": 1.5}),
}
X = torch.randn(5, 37, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=CHIPS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(37, 11)), CHIPS[request.param]).eval()
    model[0].set_input_range(2.0)
    return model


def _doubled(layer: nn.Module) -> dict[str, Tensor]:
    state = layer.state_dict()
    state["weight"] = 2 * state["weight"]
    return state


def _anew(model: nn.Module) -> Tensor:
    """Return what the model computes when nothing is kept."""
    kept._KEPT.pop(model[0], None)
    with torch.no_grad():
        return model(X)


def test_a_second_forward_does_not_cut_weights_again(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, count, cells = _anew(model), [], kept.cells
    monkeypatch.setattr(kept, "cells", lambda *given: count.append(1) or cells(*given))
    with torch.no_grad():
        assert torch.equal(model(X), first)
    with torch.inference_mode():
        assert torch.equal(model(X), first)
    assert not count
    assert torch.equal(model(X), first)  # autograd asks for the weight's gradient
    assert count


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[0].weight.data.mul_(2),
        lambda m: m[0].weight.data.numpy().__setitem__((0, 0), 5.0),
        lambda m: m[0].load_state_dict(_doubled(m[0])),
        lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach() - 0.3)),
        lambda m: setattr(m[0], "chip", m[0].chip.replace(array={"rows": 8})),
        lambda m: m.double(),
    ],
)
def test_any_change_of_the_weight_or_the_chip_is_seen(model: nn.Module, change) -> None:
    before = _anew(model)
    change(model)
    x = X.to(model[0].weight.dtype)
    with torch.no_grad():
        found = model(x)
    kept._KEPT.pop(model[0])
    with torch.no_grad():
        assert torch.equal(found, model(x))
    assert not torch.equal(found.float(), before)


def test_training_keeps_nothing_and_copies_have_their_own(model: nn.Module) -> None:
    before = _anew(model)
    other = copy.deepcopy(model)
    assert other[0] not in kept._KEPT
    with torch.no_grad():
        other[0].weight.mul_(2)
        assert not torch.equal(other(X), before)
        assert torch.equal(model(X), before)
    assert model[0] in kept._KEPT
    model.train()(X).sum().backward()
    assert model[0] not in kept._KEPT
    assert model[0].weight.grad is not None
    sizes = len(kept._KEPT)
    del other
    assert len(kept._KEPT) < sizes


def test_kept_weights_serve_gradients_of_the_inputs(model: nn.Module) -> None:
    model.requires_grad_(False)
    with torch.inference_mode():
        model(X)
    x = X.clone().requires_grad_()
    model(x).sum().backward()  # with what inference mode has kept
    assert x.grad.abs().sum() > 0
