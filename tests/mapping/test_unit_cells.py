"""Weights that take several unit cells of their chip: counted by map, cost, summary and reads."""

import copy
import itertools
import json

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.chips.unit_cells import on_hardware_of, unit_cells
from analogtorch.cost_model import WeightMemory
from analogtorch.evaluate.plan_cost import Costs
from analogtorch.evaluate.walks import Candidate
from analogtorch.mapping import ChipMapping, map_by_chip
from analogtorch.mapping.chosen import chips_of

CHIP = at.chips.hermes64()
DOUBLED = {"cell": CHIP.cell.enlarged(2)}
X = torch.rand(3, 300)


def _net(**per_layer: object) -> nn.Module:
    net = nn.Sequential(nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 10)).eval()
    return at.convert(net, CHIP, per_layer={name[1:]: c for name, c in per_layer.items()})


def test_map_and_cost_are_those_of_the_plan() -> None:
    model = _net(_0=DOUBLED)
    mapping = at.map_to_chip(model, X)
    assert mapping.chip == CHIP
    assert {m.name: m.cells for m in mapping.matrices} == {"0": 2, "2": 1}
    assert mapping.cells == 2 * 12_000 + 400
    assert mapping.copies == {"0": 2, "2": 1}
    report = at.cost(mapping)
    assert report.macs == 3 * 12_400
    planned = Costs(_net(), X, CHIP, WeightMemory()).of(Candidate.of({"0": 2}, ["0", "2"]))
    assert (report.energy.system, report.latency) == (planned.energy, planned.latency)
    shared = at.map_to_chip(_net(), X, duplicate={"0": 2})  # copies that share the vectors
    assert at.cost(shared).energy.system < report.energy.system
    assert at.cost(shared).macs == report.macs
    (by_chip,) = map_by_chip(model, X)
    assert by_chip.placements == mapping.placements
    assert at.remap(mapping, retired=[(0, 0)]).cells == mapping.cells
    twice = at.map_to_chip(model, X, duplicate={"0": 3})
    assert twice.copies == {"0": 6, "2": 1}
    assert at.cost(twice).latency < report.latency


def test_the_unit_cells_of_a_weight_lie_on_one_tile_where_there_is_room() -> None:
    chip, x = at.chips.sonos40(), torch.zeros(1, 16)  # of one tile
    assert chip.cost is not None
    net = nn.Sequential(nn.Linear(16, 96), nn.Tanh(), nn.Linear(96, 4))
    plain = at.convert(copy.deepcopy(net), chip)
    double = at.convert(net, chip, per_layer={"2": {"cell": chip.cell.enlarged(2)}})
    before, after = (at.cost(at.map_to_chip(m, x)) for m in (plain, double))
    added = [run for run in after.schedule.runs if run.operation == "2"]
    assert [(run.mvms, run.rows, run.cols, run.weights) for run in added] == 2 * [(1, 96, 4, 384)]
    # one MVM more, after the other; its results are added, and nothing travels
    rows, columns = chip.array.rows, chip.array.columns
    mvm = chip.cost.mvm(rows=96 / rows, cols=4 / columns, cells=384 / (rows * columns)).total
    sums = 4 * chip.cost.on_chip.energy.value
    assert after.energy.system == pytest.approx(before.energy.system + mvm + sums)
    later = at.chips.mvm_time(chip).value + 4 / chip.cost.on_chip.rate.value
    assert after.latency == pytest.approx(before.latency + later)
    planned = Costs(plain, x, chip, WeightMemory()).of(Candidate.of({"2": 2}, ["0", "2"]))
    assert (planned.chips, planned.tiles) == (1, 1)
    assert (planned.energy, planned.latency) == (after.energy.system, after.latency)


def test_advice_for_what_does_not_fit_is_about_devices_or_copies() -> None:
    chip = at.chips.sonos40()
    double = {"0": {"cell": chip.cell.enlarged(2)}}
    model = at.convert(
        nn.Sequential(nn.Linear(1000, 400), nn.Linear(400, 4)), chip, per_layer=double
    )
    with pytest.raises(ValueError, match="Nothing was placed") as error:
        at.map_to_chip(model, torch.zeros(1, 1000), chip=chip)
    assert "give '0' fewer devices in convert(per_layer=...), or" in str(error.value)
    assert "duplicate" not in str(error.value)
    with pytest.raises(ValueError, match="ask for fewer copies in duplicate, or") as error:
        at.map_to_chip(at.to_digital(model), torch.zeros(1, 1000), chip=chip, duplicate={"0": 2})
    assert "per_layer" not in str(error.value)


