"""Modules of several matrices follow changes of their Parameters, or refuse them."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import analogtorch as at

X = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0))


def _modules() -> dict[str, tuple[nn.Module, str]]:
    torch.manual_seed(0)
    return {
        "lstm": (nn.LSTM(8, 8), "weight_hh_l0"),
        "cell": (nn.GRUCell(8, 8), "weight_ih"),
        "attention": (nn.MultiheadAttention(8, 2), "in_proj_weight"),
        "apart": (nn.MultiheadAttention(8, 2, kdim=4, vdim=4), "q_proj_weight"),
    }


def _run(module: nn.Module) -> Tensor:
    if isinstance(module, nn.MultiheadAttention):
        return module(X, X[..., : module.kdim], X[..., : module.vdim])[0]
    if isinstance(module, nn.RNNCellBase):
        return module(X[0])
    return module(X)[0]


_each = pytest.mark.parametrize("name", _modules())


@_each
def test_a_parameter_that_is_replaced_counts(name: str) -> None:
    digital, weight = _modules()[name]
    analog = at.convert(copy.deepcopy(digital), at.chips.ideal()).eval()
    new = nn.Parameter(torch.randn_like(getattr(digital, weight)))
    for module in (digital.eval(), analog):
        setattr(module, weight, new)
    assert torch.allclose(_run(analog), _run(digital), atol=1e-6)
    _run(analog).sum().backward()
    assert new.grad is not None
    assert getattr(at.to_digital(analog), weight) is new


@_each
def test_pruning_after_the_conversion_is_refused_until_it_is_permanent(name: str) -> None:
    digital, weight = _modules()[name]
    analog = at.convert(copy.deepcopy(digital), at.chips.ideal()).eval()
    for module in (digital.eval(), analog):
        torch.manual_seed(1)
        prune.random_unstructured(module, weight, 0.5)
    with pytest.raises(
        RuntimeError,
        match=f"{weight} was pruned or parametrized after the conversion.*prune.remove",
    ):
        _run(analog)
    with pytest.raises(
        RuntimeError,
        match=f"{weight} was pruned or parametrized after the conversion.*prune.remove",
    ):
        at.program(analog, seed=0)
    for module in (digital, analog.double().float()):
        prune.remove(module, weight)
    assert torch.allclose(_run(analog), _run(digital), atol=1e-6)


@_each
def test_a_parametrization_after_the_conversion_is_refused_until_it_is_permanent(name: str) -> None:
    digital, weight = _modules()[name]
    analog = at.convert(digital, at.chips.ideal()).eval()
    parametrizations.spectral_norm(analog, weight)
    with pytest.raises(
        RuntimeError, match=f"{weight} was pruned or parametrized after the conversion"
    ):
        _run(analog)
    parametrize.remove_parametrizations(analog, weight)
    expected = _run(analog)
    assert torch.allclose(_run(at.to_digital(analog).eval()), expected, atol=1e-6)


@pytest.mark.parametrize(
    "kind", [at.nn.AnalogLSTM, at.nn.AnalogGRUCell, at.nn.AnalogMultiheadAttention]
)
def test_they_are_made_by_convert(kind: type[nn.Module]) -> None:
    digital = kind.__name__.removeprefix("Analog")
    with pytest.raises(
        TypeError, match=rf"is made from a digital layer: analogtorch\.convert\(nn\.{digital}\("
    ):
        kind(8, 8)
