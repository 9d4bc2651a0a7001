import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.hwa.ramp import ramped
from tests.crossbar import crossbar


@pytest.fixture
def forget() -> Iterator[Callable[[], None]]:
    """Compiled versions count: neither those of other tests nor, in them, these."""
    yield torch._dynamo.reset
    torch._dynamo.reset()


def _layer(**noise) -> nn.Module:
    torch.manual_seed(0)
    training = at.TrainingNoise(**{"output": False, **noise})
    chip = crossbar(dac={"bits": None}, adc={"bits": None}, training=training)
    return at.convert(nn.Sequential(nn.Linear(64, 64, bias=False)), chip)


def _noise(model: nn.Module) -> torch.Tensor:
    with at.noise(1):
        return (model(torch.eye(64)).T - model[0].weight).detach()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": "gaussian", "scale": 0.1},
        {"weight": "device"},
        {"weight": "none", "output": True},
    ],
)
def test_noise_is_a_fraction_of_the_chip_s(options: dict) -> None:
    model = _layer(**options)
    chip, whole = model[0].chip, _noise(model)
    assert at.hwa.training_noise_(model, 0.5) is model
    assert torch.allclose(_noise(model), whole / 2, atol=1e-6)
    at.hwa.training_noise_(model, 0.25)  # of the chip's, not of the half
    assert torch.allclose(_noise(model), whole / 4, atol=1e-6)
    assert model[0].chip is chip
    at.hwa.training_noise_(model, 0)
    assert torch.allclose(_noise(model), torch.zeros(64, 64), atol=1e-6)
    at.hwa.training_noise_(model, 1.0)
    assert torch.equal(_noise(model), whole)


def test_the_fraction_multiplies_the_deviation_of_shot_noise() -> None:
    sensor = at.chips.photodiode_sensor().without("adc", "dark_current")
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False))
    at.convert(model, sensor.replace(training={"weight": "none"}))
    x, found = torch.full((2, 1, 8, 8), 0.5), []
    for fraction in (0.0, 0.5, 1.0):
        with at.noise(1), torch.no_grad():
            found.append(at.hwa.training_noise_(model, fraction)(x))
    exact, half, whole = found
    assert not torch.equal(whole, exact)
    assert torch.allclose(half - exact, (whole - exact) / 2, atol=1e-5)


def test_the_share_of_failed_cells_is_a_fraction_too() -> None:
    model = _layer(weight="none", drop_connect=0.5)
    shares = []
    for fraction in (1.0, 0.5, 0.0):
        at.hwa.training_noise_(model, fraction)
        shares.append((_noise(model) == -model[0].weight).float().mean().item())
    # 4,096 cells: a standard error of 0.0078
    assert shares == pytest.approx([0.5, 0.25, 0.0], abs=0.035)
    assert shares[2] == 0


def test_copies_and_pickles_keep_the_fraction_and_a_digital_layer_does_not() -> None:
    model = at.hwa.training_noise_(_layer(), 0.5)
    noise = _noise(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(_noise(other), noise)
    model[0].chip = dataclasses.replace(model[0].chip, name="another")
    assert torch.equal(_noise(model), noise)
    digital = at.to_digital(model)
    assert not hasattr(digital[0], "noise_fraction")
    assert at.convert(digital, crossbar())[0].noise_fraction == 1.0


def test_recurrent_layers_follow_and_evaluation_and_chips_do_not_change() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.LSTM(8, 8)), crossbar())
    x = torch.randn(5, 2, 8)
    at.calibrate(model, [x])

    def views() -> list[torch.Tensor]:
        return [m(x)[0] for m in (model.eval(), at.program(model, seed=1).at("1 day"))]

    before = views()
    at.hwa.training_noise_(model, 0.0)
    assert all(map(torch.equal, before, views()))
    assert torch.equal(model.train()(x)[0], before[0])


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), True, "1"])
def test_a_bad_fraction_is_refused(fraction) -> None:
    with pytest.raises(
        ValueError, match=r"fraction must be a number in \[0, 1\].*0 is no noise, 1 all"
    ):
        at.hwa.training_noise_(_layer(), fraction)


def test_models_without_training_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="no analog layer"):
        at.hwa.training_noise_(nn.Linear(2, 2), 0.5)
    with pytest.raises(ValueError, match="programmed chip"):
        at.hwa.training_noise_(at.program(_layer(), seed=1).at("1 day"), 0.5)


def test_a_ramp_is_linear_in_stairs() -> None:
    assert [ramped(step, 8, 0.0, 4) for step in range(10)] == [
        0,
        0,
        0.25,
        0.25,
        0.5,
        0.5,
        0.75,
        0.75,
        1,
        1,
    ]
    assert [ramped(step, 22, 0.0, 22) for step in range(22)] == [step / 22 for step in range(22)]
    assert [ramped(step, 3, 0.5, 100) for step in (0, 3, 1000)] == [0.5, 1, 1]
    assert len({ramped(step, 1000, 0.2, 6) for step in range(2000)}) == 7


def test_a_compiled_ramp_of_six_changes_stays_compiled(forget: Callable[[], None]) -> None:
    model = at.convert(nn.Sequential(nn.Linear(8, 4)), crossbar())
    x = torch.randn(2, 8)
    forget()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for step in range(7):
            at.hwa.training_noise_(model, ramped(step, 6, 0.0, 6))
            compiled(x)
            model.eval()
            compiled(x)
            model.train()
