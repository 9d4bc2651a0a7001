import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

import analogtorch as at

CHIP = at.chips.hermes64()
X = torch.randn(4, 8)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def _step(model: nn.Module, *optimizers: Optimizer) -> None:
    model(X).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_an_optimizer_from_before_the_conversion_is_warned_of_once(kind: type[Optimizer]) -> None:
    model = _net()
    optimizer = kind(model.parameters(), lr=0.1)
    at.calibrate(at.convert(model, CHIP), [X], method="absmax")
    with pytest.warns(
        UserWarning, match=f"this {kind.__name__} trains .* not their DAC ranges.* '0', '2'"
    ) as caught:
        _step(model, optimizer)
    _step(model, optimizer)
    assert [Path(warning.filename).name for warning in caught] == ["test_learning.py"]


def test_ranges_that_learn_are_no_reason_to_warn() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], method="percentile", percentile=90.0)
    before = model[0].input_ranges
    _step(model, SGD(at.hwa.parameter_groups(model, weight_decay=0.0), lr=1.0))
    assert model[0].input_ranges != before
    two = at.calibrate(at.convert(_net(), CHIP), [X], method="absmax")
    ranges = {id(layer.input_range): layer.input_range for _, layer in at.analog_layers(two)}
    others = [p for p in two.parameters() if id(p) not in ranges]
    _step(two, SGD(ranges.values(), lr=1.0), SGD(others, lr=1.0))  # an optimizer of their own


def test_ranges_that_do_not_learn_are_none_either() -> None:
    model = _net()
    optimizer = SGD(model.parameters(), lr=0.1)
    at.convert(model, CHIP)
    _step(model, optimizer)  # not calibrated
    at.calibrate(model, [X], method="absmax")
    for _, layer in at.analog_layers(model):
        layer.input_range.requires_grad_(False)
    _step(model, optimizer)
    _step(nn.Linear(8, 4), SGD(_net().parameters(), lr=0.1))


def test_they_are_missed_when_they_begin_to_learn() -> None:
    model = _net()
    optimizer = SGD(model.parameters(), lr=0.1)
    at.convert(model, CHIP)
    _step(model, optimizer)
    at.calibrate(model, [X], method="absmax")
    with pytest.warns(UserWarning, match="not their DAC ranges"):
        _step(model, optimizer)


def test_training_in_evaluation_mode_is_warned_of() -> None:
    def calibrated() -> nn.Module:
        return at.calibrate(at.convert(_net().eval(), CHIP), [X], method="absmax")

    model = calibrated()  # as from_pretrained returns one
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match=r"without the chip's noise: '0', '2'.*model.train\(\)"):
        _step(model, optimizer)
    _step(model, optimizer)  # it is said once
    for silent in (calibrated().train(), at.hwa.training_noise_(calibrated(), 0)):
        _step(silent, SGD(silent.parameters(), lr=0.1))
    noiseless = at.convert(
        _net().eval(), at.chips.hermes64(training=at.TrainingNoise(weight="none"))
    )
    at.calibrate(noiseless, [X], method="absmax")
    _step(noiseless, SGD(noiseless.parameters(), lr=0.1))


def test_distillation_adds_noise_in_evaluation_mode() -> None:
    teacher = _net().eval()
    model = at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [X], method="absmax")
    optimizer = SGD(model.parameters(), lr=0.1)
    at.hwa.Twin(model, teacher).total(X).backward()
    optimizer.step()


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy])
def test_copies_are_warned_of_as_what_they_are_of(copied: Callable[[nn.Module], nn.Module]) -> None:
    layer = at.calibrate(at.convert(nn.Linear(8, 4).eval(), CHIP), [X], method="absmax")
    _step(layer.train(), SGD(layer.parameters(), lr=0.1))
    other = copied(layer).eval()
    optimizer = SGD([other.weight], lr=0.1)
    with pytest.warns(UserWarning, match="in evaluation mode|DAC ranges") as caught:
        _step(other, optimizer)
    _step(other, optimizer)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 2
    assert "in evaluation mode" in texts[0]
    assert "not their DAC ranges" in texts[1]


def test_copies_train_as_what_they_are_of_in_silence() -> None:
    teacher = _net().eval()
    model = at.calibrate(at.convert(copy.deepcopy(teacher), CHIP), [X], method="absmax")
    twin = copy.deepcopy(at.hwa.Twin(model, teacher))  # as EMA copies a Lightning module
    twin.total(X).backward()
    SGD(twin.student.parameters(), lr=0.1).step()
    view = copy.deepcopy(at.program(model, seed=0).at("1 day")).requires_grad_(True)
    net = nn.Sequential(nn.Linear(8, 8), view)
    _step(net, SGD(net.parameters(), lr=0.1))


def test_an_adapted_model_that_trains_on_without_noise_is_warned_of() -> None:
    given = at.calibrate(at.convert(_net().eval(), CHIP), [X], method="absmax")
    adapted = at.hwa.adapt(given, [X], steps=1, num_chips=1, times=["0 s"])
    # it adds noise, and is silent
    model = at.hwa.adapt(adapted.model, [X], steps=1, num_chips=1, times=["0 s"]).model
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="in evaluation mode"):
        _step(model, optimizer)
    _step(model, optimizer)
    _step(adapted.model.train(), SGD(adapted.model.parameters(), lr=0.1))


def test_a_compiled_step_runs_in_silence() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], method="absmax")
    optimizer = SGD([model[0].weight], lr=0.1)
    model(X).square().mean().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.compile(optimizer.step, backend="eager")()


class Sharded(Optimizer):
    """Steps another optimizer that has a share of the Parameters, as ZeroRedundancyOptimizer."""

    def __init__(self, params: list[nn.Parameter], share: list[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.1})
        self.optim = SGD(share, lr=0.1)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.optim.step()


def test_an_optimizer_inside_of_another_is_not_looked_at() -> None:
    model = at.calibrate(at.convert(_net(), CHIP), [X], method="absmax")
    ranges = {id(layer.input_range) for _, layer in at.analog_layers(model)}
    weights = [p for p in model.parameters() if id(p) not in ranges]
    _step(model, Sharded(list(model.parameters()), weights))
    again = at.calibrate(at.convert(_net(), CHIP), [X], method="absmax")
    ranges = {id(layer.input_range) for _, layer in at.analog_layers(again)}
    weights = [p for p in again.parameters() if id(p) not in ranges]
    with pytest.warns(UserWarning, match="this Sharded trains .* not their DAC ranges"):
        _step(again, Sharded(weights, weights[:1]))
