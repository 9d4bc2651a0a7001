"""Yield maps: what works on each tile, and the analog yield of a programmed chip."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.conversion import analog_layers
from analogtorch.simulate.faults import CODES, FAULTS
from analogtorch.simulate.tiles import consecutive
from analogtorch.simulate.transfer import adc_inl
from analogtorch.simulate.yield_map import YieldMap
from tests.crossbar import crossbar

CHIP = crossbar().replace(array={"rows": 64, "columns": 32, "tiles": 4})
DEFECTS = at.Defects(stuck_on=0.02, open_rows=0.05, short_columns=0.05)


def _model(chip: at.Chip = CHIP) -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Sequential(nn.Linear(100, 60, bias=False)), chip)


def test_every_tile_of_a_chip_has_a_state() -> None:
    found = at.yield_map(CHIP, DEFECTS, seed=7, number=2)
    assert list(found) == [(2, tile) for tile in range(4)]
    assert found.analog_yield is None
    share = f"{found[2, 0].share:.1%}"
    assert repr(found[2, 0]) == f"TileState(64 x 32 cells, {share} of which work)"
    mean = sum(state.shares()["stuck_on"] for state in found.values()) / 4
    assert found.share("stuck_on") == mean > 0
    assert found.working == sum(state.share for state in found.values()) / 4 < 1


def test_tiles_of_several_sizes_count_by_what_they_have() -> None:
    small = CHIP.replace(array={"rows": 16, "columns": 8})
    big_tile = at.yield_map(CHIP, DEFECTS, seed=7)[0, 0]
    tile = at.yield_map(small, DEFECTS, seed=7)[0, 3]
    found = YieldMap(states={(0, 0): big_tile, (1, 3): tile})
    works = torch.cat([big_tile.works.flatten(), tile.works.flatten()])
    assert found.working == pytest.approx(works.double().mean().item())
    rows = torch.cat([big_tile.row_faults, tile.row_faults]) == CODES["open_rows"]
    assert found.share("open_rows") == pytest.approx(rows.double().mean().item())
    both = [big_tile.faults.flatten(), tile.faults.flatten()]
    stuck = torch.cat(both) == CODES["stuck_on"]
    assert found.share("stuck_on") == pytest.approx(stuck.double().mean().item())
    columns = torch.cat([big_tile.column_faults, tile.column_faults]) == CODES["short_columns"]
    assert found.share("short_columns") == pytest.approx(columns.double().mean().item())


def test_analog_yield_is_the_share_of_weights_near_their_targets() -> None:
    """The definition of the 34-tile chip, by hand."""
    model = _model()
    physical = at.program(model, seed=3, defects=DEFECTS)
    held = physical.at("programmed", compensation="none")[0].programmed
    w, found = model[0].weight.detach(), physical.yield_map()
    section = physical._placed["0"][0]
    for (tile, errors), block in zip(found.errors.items(), section.blocks, strict=True):
        part = (block.outputs, block.rows)
        full = w[part].abs().amax()
        wrong = ((held.weights[0][part] - w[part]) / full).abs()
        assert errors.weights == wrong.numel()
        assert errors.analog_yield == pytest.approx((wrong <= 0.2).double().mean().item(), abs=1e-3)
        assert errors.low < 0 < errors.high
        assert errors.spread == errors.high - errors.low
        assert tile in found
    assert 0.8 < found.analog_yield < 1
    assert physical.yield_map(within=0.0).analog_yield < 0.1
    assert at.program(model, seed=3).yield_map(within=1.0).analog_yield == 1
    assert at.program(_model(at.chips.ideal()), seed=3).yield_map(within=0.0).analog_yield == 1


def test_layers_on_chips_of_other_sizes_share_no_tile() -> None:
    """One tile held two blocks: 16 x 16 cells, 512 weights."""
    chip = crossbar(adc={"gain_std": 0.1}).replace(array={"rows": 16, "columns": 16, "tiles": 1})
    other = chip.replace(array={"tiles": 2}, name="other")
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16, bias=False) for _ in range(4)]
    model = at.convert(nn.Sequential(*layers), chip, per_layer={"1": other, "3": other})
    physical = at.program(model, seed=3)
    assert "on 4 tiles" in repr(physical)
    found = physical.yield_map()
    assert [each.weights for each in found.errors.values()] == [256] * 4
    assert sorted(found) == [(0, 0), (1, 0), (2, 0), (2, 1)]  # no two draw the same errors
    gains = [state.errors[0] for state in found.values()]
    assert not any(torch.equal(a, b) for i, a in enumerate(gains) for b in gains[:i])
    for (number, tile), state in found.items():
        where = other if number == 2 else chip
        alone = at.yield_map(where, at.Defects(), seed=3, number=number)[number, tile]
        assert torch.equal(state.errors, alone.errors)


def test_tiles_of_other_sizes_draw_other_defects() -> None:
    """Row 16 of the first tile drew as row 0 of a tile of 16 rows at position 1."""
    chip = crossbar(adc={"dnl_std": 0.1}).replace(array={"rows": 64, "columns": 32, "tiles": 1})
    arrays = ({"rows": 16}, {"rows": 128, "columns": 8, "tiles": 2}, {"columns": 64})
    others = [chip.replace(array=each, name=str(i)) for i, each in enumerate(arrays, 1)]
    torch.manual_seed(0)
    layers = nn.Sequential(*[nn.Linear(32, 8) for _ in range(4)])
    model = at.convert(layers, chip, per_layer={each.name: each for each in others})
    physical = at.program(model, seed=7, defects=at.Defects(stuck_on=0.5, on_level=0.5))
    rows = [row for state in physical.yield_map().values() for row in state.levels[0, :, :8]]
    assert len(torch.stack(rows).unique(dim=0)) == len(rows)
    curves = [
        curve
        for name, layer in model.named_children()
        for part in consecutive(analog_layers(model))[name][0]
        for curve in adc_inl(layer.chip, 7, part.chip, part.tile)
    ]
    assert len(torch.stack(curves).unique(dim=0)) == len(curves)


def test_numbers_of_chips_stay_small_however_sizes_alternate() -> None:
    small = crossbar().replace(array={"rows": 16, "columns": 16, "tiles": 1})
    large, names = small.replace(array={"tiles": 64}, name="large"), [str(i) for i in range(24)]
    layers = nn.Sequential(*[nn.Linear(16, 16, bias=False) for _ in names])
    model = at.convert(layers, small, per_layer=dict.fromkeys(names[::2], large))
    parts = consecutive(analog_layers(model))
    tiles = [(parts[name][0][0].chip, parts[name][0][0].tile) for name in names]
    assert tiles[::2] == [(0, tile) for tile in range(12)]
    assert tiles[1::2] == [(64 + number, 0) for number in range(12)]


def test_layers_on_chips_of_one_size_fill_them_tile_by_tile() -> None:
    chip = CHIP.replace(adc={"noise": 0.1}, name="noisy")
    torch.manual_seed(0)
    layers = [nn.Linear(64, 32 * n, bias=False) for n in (3, 2, 1)]
    model = at.convert(nn.ModuleList(layers), CHIP, per_layer={"1": chip})
    found = at.program(model, seed=3).yield_map()
    assert list(found) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]


def test_columns_without_output_hold_no_weights() -> None:
    physical = at.program(_model(), seed=3, defects=at.Defects(columns=1.0))
    within = _model()[0].weight
    share = (within.abs() <= 0.2 * within.abs().amax()).float().mean().item()
    assert physical.yield_map().analog_yield == pytest.approx(share, abs=0.01)


def test_the_table_lists_the_faults_that_occur() -> None:
    found = at.program(_model(), seed=3, defects=DEFECTS).yield_map()
    text = str(found)
    header = text.splitlines()[0]
    for fault in FAULTS:
        assert (fault.title in header) == (fault.field in DEFECTS.present())
    assert "analog yield" in header
    assert "within 20%" in text
    assert f"{100 * found.working:.3f}" in text
    bare = str(at.yield_map(CHIP, at.Defects(), seed=1))
    assert "analog yield" not in bare
    assert "100.000" in bare


def test_the_plot_shows_each_tile(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    found = at.yield_map(CHIP, DEFECTS, seed=7)
    figure = found.plot(tmp_path / "yield.png")
    assert (tmp_path / "yield.png").stat().st_size > 1000
    assert len(figure.axes) == 4
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert shown == {"works", "stuck on", "open row", "short column"}
    with pytest.raises(ValueError, match=r"\.png"):
        found.plot(tmp_path / "yield.doc")


def test_bad_arguments_are_refused() -> None:
    found = at.yield_map(CHIP, DEFECTS, seed=7)
    with pytest.raises(ValueError, match=r"got 'stuck_onn', did you mean 'stuck_on'\?"):
        found.share("stuck_onn")
    with pytest.raises(TypeError, match="yield_map: chip must be a Chip"):
        at.yield_map("hermes64", DEFECTS, seed=7)
    with pytest.raises(TypeError, match="yield_map: defects must be a Defects"):
        at.yield_map(CHIP, 0.01, seed=7)
    with pytest.raises(ValueError, match="yield_map: number must be an integer >= 0"):
        at.yield_map(CHIP, DEFECTS, seed=7, number=-1)
    with pytest.raises(TypeError):
        at.yield_map(CHIP, DEFECTS, seed=1.5)
    with pytest.raises(ValueError, match="yield_map: within must be a number >= 0"):
        at.program(_model(), seed=1).yield_map(within=-1)
