"""What ``calibrate`` chooses by default on noisy chips, and its report of that."""

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.calibration import default
from analogtorch.calibration.adc import Limits
from analogtorch.calibration.choice import CalibrationReport, Effort
from analogtorch.calibration.default import exceeds, saves
from analogtorch.calibration.described import warn_of_adc
from analogtorch.calibration.judge import Error, Judge
from analogtorch.calibration.output_error import NoisyJudge
from analogtorch.calibration.passes import shares
from analogtorch.calibration.settings import Setting
from tests.calibration.test_outputs import detections
from tests.crossbar import crossbar

HERMES = at.chips.hermes64()
SILENT = pytest.mark.filterwarnings("ignore:calibrate. there is nothing to compare")
"""For tests whose model returns nothing, so that calibration chooses nothing for the chips."""


def _net(spread: float = 1.5) -> nn.Module:
    """Return a net whose columns differ in size by ``10 ** spread``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 10))
    sizes = torch.logspace(-spread / 2, spread / 2, 64)
    with torch.no_grad():
        net[0].weight *= sizes.unsqueeze(1)
        net[2].weight /= sizes
    return net.eval()


def _batches(count: int = 4, size: int = 40, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 48, generator=generator) for _ in range(count)]


def _calibrated(
    chip: at.Chip = HERMES, spread: float = 1.5, batches: Any = None, **options: Any
) -> tuple[nn.Module, CalibrationReport]:
    found: list[CalibrationReport] = []
    model = at.convert(_net(spread), chip).eval()
    at.calibrate(model, batches or _batches(), report=found.append, **options)
    return model, found[0]


def _scales(model: nn.Module) -> set[str]:
    return {layer.chip.periphery.weight_scale for _, layer in at.analog_layers(model)}


@torch.no_grad()
def _error(model: nn.Module, exact: nn.Module) -> float:
    """Return the error of the outputs on chips and inputs that no calibration has seen."""
    x = _batches(1, 200, seed=9)[0]
    y = exact(x)
    off = [at.program(model, seed=s).at("1 day")(x) - y for s in range(4)]
    return (torch.stack(off).square().mean((0, 1)) / y.var(0)).mean().item()


def test_columns_that_differ_get_a_scale_each_and_the_model_errs_less_on_new_chips() -> None:
    model, found = _calibrated()
    ranges, _ = _calibrated(effort="ranges")
    plain = at.convert(_net(), HERMES)
    assert _scales(model) == {"column"} != _scales(ranges)
    assert _error(model, _net()) < 0.75 * min(_error(ranges, _net()), _error(plain, _net()))
    assert found.effort == found.kept == "default"
    assert found.gain > 0.3
    assert "2 of 2 layers have a weight scale per column" in str(at.summary(model))
    assert "weight scale per column" not in str(at.summary(ranges))
    text = str(found)
    chosen = "targets that allow for drift, weight scale per column"
    for part in ("default (kept)", f"DAC ranges measured, {chosen}", "2 of 2 layers"):
        assert part in text
    assert "2 of 2 layers are written to targets that allow for drift" in str(at.summary(model))
    assert all(row.target_time == 86_400 for row in found.layers)


def _overflowing() -> nn.Module:
    """Return a net the sums of whose second layer are beyond what the ADC takes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 64), nn.Tanh(), nn.Linear(64, 4))
    with torch.no_grad():
        net[0].weight += 0.5 * torch.randn(48)  # all outputs of tanh have the same sign
        net[2].weight += 0.2
    return net


def test_chips_are_chosen_with_ranges_by_which_the_adc_does_not_clip() -> None:
    net, found = _overflowing(), list[CalibrationReport]()
    exact = copy.deepcopy(net)
    errors = {"not": _error(at.convert(copy.deepcopy(net), HERMES), exact)}
    for effort in ("ranges", "default"):
        model = at.convert(copy.deepcopy(net), HERMES)
        at.calibrate(model, _batches(8, 100), effort=effort, report=found.append)
        errors[effort] = _error(model, exact)
    assert errors["default"] < 0.7 * errors["ranges"] < 0.7 * errors["not"]
    assert [row.target_time for row in found[1].layers] == [86_400, 86_400]
    assert found[1].steps[1].what == "DAC ranges measured"  # beside which chips are compared


