"""Chips side by side: the same figures as the functions that make them, each with its kind."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import analogtorch as at

X = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))


class Net(nn.Sequential):
    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 4))


def square(model: nn.Module) -> float:
    return model(X).square().mean().item()


def prepare(model: nn.Module) -> None:
    at.calibrate(model, [X], effort="ranges")


CHIPS = ["hermes64", at.chips.neurram48(), "ideal"]
HOW = {"example": X[:1], "num_chips": 2, "times": ["0 s", "1 year"]}


@pytest.fixture(scope="module")
def found() -> at.Comparison:
    return at.compare(Net(), CHIPS, square, prepare=prepare, **HOW)


def test_every_chip_has_what_the_functions_for_one_chip_give(found: at.Comparison) -> None:
    assert [each.name for each in found.chips] == ["hermes64", "neurram48", "ideal"]
    model = at.convert(Net().eval(), at.chips.hermes64())
    prepare(model)
    alone = at.sweep(model, square, num_chips=2, times=["0 s", "1 year"])
    here = found["hermes64"]
    assert torch.equal(here.sweep.values, alone.values)
    cost = at.cost(at.map_to_chip(model, X[:1]))
    entries = {entry.quantity: entry for entry in here.entries()}
    assert entries["energy, system"].value == cost.energy.system
    assert entries["latency"].value == cost.latency
    assert entries["efficiency, system"].low == cost.efficiency("system").low
    assert entries["energy, system"].low < cost.energy.system < entries["energy, system"].high
    assert (entries["area"].value, entries["area"].kind) == (144.0, "measured")
    assert entries["square at 0 s"].value == pytest.approx(alone.mean[0].item())
    assert found.digital == square(Net())
    assert (found.metric, found.higher_is_better) == ("square", True)


def _passes(found: at.Comparison) -> list[str]:
    return [line.partition(" (")[0] for line in str(found).splitlines() if "passes" in line]


def test_inputs_without_a_sign_take_fewer_passes() -> None:
    chips = ["ibm_speech34", "hermes64"]
    both = at.compare(Net(), chips, example=X[:1])
    found = at.compare(Net(), chips, example=X[:1], signed_inputs=["0"])
    mapping = at.map_to_chip(at.convert(Net(), at.chips.ibm_speech34()), X[:1])
    alone = at.cost(mapping, signed_inputs=["0"])
    assert found["ibm_speech34"].cost.energy == alone.energy
    assert _passes(found) == ["ibm_speech34: signed inputs, 2 passes each: 1 matrix"]
    assert alone.energy.system < both["ibm_speech34"].cost.energy.system
    with pytest.raises(ValueError, match=r"signed_inputs names \['1'\], which are no matrices"):
        at.compare(Net(), chips, example=X[:1], signed_inputs=["1"])


def test_layers_with_more_devices_have_them_on_every_chip() -> None:
    chip = at.chips.neurram48()
    larger = {"0": {"cell": chip.cell.enlarged(2)}}
    model = at.convert(Net().eval(), chip, per_layer=larger)
    found = at.compare(model, ["neurram48", "hermes64"], square, **HOW)
    alone = at.sweep(model, square, num_chips=2, times=HOW["times"])
    assert torch.equal(found["neurram48"].sweep.values, alone.values)
    mapping = at.map_to_chip(model, X[:1])
    assert found["neurram48"].mapping == mapping
    assert found["neurram48"].cost.energy == at.cost(mapping).energy
    assert {m.name: m.cells for m in found["hermes64"].mapping.matrices} == {"0": 2, "2": 1}
    pairs = at.devices.SignificancePairs(device=at.devices.hermes_one_device())
    with pytest.raises(ValueError, match="cannot be put on 'pairs': .*more devices"):
        at.compare(model, {"pairs": chip.replace(cell=pairs)}, example=X[:1])


def test_all_weights_may_take_several_unit_cells() -> None:
    options = {**HOW, "num_chips": 1, "prepare": prepare, "cells": 2}
    found = at.compare(Net(), ["neurram48", "hermes64"], square, **options)
    for name in ("neurram48", "hermes64"):
        chip = at.chips.get(name)
        model = at.convert(Net().eval(), chip.replace(cell=chip.cell.enlarged(2)))
        prepare(model)
        alone = at.sweep(model, square, num_chips=1, times=HOW["times"])
        assert torch.equal(found[name].sweep.values, alone.values)
        assert found[name].mapping == at.map_to_chip(model, X[:1], chip=chip)
        assert {m.cells for m in found[name].mapping.matrices} == {2}
        tiles = found.to_dict()["chips"][name]["figures"]["tiles"]
        assert tiles["scope"].endswith("x256; 2 unit cells hold each weight")
    assert "\non the chips, 2 unit cells hold each weight\n" in str(found)
    mixed = at.convert(Net().eval(), chip, per_layer={"0": {"cell": chip.cell.enlarged(3)}})
    found = at.compare(mixed, ["hermes64"], example=X[:1])
    assert "\non the chips, 3 unit cells hold each weight of 1 of 2 matrices\n" in str(found)
    found = at.compare(mixed, ["hermes64"], example=X[:1], cells=1)
    assert "unit cells" not in str(found)
    assert {m.cells for m in found["hermes64"].mapping.matrices} == {1}
    with pytest.raises(ValueError, match="compare: cells must be .*0"):
        at.compare(Net(), ["hermes64"], example=X[:1], cells=0)


def test_what_else_differs_between_layers_is_left_out_with_a_warning() -> None:
    chip = at.chips.hermes64()
    model = at.convert(Net().eval(), chip, per_layer={"2": {"adc": {"noise": 0.5}}})
    text = r"compare: the layers of the model are on 2 chips: hermes64 \('0'\); hermes64, " + (
        r"differing in adc.noise 0.5 \('2'\). All are put on each"
    )
    with pytest.warns(UserWarning, match=text):
        found = at.compare(model, [chip], example=X[:1])
    assert found["hermes64"].mapping == at.map_to_chip(model, X[:1], chip=chip)


def test_chips_with_defects_are_those_of_a_sweep_with_defects() -> None:
    defects = at.Defects(stuck_on=0.05)
    found = at.compare(Net(), ["hermes64"], square, prepare=prepare, defects=defects, **HOW)
    model = at.convert(Net().eval(), at.chips.hermes64())
    prepare(model)
    alone = at.sweep(model, square, num_chips=2, times=HOW["times"], defects=defects)
    assert torch.equal(found["hermes64"].sweep.values, alone.values)
    with pytest.raises(TypeError, match="compare: defects"):
        at.compare(Net(), ["hermes64"], defects=0.1, example=X[:1])  # type: ignore[arg-type]


def test_what_is_not_known_is_said_and_times_beyond_the_data_are_marked(
    found: at.Comparison,
) -> None:
    lines = str(found).splitlines()
    rows = {line.partition("  ")[0].strip(): line for line in lines}
    assert rows["energy, system"].endswith("not known")  # of the ideal chip
    assert rows["energy, system"].count("(assumed)") == 2
    assert rows["area"].split("(measured)")[1].split() == ["not", "known"] * 2
    assert rows["square at 1 year"].count("*") == 1
    assert "square at 0 s" in rows
    (note,) = (line for line in lines if line.startswith("* "))
    assert note.startswith("* neurram48, square at 1 year: beyond the device's data (2 days")
    assert (
        "square: mean [95 % interval, where chips differ] of 2 simulated chips of each kind"
        in lines
    )


def test_json_csv_html_and_plot_have_every_figure_with_its_scope(
    found: at.Comparison, tmp_path: Path
) -> None:
    data = json.loads(json.dumps(found.to_dict()))
    figures = data["chips"]["neurram48"]["figures"]
    assert figures["square at 1 year"]["note"].startswith("beyond the device's data")
    assert all(figure["scope"] and figure["kind"] for figure in figures.values())
    assert len(data["chips"]["hermes64"]["sweep"]["0 s"]["values"]) == 2
    assert data["chips"]["ideal"]["figures"].keys() == {
        "square at 0 s", "square at 1 year", "tiles", "chips"
    }  # fmt: skip
    text = found.to_csv(tmp_path / "chips.csv")
    assert (tmp_path / "chips.csv").read_text() == text
    digital, *rows = csv.DictReader(text.splitlines())
    assert (digital["chip"], digital["quantity"]) == ("", "square, digital")
    assert float(digital["value"]) == found.digital
    assert (digital["kind"], digital["scope"]) == ("computed", "the digital model")
    assert len(rows) == sum(len(each.entries()) for each in found.chips)
    assert {row["chip"] for row in rows} == {"hermes64", "neurram48", "ideal"}
    assert all(row["scope"] and row["kind"] for row in rows)
    assert found._repr_html_().count("<tr>") == 13
    figure = found.plot(tmp_path / "chips.png")
    assert (tmp_path / "chips.png").stat().st_size > 1000
    metric, costs = figure.axes
    assert "(crosses: beyond the device's data)" in metric.get_xlabel()
    names = [name.partition(":")[0] for name in costs.get_legend_handles_labels()[1]]
    assert names == ["hermes64", "neurram48"]  # of the ideal chip no cost is known


def test_costs_alone_need_no_metric() -> None:
    found = at.compare(Net(), ["hermes64", "ibm_speech34"], example=X[:1])
    assert _passes(found) == ["ibm_speech34: signed inputs, 2 passes each: 2 matrices"]
    assert (found.metric, found.digital, found["hermes64"].sweep) == (None, None, None)
    assert "simulated" not in str(found)
    assert len(found.plot().axes) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"times": ["1 day"]},
        {"num_chips": 2},
        {"seed": 1},
        {"defects": at.Defects(cells=0.1)},
        {"reference": nn.Linear(2, 3)},
    ],
)
def test_what_has_no_effect_on_costs_alone_is_refused(given: dict) -> None:
    name = next(iter(given))
    with pytest.raises(ValueError, match=rf"{name}=.* has no effect on costs alone; give a metric"):
        at.compare(Net(), ["hermes64"], example=X[:1], **given)


def test_layers_that_are_digital_stay_so_and_the_model_stays_as_it_is() -> None:
    model = at.convert(Net(), at.chips.hermes64(), exclude="2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = at.compare(model, ["ibm_speech34"], example=X[:1])
    assert [m.name for m in found["ibm_speech34"].mapping.matrices] == ["0"]
    assert model[0].chip == at.chips.hermes64()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class ByWeight(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[2](nn.functional.linear(x, self[0].weight, self[0].bias).relu())


@pytest.mark.parametrize("example", [X[:1], X[:1].to("meta")], ids=["cpu", "meta"])
def test_layers_that_are_called_by_their_weights_are_measured_as_they_are_charged(
    example: torch.Tensor,
) -> None:
    found = at.compare(ByWeight(), ["hermes64"], square, **HOW | {"example": example})["hermes64"]
    model = at.convert(ByWeight().eval(), at.chips.hermes64(), example=X[:1])
    assert [m.name for m in found.mapping.matrices] == ["0", "2"]
    assert torch.equal(found.sweep.values, at.sweep(model, square, num_chips=2).values[:, [0, -1]])


@pytest.mark.parametrize(
    ("example", "why"),
    [
        (X[:1, :3], r"map_to_chip: could not trace .*give an example that the model accepts"),
        ((X[:1], X[:1]), r"map_to_chip: could not trace .*give an example that the model accepts"),
        (X[:1].double(), r"does not run on the example.*give an example .*types that it takes"),
    ],
    ids=["shape", "arguments", "type"],
)
def test_an_example_that_the_model_refuses_is_named_with_the_remedy(example: Any, why: str) -> None:
    with pytest.raises(
        ValueError, match=f"compare: the model cannot be put on 'hermes64': .*{why}"
    ):
        at.compare(ByWeight(), ["hermes64"], square, **HOW | {"example": example})


def test_an_error_of_prepare_is_not_laid_on_the_chip() -> None:
    def wrong(model: nn.Module) -> None:
        at.calibrate(model, [X[:, :3]])

    with pytest.raises(ValueError, match=r"^layer .0. takes") as caught:
        at.compare(Net(), ["hermes64"], square, **HOW | {"prepare": wrong})
    assert "the model failed on batch 0" in caught.value.__notes__[0]
    assert caught.value.__notes__[-1] == "compare: prepare failed on the model for 'hermes64'"


def test_a_net_trained_for_its_chip_has_the_one_that_it_began_as_for_its_reference() -> None:
    trained = at.convert(Net(), at.chips.hermes64())
    with torch.no_grad():
        trained[2].weight.mul_(0.5)
    how = {**HOW, "prepare": prepare, "num_chips": 1, "times": ["0 s"]}
    own = at.compare(trained, ["ideal"], square, **how)
    assert own.digital == square(at.to_digital(trained))
    trained = at.convert(trained, at.chips.hermes64())
    first = at.convert(Net(), at.chips.hermes64(), exclude="2").train()
    found = at.compare(trained, ["ideal"], square, reference=first, **how)
    assert found.digital == square(Net()) != own.digital
    assert torch.equal(found["ideal"].sweep.values, own["ideal"].sweep.values)
    assert first.training
    assert [name for name, _ in at.analog_layers(first)] == ["0"]
    programmed = at.program(first, seed=0).at("0 s")
    with pytest.raises(ValueError, match="compare: .*programmed"):
        at.compare(trained, ["ideal"], square, reference=programmed, **how)
    with pytest.raises(TypeError, match="compare"):
        at.compare(trained, ["ideal"], square, reference="digital.pt", **how)


def test_a_dictionary_names_chips_and_a_folder_goes_on(tmp_path: Path) -> None:
    calls = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        return square(model)

    chips = {"1/4 phases": at.chips.hermes64(), "one phase": at.chips.hermes64(phases=1)}
    options = {**HOW, "folder": tmp_path / "all"}
    first = at.compare(Net(), chips, metric, **options)
    assert len(calls) == 2 * 2 * 2 + 1
    again = at.compare(Net(), chips, metric, **options)
    assert len(calls) == 2 * 2 * 2 + 2  # the digital model alone
    assert str(again) == str(first)
    assert first["one phase"].cost.latency < first["1/4 phases"].cost.latency
    with pytest.raises(KeyError, match="no chip is called 'two'; the comparison has 1/4 phases, "):
        first["two"]


def test_a_metric_that_fails_without_a_chip_fails_before_chips_are_measured() -> None:
    calls = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        return square(model) if any(at.analog_layers(model)) else float("nan")

    with pytest.raises(ValueError, match="compare: the metric is nan of the digital model"):
        at.compare(Net(), CHIPS, metric, prepare=prepare, **HOW)
    assert len(calls) == 1


def never(model: nn.Module) -> float:
    raise AssertionError


@pytest.mark.parametrize(
    ("chips", "error", "message"),
    [
        ([], ValueError, "compare: chips is empty; give some, such as"),
        ("hermes64", TypeError, "compare: chips must be a list such as"),
        (["hermes46"], ValueError, "unknown chip 'hermes46', did you mean 'hermes64'"),
        (["hermes64", at.chips.hermes64()], ValueError, "two chips are called 'hermes64'; give a"),
        ([3], TypeError, "compare: each of chips must be a Chip such as"),
        (
            ["hermes64", at.chips.hermes64().replace(array={"tiles": 64, "rows": 2})],
            ValueError,
            "two chips are called",
        ),
    ],
)
def test_wrong_chips_are_refused_before_anything_is_measured(chips, error, message: str) -> None:
    with pytest.raises(error, match=message):
        at.compare(Net(), chips, never, **HOW)


def test_a_chip_that_cannot_take_the_model_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    expanding = at.chips.hermes64().replace(expansion={"factor": 2.0})
    with pytest.raises(ValueError, match="compare: the model cannot be put on 'wide': .*xpan"):
        at.compare(net, {"wide": expanding}, never, example=torch.zeros(1, 1, 8, 8))


def test_a_calibrated_model_needs_to_be_calibrated_again() -> None:
    model = at.convert(Net(), at.chips.hermes64())
    prepare(model)
    with pytest.raises(ValueError, match="compare: layer '0' is calibrated, but the model is conv"):
        at.compare(model, ["hermes64"], never, **HOW)
    for layer in (m for m in model.modules() if hasattr(m, "calibrated")):
        layer.forget_input_range()  # as calibrate does where a range per vector is better
        assert not layer.calibrated
    with pytest.raises(ValueError, match="compare: layer '0' is calibrated, but the model is conv"):
        at.compare(model, ["hermes64"], never, **HOW)
