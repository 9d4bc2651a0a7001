"""Each layer alone on the chip: what is measured, what stays untouched, and what follows."""

import copy
import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.evaluate.losses import Effect, LayerLoss, Loss, Sensitivity
from analogtorch.evaluate.times import checked_times
from analogtorch.nn.programmed import OnChip
from tests.crossbar import crossbar

CHIP = crossbar()
X = torch.randn(200, 24, generator=torch.Generator().manual_seed(0))
Metric = Callable[[nn.Module], float]


def _digital() -> nn.Sequential:
    """Return a net whose layer ``2`` is fragile: one large weight sets its scale.

    The others drown in the noise of the devices.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 6)
    )
    with torch.no_grad():
        net[2].weight[3, 5] = 4.0
    return net


def _analog(**options: object) -> nn.Sequential:
    return at.calibrate(at.convert(_digital(), CHIP, **options), [X])  # type: ignore[arg-type, return-value]


TARGET = _digital()(X).detach()


def _error(model: nn.Module) -> float:
    return (model(X) - TARGET).square().mean().item()


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, groups=4, padding=1)
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.conv(x).transpose(1, 2))[0][:, -1])


WAVES = torch.randn(16, 4, 7, generator=torch.Generator().manual_seed(1))


def _mixed() -> nn.Module:
    torch.manual_seed(2)
    return _Mixed()


def _mean(model: nn.Module) -> float:
    return model(WAVES).square().mean().item()


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    return at.sensitivity(_analog(), _error, num_chips=2, higher_is_better=False)


def test_the_fragile_layer_comes_first_and_the_whole_is_what_a_sweep_finds(
    found: Sensitivity,
) -> None:
    assert found.rows[0].name == "2"
    assert {row.name for row in found.rows} == {"0", "2", "4"}
    for effect in ("bits", "output_noise", "noise", "drift"):
        first, *others = (row.loss[effect].mean for row in found.rows)
        assert first > 2 * max(others), effect
    drift = [row.loss["drift"].mean for row in found.rows]
    assert drift == sorted(drift, reverse=True)
    sweep = at.sweep(_analog(), _error, num_chips=2, times=["0 s", "1 year"])
    assert found.reference == _error(_digital())
    assert [found.total[e].mean + found.reference for e in ("noise", "drift")] == pytest.approx(
        sweep.mean.tolist()
    )
    assert [found.total[e].std for e in ("noise", "drift")] == pytest.approx(sweep.std.tolist())
    assert found.total["bits"].mean == pytest.approx(_error(_analog().eval()) - found.reference)
    assert found.sum["noise"] == pytest.approx(sum(row.loss["noise"].mean for row in found.rows))
    assert found.seeds == sweep.seeds


def test_a_folder_keeps_each_value_and_more_may_be_added(
    found: Sensitivity, tmp_path: Path
) -> None:
    calls, stop = 0, 20

    def fragile(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return _error(model)

    def run(**options: object) -> Sensitivity:
        arguments = {"num_chips": 2, "higher_is_better": False, "folder": tmp_path / "s"} | options
        return at.sensitivity(_analog(), fragile, **arguments)  # type: ignore[arg-type]

    part = run(effects="drift", num_chips=1, time="1 day")
    assert calls == 1 + 4
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run().to_dict() == found.to_dict() | {"metric": "fragile"}
    # exact, then 4 values of 6 effects x chips, beside the drift at a day; one was broken off
    assert calls == 1 + 4 + 6 * 4 + 1
    assert run(effects="drift", num_chips=1, time="1 day").to_dict() == part.to_dict()
    assert calls == 1 + 4 + 6 * 4 + 1
    with pytest.raises(ValueError, match=r"another experiment .attributes: 0.input_range"):
        at.sensitivity(at.convert(_digital(), CHIP), fragile, folder=tmp_path / "s")
    torn = tmp_path / "s" / "chip-00001.json"
    torn.write_text(torn.read_text()[:40])
    with pytest.raises(ValueError, match=r"sensitivity: .*chip-00001.json is damaged: .*; remove"):
        run()


def test_broken_devices_are_part_of_noise_and_drift_alone(found: Sensitivity) -> None:
    defects = at.Defects(stuck_on=0.05, open_columns=0.05)
    broken = at.sensitivity(_analog(), _error, num_chips=2, higher_is_better=False, defects=defects)
    sweep = at.sweep(_analog(), _error, num_chips=2, times=["0 s", "1 year"], defects=defects)
    for effect, mean in zip(("noise", "drift"), sweep.mean.tolist(), strict=True):
        assert broken.total[effect].mean + broken.reference == pytest.approx(mean)
        assert broken.total[effect].mean > found.total[effect].mean
    for effect in ("bits", "output_noise"):
        assert broken.total[effect] == found.total[effect]
    with pytest.raises(TypeError, match="sensitivity: defects"):
        at.sensitivity(_analog(), _error, defects=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["0", "2", "4"])
def test_a_row_is_what_a_model_with_this_layer_alone_on_the_chip_loses(
    found: Sensitivity, name: str
) -> None:
    """The noise of a layer is keyed.

    So a row depends neither on the other layers nor on what was measured before it.
    """
    alone, index = at.convert(_digital(), CHIP, include=name).eval(), int(name)
    if (whole := _analog()[index]).calibrated:  # else each vector sets its own
        alone[index].set_input_range(whole.input_range.item())
    loss = next(row.loss for row in found.rows if row.name == name)
    sweep = at.sweep(alone, _error, num_chips=2, times=["0 s", "1 year"])
    assert loss["bits"].mean == pytest.approx(_error(alone) - found.reference)
    assert [loss["noise"].mean, loss["drift"].mean] == pytest.approx(sweep.mean.tolist(), rel=1e-9)
    silent = dataclasses.replace(
        CHIP.cell.device, programming_scale=0.0, drift_scale=0.0, read_scale=0.0
    )
    alone[index].chip = dataclasses.replace(
        CHIP, cell=dataclasses.replace(CHIP.cell, device=silent)
    )
    read = at.sweep(alone, _error, num_chips=1, times=["0 s"], compensation="none").mean.item()
    assert loss["output_noise"].mean == pytest.approx(read, rel=1e-5)
    assert [loss["noise"].std, loss["drift"].std] == pytest.approx(sweep.std.tolist(), rel=1e-9)


@pytest.mark.parametrize(
    ("parts", "errors"),
    [
        ({"adc": {"offset_std": 0.05}}, ["adc_offset"]),
        ({"adc": {"gain_std": 0.1, "slope_std": 0.1}}, ["adc_gain", "adc_slope"]),
        ({"adc": {"inl": (0.0, 20.0, 0.0, -20.0, 0.0)}}, ["adc_inl"]),
        ({"adc": {"dnl_std": 0.3, "capacitor_std": 0.1}}, ["adc_dnl", "adc_capacitors"]),
        ({"dac": {"inl": (0.0, 9.0, 0.0, -9.0, 0.0), "gain_std": 0.1}}, ["dac_inl", "dac_gain"]),
        (
            {
                "dac": {"encoding": "amplitude", "lsb_time": None},
                "iv": at.chips.IVCurve(**at.devices.milo_curves(), read_voltage=0.3),
            },
            ["iv_curve"],
        ),
        ({"wires": {"column_resistance": 3.5, "model": "pulses"}}, ["ir_drop"]),
    ],
)
def test_errors_that_are_no_noise_are_no_part_of_output_noise(
    parts: dict[str, object], errors: list[str]
) -> None:
    """They differ from chip to chip, and `noise` has them."""
    chip = CHIP.replace(**parts)
    found, without = (
        at.sensitivity(
            at.calibrate(at.convert(_digital(), each), [X], effort="ranges"),
            _error,
            effects=("output_noise", "noise"),
            num_chips=1,
            higher_is_better=False,
        )
        for each in (chip, chip.without(*errors))
    )
    assert found.total["output_noise"] == without.total["output_noise"]
    assert found.total["noise"] != without.total["noise"]


@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
def test_matrices_of_recurrent_layers_and_grouped_convolutions_have_their_rows(
    grouped: str,
) -> None:
    # blocks that end within a kernel and within a row
    chip = CHIP.replace(array={"grouped": grouped, "rows": 5})
    model = at.calibrate(at.convert(_mixed(), chip), [WAVES], effort="ranges")
    found = at.sensitivity(model, _mean, num_chips=1)
    suffixes = ("l0", "l0_reverse")
    matrices = {f"lstm.{kind}_{suffix}" for kind in ("ih", "hh") for suffix in suffixes}
    assert {row.name for row in found.rows} == {"conv", "head"} | matrices
    assert {row.name: row.weights for row in found.rows}["lstm.hh_l0"] == 4 * 6 * 6
    assert {row.name: row.blocks for row in found.rows} == {
        row.name: row.blocks for row in at.summary(model).layers
    }
    assert found.reference == pytest.approx(_mean(_mixed()), abs=1e-6)
    assert any(row.loss["drift"].mean != 0 for row in found.rows if row.name in matrices)
    for name in ("conv", "head"):
        alone = at.convert(_mixed(), chip, include=name)
        alone.get_submodule(name).set_input_range(model.get_submodule(name).input_range.item())
        value = at.sweep(alone, _mean, num_chips=1, times=["1 year"]).values.item()
        row = next(row for row in found.rows if row.name == name)
        # nn.LSTM rounds differently
        assert row.loss["drift"].mean == pytest.approx(found.reference - value, abs=1e-6)


def test_same_call_same_numbers_and_effects_do_not_depend_on_each_other(found: Sensitivity) -> None:
    assert at.sensitivity(_analog(), _error, num_chips=2, higher_is_better=False) == found
    drift = at.sensitivity(_analog(), _error, effects="drift", num_chips=2, higher_is_better=False)
    assert drift.effects == ("drift",)
    assert [row.loss["drift"] for row in drift.rows] == [row.loss["drift"] for row in found.rows]
    other = at.sensitivity(
        _analog(), _error, effects=["noise"], num_chips=2, seed=1, higher_is_better=False
    )
    assert other.total["noise"] != found.total["noise"]
    assert at.sensitivity(_analog(), _error, effects=["noise", "bits"], num_chips=1).effects == (
        "bits",
        "noise",
    )


def test_a_number_of_seconds_has_its_unit_as_a_command_gives_it_too() -> None:
    given = ["programmed", "1 day", "3600", 3601, 0.5, "1e3"]
    names = ["programmed", "1 day", "3600 s", "3601 s", "0.5 s", "1000 s"]
    assert list(checked_times("sweep", given).values()) == names


def test_time_and_compensation_are_those_of_at() -> None:
    options = {"effects": "drift", "time": 3600, "compensation": "least_squares", "num_chips": 1}
    found = at.sensitivity(_analog(), _error, higher_is_better=False, **options)  # type: ignore[arg-type]
    chip = at.program(_analog(), seed=found.seeds[0]).at(3600, compensation="least_squares")
    assert found.total["drift"].mean == pytest.approx(_error(chip) - found.reference)
    assert found.time == "3600 s"


def test_model_random_state_and_mode_are_unchanged_also_after_an_error() -> None:
    model = _analog().train()
    before = copy.deepcopy(model)
    calls = []

    def fails(chip: nn.Module) -> float:
        assert not chip.training
        chip.train()  # the next call must be in evaluation mode again
        calls.append(torch.rand(()).item())
        if len(calls) == 12:
            raise RuntimeError("the metric broke")
        chip.eval()[0].bias.zero_()
        return 1.0

    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="the metric broke"):
        at.sensitivity(model, fails, num_chips=2)
    assert len(set(calls)) == 1  # every call meets the same draws
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    for (name, layer), (_, old) in zip(
        at.analog_layers(model), at.analog_layers(before), strict=True
    ):
        assert layer.chip == old.chip, name
        assert not layer.taps
        assert layer.programmed is None
        assert not hasattr(layer, "vectors_read")
        assert layer.weight.requires_grad
    new, old = model.state_dict(), before.state_dict()
    assert list(new) == list(old)
    assert all(torch.equal(new[key], old[key]) for key in new)


def test_bad_calls_are_refused_before_anything_runs() -> None:
    def never(model: nn.Module) -> float:
        raise AssertionError

    with pytest.raises(ValueError, match=r"no analog layer; call analogtorch\.convert"):
        at.sensitivity(_digital(), never)
    with pytest.raises(ValueError, match="sensitivity: layer '0' is on the meta device; load wei"):
        at.sensitivity(_analog().to("meta"), _error)
    with pytest.raises(ValueError, match="'0' belongs to a programmed chip"):
        at.sensitivity(at.program(_analog(), seed=1).at("0 s"), never)
    with pytest.raises(
        ValueError, match=r"one of \('bits', 'output_noise', 'noise', 'drift'\), got 'heat'"
    ):
        at.sensitivity(_analog(), never, effects="heat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="effects must be (one|some) of"):
        at.sensitivity(_analog(), never, effects=[])
    for num_chips in (0, 1.5):
        with pytest.raises(ValueError, match="num_chips must be an integer >= 1"):
            at.sensitivity(_analog(), never, num_chips=num_chips)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'1 age' is not understood"):
        at.sensitivity(_analog(), never, effects="bits", time="1 age")
    with pytest.raises(ValueError, match="'1 eon' is not understood"):
        at.sensitivity(_analog(), never, time="1 eon")
    with pytest.raises(ValueError, match="compensation must be one of"):
        at.sensitivity(_analog(), never, compensation="magic")  # type: ignore[arg-type]


def test_a_metric_that_is_no_finite_number_is_refused_with_layer_and_effect() -> None:
    def breaks(chip: nn.Module) -> float:
        on = [name for name, layer in at.analog_layers(chip) if isinstance(layer.execution, OnChip)]
        return float("nan") if on == ["4"] else 1.0

    with pytest.raises(
        ValueError, match=r"is nan with only layer '4' on the chip \(drift, chip 0\)"
    ):
        at.sensitivity(_analog(), breaks, effects="drift")
    with pytest.raises(
        ValueError, match=r"is nan with only layer '4' on the chip \(output_noise, chip 0\)"
    ):
        at.sensitivity(_analog(), breaks)
    with pytest.raises(ValueError, match="is inf with all layers exact"):
        at.sensitivity(_analog(), lambda _: float("inf"))
    with pytest.raises(TypeError, match="must return a number, got None with all layers exact"):
        at.sensitivity(_analog(), lambda _: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("effects", ["bits", "drift"])
def test_layers_that_did_not_run_are_named_once_in_a_run(effects: Effect, tmp_path: Path) -> None:
    class ByWeight(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.linear(x, self[0].weight, self[0].bias)
            return self[4](self[2](y.relu()).relu())

    def run(model: nn.Module, metric: Metric = _error, folder: str | None = None) -> Sensitivity:
        return at.sensitivity(
            model, metric, effects=effects, num_chips=1, time="1 day", folder=folder
        )

    model = at.convert(ByWeight(*_digital()), CHIP)
    for _ in range(2):  # the second reads its values
        text = "sensitivity: 1 of 3 layers did not run .* no loss: '0'"
        with pytest.warns(UserWarning, match=text) as warned:
            found = run(model, folder=str(tmp_path))
        assert len(warned) == 1
        assert {row.name: row.loss[effects].mean for row in found.rows}["0"] == 0
    # what runs in a copy, or loses nothing, is not named
    run(_analog(), lambda m: _error(copy.deepcopy(m)))
    run(_analog(), lambda m: 1.0 + 0 * _error(m))
    at.guard(model, X[:1])
    run(model)


def test_a_root_layer_is_a_row() -> None:
    model = at.convert(nn.Linear(24, 6), CHIP)
    found = at.sensitivity(model, lambda m: m(X).square().mean().item(), effects="bits")
    assert [row.name for row in found.rows] == [""]
    assert "(root)" in str(found)
    assert found.rows[0].loss["bits"] == found.total["bits"]


def test_table_lists_layers_sum_and_whole(found: Sensitivity) -> None:
    lines = str(found).splitlines()
    assert lines[0].startswith("_error with all layers exact: ")
    assert "over 2 chips" in lines[1]
    header, rule, *rows = lines[3:]
    columns = "layer weights blocks bits output noise noise (0 s) drift (1 year)"
    assert header.split() == columns.split()
    assert set(rule) == {"-"}
    assert [row.split()[0] for row in rows[:3]] == [row.name for row in found.rows]
    assert rows[0].endswith("#" * 20)
    assert rows[-2].startswith("sum of the layers")
    assert f"{24 * 40 + 40 * 40 + 40 * 6:,}" in rows[-2]
    assert rows[-1].startswith("all on the chip")
    assert f"± {found.total['drift'].std:.4f}" in rows[-1]


def test_losses_that_no_decimals_show_have_an_exponent() -> None:
    text = str(_made({"a": 3e-8, "b": 1e-8}, total=5e-8))
    assert "3e-08" in text
    assert "5e-08" in text
    assert "0.00000" not in text


def test_small_losses_keep_their_digits() -> None:
    text = str(_made({"a": 3e-6, "b": 1e-6}, total=5e-6))
    assert "0.000003000" in text


def test_dict_is_ready_for_json(found: Sensitivity) -> None:
    told = json.loads(json.dumps(found.to_dict()))
    assert told["layers"][0]["name"] == "2"
    assert told["layers"][0]["loss"]["noise"] == dataclasses.asdict(found.rows[0].loss["noise"])
    assert told["total"]["drift"]["mean"] == found.total["drift"].mean
    keys = ["metric", "reference", "time", "seeds", "effects", "layers", "sum", "total"]
    assert list(told) == keys


def test_csv_has_a_line_per_layer_and_all_together(found: Sensitivity, tmp_path: Path) -> None:
    text = found.to_csv(tmp_path / "loss.csv")
    assert (tmp_path / "loss.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [*(row.name for row in found.rows), "all on the chip"]
    first, last = rows[0], rows[-1]
    assert float(first["noise"]) == found.rows[0].loss["noise"].mean
    assert float(first["noise_std"]) == found.rows[0].loss["noise"].std
    assert (int(first["weights"]), last["weights"]) == (found.rows[0].weights, "")
    assert float(last["drift"]) == found.total["drift"].mean


def test_losses_are_called_by_the_name_of_the_metric(found: Sensitivity) -> None:
    named = dataclasses.replace(found, metric="accuracy")
    assert str(named).startswith("accuracy with all layers exact: ")
    assert named.to_dict()["metric"] == "accuracy"
    axes = named.plot().axes[0]
    assert axes.get_xlabel() == "loss of accuracy with this layer alone on the chip"


def test_plot(found: Sensitivity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = found.plot(tmp_path / "new" / "loss.png")
    assert (tmp_path / "new" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        row.name for row in found.rows
    ]
    with pytest.raises(ValueError, match=r"must end in \.png, \.svg or \.pdf"):
        found.plot(tmp_path / "loss.txt")
    with pytest.raises(TypeError, match=r"path must be a path such as 'plot\.png', got 3"):
        found.plot(3)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ImportError, match=r"plot needs matplotlib; run: pip install \"analogtorch\[report\]\""
    ):
        found.plot()


def test_progress_shows_a_bar_that_ends(capsys: pytest.CaptureFixture) -> None:
    at.sensitivity(_analog(), _error, num_chips=1, progress=True)
    # 1 exact, and 4 effects with all layers and each of 3
    assert "17/17" in capsys.readouterr().err
    at.sensitivity(_analog(), _error, num_chips=1, effects="bits")
    assert capsys.readouterr().err == ""


# what to make of it


def test_layers_to_exclude_bring_the_loss_within_the_budget(found: Sensitivity) -> None:
    budget = found.total["drift"].mean / 2
    suggestion = found.suggest(budget)
    assert suggestion.exclude == ("2",)
    assert (suggestion.excluded_weights, suggestion.weights) == (1600, 24 * 40 + 40 * 40 + 40 * 6)
    assert "exclude=['2']" in str(suggestion)
    model = _analog(exclude=suggestion.exclude)
    loss = at.sweep(model, _error, num_chips=2, times=["1 year"]).mean.item() - found.reference
    assert loss <= budget
    # the errors of this net nearly add
    assert loss == pytest.approx(suggestion.excluded_loss, rel=0.5)


def test_layers_on_more_devices_convert_program_and_lose_less() -> None:
    torch.manual_seed(4)
    digital = nn.Sequential(
        nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 6)
    )
    target = digital(X).detach()

    def error(model: nn.Module) -> float:
        return (model(X) - target).square().mean().item()

    found = at.sensitivity(
        at.calibrate(at.convert(copy.deepcopy(digital), CHIP), [X]),
        error,
        num_chips=2,
        higher_is_better=False,
    )
    budget = 0.9 * found.total["noise"].mean
    suggestion = found.suggest(budget, effect="noise")
    cell = dataclasses.replace(CHIP.cell, devices_per_polarity=suggestion.multiple)
    assert suggestion.multiple > 1
    assert set(suggestion.per_layer) < {"0", "2", "4"}
    assert all(change == {"cell": cell} for change in suggestion.per_layer.values())
    changed = [row.weights for row in found.rows if row.name in suggestion.per_layer]
    assert suggestion.added_cells == (suggestion.multiple - 1) * sum(changed)
    model = at.calibrate(
        at.convert(copy.deepcopy(digital), CHIP, per_layer=suggestion.per_layer), [X]
    )
    for name in suggestion.per_layer:
        assert model.get_submodule(name).chip.cell.devices == 2 * suggestion.multiple
    loss = at.sweep(model, error, num_chips=2, times=["0 s"]).mean.item() - found.reference
    assert suggestion.per_layer_loss is not None
    # a squared error falls faster than the estimate
    assert loss <= suggestion.per_layer_loss <= budget


def test_more_devices_are_not_offered_where_output_noise_is_what_is_lost(
    found: Sensitivity,
) -> None:
    """One large weight makes the others small beside the output noise."""
    suggestion = found.suggest(0.5 * found.total["noise"].mean, effect="noise")
    assert found.rows[0].loss["output_noise"].mean > 0.6 * found.rows[0].loss["noise"].mean
    assert suggestion.per_layer == {}
    more = _analog(
        per_layer={"*": {"cell": dataclasses.replace(CHIP.cell, devices_per_polarity=4)}}
    )
    loss = at.sweep(more, _error, num_chips=2, times=["0 s"]).mean.item() - found.reference
    assert loss > suggestion.budget


def test_the_variance_of_a_weight_falls_as_its_devices_grow() -> None:
    """Over the 9,600 weights the variance has a standard error of 2 to 3 %."""
    errors = []
    for multiple in (1, 2, 4):
        cell = dataclasses.replace(
            CHIP.cell, devices_per_polarity=multiple * CHIP.cell.devices_per_polarity
        )
        torch.manual_seed(3)
        layer = at.convert(nn.Linear(160, 60), dataclasses.replace(CHIP, cell=cell))
        (held,) = at.program(layer, seed=1).at("programmed").programmed.weights
        errors.append((held - layer.weight).square().mean().item())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[0] / errors[2] == pytest.approx(4, rel=0.1)


def test_one_matrix_of_a_module_is_excluded_alone() -> None:
    torch.manual_seed(2)
    digital = _mixed()
    with torch.no_grad():
        digital.lstm.weight_hh_l0[2, 2] = 30.0  # type: ignore[union-attr, operator]
    model = at.calibrate(at.convert(copy.deepcopy(digital), CHIP), [WAVES])
    target = digital(WAVES).detach()
    found = at.sensitivity(
        model,
        lambda m: (m(WAVES) - target).square().mean().item(),
        num_chips=1,
        higher_is_better=False,
        effects="noise",
    )
    assert found.rows[0].name == "lstm.hh_l0"
    suggestion = found.suggest(found.total["noise"].mean / 2)
    assert suggestion.exclude == ("lstm.hh_l0",)
    assert suggestion.excluded_weights == digital.lstm.weight_hh_l0.numel()  # type: ignore[union-attr, operator]
    again = at.convert(copy.deepcopy(digital), CHIP, exclude=suggestion.exclude)
    assert {name for name, _ in at.analog_layers(again)} == {row.name for row in found.rows[1:]}


def test_attention_leaves_matrix_by_matrix() -> None:
    torch.manual_seed(0)
    digital = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(16, 2), "head": nn.Linear(16, 4)}
    ).eval()
    x = torch.randn(5, 8, 16)

    def run(model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model["head"](model["attention"](x, x, x)[0])

    exact = run(digital)
    found = at.sensitivity(
        at.convert(copy.deepcopy(digital), CHIP),
        lambda m: (run(m) - exact).square().sum(),
        higher_is_better=False,
    )
    assert {row.name for row in found.rows} == {"attention.in_proj", "attention.out_proj", "head"}
    for share in (0.9, 0.7, 0.5):
        suggestion = found.suggest(share * found.total["drift"].mean)
        model = at.convert(copy.deepcopy(digital), CHIP, exclude=suggestion.exclude)
        left = sum(layer.weight.numel() for _, layer in at.analog_layers(model))
        assert 0 < left == suggestion.weights - suggestion.excluded_weights
        if suggestion.per_layer:
            wider = at.convert(copy.deepcopy(digital), CHIP, per_layer=suggestion.per_layer)
            more = [x for _, x in at.analog_layers(wider) if x.chip.cell != CHIP.cell]
            cells = sum(x.weight.numel() for x in more) * (suggestion.multiple - 1)
            assert suggestion.added_cells == cells


def _made(
    noise: dict[str, float], *, total: float, read: float = 0.0, drift: float | None = None
) -> Sensitivity:
    """Made-up losses; those of the drift are higher by ``drift``."""

    def losses(value: float) -> dict:
        known = {"output_noise": read, "noise": value} | (
            {} if drift is None else {"drift": value + drift}
        )
        return {effect: Loss(mean=mean, std=0.0) for effect, mean in known.items()}

    rows = [
        LayerLoss(name=name, weights=10, blocks=1, cell=CHIP.cell, loss=losses(value))
        for name, value in noise.items()
    ]
    ordered = tuple(sorted(rows, key=lambda row: -row.loss["noise"].mean))
    effects = tuple(losses(0.0))
    return Sensitivity(
        rows=ordered, reference=1.0, total=losses(total), effects=effects, time="1 year", seeds=(1,)
    )


def test_the_estimate_adds_losses_of_layers() -> None:
    found = _made({"a": 0.1, "b": 0.04, "c": 0.12, "d": -0.02}, total=0.2)
    assert found.suggest(0.2).exclude == ()
    assert found.suggest(0.19).exclude == ("c",)
    assert found.suggest(0.19).excluded_loss == pytest.approx(0.14)
    assert found.suggest(0.19).excluded_weights == 10
    assert found.suggest(0.1).exclude == ("c", "a")
    # a layer that gains is no reason to lose elsewhere
    assert found.suggest(0).exclude == ("c", "a", "b")
    assert "which is within it" in str(found.suggest(0.2))


def test_where_the_whole_loses_more_or_less_than_its_layers_their_shares_follow() -> None:
    found = _made({"a": 0.1, "b": 0.05, "c": 0.05}, total=0.4)
    assert found.suggest(0.3).excluded_loss == pytest.approx(0.2)
    less = _made({"a": 0.1, "b": 0.1}, total=0.1)
    assert less.suggest(0.09).exclude == ("a", "b")  # what "a" hides of "b" is not known
    # all stay, and hide each other
    assert less.suggest(0.09).per_layer_loss == pytest.approx(0.05 * (1 + 2**-0.5))
    nobody = _made({"a": 0.0, "b": -0.1}, total=0.2)
    assert nobody.suggest(0.1).exclude == ("a",)
    assert nobody.suggest(0.0).excluded_weights == 20
    assert "nothing is left for the chip" in str(nobody.suggest(0.0))


def test_more_devices_shrink_what_noise_adds_to_output_noise_and_nothing_else() -> None:
    found = _made({"a": 0.10, "b": 0.03}, total=0.13, read=0.02)
    twice = 0.02 + 0.08 / 2**0.5
    assert found.suggest(0.11).multiple == 2
    assert found.suggest(0.11).per_layer_loss == pytest.approx(twice + 0.03)
    assert found.suggest(0.095).multiple == 4
    assert set(found.suggest(0.095).per_layer) == {"a"}
    never = found.suggest(0.04)
    assert (never.per_layer, never.per_layer_loss, never.multiple) == ({}, None, 1)
    assert "up to 4 times as many are not enough" in str(never)
    suggestion = _made({"a": 0.1}, total=0.1, read=0.1).suggest(0.01, effect="output_noise")
    assert "what converters and output noise lose" in suggestion.why_not
    later = _made({"a": 0.10}, total=0.10, read=0.02, drift=0.05).suggest(0.13)
    assert later.effect == "drift"
    assert later.per_layer_loss == pytest.approx(0.05 + twice)


def test_names_that_read_as_globs_mean_themselves_to_convert() -> None:
    found = _made({"blocks[0]": 0.1, "b": 0.01}, total=0.11)
    assert found.suggest(0.02).exclude == ("blocks[0]",)
    net = nn.ModuleDict({"blocks[0]": nn.Linear(4, 4), "blocks0": nn.Linear(4, 4)})
    at.convert(net, CHIP, exclude=found.suggest(0.02).exclude)
    assert [name for name, _ in at.analog_layers(net)] == ["blocks0"]


@pytest.mark.parametrize("budget", [-0.1, float("nan"), float("inf"), "1 %", True])
def test_budgets_that_are_none_are_refused(found: Sensitivity, budget: float) -> None:
    with pytest.raises(ValueError, match="budget must be a finite number >= 0"):
        found.suggest(budget)


def test_budgets_beyond_the_bounds_of_the_metric_are_refused() -> None:
    metric = at.metrics.accuracy([(X, torch.zeros(len(X), dtype=torch.long))])
    found = at.sensitivity(_analog(), metric, effects="noise", num_chips=1)
    assert found.bounds == (0, 1)
    with pytest.raises(ValueError, match=r"budget must be a .* in \[0, 1\], got 50; 0.75 is 75 %"):
        found.suggest(50)
    assert found.suggest(1).budget == 1


def test_effects_that_were_not_measured_are_refused() -> None:
    found = _made({"a": 0.1}, total=0.1)
    with pytest.raises(ValueError, match="effect 'drift' was not measured"):
        found.suggest(0.01, effect="drift")
    noise = at.sensitivity(_analog(), _error, effects="noise", num_chips=1, higher_is_better=False)
    assert "measure 'output_noise' and 'noise' too" in noise.suggest(0.0).why_not
