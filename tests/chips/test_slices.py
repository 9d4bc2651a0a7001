"""Chips with slices: their description, their capacity and their cost."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.devices import BinaryDevice, DifferentialPair, OffsetCell, QuantisedPair
from tests.crossbar import crossbar

BINARY = BinaryDevice(name="binary", g_max=40.0, g_min=2.0, high_std=0.0, low_std=0.0)
PLAIN = crossbar().replace(adc={"noise": 0.0})


def test_files_hold_slices_and_older_ones_have_none(tmp_path) -> None:
    chip = PLAIN.replace(
        slices={"weight_bits": 8, "bits_per_slice": 2, "sources": {"weight_bits": "our design"}}
    )
    for name in ("chip.json", "chip.yaml"):
        assert at.chips.load(at.chips.save(chip, tmp_path / name)) == chip
    data = at.chips.to_dict(PLAIN)
    del data["slices"]
    assert at.chips.from_dict(data) == PLAIN
    assert "our design" in str(chip)


def test_pulses_are_a_non_ideality_that_goes_with_the_dac() -> None:
    chip = PLAIN.replace(slices={"weight_bits": 8, "bits_per_pulse": 1})
    assert "input_pulses" in chip.non_idealities()
    assert chip.pulses == 7
    for gone in ("input_pulses", "dac"):
        assert chip.without(gone).slices == PLAIN.replace(slices={"weight_bits": 8}).slices
    assert chip.scaled(dac=2.0).pulses == 6
    with pytest.raises(ValueError, match="input pulses of 1 bits have no size"):
        chip.scaled(input_pulses=2.0)


def test_what_cannot_be_right_is_refused_with_a_reason() -> None:
    def refused(match: str, **parts) -> None:
        with pytest.raises(ValueError, match=match):
            PLAIN.replace(**parts)

    bits = {"weight_bits": 8}
    refused("needs a DAC whose bits", slices={"bits_per_pulse": 1}, dac={"bits": None})
    refused("rounds each ADC output before", slices=bits, periphery={"output_bits": 8})
    refused("rounds each ADC output", slices={"bits_per_pulse": 1}, periphery={"output_bits": 8})
    refused("takes 7 columns, and Array.columns is 6", slices=bits, array={"columns": 6})
    refused(r"weight_bits must be an integer in \[2, 16\], got 1", slices={"weight_bits": 1})
    refused("more than the magnitude of", slices={"weight_bits": 3, "bits_per_slice": 3})
    refused("Slices.signs must be one of", slices={"signs": "offset"})
    two = {"weight_bits": 8, "bits_per_slice": 2}
    refused(
        "of 2 bits holds the digits -3 to 3, and DifferentialPair would hold -3 in place of -2",
        slices=two,
        cell=DifferentialPair(device=BINARY),
    )
    refused("would hold 1 in place of 0", slices=bits, cell=OffsetCell(device=BINARY, levels=2))
    refused("QuantisedPair would hold", slices=two, cell=QuantisedPair(device=BINARY))
    for cell in (
        DifferentialPair(device=BINARY),
        QuantisedPair(device=BINARY),
        DifferentialPair(device=BINARY, devices_per_polarity=2),
    ):
        PLAIN.replace(slices=bits, cell=cell)
    PLAIN.replace(
        slices=two,
        cell=DifferentialPair(device=BINARY, devices_per_polarity=3, split="sequential"),
    )


@pytest.mark.parametrize("signs", ["magnitude", "complement"])
def test_binary_cells_without_spread_hold_weights_of_8_bits(signs: str) -> None:
    chip = at.chips.ideal().replace(
        array={"rows": 30, "columns": 50},
        cell=DifferentialPair(device=BINARY),
        slices={"weight_bits": 8, "signs": signs, "bits_per_pulse": 1},
        dac={"bits": 8},
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(4, 9, 3), nn.Flatten(), nn.Linear(54, 12)).double()
    model, x = at.convert(net, chip), torch.randn(5, 4, 8).double()
    at.calibrate(model, [x], method="absmax")
    torch.testing.assert_close(
        at.program(model, seed=1).at("programmed")(x), model(x), rtol=1e-6, atol=1e-6
    )


def _cost(chip: at.Chip, layer: nn.Module, x: torch.Tensor) -> at.cost_model.CostReport:
    return at.cost_model.cost(at.map_to_chip(layer, x, chip=chip, num_chips=None))


def test_cost_is_linear_in_columns_and_pulses() -> None:
    layer, x = nn.Linear(256, 64), torch.zeros(1, 256)
    plain = PLAIN.replace(array={"columns": 512})
    base = _cost(plain, layer, x)
    for slices, columns, pulses in (
        ({"weight_bits": 8}, 7, 1),
        ({"weight_bits": 8, "bits_per_slice": 2}, 4, 1),
        ({"weight_bits": 8, "bits_per_slice": 2, "bits_per_pulse": 2}, 4, 4),
        ({"bits_per_pulse": 1}, 1, 7),
    ):
        chip = plain.replace(slices=slices)
        report = _cost(chip, layer, x)
        energy, first = report.energy, base.energy
        assert energy.adc == pytest.approx(columns * pulses * first.adc)
        assert energy.array == pytest.approx(columns * pulses * first.array)
        assert energy.dac == pytest.approx(pulses * first.dac)
        assert sum(run.mvms for run in report.schedule.runs) == pulses
        added = sum(step.operations for step in report.schedule.steps)
        assert added == 64 * (columns * pulses - 1)
        assert report.macs == base.macs
        peak, whole = at.cost_model.peak(chip), at.cost_model.peak(plain)
        assert peak.seconds == pytest.approx(pulses * whole.seconds)
        assert peak.joules == pytest.approx(pulses * whole.joules)
        assert peak.operations == whole.operations // 512 * (512 // columns)
        covered = chip.replace(cost={"covers_slices": True})
        report = _cost(covered, layer, x)
        assert sum(run.mvms for run in report.schedule.runs) == 1
        assert report.energy.adc == pytest.approx(columns * first.adc)
        assert not any(step.operations for step in report.schedule.steps)
        assert at.cost_model.peak(covered).seconds == whole.seconds


def test_partial_sums_travel_once_they_are_added_up() -> None:
    layer, x = nn.Linear(600, 30), torch.zeros(1, 600)
    plain = PLAIN.replace(array={"columns": 256})
    chip = plain.replace(slices={"weight_bits": 8}, cost={"covers_slices": True})
    first, report = (_cost(each, layer, x).schedule for each in (plain, chip))
    assert sum(s.operations for s in report.steps) == sum(s.operations for s in first.steps) == 60


@pytest.mark.parametrize("grouped", ["sequential", "block_diagonal"])
def test_a_mapping_holds_whole_weights_and_programs_the_chip(grouped: str) -> None:
    chip = PLAIN.replace(
        array={"rows": 40, "columns": 50, "grouped": grouped},
        slices={"weight_bits": 6, "bits_per_pulse": 3},
    )
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(6, 12, 3, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 37), nn.Linear(37, 9)
    )
    model, x = at.convert(net, chip), torch.randn(4, 6, 8)
    at.calibrate(model, [x])
    mapping = at.map_to_chip(model, x[:1], num_chips=None)
    text = str(mapping)
    assert ("zeros of block-diagonal" in text) == (grouped == "block_diagonal")
    for placement in mapping.placements:
        assert placement.block.cols % 5 == placement.block.col % 5 == 0
        assert placement.col + placement.block.cols <= 50
    assert mapping.cells >= 5 * mapping.weights
    assert at.mapping.chips_needed(chip, chip.capacity) == 1
    assert chip.capacity == chip.array.tiles * 40 * 10
    cost = at.cost_model.cost(mapping)
    assert cost.energy.tile > 0
    # devices are keyed by their place in the layer, and errors of ADCs by that on the tile
    placed = at.program(model, seed=1, mapping=mapping).at("1 day")(x)
    torch.testing.assert_close(placed, at.program(model, seed=1).at("1 day")(x))
    retired = at.map_to_chip(model, x[:1], num_chips=None, retired_columns=[(0, 0, 3)])
    assert all(p.block.cols % 5 == 0 for p in retired.placements)


def test_attention_and_recurrent_layers_are_mapped_and_programmed() -> None:
    chip = PLAIN.replace(array={"rows": 32, "columns": 64}, slices={"weight_bits": 4})
    torch.manual_seed(0)
    for net, x in (
        (nn.LSTM(8, 12), torch.randn(3, 2, 8)),
        (
            nn.TransformerEncoderLayer(16, 2, 20, dropout=0.0, batch_first=True),
            torch.randn(2, 3, 16),
        ),
    ):
        model = at.convert(net, chip).eval()
        mapping = at.map_to_chip(model, x, num_chips=None)
        y = at.program(model, seed=1, mapping=mapping).at("0 s")(x)
        y = y[0] if isinstance(y, tuple) else y
        assert y.isfinite().all()
        assert at.cost_model.cost(mapping).latency > 0


def test_calibration_sweeps_budgets_and_checkpoints_work(tmp_path) -> None:
    chip = PLAIN.replace(
        array={"rows": 40, "columns": 50}, adc={"noise": 0.01, "gain_std": 0.02, "bits": 9},
        slices={"weight_bits": 5, "bits_per_slice": 2, "bits_per_pulse": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 9))
    model, x = at.convert(net, chip), torch.randn(64, 6, 8)
    for options in ({"adc": "mse", "adc_per": "column"}, {"adc": "mse"}, {"per": "tile"}, {}):
        at.calibrate(model, [x[:32], x[32:]], **options)
    at.calibrate(model, [x[:32], x[32:]], adc="mse", adc_per="column")
    assert model[3].adc_ranges.shape == (2, 9 * 2)
    at.save(model, tmp_path / "model")
    fresh = nn.Sequential(nn.Conv1d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 9))
    other = at.load(tmp_path / "model", fresh).eval()
    torch.testing.assert_close(other(x), model.eval()(x))
    exact = at.to_digital(other)(x).detach()

    def metric(m: nn.Module) -> float:
        return 1.0 - ((m(x) - exact).norm() / exact.norm()).item()

    at.sweep(model, metric, times=("0 s", "1 day"), num_chips=2)
    assert "Linear" in str(at.summary(model))
    at.sensitivity(model, metric, num_chips=1)
    view = at.program(model, seed=1).at("1 day")
    before = metric(view)
    at.correct_columns(view, [x])
    assert metric(view) > before - 0.01
    assert at.program(model, seed=1).recalibration_cost().mvms > 0


@pytest.mark.parametrize("method", [at.ProgramAndVerify(rounds=5), at.GradientDescent(rounds=5)])
def test_closer_programming_writes_each_slice(method) -> None:
    chip = PLAIN.replace(slices={"weight_bits": 5, "bits_per_slice": 2})
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(60, 20)), torch.randn(50, 60)
    model = at.convert(net, chip).eval()
    errors = [
        (at.program(model, seed=1, method=m).at("programmed")(x) - model(x)).norm()
        for m in (None, method)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("phases", [1, 4])
def test_phases_faults_and_read_noise_reach_each_slice(phases: int) -> None:
    chip = PLAIN.replace(
        array={"rows": 40, "columns": 50}, slices={"weight_bits": 4, "bits_per_pulse": 2},
        adc={"separate_phases": phases == 4, "offset_std": 0.01},
        mvm_read_noise={"std": at.devices.SquareRoot(scale=0.0175)},
        wires={"column_resistance": 1.0},
    )  # fmt: skip
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(60, 20)), torch.randn(50, 60)
    model = at.convert(net, chip)
    exact = model.eval()(x)
    model.train()(x).sum().backward()
    defects = at.Defects(stuck_off=0.01, columns=0.02)
    physical = at.program(model.eval(), seed=1, defects=defects)
    found = physical.at("1 day")(x)
    assert 0.01 < (found - exact).norm() / exact.norm() < 0.7
    assert physical.yield_map().states
