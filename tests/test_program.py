import copy
import dataclasses

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.program import seconds
from tests.nn.layers import cases

CHIP = at.chips.hermes64()
X = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))


def _model(chip: at.Chip = CHIP) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5)), chip)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 s", 0), ("1 h", 3600), ("1 day", 86400), ("30 days", 2592000), ("1 month", 2592000), ("1 year", 31536000),
        ("2 weeks", 1209600), ("1.5h", 5400), ("10min", 600), ("1e3 s", 1000), (12, 12), ("programmed", None),
    ],
)  # fmt: skip
def test_times(text, expected) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("time", ["1 fortnight", "day", "-1 s", -1.0, float("inf"), "1.2.3 s", "", None, "1 hours ago"])
def test_bad_times_are_refused(time) -> None:
    with pytest.raises(ValueError, match="time"):
        seconds(time)


def test_the_model_is_untouched_and_later_training_does_not_reach_the_chip() -> None:
    model = _model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    physical = at.program(model, seed=7)
    aged = physical.at("1 day")
    expected = aged(X)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    model(X)
    assert torch.equal(aged(X), expected)
    assert torch.equal(physical.at("1 day")(X), expected)


def test_same_seed_same_chip_other_seed_other_chip() -> None:
    outputs = [at.program(_model(), seed=seed).at("1 day")(X) for seed in (7, 7, 8, -7)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[3])


def test_views_are_independent_and_evaluation_only() -> None:
    physical = at.program(_model(), seed=7)
    a, b = physical.at("1 h"), physical.at("1 year")
    assert not a.training
    assert not any(p.requires_grad for p in a.parameters())
    assert not torch.equal(a(X), b(X))
    a.train()
    with pytest.raises(RuntimeError, match=r"cannot train: call \.eval"):
        a(X)
    assert torch.equal(b(X), physical.at("1 year")(X))
    with pytest.raises(ValueError, match="is programmed already"):
        at.program(b, seed=1)
    with pytest.raises(ValueError, match="belongs to a programmed chip"):
        at.to_digital(b)


def test_a_view_can_be_moved_and_cast() -> None:
    view = at.program(_model(), seed=7).at("1 day")
    expected = view(X)
    assert torch.allclose(view.double()(X.double()).float(), expected, atol=0.05)


def test_programming_and_drift_draws_stay_the_same_over_time() -> None:
    chip = dataclasses.replace(CHIP, input_bits=None, output_bits=None, output_noise=0.0)
    quiet = dataclasses.replace(chip.cell, device=dataclasses.replace(chip.cell.device, read_scale=0.0))
    physical = at.program(_model(dataclasses.replace(chip, cell=quiet)), seed=3)
    then, now = (physical.at(t, compensation="none")(X) for t in ("programmed", "0 s"))
    assert torch.allclose(then, now, atol=1e-6)
    static = dataclasses.replace(quiet, device=dataclasses.replace(quiet.device, drift_scale=0.0))
    physical = at.program(_model(dataclasses.replace(chip, cell=static)), seed=3)
    assert torch.allclose(then, physical.at("1 year", compensation="none")(X), atol=1e-6)


def test_the_noise_of_a_weight_does_not_depend_on_the_tiles() -> None:
    # every weight at full scale in one row: any tiling has the same scales, so the same conductances
    outputs = []
    for rows, cols in ((256, 256), (16, 8), (7, 100)):
        exact = dataclasses.replace(CHIP, rows=rows, cols=cols, input_bits=None, output_bits=None, output_noise=0.0)
        torch.manual_seed(0)
        layer = nn.Linear(40, 30)
        layer.weight.data = torch.where(layer.weight > 0, 1.0, -1.0)
        outputs.append(at.program(at.convert(layer, exact), seed=5).at("1 day", compensation="none")(X))
    for other in outputs[1:]:
        assert torch.allclose(outputs[0], other, atol=1e-4)


def test_an_ideal_chip_gives_the_digital_model_at_any_time() -> None:
    digital = copy.deepcopy(at.to_digital(_model())).eval()
    physical = at.program(_model(at.chips.ideal()), seed=1)
    for time in ("programmed", "0 s", "1 year"):
        for compensation in ("none", "global", "column", "least_squares"):
            assert torch.allclose(physical.at(time, compensation=compensation)(X), digital(X), atol=1e-5)


@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
@pytest.mark.parametrize("compensation", ["none", "global", "column", "least_squares"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_every_layer_and_compensation(case, compensation: str) -> None:
    for changes in ({}, {"rows": 24, "cols": 5}, {"grouped": "block_diagonal", "rows": 30, "weight_scale": "column"}):
        chip = dataclasses.replace(CHIP, **changes)
        view = at.program(at.convert(copy.deepcopy(case.layer), chip), seed=2).at("1 day", compensation=compensation)
        y, expected = view(case.x), case.layer(case.x)
        assert y.shape == expected.shape
        # a chip without compensation keeps 0.8 to 0.9 of a weight after a day
        assert (y - expected).norm() < 0.6 * expected.norm()


def test_bad_calls_are_refused() -> None:
    model = _model()
    with pytest.raises(TypeError, match="seed must be an integer"):
        at.program(model, seed=1.5)
    with pytest.raises(ValueError, match="seed must lie in"):
        at.program(model, seed=2**63)
    with pytest.raises(ValueError, match="no analog layer"):
        at.program(nn.Linear(2, 2), seed=1)
    with pytest.raises(ValueError, match="compensation must be one of"):
        at.program(model, seed=1).at("1 h", compensation="all")
    with pytest.raises(ValueError, match="readout must be one of"):
        at.program(model, seed=1).at("1 h", readout="exact")
    model[3].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weight of layer '3' has NaN"):
        at.program(model, seed=1)
