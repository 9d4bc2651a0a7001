"""Broken cells, columns and tiles, by chip seed and physical position."""

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.tile_state import tile_state
from tests.crossbar import crossbar

CHIP = crossbar()


def _model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.Flatten(), nn.Linear(8 * 36, 20, bias=False)
    )
    return at.convert(layers, CHIP.replace(array={"rows": 64, "columns": 8}, adc={"noise": 0.0}))


def test_shares_and_spreads_are_as_asked() -> None:
    defects = Defects(cells=0.02, columns=0.05, tile_gain=0.1)
    states = [
        tile_state(CHIP.replace(adc={"gain_std": 0.07}), defects, 7, 0, tile) for tile in range(64)
    ]
    # 4.2 million cells: the standard error of a share of 0.07 is 0.0001, that of the 16,384
    # columns' 0.0017
    failed = 1 - sum(s.share for s in states) / 64
    assert failed == pytest.approx(1 - 0.98 * 0.95, abs=0.006)
    gains = torch.stack([s.errors[0] * s.columns for s in states])
    assert (gains == 0).float().mean().item() == pytest.approx(0.05, abs=0.006)
    within = torch.stack([(g[g > 0] / g[g > 0].mean()).std() for g in gains]).mean().item()
    assert within == pytest.approx(0.07, rel=0.05)
    means = torch.stack([g[g > 0].mean() for g in gains])
    assert means.std().item() == pytest.approx(0.1, rel=0.3)


def test_one_tile_of_each_chip_is_the_worst() -> None:
    """Le Gallo 2023: more than 99 % of the cells work on 63 of 64 tiles, 98.4 % on the worst."""
    defects, found = Defects(cells=0.005, worst_tile=0.016), []
    for seed, number in ((7, 0), (7, 1), (8, 0)):
        shares = torch.tensor(
            [tile_state(CHIP, defects, seed, number, tile).share for tile in range(64)]
        )
        worst = int(shares.argmin())
        found.append(worst)
        # the standard error is 0.0005
        assert shares[worst].item() == pytest.approx(0.984, abs=0.002)
        assert (shares.sort().values[1:] > 0.99).all()
        state = tile_state(CHIP, Defects(cells=0.005), seed, number, worst)
        assert not (tile_state(CHIP, defects, seed, number, worst).works & ~state.works).any()
    assert len(set(found)) > 1
    same = Defects(cells=0.02, worst_tile=0.016)
    assert all(
        tile_state(CHIP, same, 7, 0, t).share
        == tile_state(CHIP, Defects(cells=0.02), 7, 0, t).share
        for t in range(3)
    )


def test_a_tile_is_the_same_whoever_asks_and_others_differ() -> None:
    defects = Defects(cells=0.1)
    one = tile_state(CHIP, defects, 7, 0, 3).works
    assert torch.equal(one, tile_state(CHIP, defects, 7, 0, 3).works)
    more = tile_state(CHIP, Defects(cells=0.2), 7, 0, 3).works
    assert not (more & ~one).any()  # a worse process breaks further cells of the same chip
    for other in ((8, 0, 3), (7, 1, 3), (7, 0, 4)):
        agree = (tile_state(CHIP, defects, *other).works == one).float().mean().item()
        assert agree == pytest.approx(0.9**2 + 0.1**2, abs=0.01)


def test_failed_cells_are_zero_in_the_weights_of_their_place() -> None:
    model, defects = _model(), Defects(cells=0.1)
    physical = at.program(model, seed=5, defects=defects)
    weights = physical.at("1 day")[0].programmed.weights[0].flatten(1)
    state = tile_state(model[0].chip, defects, 5, 0, 0)  # the first block lies on the first tile
    works = state.works[:27, :8].T
    assert (weights[~works] == 0).all()
    assert (weights[works] != 0).float().mean() > 0.9
    assert 0 < (~works).sum() < 60