@pytest.mark.parametrize(
    ("chip", "spread"),
    [
        (HERMES, 0.0),  # it would save too little
        (HERMES.replace(periphery={"output_bits": None, "column_calibration": False}), 1.5),
        (crossbar(), 1.5),
    ],
)
def test_chips_stay_where_a_scale_per_column_saves_little_or_is_not_there(
    chip: at.Chip, spread: float
) -> None:
    model, _ = _calibrated(chip.without("drift"), spread)
    assert all(layer.chip == chip.without("drift") for _, layer in at.analog_layers(model))
    assert all(layer.calibrated for _, layer in at.analog_layers(model))


def test_two_calibrations_give_the_same_bits_and_the_random_state_stays() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = at.convert(_net(), HERMES)
    torch.manual_seed(5)
    found: list[CalibrationReport] = []
    at.calibrate(model, _batches(), report=found.append)
    assert torch.equal(torch.get_rng_state(), before)
    other, again = _calibrated()
    assert found[0] == again
    x = _batches(1, seed=3)[0]
    assert torch.equal(model.eval()(x), other(x))


def test_the_error_that_decides_is_on_the_same_chips_for_any_split() -> None:
    x = torch.cat(_batches())
    _, one = _calibrated(batches=list(x.split(40)))
    _, other = _calibrated(batches=list(x.split(8)))
    for kind, error in one.errors.items():
        assert other.errors[kind] == pytest.approx(error, rel=1e-3)


