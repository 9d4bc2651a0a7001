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
        match=f"its {weight} is not a plain Parameter.*prune.remove",
    ):
        _run(analog)
    with pytest.raises(
        RuntimeError,
        match=f"its {weight} is not a plain Parameter.*prune.remove",
    ):
        at.program(analog, seed=0)
    for module in (digital, analog.double().float()):
        prune.remove(module, weight)
    assert torch.allclose(_run(analog), _run(digital), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("lstm", "bias_ih_l0"),
        ("cell", "bias_hh"),
        ("attention", "in_proj_bias"),
        ("lstm", "weight_hh_l0"),
        ("cell", "weight_ih"),
        ("attention", "in_proj_weight"),
    ],
)
@pytest.mark.parametrize("how", ["pruned", "normed"])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
def test_tensors_that_torch_computes_are_never_dropped(name: str, tensor: str, how: str) -> None:
    def change(module: nn.Module) -> None:
        if how == "pruned":
            prune.l1_unstructured(module, tensor, 0.5)
        else:
            nn.utils.weight_norm(module, tensor)

    digital = _modules()[name][0].eval()
    torch.nn.init.normal_(getattr(digital, tensor))
    model = at.convert(nn.Sequential(copy.deepcopy(digital), nn.Linear(8, 4)), at.chips.ideal())
    change(model[0])
    model.double().float()
    with pytest.raises(
        RuntimeError, match=f"was changed after the conversion.*its {tensor} is not"
    ):
        _run(model[0])
    change(digital)
    expected = _run(digital)
    model = nn.Sequential(digital, nn.Linear(8, 4))
    with pytest.raises(ValueError, match=f"cannot be analog: its {tensor} is not a plain"):
        at.convert(model, at.chips.ideal(), include="0")
    at.convert(model, at.chips.ideal())
    reasons = {part: why for part, why, _ in at.summary(model).skipped}
    back = "prune.remove" if how == "pruned" else "remove_weight_norm"
    assert reasons["0"] == (
        f"its {tensor} is not a plain Parameter; make it one by torch.nn.utils.{back}(layer, "
        f"{tensor!r})"
    )
    assert torch.equal(_run(model[0]), expected)
    assert [part for part, _ in at.analog_layers(model)] == ["1"]
    before = [p.clone() for p in digital.parameters(recurse=False)]
    at.quantise_digital(model)
    assert all(map(torch.equal, before, digital.parameters(recurse=False)))
    assert torch.equal(_run(model[0]), expected)


def test_a_layer_whose_matrices_are_all_pruned_stays_digital_with_its_reason() -> None:
    lstm = nn.LSTM(8, 8, proj_size=4)
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_hr_l0"):
        prune.l1_unstructured(lstm, name, 0.5)
    model = at.convert(nn.Sequential(lstm, nn.Linear(8, 4)), at.chips.ideal())
    assert at.summary(model).skipped[0][1].startswith("its weight_ih_l0 is not a plain Parameter")


def test_a_matrix_that_stayed_digital_may_be_pruned() -> None:
    lstm = nn.LSTM(8, 8)
    model = at.convert(nn.Sequential(copy.deepcopy(lstm)), at.chips.ideal(), exclude="0.hh_l0")
    for module in (lstm, model[0]):
        prune.l1_unstructured(module, "weight_hh_l0", 0.5)
    assert torch.allclose(_run(model[0]), _run(lstm), atol=1e-6)


@_each
def test_a_parametrization_after_the_conversion_is_refused_until_it_is_permanent(name: str) -> None:
    digital, weight = _modules()[name]
    analog = at.convert(digital, at.chips.ideal()).eval()
    parametrizations.spectral_norm(analog, weight)
    with pytest.raises(RuntimeError, match=f"its {weight} is not a plain Parameter"):
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


def test_a_matrix_that_is_pruned_after_the_conversion_is_named() -> None:
    net = at.convert(nn.Sequential(nn.LSTM(6, 16)), at.chips.hermes64()).eval()
    for module in net.modules():  # as a loop over the layers of a model does
        if isinstance(module, nn.Linear):
            prune.l1_unstructured(module, "weight", 0.5)
    with pytest.raises(RuntimeError, match=r"matrix '0.ih_l0' was pruned .* before convert"):
        net(torch.randn(5, 3, 6))
