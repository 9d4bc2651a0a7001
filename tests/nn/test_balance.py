"""Layers of a chip that reads each partial sum twice, with exchanged polarities."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.ops import Plan
from analogtorch.simulate.readout import compensation_mvms
from tests.crossbar import crossbar
from tests.nn.test_phases import _kinds, _run

SMALL = {"rows": 24, "columns": 7}
CHIP = crossbar(array=SMALL, adc={"noise": 0.0, "asymmetry_balance": True})
SINGLE = {"adc": {"asymmetry_balance": False}}
NOISES = {
    "output": {"adc": {"noise": 0.1, "bits": None}},
    "read": {
        "mvm_read_noise": {"std": at.devices.Polynomial(coefficients=(0.02,))},
        "adc": {"bits": None},
    },
    "jitter": {"dac": {"encoding": "pulse_width", "jitter": 2.0}, "adc": {"bits": None}},
}
X = torch.rand(4000, 20, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)


def _linear(chip: at.Chip) -> nn.Module:
    torch.manual_seed(0)
    model = at.convert(nn.Sequential(nn.Linear(20, 7, bias=False)), chip).eval()
    model[0].set_input_range(1.0)
    return model


def _on_chip(chip: at.Chip) -> nn.Module:
    return at.program(_linear(chip), seed=3).at("1 h")


def _lsb(view: nn.Module) -> float:
    return view[0].programmed.scales[0].max().item() * 12.0 / 127


@pytest.mark.parametrize("kind", _kinds())
def test_offsets_cancel_in_every_kind_of_layer(kind: str) -> None:
    digital, arguments = _kinds()[kind]
    found = {}
    for balanced in (True, False):
        for offset in (0.0, 0.02):
            changes = {"asymmetry_balance": balanced, "offset_std": offset, "bits": None}
            model = at.convert(copy.deepcopy(digital), CHIP.replace(adc=changes), embeddings=True)
            view = at.program(model.eval(), seed=3).at("1 h", compensation="none")
            found[balanced, offset] = _run(view, arguments)
            y = _run(model.train(), arguments)
            y.square().sum().backward()
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    expected = found[False, 0.0]
    assert torch.allclose(found[True, 0.0], expected, atol=1e-4)
    assert torch.allclose(found[True, 0.02], expected, atol=1e-4)
    assert not torch.allclose(found[False, 0.02], expected, atol=1e-2)


def test_offsets_leave_less_than_a_step_of_the_adc() -> None:
    exact, *views = (
        _on_chip(CHIP.replace(adc=changes))
        for changes in (
            {"bits": None},
            {"offset_std": 0.02},
            {"offset_std": 0.02, "asymmetry_balance": False},
        )
    )
    balanced, single = ((view(X) - exact(X)).abs().max().item() / _lsb(exact) for view in views)
    assert balanced < 0.51
    assert single > 1.5


def test_the_even_part_of_an_inl_cancels() -> None:
    exact = _on_chip(CHIP.replace(adc={"bits": None}))
    off = []
    for balanced in (True, False):
        inl = (0.0, 1.0, 2.0, 1.0, 0.0)
        view = _on_chip(CHIP.replace(adc={"inl": inl, "asymmetry_balance": balanced}))
        off.append((view(X) - exact(X)).abs().max().item() / _lsb(exact))
    assert off[0] < 0.6 < 2 < off[1]  # an INL of codes, which themselves differ by it


@pytest.mark.parametrize("kind", NOISES)
def test_each_read_has_its_own_noise(kind: str) -> None:
    chip = CHIP.replace(**NOISES[kind])
    same = X[:1].expand(4000, -1)
    found = [_on_chip(each)(same).std(0) for each in (chip, chip.replace(**SINGLE))]
    # 4,000 outputs of 7 columns: the quotient is known to 0.6 %
    assert (found[0] / found[1]).mean().item() == pytest.approx(0.5**0.5, rel=0.02)
    whole, parts = _on_chip(chip), _on_chip(chip)
    assert torch.allclose(whole(X[:9]), torch.cat([parts(X[:4]), parts(X[4:9])]), atol=1e-6)


def test_training_has_it_and_evaluation_needs_none() -> None:
    noisy = CHIP.replace(adc={"noise": 0.1, "bits": None}, training=at.TrainingNoise(weight="none"))
    std, grads = [], []
    for chip in (noisy, noisy.replace(**SINGLE)):
        model = _linear(chip)
        with at.noise(1):
            y = model.train()(X)
        y.square().mean().backward()
        grads.append(model[0].weight.grad)
        with torch.no_grad():
            std.append((y - model.eval()(X)).std().item() / model[0].weight.abs().max().item())
    assert std[0] == pytest.approx(0.1 * 0.5**0.5, rel=0.02)
    assert std[1] == pytest.approx(0.1, rel=0.02)
    assert torch.allclose(grads[0], grads[1], rtol=0.1, atol=0.01)
    assert torch.equal(_linear(CHIP)(X), _linear(CHIP.replace(**SINGLE))(X))


def test_the_gradient_is_that_of_one_read() -> None:
    grads = []
    clipping = CHIP.replace(
        adc={"noise": 1e-9, "range": 1.0}, training=at.TrainingNoise(weight="none")
    )
    for chip in (clipping, clipping.replace(**SINGLE), CHIP):
        model, x = _linear(chip), X.clone().requires_grad_()
        with at.noise(1):
            model.train()(x).sum().backward()
        grads.append(x.grad)
    assert torch.allclose(grads[0], grads[1], atol=1e-6)
    assert not torch.allclose(grads[0], grads[2], atol=0.1)  # where an ADC clips


def test_slices_are_read_twice() -> None:
    chip = CHIP.replace(
        slices={"weight_bits": 5, "bits_per_slice": 2, "bits_per_pulse": 3}, adc={"bits": None}
    )
    moved = chip.replace(adc={"offset_std": 0.05})
    exact, balanced, single = map(_on_chip, (chip, moved, moved.replace(**SINGLE)))
    assert torch.allclose(balanced(X), exact(X), atol=1e-4)
    assert not torch.allclose(single(X), exact(X), atol=1e-2)


def test_a_shorted_column_reads_0() -> None:
    found = []
    for chip in (CHIP, CHIP.replace(**SINGLE)):
        physical = at.program(_linear(chip), seed=3, defects=at.Defects(short_columns=0.5))
        found.append(physical.at("1 h")(X))
    short = found[1].std(0) == 0
    assert 0 < short.sum() < 7
    assert (found[0][:, short] == 0).all()
    assert (found[1][:, short] != 0).all()
    assert torch.allclose(found[0][:, ~short], found[1][:, ~short], atol=1e-6)


def test_compiled_training_draws_the_same() -> None:
    model = _linear(CHIP.replace(adc={"noise": 0.1})).train()
    with at.noise(1):
        expected = model(X[:8])
    with at.noise(1):
        found = torch.compile(model, backend="aot_eager", fullgraph=True)(X[:8])
    assert torch.equal(found, expected)


def test_an_ideal_chip_stays_ideal() -> None:
    balanced, single = (
        _on_chip(at.chips.ideal().replace(adc={"asymmetry_balance": on})) for on in (True, False)
    )
    assert torch.allclose(balanced(X), single(X), atol=1e-6)


def test_compensation_reads_with_it() -> None:
    chip = CHIP.replace(adc={"noise": 0.02, "bits": None})
    gains = {}
    for balanced in (True, False):
        for offset in (0.0, 0.1):
            changes = {"asymmetry_balance": balanced, "offset_std": offset}
            one = chip.replace(adc=changes)
            physical = at.program(_linear(one), seed=3)
            view = physical.at("1 day", compensation="least_squares")
            gains[balanced, offset] = view[0].programmed.gains[0]
    assert torch.allclose(gains[True, 0.1], gains[True, 0.0], rtol=1e-3)
    assert not torch.allclose(gains[False, 0.1], gains[False, 0.0], rtol=1e-2)
    single = chip.replace(**SINGLE)
    assert compensation_mvms(single, "least_squares", 20) == (512, 20)
    assert compensation_mvms(chip, "least_squares", 20) == (1024, 20)
    assert compensation_mvms(chip, "global", 20) == compensation_mvms(single, "global", 20)


def test_calibration_counts_the_noise_that_is_left() -> None:
    chip = at.chips.hermes64().replace(adc={"noise": 0.3, "asymmetry_balance": True})
    ranges = []
    for each in (chip, chip.replace(**SINGLE)):
        model = at.calibrate(_linear(each), [X])
        ranges.append(model[0].output_ranges.mean().item())
    assert ranges[0] < ranges[1]


def test_who_may_have_it(tmp_path) -> None:
    chip = at.chips.ibm_speech34(asymmetry_balance=True)
    assert chip.name == "ibm_speech34[asymmetry balance]"
    assert chip == at.chips.ibm_speech34().replace(adc={"asymmetry_balance": True}, name=chip.name)
    both = at.chips.ibm_speech34(pcm_per_weight=2, asymmetry_balance=True)
    assert both.name == "ibm_speech34[2 PCM per weight, asymmetry balance]"
    assert at.chips.load(at.chips.save(chip, tmp_path / "mine.yaml")) == chip
    assert chip.replace(adc={"separate_phases": True}).phases == 2
    with pytest.raises(ValueError, match="each of the 4 separate phases.*of one polarity"):
        at.chips.hermes64().replace(adc={"separate_phases": True, "asymmetry_balance": True})
    with pytest.raises(ValueError, match="asymmetry_balance must be True or False, got 1"):
        at.chips.hermes64().replace(adc={"asymmetry_balance": 1})
    with pytest.raises(ValueError, match="ibm_speech34: asymmetry_balance must be True or False"):
        at.chips.ibm_speech34(asymmetry_balance=1)
    with pytest.raises(ValueError, match="balanced must be 0 or 1, got 2"):
        dataclasses.replace(Plan(bounds=(0, 3)), balanced=2)