def test_summary_and_reads_count_them() -> None:
    model, plain = _net(_0=DOUBLED), _net()
    found, before = at.summary(model), at.summary(plain)
    assert [row.cells for row in found.layers] == [24_000, 400]
    assert [row.blocks for row in found.layers] == [4, 1]
    assert found.share == before.share
    physical = at.program(model, seed=1, mapping=at.map_to_chip(model, X))
    assert sum(physical.writes().counts) == CHIP.cell.devices * 24_400
    costs = [at.program(m, seed=1).recalibration_cost() for m in (model, plain)]
    assert costs[0].mvms == costs[1].mvms + 2 * 256
    assert costs[0].seconds == costs[1].seconds  # on other tiles, at the same time
    assert costs[0].joules > costs[1].joules


def test_the_chip_says_what_a_unit_cell_is_where_all_layers_have_more() -> None:
    model = _net(_0=DOUBLED, _2={"cell": {"devices_per_polarity": 2}})
    assert at.map_to_chip(model, X, chip=CHIP).cells == 2 * 12_400
    assert at.map_to_chip(model, X).cells == 12_400


def test_reads_are_those_of_all_cells_that_a_mapping_has() -> None:
    single, all_double = _net(), _net(_0=DOUBLED, _2=DOUBLED)
    once = at.program(single, seed=1, mapping=at.map_to_chip(single, X))
    mapping = at.map_to_chip(all_double, X, chip=CHIP)
    twice = at.program(all_double, seed=1, mapping=mapping)
    recovery = at.Recovery(batches=[X])
    for options in ({}, {"compensation": "column"}, {"recovery": recovery}):
        costs = [physical.recalibration_cost(**options) for physical in (once, twice)]
        assert costs[1].mvms == 2 * costs[0].mvms
        assert costs[1].joules == pytest.approx(2 * costs[0].joules)
    # tiles that hold several blocks read them one after the other
    of_tiles = [sum(p.tile == tile for p in mapping.placements) for tile in range(6)]
    seconds = twice.recalibration_cost().seconds
    assert seconds == pytest.approx(256 * max(of_tiles) * CHIP.cost.mvm_time.value)
    assert max(of_tiles) > 1
    # a mapping of the digital model has no further cells; they lie on tiles of their own
    digital = at.map_to_chip(at.to_digital(_net()), X, chip=CHIP)
    elsewhere = at.program(all_double, seed=1, mapping=digital).recalibration_cost()
    assert elsewhere.mvms == twice.recalibration_cost().mvms


@pytest.mark.parametrize("times", list(itertools.permutations((1, 2, 3))))
def test_layers_in_any_order_are_on_the_chip_of_the_smallest(times: tuple[int, ...]) -> None:
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in times)).eval()
    larger = {str(i): {"cell": CHIP.cell.enlarged(n)} for i, n in enumerate(times) if n > 1}
    model = at.convert(net, CHIP, per_layer=larger)
    assert [(chip.cell, names) for chip, names in chips_of(model, "test")] == [
        (CHIP.cell, ["0", "1", "2"])
    ]
    found = at.compare(model, [CHIP], example=torch.rand(1, 8))  # without a warning
    assert [m.cells for m in found.chips[0].mapping.matrices] == list(times)


def test_what_software_chooses_is_no_other_cell_and_other_devices_are() -> None:
    timed = CHIP.drift_aware("1 day").replace(training=at.chips.ideal().training)
    large = timed.replace(cell=timed.cell.enlarged(3))
    assert on_hardware_of(large, CHIP) == unit_cells(large, [timed, CHIP]) == 3
    assert on_hardware_of(CHIP, large) == 0
    assert on_hardware_of(timed, CHIP) == 1
    single = CHIP.replace(cell={"device": at.devices.hermes_one_device()})
    assert on_hardware_of(single.replace(cell=single.cell.enlarged(2)), CHIP) == 0
    other = CHIP.replace(cell=CHIP.cell.enlarged(2), adc={"noise": 0.5})
    with pytest.raises(ValueError, match="are on 2 chips"):
        at.map_to_chip(_net(_0=other), X)


def test_a_mapping_keeps_them_in_its_file() -> None:
    mapping = at.map_to_chip(_net(_0=DOUBLED), X)
    assert ChipMapping.from_json(mapping.to_json()) == mapping
    data = mapping.to_dict()
    data["matrices"][0]["cells"] = 3
    with pytest.raises(ValueError, match="cells of '0' must be an integer >= 1 that divides"):
        ChipMapping.from_dict(data)
    earlier = at.map_to_chip(_net(), X).to_dict()
    for matrix in earlier["matrices"]:
        del matrix["cells"]
    assert ChipMapping.from_dict(json.loads(json.dumps(earlier))) == at.map_to_chip(_net(), X)
