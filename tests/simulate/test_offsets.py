"""Offsets of the ADCs: drawn once for each column of a chip, by its seed and physical position."""

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.chips import ADC_ERRORS
from analogtorch.ops import in_steps
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.tile_state import adc_errors, tile_state
from tests.crossbar import crossbar

KINDS = [error.kind for error in ADC_ERRORS]
GAIN, OFFSET = map(KINDS.index, ("gain", "offset"))
CHIP = at.chips.hermes64().replace(adc={"offset_std": 0.02})


def _offsets(seed: int, number: int, tile: int, chip: at.Chip = CHIP) -> Tensor:
    return adc_errors(chip, seed, number, tile)[OFFSET]


def test_offsets_belong_to_the_tile_of_a_chip() -> None:
    drawn = torch.stack([_offsets(7, 0, tile) for tile in range(64)])
    assert drawn.dtype == torch.float32
    # 16,384 columns: standard errors of 0.00011 and 0.00016
    assert drawn.std().item() == pytest.approx(0.02, abs=0.0005)
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.0007)
    # normal: the share beyond two standard deviations is 0.0455, its standard error 0.0016
    assert (drawn.abs() > 0.04).float().mean().item() == pytest.approx(0.0455, abs=0.007)
    assert torch.equal(_offsets(7, 0, 5), drawn[5])
    for other in ((8, 0, 5), (7, 1, 5), (7, 0, 6)):
        assert abs(torch.corrcoef(torch.stack([_offsets(*other), drawn[5]]))[0, 1]) < 4.5 / 16
    assert torch.equal(_offsets(7, 0, 5, crossbar()), torch.zeros(256))


def test_gains_and_offsets_are_drawn_apart() -> None:
    gains, offsets = adc_errors(CHIP, 7, 0, 5)[[GAIN, OFFSET]]
    assert torch.equal(gains, adc_errors(at.chips.hermes64(), 7, 0, 5)[GAIN])
    assert torch.equal(offsets, _offsets(7, 0, 5, CHIP.replace(adc={"gain_std": 0.0})))
    assert abs(torch.corrcoef(torch.stack([gains, offsets]))[0, 1]) < 4.5 / 16
    twice = _offsets(7, 0, 5, CHIP.scaled(adc_offset=2.0))
    assert torch.equal(twice, 2 * offsets)


def test_a_layer_has_the_offsets_of_its_position_on_any_tiling() -> None:
    torch.manual_seed(0)
    chip = CHIP.replace(periphery={"column_calibration": False})
    model = at.convert(nn.Sequential(nn.Linear(300, 20), nn.Linear(20, 9)), chip)
    mapping = at.map_to_chip(model, torch.zeros(1, 300), chip=chip)
    outputs = []
    for where in (mapping, at.remap(mapping, retired=[(0, 0)])):
        physical = at.program(model, seed=4, mapping=where)
        view = physical.at("programmed")
        for p in where.placements:
            layer = view.get_submodule(p.block.matrix)
            block = layer.sections[0].bounds.index(p.block.row)
            columns = slice(p.block.col, p.block.col + p.block.cols)
            expected = _offsets(4, p.chip, p.tile, chip)[p.col : p.col + p.block.cols]
            assert torch.equal(layer.programmed.adc_errors[0][OFFSET, block, columns], expected)
        outputs.append(view(torch.ones(1, 300)))
    assert not torch.allclose(*outputs, atol=1e-3)
    # smaller tiles: the first columns of a tile are those of the larger one only by their position
    small = chip.replace(array={"rows": 64, "columns": 8})
    held = at.program(at.convert(nn.Linear(128, 20), small), seed=4).at("programmed").programmed
    for block in range(2):
        for number, first in enumerate((0, 8, 16)):
            tile, width = 3 * block + number, min(8, 20 - first)
            found = held.adc_errors[0][OFFSET, block, first : first + width]
            assert torch.equal(found, _offsets(4, 0, tile, small)[:width])