def test_failed_cells_leave_the_reference_column() -> None:
    """By hand: a reference lies in a column of its own, so that a failed cell holds -1."""
    found = []
    for reference in ("constant", "column"):
        cell = at.devices.OffsetCell(device=at.devices.ideal_device(), reference=reference)
        chip = at.chips.ideal().replace(cell=cell)
        torch.manual_seed(0)
        model = at.convert(nn.Sequential(nn.Linear(64, 32, bias=False)), chip)
        physical = at.program(model, seed=0, defects=Defects(cells=0.05, worst_tile=0.1))
        held = physical.at("programmed", compensation="none")[0].programmed
        found.append(held.weights[0] / held.scales[0][0].unsqueeze(1))
        state = physical.yield_map()[0, 0]
        assert state.shares()["cells"] == 1 - state.share
        works = state.works[:64, :32].T
        assert (found[-1][~works] == -1).all()
    torch.testing.assert_close(*found)


def test_dead_columns_and_tiles_read_zero() -> None:
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(
        at.program(_model(), seed=1, defects=Defects(tiles=1.0)).at("1 h")(x), torch.zeros(4, 20)
    )
    model = _model()
    physical = at.program(model, seed=2, defects=Defects(columns=0.3))
    dead = ~tile_state(model[0].chip, Defects(columns=0.3), 2, 0, 0).works.any(0)
    y = physical.at("1 h")[0](x)
    assert dead.any()
    assert torch.equal(y[:, dead], torch.zeros_like(y[:, dead]))
    assert y[:, ~dead].abs().amin(dim=(0, 2, 3)).max() >= 0
    assert (y[:, ~dead].abs().sum((0, 2, 3)) > 0).all()


def test_calibrated_drift_correction_finds_the_gain_of_a_tile() -> None:
    model, x = _model(), torch.randn(64, 3, 8, 8)
    defects, exact = Defects(tile_gain=0.2), model.eval()(x)

    def error(compensation: str) -> float:
        y = at.program(model, seed=3, defects=defects).at("0 s", compensation=compensation)(x)
        return ((y - exact).norm() / exact.norm()).item()

    # `global` compares the chip with itself after programming and keeps the gain; least squares
    # asks for the weights
    assert error("least_squares") < 0.8 * error("global")


def test_the_yield_map_is_of_the_tiles_in_use() -> None:
    physical = at.program(_model(), seed=1, defects=Defects(cells=0.05))
    states = physical.yield_map()
    assert list(states) == [(0, tile) for tile in range(1 + 5 * 3)]
    assert all(0.8 < s.share < 1 for s in states.values())
    assert all(s.share == 1 for s in at.program(_model(), seed=1).yield_map().values())


def test_defects_follow_the_placement() -> None:
    from analogtorch.mapping import map_to_chip

    model, defects = _model(), Defects(cells=0.1)
    mapping = map_to_chip(model, torch.zeros(1, 3, 8, 8), chip=model[0].chip)
    seen = at.program(model, seed=5, defects=defects, mapping=mapping).at("1 day")
    for name in ("0", "2"):
        layer = seen.get_submodule(name)
        weights, bounds = layer.programmed.weights[0].flatten(1), layer.sections[0].bounds
        for p in mapping.matrix_blocks(name):
            works = tile_state(layer.chip, defects, 5, p.chip, p.tile).works
            there = works[p.row : p.row + p.block.rows, p.col : p.col + p.block.cols].T
            part = weights[
                p.block.col : p.block.col + p.block.cols, p.block.row : p.block.row + p.block.rows
            ]
            assert p.block.row in bounds
            assert (part[~there] == 0).all()
            # both devices of a pair may be clamped at 0
            assert (part[there] != 0).float().mean() > 0.9
    around = at.remap(mapping, retired=[(0, 0)])
    assert all((p.chip, p.tile) != (0, 0) for p in around.placements)
    again = at.program(model, seed=5, defects=defects, mapping=around)
    assert (0, 0) not in again.yield_map()


