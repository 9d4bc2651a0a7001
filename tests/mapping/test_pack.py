import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import analogtorch as at
from analogtorch.cost_model import cost
from analogtorch.mapping import ChipMapping, map_to_chip
from analogtorch.mapping.bins import Bin
from analogtorch.mapping.demand import Demand, exchange
from analogtorch.mapping.pack import pack
from analogtorch.mapping.types import Block


def _block(name: str, rows: int, cols: int, copy: int = 0) -> Block:
    return Block(matrix=name, row=0, col=0, rows=rows, cols=cols, copy=copy)


def check(mapping: ChipMapping) -> None:
    """Check that every weight is there once per copy, by painting tiles and matrices cell by cell.

    It does not use the package's own check.
    """
    chip = mapping.chip
    tiles: dict[tuple[int, int], torch.Tensor] = {}
    for p in mapping.placements:
        tile = tiles.setdefault(
            (p.chip, p.tile), torch.zeros(chip.array.rows, chip.array.columns, dtype=torch.int8)
        )
        painted = tile[p.row : p.row + p.block.rows, p.col : p.col + p.block.cols]
        assert painted.shape == (p.block.rows, p.block.cols)
        painted += 1
    assert all(tile.max() <= 1 for tile in tiles.values())
    for tile in tiles:  # of a matrix, only the unit cells of one copy share a tile
        for matrix in mapping.matrices:
            on_tile = (p for p in mapping.matrix_blocks(matrix.name) if (p.chip, p.tile) == tile)
            assert len({p.block.copy // matrix.cells for p in on_tile}) <= 1
    for matrix in mapping.matrices:
        per_group, diagonal = matrix.cols // matrix.groups, chip.array.grouped == "block_diagonal"
        for copy in range(mapping.copies[matrix.name]):
            held = torch.zeros(
                matrix.rows * (matrix.groups if diagonal else 1), matrix.cols, dtype=torch.int8
            )
            for p in mapping.matrix_blocks(matrix.name):
                if p.block.copy == copy:
                    held[
                        p.block.row : p.block.row + p.block.rows,
                        p.block.col : p.block.col + p.block.cols,
                    ] += 1
            assert held.max() == 1
            for group in range(matrix.groups):
                rows = (
                    slice(group * matrix.rows, (group + 1) * matrix.rows)
                    if diagonal
                    else slice(None)
                )
                assert (held[rows, group * per_group : (group + 1) * per_group] == 1).all()


@st.composite
def _models(draw: st.DrawFn) -> nn.Module:
    """A chain of convolutions, some grouped, some in a residual branch, and a linear head."""

    class Branch(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    channels, layers = 4, list[nn.Module]()
    for _ in range(draw(st.integers(1, 3))):
        out = draw(st.sampled_from([2, 4, 6, 12]))
        groups = draw(st.sampled_from([1, 2])) if channels % 2 == 0 else 1
        kernel = draw(st.sampled_from([1, 3, 5]))
        layers.append(nn.Conv1d(channels, out, kernel, padding=kernel // 2, groups=groups))
        if draw(st.booleans()):
            layers.append(
                Branch(nn.Conv1d(out, out, 3, padding=1, groups=draw(st.sampled_from([1, out]))))
            )
        channels = out
        if draw(st.booleans()):  # a layer that is applied three times, once around itself
            shared = nn.Conv1d(out, out, 3, padding=1)
            layers += [shared, Branch(nn.Sequential(shared, shared))]
    layers += [nn.Flatten(), nn.Linear(channels * 5, draw(st.integers(1, 30)))]
    return nn.Sequential(*layers)


@settings(deadline=None, max_examples=40)
@given(
    model=_models(),
    rows=st.integers(1, 40),
    cols=st.integers(1, 30),
    tiles=st.integers(1, 8),
    grouped=st.sampled_from(["sequential", "block_diagonal"]),
    copies=st.integers(1, 2),
    cells=st.integers(1, 3),
    planes=st.sampled_from([1, 2]),
    spread=st.booleans(),
)
def test_every_weight_has_one_place(
    model, rows, cols, tiles, grouped, copies, cells, planes, spread
) -> None:
    chip = at.chips.ideal().replace(
        array={
            "rows": rows,
            "columns": cols,
            "tiles": tiles * planes,
            "planes": planes,
            "grouped": grouped,
        }
    )
    larger = chip.replace(cell=chip.cell.enlarged(cells)) if cells > 1 else chip
    model = at.convert(model, larger)
    arguments = dict(num_chips=None, duplicate={"*": copies}, retired=[(0, 0)], spread=spread)
    mapping = map_to_chip(model, torch.zeros(1, 4, 5), chip=chip, **arguments)
    assert set(mapping.copies.values()) == {copies * cells}
    check(mapping)
    assert mapping.tiles_used >= mapping.tiles_lower_bound
    assert (0, 0) not in mapping.tile_utilisation
    assert mapping.weights == sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert mapping == map_to_chip(model, torch.zeros(1, 4, 5), chip=chip, **arguments)
    assert mapping == ChipMapping.from_json(mapping.to_json())


@settings(deadline=None, max_examples=30)
@given(data=st.data(), rows=st.integers(4, 30), cols=st.integers(4, 30))
def test_retired_columns_are_mapped_around(data, rows, cols) -> None:
    chip = at.chips.ideal().replace(array={"rows": rows, "columns": cols, "tiles": 4})
    bad = data.draw(
        st.sets(st.tuples(st.just(0), st.integers(0, 3), st.integers(0, cols - 1)), max_size=6)
    )
    model = nn.Linear(rows, max(1, 3 * cols - 6))
    mapping = map_to_chip(model, torch.zeros(1, rows), chip=chip, num_chips=2, retired_columns=bad)
    check(mapping)
    for p in mapping.placements:
        assert not {(p.chip, p.tile, column) for column in range(p.col, p.col + p.block.cols)} & bad


@settings(deadline=None, max_examples=10)
@given(
    model=_models(),
    rows=st.integers(3, 40),
    cols=st.integers(2, 30),
    grouped=st.sampled_from(["sequential", "block_diagonal"]),
    rate=st.sampled_from([1e6, 4e9]),
)
def test_time_and_energy_are_conserved(model, rows, cols, grouped, rate) -> None:
    chip = at.chips.hermes64().replace(array={"rows": rows, "columns": cols, "grouped": grouped})
    port = at.chips.Figure(value=rate, kind="assumed", source="the test")
    network = dataclasses.replace(chip.cost.network, chip_rate=port)
    chip = dataclasses.replace(chip, cost=dataclasses.replace(chip.cost, network=network))
    x = torch.zeros(1, 4, 5)
    mapping = map_to_chip(model, x, chip=chip, num_chips=None)
    pipelined, sequential = (cost(mapping, mode=mode) for mode in ("pipelined", "sequential"))
    energy = pipelined.energy
    assert sum(dataclasses.asdict(energy).values()) == pytest.approx(energy.system)
    assert energy.tile + energy.digital + energy.communication == pytest.approx(energy.system)
    assert energy == sequential.energy
    assert sum(run.weights * run.mvms for run in pipelined.schedule.runs) == pytest.approx(
        pipelined.macs
    )
    busiest = max(tile.busy for tile in pipelined.schedule.tiles)
    almost = 1 - 1e-9
    assert busiest * almost <= pipelined.schedule.interval <= pipelined.latency / almost
    assert pipelined.latency * almost <= sequential.latency == sequential.schedule.interval
    copies = cost(map_to_chip(model, x, chip=chip, num_chips=None, duplicate={"*": 2}))
    assert copies.macs == pipelined.macs
    # a copy may be cut elsewhere, which costs an MVM's input encoding, but every column is read as
    # often as before
    assert (copies.energy.array, copies.energy.adc) == pytest.approx((energy.array, energy.adc))


def test_a_column_lost_on_every_tile_leaves_the_rest_usable() -> None:
    chip = at.chips.ideal().replace(array={"rows": 16, "columns": 16, "tiles": 4})
    mapping = map_to_chip(
        nn.Linear(16, 60),
        torch.zeros(1, 16),
        chip=chip,
        retired_columns=[(0, tile, tile) for tile in range(4)],
    )
    check(mapping)
    assert mapping.tiles_used == 4
    assert mapping.utilisation == 60 / 64


def test_small_blocks_share_a_tile_and_cutting_columns_saves_one() -> None:
    rank = Demand.of("abc")
    assert len(pack([_block("a", 5, 10), _block("b", 5, 10)], 10, 10, rank)) == 1
    bins = pack([_block("a", 10, 6), _block("b", 10, 6), _block("c", 10, 8)], 10, 10, rank)
    assert len(bins) == 2
    assert sum(len(b.placed) for b in bins) > 3


def test_copies_never_share_a_tile() -> None:
    bins = pack(
        [_block("a", 2, 2, 0), _block("a", 2, 2, 1), _block("b", 2, 2)], 10, 10, Demand.of("ab")
    )
    assert len(bins) == 2


def test_the_unit_cells_of_a_weight_may_share_a_tile_and_its_copies_may_not() -> None:
    demand = Demand.of("a", cells={"a": 2})
    bins = pack([_block("a", 10, 3, copy) for copy in range(4)], 10, 10, demand)
    assert sorted(sorted(block.copy for block in b.blocks) for b in bins) == [[0, 1], [2, 3]]


def test_of_tiles_that_fit_equally_well_the_one_without_neighbours_is_taken() -> None:
    blocks = [_block("a", 10, 6), _block("d", 10, 6), _block("b", 10, 4), _block("e", 10, 4)]
    bins = pack(blocks, 10, 10, Demand.of("abcde"))
    together = sorted(sorted(block.matrix for block, _, _ in b.placed) for b in bins)
    assert together == [["a", "e"], ["b", "d"]]


def test_free_room_beside_a_block() -> None:
    tile = Bin.empty(10, 8, retired=[3])
    assert tile.free == [(0, 0, 10, 3), (0, 4, 10, 4)]
    tile.put(_block("a", 4, 2), 0)
    assert sorted(tile.free) == [(0, 2, 10, 1), (0, 4, 10, 4), (4, 0, 6, 3)]
    assert tile.used == 8


def test_blocks_of_equal_size_change_places_where_they_wait_less() -> None:
    bins = [Bin.empty(10, 10) for _ in range(3)]
    for target, names in zip(bins, ("aa", "cc", "bd"), strict=True):
        for name in names:
            target.put(_block(name, 10, 5), 0)
    demand = Demand(rank={"a": 0, "b": 1, "c": 2, "d": 3}, vectors={"a": 9, "b": 1, "c": 1, "d": 1})
    exchange(bins, demand)
    together = sorted("".join(sorted(block.matrix for block, _, _ in b.placed)) for b in bins)
    assert together == ["ac", "ac", "bd"]
    assert all(sorted(col for _, _, col in b.placed) == [0, 5] for b in bins)