def test_columns_that_fail_give_nothing_in_spite_of_their_offset() -> None:
    model = at.convert(nn.Linear(64, 40, bias=False), CHIP)
    defects = Defects(columns=0.3)
    failed = ~tile_state(CHIP, defects, 2, 0, 0).columns[:40]
    view = at.program(model, seed=2, defects=defects).at("1 day")
    y = view(torch.randn(5, 64))
    assert 0 < failed.sum() < 40
    assert not y[:, failed].any()
    assert y[:, ~failed].any()


def test_training_and_evaluation_have_no_offsets() -> None:
    outputs = []
    for std in (0.0, 0.05):
        torch.manual_seed(0)
        chip = CHIP.replace(adc={"offset_std": std})
        layer, x = at.convert(nn.Linear(20, 8), chip), torch.ones(2, 20)
        with at.noise(1):
            outputs.append((layer(x), layer.eval()(x)))
    assert all(map(torch.equal, *outputs))


@pytest.mark.parametrize("phases", [1, 2])
def test_the_offset_is_added_to_each_adc_output_before_it_is_clipped(phases: int) -> None:
    """So that two outputs of opposite sign take it back from each other where none clips."""
    from analogtorch.ops import Plan, mvm

    x, w = torch.randn(6, 10), torch.randn(4, 10)
    errors = torch.ones(len(ADC_ERRORS), 1, 4)
    errors[OFFSET] = torch.tensor([0.5, -0.25, 0.1, 0.0])
    bound = 2.0 * w.abs().amax(1)
    plan = Plan(bounds=(0, 10), output_bits=6, adc_range=2.0, phases=phases)
    y = mvm(x, torch.ones(1), w, plan, adc_errors=errors)
    parts = [x] if phases == 1 else [x.clamp_min(0), (-x).clamp_min(0)]
    outputs = [in_steps(p @ w.T + errors[OFFSET] * bound, bound, 31) for p in parts]
    expected = outputs[0] if phases == 1 else outputs[0] - outputs[1]
    assert torch.allclose(y, expected, atol=1e-5)


def test_an_offset_is_there_without_an_adc_that_rounds() -> None:
    x, layer = torch.randn(5, 20), nn.Linear(20, 8, bias=False)
    chip = at.chips.ideal().replace(adc={"offset_std": 0.1})
    held = at.program(at.convert(layer, chip), seed=3).at("programmed")
    held.set_input_range(2.0)
    offsets = _offsets(3, 0, 0, chip)[:8] * chip.adc.range * 2.0 * held.programmed.scales[0][0]
    assert torch.allclose(held(x) - nn.functional.linear(x, layer.weight), offsets, atol=1e-4)


@pytest.mark.parametrize("compensation", ["none", "global", "column", "least_squares"])
def test_factors_of_drift_are_as_good_with_offsets(compensation: str) -> None:
    """Cells are read against a read without input; random inputs have offsets of either sign."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 64, bias=False)
    found = []
    for std in (0.0, 0.01):
        chip = at.chips.hermes64().replace(adc={"offset_std": std})
        physical = at.program(at.convert(nn.Sequential(layer), chip), seed=2)
        found.append(physical.at("1 day", compensation=compensation)[0].programmed.gains[0])
    assert torch.allclose(*found, rtol=0.05)
    assert (found[0] / found[1] - 1).mean().abs() < 0.005


def test_a_chip_with_offsets_travels_as_a_file_and_older_files_have_none(tmp_path) -> None:
    path = tmp_path / "chip.yaml"
    at.chips.save(CHIP, path)
    assert at.chips.load(path) == CHIP
    data = at.chips.to_dict(at.chips.hermes64())
    del data["adc"]["offset_std"]
    assert at.chips.from_dict(data) == at.chips.hermes64()
    for wrong in (-0.1, float("nan"), "0.1"):
        with pytest.raises((ValueError, TypeError), match="offset_std"):
            CHIP.replace(adc={"offset_std": wrong})
    assert "adc_offset" in CHIP.non_idealities()
    assert CHIP.without("adc_offset") == at.chips.hermes64()