def test_one_batch_is_enough() -> None:
    model, found = _calibrated(batches=_batches(1))
    assert found.batches == (1, 1, 1)
    assert _scales(model) == {"column"}


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda m, x: [m(x), None][1], "no tensor of floating point to compare, got NoneType"),
        (lambda m, x: m(x).argmax(-1), "no tensor of floating point to compare, got Tensor of int"),
        (lambda m, x: SimpleNamespace(y=m(x)), "to compare, got SimpleNamespace; pass forward="),
        (lambda m, x: m(x) * torch.inf, "infinite values, or nothing but NaN"),
        (lambda m, x: m(x) * torch.nan, "infinite values, or nothing but NaN"),
    ],
)
def test_without_outputs_to_compare_the_chips_stay_and_the_reason_is_named(
    forward: Callable[..., Any], why: str
) -> None:
    with pytest.warns(UserWarning, match=f"nothing to compare, as .*{why}.* effort='ranges'") as w:
        model, found = _calibrated(forward=forward)
    assert len(w) == 1
    assert _scales(model) == {"block"}
    assert all(layer.calibrated for _, layer in at.analog_layers(model))
    assert found.errors == {}
    assert found.gain == 0.0
    assert "measured" in str(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _calibrated(forward=forward, effort="ranges")  # which compares nothing on noisy chips


def test_a_batch_of_nothing_but_nan_counts_not_and_others_do() -> None:
    batches = _batches(8)
    unknown = torch.full_like(batches[0], torch.nan)
    plain, found = _calibrated(batches=batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, other = _calibrated(batches=[*batches[:-1], unknown], forward=_known)
    assert _scales(model) == _scales(plain) == {"column"}
    assert other.gain > 0.5 * found.gain > 0


def _known(model: nn.Module, x: Tensor) -> Tensor:
    """Return outputs without a value where the inputs have none."""
    return torch.where(x.isnan().any(-1, keepdim=True), torch.nan, model(x.nan_to_num()))


def test_spectra_are_compared_by_their_parts() -> None:
    _, real = _calibrated()
    _, found = _calibrated(forward=lambda m, x: torch.view_as_complex(m(x).view(-1, 5, 2)).conj())
    assert real.gain > 0.3
    assert (found.errors, found.steps, found.kept) == (real.errors, real.steps, real.kept)


def test_what_is_nan_in_the_digital_model_does_not_count() -> None:
    def padded(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).masked_fill(torch.arange(len(x)).unsqueeze(1) > 35, torch.nan)

    model, plain = _calibrated()
    twin, found = _calibrated(forward=padded)
    assert found.gain == pytest.approx(plain.gain, abs=0.02)
    assert [step.what for step in found.steps] == [step.what for step in plain.steps]
    assert _scales(twin) == _scales(model) == {"column"}


def test_a_nan_of_the_chip_alone_is_an_infinite_error() -> None:
    torch.manual_seed(0)
    model = at.convert(nn.Linear(32, 8), HERMES)
    broken: list[bool] = []

    def run(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        y[0] = torch.nan
        if broken:
            y[1] = torch.nan
        return y

    judge = NoisyJudge(model, [torch.randn(4, 32)], run, seed=0)
    broken.append(True)
    errors = judge.errors(chips=1)
    assert errors.isinf().tolist() == [False, True, False, False]
    assert judge.error().moved >= 1


def _boxes(model: nn.Module, x: Tensor) -> Tensor:
    """Return the numbers above 0: as of the boxes of a detector, the chip decides how many."""
    y = model(x)
    return y[y > 0]


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (detections, "the model returns nothing but detections"),
        (_boxes, r"outputs have other shapes .* such as \(\d+, 1\) for \(\d+, 1\)"),
        (lambda m, x: m(x)[:0], "all outputs of the digital model are empty"),
    ],
)
@pytest.mark.parametrize("effort", ["default", "ranges"])
def test_outputs_whose_shapes_or_order_depend_on_values_are_named_and_decide_nothing(
    forward: Callable[..., Any], why: str, effort: str
) -> None:
    with pytest.warns(UserWarning, match=f"nothing to compare, as {why}.* pass forward=") as caught:
        model, found = _calibrated(forward=forward, effort=effort)
    assert len(caught) == 1
    plain, _ = _calibrated(effort="ranges")
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {
        k: v.tolist() for k, v in plain.state_dict().items()
    }
    assert (found.errors, found.steps, found.kept) == ({}, (), effort)


@pytest.mark.parametrize("effort", ["default", "ranges", "search"])
def test_outputs_of_fixed_shape_decide_beside_others(effort: str) -> None:
    batches = _batches(5)
    model, one = _calibrated(effort=effort, batches=batches)
    plain = {k: v.tolist() for k, v in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forward = lambda m, x: (m(x), _boxes(m, x))  # noqa: E731
        model, two = _calibrated(forward=forward, effort=effort, batches=batches)
    assert plain == {k: v.tolist() for k, v in model.state_dict().items()}
    assert (one.errors, one.steps) == (two.errors, two.steps)
    notes = [note for note in two.notes if "outputs do not count: outputs have other" in note]
    assert notes
    # the report of a search is printed unless the call asks for it
    expected = [] if effort == "search" else [f"calibrate: {note}" for note in notes]
    assert [str(w.message) for w in caught] == expected


@pytest.mark.parametrize("mask", [-math.inf, torch.finfo(torch.float32).min, -1e4])
def test_masked_outputs_change_no_choice(mask: float) -> None:
    _, plain = _calibrated()
    _, found = _calibrated(forward=lambda m, x: nn.functional.pad(m(x), (0, 2), value=mask))
    assert found.errors.keys() == plain.errors.keys()
    assert [row.weight_scale for row in found.layers] == [r.weight_scale for r in plain.layers]
    assert [step.what for step in found.steps] == [step.what for step in plain.steps]


def _costly(fixed: float, any_range: float) -> Callable[..., Tensor]:
    """Return errors of a judge to whom fixed DAC ranges cost so much, and any calibration so much.

    Uncalibrated, the error is 0.2.
    """

    def errors(judge: NoisyJudge, **_: Any) -> Tensor:
        layers = [layer for _, layer in at.analog_layers(judge.model)]
        error = 0.2
        if any(layer.calibrated or layer.output_ranges is not None for layer in layers):
            error += fixed if layers[0].calibrated else any_range
        return torch.full((80,), error, dtype=torch.float64)

    return errors


@pytest.mark.parametrize(("count", "effort"), [(1, "default"), (4, "default"), (4, "search")])
def test_a_loss_beside_the_outputs_changes_no_choice(count: int, effort: str) -> None:
    def with_loss(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
        y = model(x)
        return {"loss": y.square().mean(), "logits": y}

    found = []
    for forward in (None, with_loss):
        options = {"forward": forward, "effort": effort, "batches": _batches(count, 40)}
        model, report = _calibrated(**options)
        found.append(({k: v.tolist() for k, v in model.state_dict().items()}, report.errors))
    assert found[0] == found[1]


def test_ranges_that_cost_the_model_too_much_give_way_to_those_of_each_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NoisyJudge, "errors", _costly(0.03, 0.01))
    model, found = _calibrated()
    assert not any(layer.calibrated for _, layer in at.analog_layers(model))
    assert all(layer.output_ranges is not None for _, layer in at.analog_layers(model))
    assert {row.dac for row in found.layers} == {"vector"}
    assert found.kept == "default"
    monkeypatch.setattr(NoisyJudge, "errors", _costly(0.013, 0.01))
    assert all(layer.calibrated for _, layer in at.analog_layers(_calibrated()[0]))


@pytest.mark.parametrize("error", [0.03, 0.013])
def test_noisy_chips_judge_ranges_where_no_digital_unit_scales_columns(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    monkeypatch.setattr(NoisyJudge, "errors", _costly(error, 0.01))
    chip = at.chips.neurram48()
    model, found = _calibrated(chip)
    fixed = error < 0.02
    for _, layer in at.analog_layers(model):
        assert (layer.calibrated, layer.chip) == (fixed, chip)
    assert {row.dac for row in found.layers} == {"measured" if fixed else "vector"}
    assert set(found.errors) == {"uncalibrated", "default"}
    assert [step.what for step in found.steps][:2] == ["not calibrated", "DAC ranges measured"]


def test_a_model_that_errs_less_uncalibrated_is_left_so_and_this_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Error, "exceeds", lambda *_: True)
    monkeypatch.setattr(default, "exceeds", lambda *_: True)
    with pytest.warns(
        UserWarning, match="left uncalibrated.* not rounded to the 8 bits that leave"
    ):
        model, found = _calibrated(HERMES.without("drift"), 0.0)
    assert found.kept == "uncalibrated"
    assert list(found.errors) == ["uncalibrated", "default"]
    for _, layer in at.analog_layers(model):
        assert layer.chip == HERMES.without("drift")
        assert (layer.calibrated, layer.output_ranges) == (False, None)
    with pytest.warns(UserWarning, match="left uncalibrated"):
        model, found = _calibrated()
    assert (found.kept, found.gain > 0.3) == ("default", True)  # what is chosen for chips stays
    for _, layer in at.analog_layers(model):
        assert layer.chip == HERMES.drift_aware().replace(periphery={"weight_scale": "column"})
        assert (layer.calibrated, layer.output_ranges) == (False, None)


def test_rounding_that_is_small_beside_the_devices_leaves_no_model_uncalibrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Error, "exceeds", lambda *_: True)
    model, found = _calibrated()
    assert (found.kept, found.gain > 0.3) == ("default", True)
    assert {row.dac for row in found.layers} == {"vector"}
    assert all(layer.output_ranges is not None for _, layer in at.analog_layers(model))


def test_rounding_that_costs_is_compared_with_what_the_model_would_be_left_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # as in Whisper: fixed ranges cost without noise, rounding behind them costs on noisy chips, and
    # both save most of what the ADC clips where each vector sets its range
    monkeypatch.setattr(Error, "exceeds", lambda *_: True)
    monkeypatch.setattr(default, "exceeds", lambda new, old: bool(new.mean() > 0.9 * old.mean()))
    found: list[CalibrationReport] = []
    model = at.convert(_overflowing(), HERMES)
    at.calibrate(model, _batches(8, 100), report=found.append)
    errors = {step.what: step.error for step in found[0].steps}
    assert found[0].kept == "default"
    assert found[0].errors["default"] < 0.6 * errors["not calibrated"]
    assert all(layer.calibrated for _, layer in at.analog_layers(model))


@pytest.mark.parametrize(
    ("targets", "scales", "expected"),
    [
        # what is asked of: targets, scale per column, and both, unless that is known by then
        ([False, False], [False, True], (True, True)),
        ([False, False], [False, False], (False, False)),
        ([False, False], [True, False], (False, True)),
        ([False, True], [True], (True, True)),
        ([True], [False], (True, False)),
        ([True], [True], (True, True)),
    ],
)
def test_targets_and_scales_are_tried_together_where_one_alone_is_in_doubt(
    targets: list[bool],
    scales: list[bool],
    expected: tuple[bool, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On few vectors each may be."""
    for name, answers in (("worth", iter(targets)), ("saves", iter(scales))):
        monkeypatch.setattr(default, name, lambda *_, answers=answers: next(answers, False))
    model, found = _calibrated()
    for row in found.layers:
        assert (row.target_time is not None, row.weight_scale == "column") == expected
    assert len({step.what for step in found.steps}) == len(found.steps)
    assert all((layer.chip != HERMES) == any(expected) for _, layer in at.analog_layers(model))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_single_vectors_leave_room_for_others(count: int) -> None:
    model, _ = _calibrated(spread=0.0, batches=_batches(1, count))
    # 0.05, 0.07 and 0.04, uncalibrated 0.06; columns by themselves alone: 0.32, 0.17 and 0.06
    assert _error(model, _net(0.0)) < 1.2 * _error(at.convert(_net(0.0), HERMES), _net(0.0))


@pytest.mark.parametrize("share", [0.8, 0.98])
@pytest.mark.parametrize("quiet", [0.0, 0.02])
def test_vectors_that_are_silent_do_not_cut_off_the_others(share: float, quiet: float) -> None:
    batches = _batches(8, 400)
    for number, x in enumerate(batches):
        draws = torch.rand(len(x), generator=torch.Generator().manual_seed(number))
        x[draws < share] *= quiet
    model, _ = _calibrated(spread=0.0, batches=batches)
    assert _error(model, _net(0.0)) < _error(at.convert(_net(0.0), HERMES), _net(0.0))


@pytest.mark.parametrize("effort", ["ranges", "default"])
def test_vectors_that_repeat_count_once(effort: str) -> None:
    few = _batches(1, 8)[0]
    once, _ = _calibrated(spread=0.0, batches=[few], effort=effort)
    often, _ = _calibrated(spread=0.0, batches=[few.repeat(50, 1)], effort=effort)
    silent, _ = _calibrated(spread=0.0, batches=[torch.cat([few, 0 * few.repeat(50, 1)])])
    for (_, one), (_, many) in zip(at.analog_layers(once), at.analog_layers(often), strict=True):
        torch.testing.assert_close(many.input_range, one.input_range)
        torch.testing.assert_close(many.output_ranges, one.output_ranges)
    bare = _error(at.convert(_net(0.0), HERMES), _net(0.0))
    assert _error(silent, _net(0.0)) < bare  # behind a bias they are as many vectors as the others


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_vectors_that_differ_all_count(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (100 * torch.randn(100_000, 16, generator=generator)).to(dtype)
    assert shares(x) is None
    assert shares(torch.nn.functional.normalize(x.float())) is None  # all of one size
    found = shares(torch.cat([x[:10], x[:1].expand(90, -1), 0 * x[:7]]))
    assert found is not None
    assert found.sum().item() == pytest.approx(17)
    assert found[1:10].tolist() == 9 * [1.0]


def test_a_class_that_is_rare_in_the_batches_does_not_decide() -> None:
    """Its scores vary by little there, so that each would count 1,000 times."""
    torch.manual_seed(0)
    net = nn.Linear(16, 10)
    with torch.no_grad():
        net.weight[3] *= 0.03
    model, x = at.convert(net, HERMES), torch.randn(200, 16)
    judge = NoisyJudge(model, [x], None, seed=0)
    errors, y = judge.errors().detach(), judge.exact[0][0].detach().double()
    assert y.var(0).amin() < y.var(0).mean() / 500
    assert errors.mean() < 0.05
    size = y.var(0).mean()
    others = NoisyJudge(model, [x], lambda m, x: m(x)[:, [i for i in range(10) if i != 3]], seed=0)
    kept = others.exact[0][0].detach().double().var(0).mean()
    expected = others.errors().detach() * kept * 9 / 10 / size
    assert errors.mean() == pytest.approx(expected.mean().item(), rel=0.1)


def test_quantities_of_several_units_all_decide() -> None:
    torch.manual_seed(0)
    net = nn.Linear(16, 3)
    with torch.no_grad():
        net.weight[1] *= 1e-3
    model, x = at.convert(net, HERMES), torch.randn(200, 16)
    errors = NoisyJudge(model, [x], None, seed=0).errors()
    apart = NoisyJudge(model, [x], lambda m, x: m(x)[:, 1], seed=0).errors()
    assert errors.mean() > 0.3 * apart.mean() > 0.1


def test_a_single_number_is_judged_by_its_size() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 1)).eval()
    found: list[CalibrationReport] = []
    at.calibrate(at.convert(net, HERMES), [_batches(1, 1)[0]], report=found.append)
    assert all(0 < error < 10 for error in found[0].errors.values())


def test_ranges_that_avoid_clipping_are_compared_with_those_of_each_vector() -> None:
    # silent vectors take little of a fixed range, and some of it is beyond the largest input
    found: list[CalibrationReport] = []
    at.calibrate(at.convert(_overflowing(), HERMES), _batches(8, 100), report=found.append)
    tried = [step.what for step in found[0].steps]
    assert tried[0] == "not calibrated"
    chosen = [what for what in tried if what.startswith("DAC ranges measured, ")][-1]
    assert chosen.replace("DAC ranges measured", "not calibrated") in tried
    assert len(set(tried)) >= len(tried) - 1  # the ranges behind the array come with the last


def test_ranges_that_avoid_clipping_stay_though_the_digital_unit_rounds() -> None:
    """Rounding costs a range of each vector as much, which is no reason to let the ADC clip."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(128, 64, bias=False))
    nn.init.uniform_(net[0].weight)
    model, x = at.convert(copy.deepcopy(net), HERMES), torch.rand(512, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at.calibrate(model, [x], report=None)
    assert model[0].input_ranges is not None
    assert (model(x) - net(x)).norm() < 0.05 * net(x).norm()


@pytest.mark.parametrize("chip", [HERMES, at.chips.ibm_speech34()])
def test_a_few_large_vectors_get_no_fixed_range_and_targets_that_save_error(chip: at.Chip) -> None:
    """They have nearly all of the error, so that savings of its mean never go beyond chance."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()

    def batch(count: int) -> Tensor:
        x = torch.randn(count, 64)
        x[::64] *= 30
        return x

    model, found = at.convert(copy.deepcopy(net), chip), list[CalibrationReport]()
    at.calibrate(model, [batch(64) for _ in range(8)], report=found.append)
    assert {row.dac for row in found[0].layers} == {"vector"}
    targets = {row.target_time for row in found[0].layers}
    assert targets == ({86_400} if chip == HERMES else {None})
    x = batch(512)
    off = at.program(model, seed=11).at("1 day")(x) - net(x)
    assert (off.square() / net(x).var(0)).mean() < (0.03 if chip == HERMES else 0.1)


@pytest.mark.parametrize(
    ("std", "remedy"),
    [
        (0.0, "exceed it: .* or DAC ranges beyond the largest"),
        (1e-3, "use little of it: .* scaled"),
    ],
)
def test_the_warning_of_the_adc_tells_sums_beyond_its_range_from_small_ones(
    std: float, remedy: str
) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(256, 4, bias=False)), torch.rand(64, 256)
    chip = HERMES.without("programming_noise", "read_noise", "output_noise")
    if std:  # beside a weight whose input is 0
        nn.init.normal_(net[0].weight, std=std)
        net[0].weight.data[0, 0], x[:, 0] = 1.0, 0.0
    else:
        nn.init.ones_(net[0].weight)
    with pytest.warns(UserWarning, match=f"decides the error of 1 of 1 layers, whose .* {remedy}"):
        at.calibrate(at.convert(net, chip), [x], method="absmax")


@pytest.mark.parametrize(
    ("effort", "method", "remedy"),
    [
        ("ranges", "mse", "weights scaled by column"),
        ("default", "absmax", "weights scaled by column"),
        ("default", "mse", "leave these layers digital"),
    ],
)
def test_a_scale_per_column_that_was_tried_is_no_remedy(
    effort: str, method: str, remedy: str
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16, bias=False))
    net[0].weight.data = 0.1 * torch.randn(16, 8).sign()  # one scale serves all columns
    model = at.convert(net, HERMES.replace(adc={"range": 20 * HERMES.adc.range}))
    x = [torch.randn(64, 8) for _ in range(8)]
    with pytest.warns(UserWarning, match=f"partial sums use little of it: .*, or {remedy}"):
        at.calibrate(model, x, effort=effort, method=method, report=lambda _: None)


@pytest.mark.parametrize(
    ("effort", "remedy"),
    [(None, "DAC ranges beyond"), ("ranges", "leave these"), ("default", "leave these")],
)
def test_dac_ranges_that_were_tried_are_no_remedy(effort: Effort | None, remedy: str) -> None:
    setting = Setting(None, Limits(adc_error=0.5, clips=True))
    with pytest.warns(UserWarning, match=rf"of 'a' \(50 %\)\. .*, or {remedy}"):
        warn_of_adc({"a": setting}, {"a": HERMES}, effort)


def test_a_scale_is_worth_a_tenth_of_the_error_and_a_range_costs_less() -> None:
    before = 1 + torch.rand(400, generator=torch.Generator().manual_seed(0))
    assert saves(0.89 * before, before)
    assert not saves(0.91 * before, before)
    assert exceeds(1.11 * before, before)
    assert not exceeds(1.09 * before, before)
    assert not exceeds(1.11 * before / 100, before / 100)  # nobody would feel it
    infinite = torch.full((400,), torch.inf)
    assert saves(before, infinite)
    assert exceeds(infinite, before)
    assert not saves(infinite, infinite) | exceeds(infinite, infinite)


def test_the_weight_scale_travels_with_the_ranges() -> None:
    model, _ = _calibrated()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = at.convert(_net(), HERMES).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = _batches(1)[0]
    assert torch.equal(fresh(x), model(x))
    assert _scales(fresh) == {"column"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(fresh).load_state_dict(_calibrated(effort="ranges")[0].state_dict())
    # a chip whose digital unit scales no columns
    other = at.convert(_net(), crossbar())
    with pytest.warns(UserWarning, match="saved on the chip 'hermes64', and the layers are on 'c"):
        other.load_state_dict(model.state_dict())
    assert _scales(other) == {"block"}


def _pickled(model: nn.Module, _: Path) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def _loaded(model: nn.Module, _: Path) -> nn.Module:
    """Return a fresh conversion that has taken the ``state_dict`` of a model."""
    fresh = at.convert(_net(), HERMES).eval()
    fresh.load_state_dict(model.state_dict())
    return fresh


def _from_file(model: nn.Module, folder: Path) -> nn.Module:
    return at.load(at.save(model, folder), _net()).eval()


@pytest.mark.parametrize(
    "carried", [lambda m, _: m, lambda m, _: copy.deepcopy(m), _pickled, _loaded, _from_file]
)
@pytest.mark.parametrize("effort", ["default", "search"])
def test_a_later_calibration_does_not_depend_on_an_earlier_one(
    carried: Callable[[nn.Module, Path], nn.Module], effort: str, tmp_path: Path
) -> None:
    alone, first = _calibrated(effort=effort)
    model = carried(_calibrated(batches=[10 * x for x in _batches()])[0], tmp_path)
    assert _scales(model) == {"column"}
    found: list[CalibrationReport] = []
    at.calibrate(model, _batches(), effort=effort, report=found.append)
    assert found[0] == first
    x = _batches(1, seed=9)[0]
    assert torch.equal(model(x), alone(x))
    assert torch.equal(_aged(model, x), _aged(alone, x))


def _aged(model: nn.Module, x: Tensor) -> Tensor:
    return at.program(model, seed=1).at("1 day")(x)


@SILENT
def test_choices_that_are_taken_back_are_reported() -> None:
    model, found = _calibrated()[0], list[CalibrationReport]()
    at.calibrate(model, _batches(), forward=lambda m, x: [m(x), None][1], report=found.append)
    assert all(layer.chip == HERMES for _, layer in at.analog_layers(model))
    for what in ("weight scale per column", "targets that allow for drift"):
        assert f"an earlier choice is taken back: {what}, in 2 of 2 layers" in str(found[0])
    assert "taken back" not in str(_calibrated()[1])


@pytest.mark.parametrize("options", [{"effort": "ranges"}, {"method": "percentile"}])
def test_ranges_alone_keep_what_was_chosen_for_the_chips(options: dict[str, Any]) -> None:
    model, _ = _calibrated()
    chosen = [layer.chip for _, layer in at.analog_layers(model)]
    at.calibrate(model, _batches(), **options)
    assert [layer.chip for _, layer in at.analog_layers(model)] == chosen
    assert all(layer.given_chip == HERMES for _, layer in at.analog_layers(model))


@SILENT
def test_a_chip_that_is_assigned_is_no_choice_to_take_back(tmp_path: Path) -> None:
    by_hand = HERMES.replace(periphery={"weight_scale": "column"})
    model, _ = _calibrated(spread=0.0)
    for _, layer in at.analog_layers(model):
        layer.chip = by_hand
    for each in (model, _from_file(model, tmp_path)):
        at.calibrate(each, _batches(), forward=lambda m, x: [m(x), None][1])
        assert all(layer.chip == by_hand for _, layer in at.analog_layers(each))


@SILENT
def test_a_model_of_an_earlier_version_is_calibrated_from_the_chips_that_it_has() -> None:
    model, _ = _calibrated()
    for _, layer in at.analog_layers(model):
        del vars(layer)["_given_chip"]
    at.calibrate(model, _batches(), forward=lambda m, x: [m(x), None][1])
    assert _scales(model) == {"column"}


def test_of_many_batches_the_last_few_judge() -> None:
    _, found = _calibrated(batches=_batches(80, size=4))
    assert found.batches == (64, 16, 16)


def test_numbers_that_the_model_draws_leave_the_random_state_and_are_named() -> None:
    class Sampling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.out = nn.Linear(6, 4), nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            mean = self.mean(x)
            return self.out(mean + torch.randn_like(mean))

    batches = list(torch.randn(4, 8, 6))
    model = at.convert(Sampling().eval(), at.chips.hermes64())
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="draws random numbers in evaluation mode"):
        at.calibrate(model, batches)
    assert torch.equal(before, torch.get_rng_state())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at.calibrate(model, batches, forward=lambda m, x: m.out(m.mean(x)))
    assert torch.equal(before, torch.get_rng_state())


def test_masked_numbers_do_not_hide_that_others_move() -> None:
    """Of one number in a vector, as scores of tokens, the spread must not be that of masks."""

    def masked(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).masked_fill(torch.arange(10).unsqueeze(-1) >= 8, -1e4)

    torch.manual_seed(0)
    net = at.convert(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)), HERMES)
    judge = Judge(net, list(torch.randn(4, 8, 10, 16)), masked)
    with torch.no_grad():
        for _, layer in at.analog_layers(net):
            layer.weight.neg_()
        assert judge.error().moved > 0.8 * 4 * 8 * 8


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_compared_pixel_by_pixel(channels: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, channels, 3))
    model, batches = at.convert(net, HERMES), list(torch.randn(3, 5, 4, 10, 10))

    def pixels(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).movedim(1, -1).flatten(0, 2)

    images, apart = (Judge(model, batches, forward).error() for forward in (None, pixels))
    assert images == apart
    assert images.vectors == 3 * 5 * 36
    images, apart = (NoisyJudge(model, batches, f, seed=0).errors() for f in (None, pixels))
    torch.testing.assert_close(images, apart.view(-1, 36).mean(1))


def test_maps_do_not_outvote_the_logits_beside_them() -> None:
    torch.manual_seed(0)
    net = at.convert(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)), HERMES)

    def with_maps(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        return model(x), model[0](x).view(-1, 1, 4, 4).repeat(1, 2, 16, 16)

    judge = Judge(net, list(torch.randn(4, 32, 16)), with_maps)
    before = judge.error()
    with torch.no_grad():
        net[2].weight.neg_()
    assert judge.error().exceeds(before)


@pytest.mark.parametrize("outputs", [1, 10])
def test_batches_of_one_sample_are_judged_as_one_batch_of_all(outputs: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs))
    model, x = at.convert(net, HERMES.without("drift")), torch.randn(40, 16)
    judges = [Judge(model, batches, None) for batches in ([x], list(x.split(1)))]
    whole, single = (judge.error() for judge in judges)
    assert whole.vectors == single.vectors == 40
    assert whole.moved == single.moved < 20
    assert whole.angle == pytest.approx(single.angle, rel=1e-4)
    with torch.no_grad():
        net[2].weight.neg_()
    assert judges[1].error().moved > 30


def test_masks_of_single_samples_stay_masks() -> None:
    torch.manual_seed(0)
    net = at.convert(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 6)), HERMES)
    x = torch.randn(20, 16)

    def masked(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).masked_fill((torch.arange(6) >= 4) & (x[:, :1] > 0), -torch.inf)

    whole, single = (Judge(net, batches, masked).error() for batches in ([x], list(x.split(1))))
    assert whole.moved == single.moved < 10
    assert whole.angle == pytest.approx(single.angle, rel=1e-4)
