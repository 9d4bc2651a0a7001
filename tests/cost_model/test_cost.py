"""Schedule and cost of hand-written mappings; the published figures are named beside each bar."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.chips import Chip, Figure
from analogtorch.cost_model import WeightMemory
from analogtorch.cost_model.cost import CostReport, cost
from analogtorch.cost_model.schedule import schedule
from analogtorch.evaluate.plan_cost import Costs
from analogtorch.evaluate.walks import Candidate
from benchmarks.validation import published
from benchmarks.validation.published import DAY, YEAR
from tests.mapping.parts import digital, full, keyword_net, mapping, matrix, mvm, put


def _free_moves(chip: Chip) -> Chip:
    """The chip with transfers that take no time to speak of, so that a test sees its MVMs alone."""
    assert chip.cost is not None
    fast = Figure(value=1e30, kind="assumed", source="the test")
    network = dataclasses.replace(chip.cost.network, link_rate=None, chip_rate=fast)
    return dataclasses.replace(chip, cost=dataclasses.replace(chip.cost, network=network))


def test_blocks_that_wait_beside_unused_tiles_are_named_with_what_helps() -> None:
    net, x = nn.Sequential(nn.Linear(64, 200), nn.Linear(200, 200)), torch.zeros(16, 64)
    together = at.map_to_chip(net, x, chip=at.chips.hermes64())
    assert "the 5 blocks of that tile wait for each other, and 63 tiles hold nothing" in str(
        cost(together)
    )
    assert "63 tiles hold nothing" in together.to_html()
    apart = at.map_to_chip(net, x, chip=at.chips.hermes64(), spread=True)
    assert "wait for each other" not in str(cost(apart)) + apart.to_html()
    assert cost(apart).throughput > 4 * cost(together).throughput
    small = at.chips.hermes64().replace(array={"tiles": 1})
    full = at.map_to_chip(net, x, chip=small)
    assert "wait for each other" not in str(cost(full))  # no tile is left
    assert "wait for each other" not in str(cost(together, mode="sequential"))


def test_zeros_between_groups_hold_no_weights() -> None:
    chip = at.chips.hermes64().replace(array={"grouped": "block_diagonal"})
    net = nn.Conv2d(64, 64, 3, groups=64, padding=1)
    report = cost(at.map_to_chip(net, torch.zeros(1, 64, 4, 4), chip=chip))
    # 576 x 64 cells of one tile are taken, of which one of 64 holds a weight
    assert report.schedule.utilisation == pytest.approx(576 / 256**2)
    assert report.efficiency("tile").utilisation == pytest.approx(576 / 256**2)


# published: 63.1 TOPS at 9.76 TOPS/W and 16.1 at 2.48 (Le Gallo 2023), which make 133 and 521 ns,
# 0.86 and 3.38 uJ
@pytest.mark.parametrize("phases", [1, 4])
def test_all_of_hermes64(phases: int) -> None:
    tops, per_watt = published.HERMES_EFFICIENCY[phases].numbers
    nanoseconds, microjoules, watts, _, per_mac = published.HERMES_PEAK[phases].numbers
    report = cost(full(_free_moves(at.chips.hermes64(phases=phases)), 64))
    assert report.operations == published.HERMES_OPERATIONS
    assert report.latency == pytest.approx(nanoseconds * 1e-9, rel=0.02)
    assert report.energy.tile == pytest.approx(microjoules * 1e-6, rel=0.02)
    assert report.energy.tile * report.throughput == pytest.approx(watts, rel=0.02)
    tile = report.efficiency("tile")
    assert tile.tops_per_watt == pytest.approx(per_watt)
    assert tile.femtojoules_per_mac == pytest.approx(per_mac, rel=0.02)
    assert (tile.low, tile.high) == pytest.approx((per_watt, per_watt))
    assert report.efficiency("chip").tops == pytest.approx(tops)
    assert (tile.kind, tile.phases, tile.utilisation, tile.precision) == (
        "derived",
        phases,
        1.0,
        "8-bit inputs, 8-bit outputs",
    )


# the published chip at its three scopes: 20.0, 12.4 and 6.94 TOPS/W (Ambrogio 2023)
def test_keyword_net_costs_what_four_tiles_of_ibm_speech34_cost() -> None:
    report = cost(keyword_net(at.chips.ibm_speech34()), signed_inputs=())
    assert len(report.schedule.tiles) == 4
    assert report.energy_full_tiles.tile == pytest.approx(4 * 26.2e-9, rel=0.02)
    assert report.energy.tile < report.energy_full_tiles.tile
    scopes = {e.scope: e for e in report.published}
    for scope, nanojoules in published.LADDER["nJ per 512x512 MVM"].values.items():
        assert scopes[scope].joules(4 * 512 * 512) == pytest.approx(4 * nanojoules * 1e-9, rel=0.02)
    assert report.schedule.interval == pytest.approx(300e-9)
    signed = cost(keyword_net(at.chips.ibm_speech34()))
    assert signed.energy.tile == pytest.approx(2 * report.energy.tile)
    assert signed.schedule.interval == pytest.approx(600e-9)
    assert signed.schedule.signed == ("a", "b", "c")
    balanced = cost(keyword_net(at.chips.ibm_speech34(asymmetry_balance=True)), signed_inputs=())
    assert balanced.energy.tile == pytest.approx(2 * report.energy.tile)
    assert balanced.schedule.interval == pytest.approx(600e-9)
    assert "asymmetry balance: each MVM is read twice" in str(balanced)
    assert "asymmetry balance" not in str(report)
    assert at.cost_model.peak(balanced.chip).efficiency.tops_per_watt == pytest.approx(10.0)


# published: 62.4 fJ per operation = 16.0 TOPS/W, 0.744 TOPS with 4-bit inputs and 6-bit outputs
# (Wan 2022)
def test_all_of_neurram48() -> None:
    report = cost(full(_free_moves(at.chips.neurram48()), 48))
    assert report.energy.tile / report.operations == pytest.approx(62.4e-15, rel=0.02)
    assert report.efficiency("tile").tops_per_watt == pytest.approx(16.0, rel=0.02)
    assert report.efficiency("chip").tops == pytest.approx(0.744, rel=0.02)


# published: drift from 1 day to 10 years raises the efficiency by 3-15 % (Frank et al., IRPS 2023)
@pytest.mark.parametrize("device", ["two_device", "one_device", "pcm_like"])
def test_drift_saves_energy_of_the_array_only(device: str) -> None:
    chip = at.chips.hermes64(device=device)
    young, old = (
        cost(full(chip, 64), conductance=at.chips.mean_conductance(chip.cell, t))
        for t in (DAY, 10 * YEAR)
    )
    gain = old.efficiency("tile").tops_per_watt / young.efficiency("tile").tops_per_watt
    low, high = published.DRIFT_GAIN
    assert low <= 100 * (gain - 1) <= high
    assert old.energy.adc == young.energy.adc
    assert old.energy.array / young.energy.array == pytest.approx(
        old.conductance / young.conductance
    )
    assert young.efficiency("tile").kind == "assumed"  # the share of the array is


def test_a_partly_used_tile_has_a_range() -> None:
    chip = at.chips.hermes64()
    few_columns = cost(
        mapping(chip, [mvm("w", 64)], [matrix("w", 256, 64)], [put(0, "w", 256, 64)])
    )
    tile = few_columns.efficiency("tile")
    assert tile.low == pytest.approx(2.48 / 4)
    assert tile.high == pytest.approx(2.48)
    assert tile.low < tile.tops_per_watt < tile.high
    assert tile.utilisation == 0.25
    few_rows = cost(
        mapping(chip, [mvm("w", 256)], [matrix("w", 64, 256)], [put(0, "w", 64, 256)])
    ).efficiency("tile")
    assert few_rows.low == pytest.approx(2.48 / 4)
    assert few_rows.high == few_rows.tops_per_watt  # the columns are all in use


def test_blocks_on_one_tile_take_turns_and_copies_share_the_vectors() -> None:
    chip = _free_moves(at.chips.hermes64())
    weights, step = [matrix("w", 100, 100)], chip.cost.mvm_time.value
    shared = [put(0, "w", 100, 50), put(0, "w", 100, 50, col=50)]
    apart = [put(0, "w", 100, 50), put(1, "w", 100, 50, col=50)]
    copies = [put(0, "w", 100, 100), put(1, "w", 100, 100, copy=1)]
    for placements, mvms in ((shared, 20), (apart, 10), (copies, 5)):
        plan = schedule(mapping(chip, [mvm("w", 100, vectors=10)], weights, placements))
        assert plan.latency == pytest.approx(mvms * step)
        assert plan.interval == pytest.approx(mvms * step)
    seven = schedule(mapping(chip, [mvm("w", 100, vectors=7)], weights, copies))
    assert [run.mvms for run in seven.runs] == [4, 3]


def test_steps_that_wait_for_each_other_gain_less_from_copies() -> None:
    chip = _free_moves(at.chips.hermes64())
    copies = [put(0, "w", 100, 100), put(1, "w", 100, 100, copy=1)]
    plan = schedule(
        mapping(chip, [mvm("w", 100, vectors=10, steps=10)], [matrix("w", 100, 100)], copies)
    )
    assert plan.latency == pytest.approx(10 * chip.cost.mvm_time.value)


def test_planes_of_a_tile_take_turns() -> None:
    chip = _free_moves(at.chips.ibm_speech34(pcm_per_weight=2))
    for tiles, steps in (((0, 1), 2), ((1, 2), 1)):
        blocks = [put(t, "w", 512, 512, col=512 * i) for i, t in enumerate(tiles)]
        plan = schedule(
            mapping(chip, [mvm("w", 1024)], [matrix("w", 512, 1024)], blocks), signed_inputs=()
        )
        assert plan.latency == pytest.approx(steps * 300e-9)
        assert len(plan.tiles) == 3 - steps
        assert plan.utilisation == 1.0


def test_groups_run_one_after_another_or_on_the_diagonal() -> None:
    grouped = matrix("w", 9, 64, groups=64, kernel=9)
    sequential = _free_moves(at.chips.hermes64())
    plan = schedule(mapping(sequential, [mvm("w", 64)], [grouped], [put(0, "w", 9, 64)]))
    assert [(r.mvms, r.rows, r.cols, r.weights) for r in plan.runs] == [(64, 9, 1, 9)]
    diagonal = sequential.replace(array={"grouped": "block_diagonal"})
    blocks = [put(i, "w", 252, 28, row=252 * i, col=28 * i) for i in range(2)] + [
        put(2, "w", 72, 8, row=504, col=56)
    ]
    plan = schedule(mapping(diagonal, [mvm("w", 64)], [grouped], blocks))
    assert [(r.mvms, r.rows, r.cols, r.weights) for r in plan.runs] == [
        (1, 252, 28, 252),
        (1, 252, 28, 252),
        (1, 72, 8, 72),
    ]
    # nothing to add: the blocks share no column
    assert sum(step.operations for step in plan.steps) == 0


def test_a_pipeline_is_as_fast_as_its_busiest_resource() -> None:
    chip = _free_moves(at.chips.hermes64())
    operations = [
        mvm("a", 256, vectors=3),
        mvm("b", 256, "a", vectors=5),
        mvm("c", 256, "a", vectors=4),
    ]
    matrices = [matrix(n, 256, 256) for n in "abc"]
    parts = mapping(chip, operations, matrices, [put(i, n, 256, 256) for i, n in enumerate("abc")])
    step = chip.cost.mvm_time.value
    pipelined, sequential = schedule(parts), schedule(parts, mode="sequential")
    assert pipelined.latency == pytest.approx(8 * step)  # b and c at the same time
    assert pipelined.interval == pytest.approx(5 * step)
    assert pipelined.bottleneck == "MVMs of tile 1 of chip 0"
    assert [use.time for use in pipelined.tiles] == pytest.approx([0.6, 1.0, 0.8])
    assert sequential.latency == sequential.interval == pytest.approx(12 * step)
    assert sum(use.busy for use in pipelined.tiles) == pytest.approx(12 * step)


def test_transfers_count_hops_ports_and_partial_sums() -> None:
    chip = at.chips.hermes64()  # 8 tiles in a row of the grid
    operations = [mvm("a", 256), digital("relu", "relu", 256, "a"), mvm("b", 100, "relu")]
    blocks = [put(0, "a", 256, 256), put(10, "a", 44, 256, row=256), put(11, "b", 256, 100)]
    parts = mapping(chip, operations, [matrix("a", 300, 256), matrix("b", 256, 100)], blocks)
    a, relu, b, out = schedule(parts).steps
    # tile 10 is 3 hops from tile 0
    assert (a.port_elements, a.element_hops, a.operations) == (300, 256 * 3, 256)
    assert (relu.place, relu.element_hops, relu.port_elements) == ("chip", 0, 0)
    assert (b.element_hops, b.port_elements) == (256 * 4, 0)
    assert out.port_elements == 100
    moved = cost(parts).energy
    assert moved.chip_communication == pytest.approx(256 * 7 * chip.cost.network.hop_energy.value)
    assert moved.port_communication == pytest.approx(400 * chip.cost.network.chip_energy.value)
    assert moved.chip_digital == pytest.approx(512 * chip.cost.on_chip.energy.value)


def test_what_the_chip_cannot_compute_goes_to_the_host_and_another_chip_costs_two_ports() -> None:
    chip = at.chips.hermes64()
    operations = [
        mvm("a", 256),
        digital("pool", "pool", 64, "a"),
        mvm("b", 256, "pool"),
        mvm("c", 256, "b"),
    ]
    blocks = [put(0, "a", 256, 256), put(1, "b", 64, 256), put(0, "c", 256, 256, chip=1)]
    parts = mapping(
        chip,
        operations,
        [matrix("a", 256, 256), matrix("b", 64, 256), matrix("c", 256, 256)],
        blocks,
    )
    report = cost(parts)
    a, pool, b, c, out = report.schedule.steps
    assert [s.port_elements for s in (a, pool, b, c, out)] == [256, 256, 64, 512, 256]
    assert pool.place == "host"
    assert report.schedule.num_chips == 2
    assert report.energy.host_digital == pytest.approx(64 * chip.cost.host.energy.value)
    assert report.energy.system > report.energy.chip


def test_digital_operations_run_on_the_chips_where_their_result_lies() -> None:
    chip = _free_moves(at.chips.hermes_core())
    rate, step = chip.cost.on_chip.rate.value, chip.cost.mvm_time.value
    operations = [mvm("a", 256), digital("relu", "relu", 256, "a"), mvm("b", 256, "relu")]
    matrices = [matrix("a", 256, 256), matrix("b", 256, 256)]
    blocks = [put(0, "a", 256, 256), put(0, "b", 256, 256, chip=1)]
    found = schedule(mapping(chip, operations, matrices, blocks))
    assert found.num_chips == 2
    assert found.latency == pytest.approx(2 * step + 256 / rate)  # as on one chip
    assert found.bottleneck == "digital operations on chip 0"
    wide = [put(0, "a", 256, 128), put(0, "a", 256, 128, chip=1, col=128), blocks[1]]
    spread = schedule(mapping(chip, operations, matrices, wide))
    assert spread.latency == pytest.approx(2 * step + 128 / rate)


def test_report_says_everything_that_an_efficiency_needs() -> None:
    text = str(cost(keyword_net(at.chips.ibm_speech34())))
    for part in (
        "published    tile",
        "published    chip",
        "published    system",
        "predicted    system",
        "12.4",
        "6.94",
    ):
        assert part in text
    for part in (
        "2 operations per MAC",
        "1 phase",
        "8-bit outputs",
        "76% of their cells",
        "without",
        "assumed",
        "Left out: scale, offset and bias of each column; for layers that scale each input vector",
        "predicted, chip: without scale, offset and bias of columns, chip ports, host, idle power",
    ):
        assert part in text
    assert "chip / tile 0.62, system / chip 0.56" in text
    assert "signed inputs, 2 passes each" in text


def test_a_bare_efficiency_is_refused() -> None:
    efficiency = cost(keyword_net(at.chips.ibm_speech34())).efficiency("tile")
    with pytest.raises(TypeError, match="bare TOPS/W means nothing"):
        float(efficiency)
    with pytest.raises(ValueError, match="say excluded"):
        dataclasses.replace(efficiency, excluded="")
    with pytest.raises(ValueError, match="low <= tops_per_watt <= high"):
        dataclasses.replace(efficiency, low=99.0)
    assert "without" in str(efficiency)


def test_report_is_frozen() -> None:
    report = cost(full(at.chips.hermes64(), 2))
    assert isinstance(report, CostReport)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.macs = 1


def _parts(**changes: object):
    chip = at.chips.hermes64()
    parts = mapping(chip, [mvm("w", 100)], [matrix("w", 100, 100)], [put(0, "w", 100, 100)])
    vars(parts).update(changes)
    return parts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placements": []}, "zero tiles in use: place at least one block"),
        ({"operations": []}, "no operation of kind 'mvm'"),
        ({"operations": [mvm("w", 100, "x")]}, r"takes \['x'\], which do not come before it"),
        ({"operations": [mvm("v", 100)]}, "needs matrix 'v', of which no block is placed"),
        ({"placements": [put(64, "w", 100, 100)]}, "tiles 0 to 63 of 256x256"),
        ({"placements": [put(0, "w", 300, 100)]}, "does not lie on a tile"),
        ({"placements": [put(0, "v", 100, 100)]}, "'v' is placed, which is no matrix"),
        ({"chip": at.chips.ideal()}, "chip 'ideal' has no cost"),
    ],
)
def test_bad_mappings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(_parts(**changes))


def test_a_mapping_of_an_empty_example_has_no_cost() -> None:
    with pytest.raises(
        ValueError, match="multiplies no vector, as its example is empty.*at least one sample"
    ):
        cost(_parts(operations=[mvm("w", 100, vectors=0)]))


def test_branches_take_turns_at_a_port() -> None:
    chip = at.chips.hermes64()
    slow = Figure(value=1e6, kind="assumed", source="the test")
    network = dataclasses.replace(chip.cost.network, link_rate=None, chip_rate=slow)
    chip = dataclasses.replace(chip, cost=dataclasses.replace(chip.cost, network=network))
    blocks = [put(i, name, 200, 1) for i, name in enumerate("abc")]
    parts = mapping(chip, [mvm(n, 1) for n in "abc"], [matrix(n, 200, 1) for n in "abc"], blocks)
    plan = schedule(parts)
    assert plan.bottleneck == "port of chip 0"
    assert plan.interval == pytest.approx(603e-6)  # 3 x 200 in, 3 out
    assert plan.latency == pytest.approx(603e-6 + chip.cost.mvm_time.value)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        cost(_parts(), mode="fast")
    for conductance in (0, -1.0, float("nan"), "half"):
        with pytest.raises(ValueError, match="conductance must be a positive number"):
            cost(_parts(), conductance=conductance)
    assert cost(_parts(), conductance=np.float32(0.5)) == cost(_parts(), conductance=0.5)
    with pytest.raises(ValueError, match=r"names \['v'\], which are no matrices; matrices: w"):
        cost(_parts(), signed_inputs=["v"])
    with pytest.raises(ValueError, match="collection of names"):
        cost(_parts(), signed_inputs="w")
    with pytest.raises(TypeError, match="or have chip, operations, matrices and placements"):
        cost(object())
    with pytest.raises(ValueError, match="scope must be one of"):
        cost(_parts()).efficiency("board")


def test_columns_cut_anywhere_add_up_all_the_same() -> None:
    chip = at.chips.hermes64()
    blocks = [
        put(0, "w", 256, 256),
        put(1, "w", 44, 100, row=256),
        put(2, "w", 44, 156, row=256, col=100),
    ]
    plan = schedule(mapping(chip, [mvm("w", 256, vectors=2)], [matrix("w", 300, 256)], blocks))
    assert plan.steps[0].operations == 2 * 256
    assert plan.steps[0].element_hops == 2 * (100 * 1 + 156 * 2)
    diagonal = chip.replace(array={"grouped": "block_diagonal"})
    grouped = matrix("w", 9, 28, groups=28, kernel=9)
    blocks = [put(0, "w", 252, 20), put(1, "w", 252, 8, col=20)]
    plan = schedule(mapping(diagonal, [mvm("w", 28)], [grouped], blocks))
    assert [run.weights for run in plan.runs] == [180, 72]


def test_a_recurrent_matrix_takes_its_own_results() -> None:
    chip = at.chips.hermes64()
    operations = [mvm("ih", 100, vectors=5), mvm("hh", 100, vectors=5, steps=5)]
    gated = digital("gates", "gates", 500, "ih", "hh")
    operations.append(dataclasses.replace(gated, steps=5))
    blocks = [put(0, "ih", 10, 100), put(1, "hh", 100, 100)]
    plan = schedule(
        mapping(chip, operations, [matrix("ih", 10, 100), matrix("hh", 100, 100)], blocks)
    )
    ih, hh, gates, _ = plan.steps
    assert (ih.port_elements, hh.port_elements) == (50, 0)
    # from hh to where ih lies and the gates are computed, and back
    assert gates.element_hops == hh.element_hops == 500
    assert gates.start == max(ih.finish, hh.finish)


def test_an_embedding_reads_one_row_for_each_token() -> None:
    chip = at.chips.hermes64()
    net = nn.Sequential(nn.Embedding(1000, 256), nn.Linear(256, 10))
    tokens = torch.zeros(1, 8, dtype=torch.long)
    on_chip = at.map_to_chip(at.convert(net, chip, embeddings=True), tokens)
    report = cost(on_chip)
    found, head, _ = report.schedule.steps
    # the tokens are spread over the four row blocks: one ADC output for each dimension
    assert [run.mvms for run in report.schedule.runs if run.operation == "0"] == [2, 2, 2, 2]
    assert {(r.rows, r.cols) for r in report.schedule.runs if r.operation == "0"} == {(1, 256)}
    assert (found.operations, found.element_hops, found.port_elements) == (0, 0, 8)
    assert report.macs == 8 * (256 + 256 * 10)
    assert head.place == "tiles"
    row = chip.cost.mvm(rows=1 / 256, cols=1, cells=256 / 256**2).total
    rest = chip.cost.mvm(rows=1, cols=10 / 256, cells=2560 / 256**2).total
    assert report.energy.tile == pytest.approx(8 * (row + rest))
    # it is looked up where it is digital
    digital_one = at.map_to_chip(net, tokens, exclude="0")
    assert digital_one.digital[0].kind == "embedding"
    assert digital_one.digital[0].operations == 0
    costs = Costs(net, tokens, chip, WeightMemory())
    assert costs.of(Candidate.of({"0": 0}, ["0", "1"])).digital_macs == 0
    assert costs.weights == {"0": 8 * 256, "1": 2560}


def test_one_pulse_of_one_sign_reads_an_embedding() -> None:
    chip = at.chips.ibm_speech34()
    net = at.convert(nn.Sequential(nn.Embedding(20, 8)), chip, embeddings=True)
    mapping = at.map_to_chip(net, torch.zeros(1, 6, dtype=torch.long))
    plan = schedule(at.mapping.ChipMapping.from_json(mapping.to_json()))
    assert [run.mvms for run in plan.runs] == [6]
    assert plan.signed == ()


def test_each_unit_cell_of_a_weight_gets_the_inputs_and_its_results_are_added() -> None:
    chip = at.chips.hermes64()
    operations = [mvm("a", 256, vectors=5), mvm("b", 100, "a", vectors=5)]
    matrices = [matrix("a", 256, 256), matrix("b", 256, 100)]
    matrices = [dataclasses.replace(m, cells=2) for m in matrices]
    blocks = [
        put(0, "a", 256, 256), put(1, "a", 256, 256, copy=1),
        put(2, "b", 256, 100), put(3, "b", 256, 100, copy=1),
    ]  # fmt: skip
    a, b, _ = schedule(mapping(chip, operations, matrices, blocks)).steps
    assert (a.mvms, b.mvms) == (10, 10)
    # the second tile sends its results to the first, from which both of the next take theirs
    assert (a.port_elements, a.element_hops, a.operations) == (5 * 256, 5 * 256, 5 * 256)
    assert (b.port_elements, b.element_hops, b.operations) == (0, 5 * 256 * (2 + 3) + 500, 500)


def test_a_tile_gets_the_inputs_once_for_all_of_its_blocks_with_the_same_rows() -> None:
    chip = at.chips.hermes64()
    operations = [mvm("a", 100, vectors=5), mvm("b", 10, "a", vectors=5)]
    matrices = [matrix("a", 4, 100), dataclasses.replace(matrix("b", 100, 10), cells=2)]
    blocks = [
        put(0, "a", 4, 100),
        put(1, "b", 60, 10), put(1, "b", 60, 10, copy=1),
        put(2, "b", 40, 10, row=60), put(2, "b", 40, 10, row=60, copy=1),
    ]  # fmt: skip
    _, b, _ = schedule(mapping(chip, operations, matrices, blocks)).steps
    # 60 inputs to tile 1 and 40 to tile 2, from where the sums of both cells go to tile 1
    assert b.element_hops == pytest.approx(5 * (60 * 1 + 40 * 2 + 2 * 10 * 1))
    assert b.operations == 5 * 3 * 10
    # the blocks of a tile compute one after the other, the tiles at once
    assert b.mvms == 5 * 4
    assert b.compute == pytest.approx(
        5 * 2 * at.chips.mvm_time(chip).value + b.operations / chip.cost.on_chip.rate.value
    )


@pytest.mark.parametrize("on_chip", [True, False])
def test_a_second_recurrent_layer_takes_its_own_results_too(on_chip: bool) -> None:
    chip = at.chips.hermes64()
    assert chip.cost is not None
    if not on_chip:
        bare = dataclasses.replace(chip.cost.on_chip, kinds=())
        chip = chip.replace(cost=dataclasses.replace(chip.cost, on_chip=bare))
    lstm = nn.LSTM(256, 256, 2, batch_first=True)
    found = at.map_to_chip(lstm, torch.zeros(1, 3, 256), chip=chip)
    first, second = (
        next(s for s in schedule(found).steps if s.operation == f"weight_hh_l{layer}")
        for layer in (0, 1)
    )
    assert first.mvms == second.mvms == 3 * 4
    # four tiles for the inputs of a layer, four for its recurrent matrix, in rows of eight tiles
    assert first.element_hops == second.element_hops
    assert first.port_elements == second.port_elements == (0 if on_chip else 3 * 256)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_digital_recurrent_matrix_is_sent_the_past_results(kind: Any) -> None:
    net = kind(16, 8, bidirectional=True)
    model = at.convert(net, at.chips.hermes64(), exclude="weight_hh_*")
    steps = {s.operation: s for s in schedule(at.map_to_chip(model, torch.zeros(5, 1, 16))).steps}
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        assert steps[name].place == "host"
        assert steps[name].port_elements == 5 * 8  # one vector of past results at each step
        gates = steps[name.replace("hh", "ih") + ".gates"]
        assert gates.place == "chip"
        assert gates.port_elements == 5 * 8 * len(net.weight_hh_l0) // 8


def test_a_table_has_each_figure_with_its_unit_and_its_range(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(64, 200), nn.GELU(), nn.Linear(200, 20))
    report = cost(at.map_to_chip(net, torch.zeros(1, 64), chip=at.chips.hermes64()))
    text = report.to_csv(tmp_path / "cost.csv")
    assert (tmp_path / "cost.csv").read_text() == text
    rows = {row["quantity"]: row for row in csv.DictReader(text.splitlines())}
    assert float(rows["latency"]["value"]) == report.latency
    assert rows["latency"]["unit"] == "s"
    assert rows["latency"]["kind"] == report.time_kind
    consumers = {f.name.replace("_", " ") for f in dataclasses.fields(report.energy)}
    assert {f"energy, {name}" for name in consumers} < set(rows)
    for scope, outside in (
        ("tile", ("host digital", "port communication", "chip digital", "chip communication")),
        ("chip", ("host digital", "port communication")),
        ("system", ()),
    ):
        row = rows[f"energy, {scope}"]
        whole = sum(float(rows[f"energy, {c}"]["value"]) for c in consumers - {*outside})
        assert float(row["value"]) == pytest.approx(whole) == getattr(report.energy, scope)
        splits = (report.energy, report.energy_by_columns, report.energy_full_tiles)
        energies = [getattr(split, scope) for split in splits]
        assert [float(row["low"]), float(row["high"])] == [min(energies), max(energies)]
        assert row["kind"] == report.efficiency(scope).kind
    of_json = json.loads(json.dumps(report.to_dict()))
    assert of_json["energy"]["host_digital"] == float(rows["energy, host digital"]["value"]) > 0