def test_a_mapping_of_another_model_is_refused() -> None:
    from analogtorch.mapping import map_to_chip

    model = _model()
    other = map_to_chip(nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4), chip=model[0].chip)
    with pytest.raises(ValueError, match="no matrix of layer '2'|agree"):
        at.program(model, seed=1, defects=Defects(cells=0.1), mapping=other)
    wrong = map_to_chip(model, torch.zeros(1, 3, 8, 8), chip=CHIP)
    with pytest.raises(
        ValueError,
        match="the mapping is for chip .*64 tiles of 256x256.*64 tiles of 64x8.*converted for",
    ):
        at.program(model, seed=1, mapping=wrong)


def test_a_single_layer_and_layers_with_one_weight_find_their_place() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    for made in (nn.Linear(6, 5), Tied()):
        model = at.convert(made, CHIP)
        mapping = at.remap(at.map_to_chip(model, torch.zeros(1, 6), chip=CHIP), retired=[(0, 0)])
        physical = at.program(model, seed=1, defects=Defects(cells=0.5), mapping=mapping)
        assert list(physical.yield_map()) == [(0, 1)]
        physical.at("1 h")(torch.zeros(1, 6))


def test_layers_that_the_mapping_leaves_out_are_named_with_the_remedy() -> None:
    model = at.convert(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), CHIP)
    mapping = at.map_to_chip(model, torch.zeros(1, 6), chip=CHIP, exclude="1")
    with pytest.raises(
        ValueError, match=r"no matrix of layer '1': it was excluded, or the map.*exclude=\['1'\]"
    ):
        at.program(model, seed=1, mapping=mapping)


def test_layers_on_one_tile_meet_its_failed_columns_where_they_lie() -> None:
    torch.manual_seed(0)
    chip = CHIP.replace(adc={"noise": 0.0, "gain_std": 0.1})
    model = at.convert(nn.Sequential(nn.Linear(64, 12), nn.Linear(12, 9)), chip)
    mapping = at.map_to_chip(model, torch.zeros(1, 64), chip=model[0].chip)
    assert mapping.tiles_used == 1
    defects = Defects(columns=0.3)
    state = tile_state(chip, defects, 4, 0, 0)
    gain = state.errors[0] * state.columns
    view = at.program(model, seed=4, defects=defects, mapping=mapping).at(
        "programmed", compensation="none"
    )
    for placement in mapping.placements:
        layer = view.get_submodule(placement.block.matrix)
        assert torch.equal(
            layer.programmed.gains[0][0], gain[placement.col : placement.col + placement.block.cols]
        )


@pytest.mark.parametrize(
    "changes",
    [{"cells": -0.1}, {"worst_tile": 1.5}, {"columns": 1.1}, {"tiles": 2}, {"tile_gain": -1.0}],
)
def test_bad_shares_are_refused(changes: dict) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf"Defects.{name} must .*{value}"):
        Defects(**changes)
    with pytest.raises(ValueError, match="tiles 0 to 63, got 64"):
        tile_state(CHIP, Defects(), 1, 0, 64)


def test_of_copies_that_share_vectors_the_first_is_simulated_with_a_warning() -> None:
    torch.manual_seed(0)
    chip = at.chips.hermes64()
    model = at.convert(nn.Sequential(nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 10)), chip)
    x = torch.randn(4, 300)
    once = at.program(model, seed=1, mapping=at.map_to_chip(model, x[:1]))  # and no warning
    copied = at.map_to_chip(model, x[:1], duplicate={"0": 3})
    with pytest.warns(UserWarning, match="holds '0' 3 times, and the first copy alone is simulat"):
        found = at.program(model, seed=1, mapping=copied)
    assert found.writes().devices == once.writes().devices
    assert found.recalibration_cost().mvms == once.recalibration_cost().mvms
    # the unit cells of a weight that takes several are no copies, and all are simulated
    wide = at.convert(nn.Linear(300, 40), chip)
    wide.chip = chip.replace(cell={"devices_per_polarity": 2})
    twice = at.map_to_chip(wide, x[:1], chip=chip)
    assert list(twice.copies.values()) == [2]
    at.program(wide, seed=1, mapping=twice)
