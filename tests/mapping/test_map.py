import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.mapping import map_to_chip
from analogtorch.speech.models import ConvNet, FullyConnected
from benchmarks.rnnt import RNNT
from tests.mapping.nets import Residual, ResNet9, TCResNet8, cnn_large, dnn_large
from tests.mapping.test_pack import check

CHIP = at.chips.hermes64()


def _vision(name: str) -> nn.Module:
    with torch.device("meta"):
        return getattr(pytest.importorskip("torchvision").models, name)(weights=None)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet18", 11_678_912), ("resnet50", 25_502_912), ("vit_b_16", 86_292_480)],
)
def test_large_nets_need_3_percent_more_tiles_than_the_bound_at_most(
    name: str, weights: int
) -> None:
    mapping = map_to_chip(_vision(name), torch.zeros(1, 3, 224, 224), chip=CHIP, num_chips=None)
    assert mapping.weights == mapping.cells == weights
    assert mapping.tiles_used <= 1.03 * math.ceil(weights / 65_536)
    assert mapping.num_chips == math.ceil(mapping.tiles_used / 64)


def test_a_recurrent_transducer_needs_no_more_either() -> None:
    with torch.device("meta"):
        model = RNNT()
    mapping = map_to_chip(
        model,
        (torch.zeros(40, 1, 240), torch.zeros(10, 1, dtype=torch.long)),
        chip=CHIP,
        num_chips=None,
    )
    assert 45e6 < mapping.weights < 46e6
    assert mapping.tiles_used <= 1.03 * mapping.tiles_lower_bound
    assert ("embedding.weight", 29 * 320) in mapping.digital_weights


def test_a_recurrent_transducer_on_five_speech_chips_with_four_and_two_devices_per_weight() -> None:
    """Ambrogio 2023 has 45 M weights on five chips.

    They take more than 140 M of their 175 M devices, with the accuracy chosen per layer.
    """
    with torch.device("meta"):
        model = RNNT()
    example = torch.zeros(40, 1, 240), torch.zeros(10, 1, dtype=torch.long)
    four, two = at.chips.ibm_speech34(), at.chips.ibm_speech34(pcm_per_weight=2)
    whole, dense = (map_to_chip(model, example, chip=chip, num_chips=None) for chip in (four, two))
    assert (whole.num_chips, dense.num_chips) == (6, 3)
    sizes = {m.name: m.weights for m in whole.matrices}
    sensitive = ["before.*", "joint.*"]
    for first in ([], sensitive):
        plan = at.mapping.plan_devices(sizes, four, two, 5, first=first)
        mixed = [
            map_to_chip(
                model,
                example,
                chip=chip,
                num_chips=None,
                exclude=[n for n in sizes if plan[n] != chip.cell.devices],
            )
            for chip in (four, two)
        ]
        names = [m.name for mapping in mixed for m in mapping.matrices]
        assert sorted(names) == sorted(sizes)
        assert [mapping.num_chips for mapping in mixed] == [4, 1]
        for mapping in mixed:
            check(mapping)
        devices = sum(mapping.cells * mapping.chip.cell.devices for mapping in mixed)
        assert 140e6 < devices < 175e6
        assert devices == sum(sizes[name] * count for name, count in plan.items()) == 155_904_000
    assert all(plan[name] == 4 for name in sizes if name.startswith(("before", "joint")))
    assert plan["after.weight_ih_l0"] == 2  # the largest


def test_resnet9_fits_34_tiles() -> None:
    mapping = map_to_chip(ResNet9(), torch.zeros(1, 3, 32, 32), chip=CHIP)
    assert mapping.weights == 1_866_536
    assert mapping.tiles_used <= 34
    check(mapping)


@pytest.mark.parametrize(
    ("model", "shape", "bound"),
    [
        (FullyConnected(), (1, 1, 49, 40), 13),
        (ConvNet(), (1, 1, 49, 40), 3),
        (dnn_large(), (1, 250), 8),
        (cnn_large(), (1, 1, 49, 10), 8),
        (TCResNet8(), (1, 40, 98), 1),
    ],
)
def test_keyword_spotters_need_one_tile_above_the_bound_at_most(model, shape, bound) -> None:
    mapping = map_to_chip(model, torch.zeros(shape), chip=CHIP)
    assert mapping.tiles_lower_bound == bound
    assert mapping.tiles_used <= bound + 1


@pytest.mark.parametrize(("rows", "cols"), [(256, 256), (20, 7), (5, 3)])
def test_products_of_the_placed_blocks_add_up_to_the_digital_model(rows: int, cols: int) -> None:
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(2, 3, 6, 6)
    chip = at.chips.ideal().replace(array={"rows": rows, "columns": cols, "tiles": 1000})
    mapping = map_to_chip(model, x, chip=chip)
    check(mapping)

    def product(name: str, vectors: Tensor) -> Tensor:
        """(n, rows) to (n, cols), tile by tile."""
        layer = model.get_submodule(name)
        tiles = dict[tuple[int, int], Tensor]()
        weight = layer.weight.detach().flatten(1).T
        for p in mapping.matrix_blocks(name):
            b, tile = p.block, tiles.setdefault((p.chip, p.tile), torch.zeros(rows, cols))
            part = weight[b.row : b.row + b.rows, b.col : b.col + b.cols]
            tile[p.row : p.row + b.rows, p.col : p.col + b.cols] = part
        out = layer.bias.detach().repeat(len(vectors), 1)
        for p in mapping.matrix_blocks(name):
            driven = torch.zeros(len(vectors), rows)
            driven[:, p.row : p.row + p.block.rows] = vectors[
                :, p.block.row : p.block.row + p.block.rows
            ]
            read = (driven @ tiles[p.chip, p.tile])[:, p.col : p.col + p.block.cols]
            out[:, p.block.col : p.block.col + p.block.cols] += read
        return out

    def conv(name: str, x: Tensor) -> Tensor:
        patches = F.unfold(x, 3, padding=1).transpose(1, 2)
        return (
            product(name, patches.flatten(0, 1))
            .unflatten(0, patches.shape[:2])
            .transpose(1, 2)
            .unflatten(2, (6, 6))
        )

    a = conv("conv", x).relu()
    b = conv("shared", conv("shared", a)) + a
    out = product("head", torch.cat([a.mean((2, 3)), b.mean((2, 3))], 1))
    assert torch.allclose(out, model(x), atol=1e-4)


def test_grouped_convolutions_waste_cells_where_they_are_block_diagonal() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, groups=64))
    x = torch.zeros(1, 64, 8, 8)
    mapping = map_to_chip(model, x, chip=CHIP)
    assert (mapping.weights, mapping.cells, len(mapping.placements)) == (576, 576, 1)
    diagonal = map_to_chip(model, x, chip=CHIP.replace(array={"grouped": "block_diagonal"}))
    assert (diagonal.weights, diagonal.cells) == (576, 2 * 252 * 28 + 72 * 8)
    assert "zeros of block-diagonal matrices" in str(diagonal)
    check(diagonal)


def test_duplicates() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(4, 4))
    mapping = map_to_chip(model, torch.zeros(1, 4, 5), chip=CHIP, duplicate={"[01]": 3})
    assert mapping.copies == {"0": 3, "1": 3, "3": 1}
    # each copy has a tile of its own, and the last layer has one
    assert mapping.tiles_used == 7
    assert mapping.cells == 3 * 2 * 48 + 16
    check(mapping)
    with pytest.raises(
        ValueError, match=r"duplicate pattern '2' matches none of the 3 matrices.*'0'"
    ):
        map_to_chip(model, torch.zeros(1, 4, 5), chip=CHIP, duplicate={"2": 2})
    with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
        map_to_chip(model, torch.zeros(1, 4, 5), chip=CHIP, duplicate={"0": 0})


def test_duplicates_make_no_net_slower() -> None:
    net, x = nn.Sequential(nn.Linear(100, 160), nn.Linear(160, 200)), torch.zeros(16, 100)
    costs = []
    for copies in (1, 2, 4):
        mapping = map_to_chip(net, x, chip=CHIP, duplicate={"1": copies})
        check(mapping)
        held = {(p.chip, p.tile, p.block.matrix) for p in mapping.placements}
        assert len(held) == mapping.tiles_used == 1 + copies
        costs.append(at.cost(mapping))
    assert costs[0].latency > costs[1].latency > costs[2].latency
    assert costs[0].throughput <= costs[1].throughput <= costs[2].throughput
    # where tiles are short, copies share them with others
    short = CHIP.replace(array={"tiles": 2})
    assert map_to_chip(net, x, chip=short, duplicate={"1": 2}).tiles_used == 2


def test_spreading_uses_the_tiles_that_are_left() -> None:
    chip = CHIP.replace(array={"tiles": 3})
    model = nn.Sequential(
        nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 1), nn.Flatten(), nn.Linear(20, 4)
    )
    together = map_to_chip(model, torch.zeros(1, 4, 5), chip=chip)
    assert together.tiles_used == 1
    apart = map_to_chip(model, torch.zeros(1, 4, 5), chip=chip, spread=True)
    assert [(p.block.matrix, p.tile) for p in apart.placements] == [("0", 0), ("1", 1), ("3", 2)]
    two = map_to_chip(model, torch.zeros(1, 4, 5), chip=chip, spread=True, retired=[(0, 0)])
    # the two convolutions are busiest and follow each other
    assert [p.tile for p in two.placements] == [1, 2, 1]
    check(two)
    assert at.remap(two) == two
    assert at.remap(together, retired=[(0, 0)], spread=True) == two
    for listed in ([[0, 0]], [(np.int64(0), np.int64(0))]):  # of a file, and of argwhere
        assert at.remap(together, retired=listed, spread=True) == two


def test_a_mac_of_complex_numbers_counts_as_eight_digital_operations() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 6, dtype=torch.complex64), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(torch.fft.fft(x)).abs())

    operations = map_to_chip(Spectral(), torch.zeros(2, 8), chip=CHIP).operations
    (first,) = (op for op in operations if op.name == "first")
    assert (first.elements, first.operations) == (2 * 2 * 6, 8 * 2 * 8 * 6)


class _Spectrum(nn.Module):
    """A product with weights that are computed from real or complex Parameters, and a layer."""

    def __init__(self, weight: Callable[..., Tensor], *given: Tensor) -> None:
        super().__init__()
        self.weight, self.given = weight, nn.ParameterList(given)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight(*self.given)
        x = torch.fft.fft(x) if weight.is_complex() else x
        return self.last((x @ weight).abs())


_REAL, _COMPLEX = torch.ones(8, 6), torch.ones(8, 6, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("weight", "given", "each"),
    [
        (torch.complex, (_REAL, _REAL), 8),
        (torch.polar, (_REAL, _REAL), 8),
        (torch.view_as_complex, (torch.ones(8, 6, 2),), 8),
        (lambda w: w.to(torch.complex64), (_REAL,), 8),
        (torch.abs, (_COMPLEX,), 2),
        (torch.real, (_COMPLEX,), 2),
    ],
)
def test_a_mac_counts_by_the_numbers_that_the_product_computes_with(
    weight: Callable[..., Tensor], given: tuple[Tensor, ...], each: int
) -> None:
    mapping = map_to_chip(_Spectrum(weight, *given), torch.zeros(2, 8), chip=CHIP)
    (product,) = (op for op in mapping.operations if op.kind == "matmul")
    assert product.operations == each * 2 * 8 * 6


def test_a_name_that_reads_as_a_glob_means_itself() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("a[0]", "a0")})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.w["a0"](self.w["a[0]"](x))

    mapping = map_to_chip(Blocks(), torch.zeros(1, 4), chip=CHIP, exclude="w.a[0]")
    assert [m.name for m in mapping.matrices] == ["w.a0"]


def test_what_is_excluded_or_left_unconverted_is_digital() -> None:
    mapping = map_to_chip(Residual(), torch.zeros(1, 3, 6, 6), chip=CHIP, exclude="h*")
    assert [m.name for m in mapping.matrices] == ["conv", "shared"]
    (head,) = [op for op in mapping.digital if op.kind == "matmul"]
    assert (head.name, head.operations) == ("head", 2 * 16 * 5)
    assert ("head.weight", 80) in mapping.digital_weights
    converted = at.convert(Residual(), CHIP, exclude="head")
    assert map_to_chip(converted, torch.zeros(1, 3, 6, 6), chip=CHIP) == mapping
    with pytest.raises(ValueError, match=r"exclude pattern 'hat' matches none.*'shared'|'head'"):
        map_to_chip(Residual(), torch.zeros(1, 3, 6, 6), chip=CHIP, exclude=["hat"])
    with pytest.raises(ValueError, match="all 3 matrices of Residual stay digital"):
        map_to_chip(Residual(), torch.zeros(1, 3, 6, 6), chip=CHIP, exclude="*")


def test_what_does_not_fit_is_refused_with_remedies() -> None:
    chip = CHIP.replace(array={"tiles": 5})
    model = nn.Sequential(nn.Linear(256, 1024), nn.Linear(1024, 256))
    with pytest.raises(
        ValueError,
        match="524,288 weights in 524,288 cells need 8 tiles of 256x256; 1 x hermes64 has 5",
    ) as e:
        map_to_chip(model, torch.zeros(1, 256), chip=chip)
    assert "'0' (262,144 weights, 4.0 tiles)" in str(e.value)
    assert "num_chips=2 (or num_chips=None" in str(e.value)
    assert "exclude=['0']" in str(e.value)
    assert map_to_chip(model, torch.zeros(1, 256), chip=chip, num_chips=2).num_chips == 2
    assert map_to_chip(model, torch.zeros(1, 256), chip=chip, exclude=["0"]).tiles_used == 4
    with pytest.raises(ValueError, match="has 4 without the 1 retired ones"):
        map_to_chip(model[0], torch.zeros(1, 256), chip=chip, retired=[(0, 0)], duplicate={"*": 2})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_chips": 0}, ValueError, "integer >= 1, got 0; None is for as many"),
        ({"retired": [(0, 64)]}, ValueError, r"tile from 0 to 63; got \(0, 64\)"),
        ({"retired": [(1, 0)]}, ValueError, "chip from 0 to 0"),
        ({"retired": [[0, [1]]]}, ValueError, "must list tuples"),
        ({"retired": [(0, True)]}, ValueError, "must list tuples"),
        ({"retired_columns": [(0, 0, 256)]}, ValueError, "column from 0 to 255"),
        ({"exclude": [3]}, TypeError, "a pattern must be text"),
        ({"duplicate": {"1": 2}}, ValueError, "matches none"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        map_to_chip(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), chip=CHIP, **arguments)


def test_models_without_matrices_and_other_types_are_refused() -> None:
    with pytest.raises(
        ValueError, match="no weight of LayerNorm multiplies activations.*weight, bias"
    ):
        map_to_chip(nn.LayerNorm(4), torch.zeros(1, 4), chip=CHIP)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        map_to_chip(torch.zeros(2), torch.zeros(1, 4), chip=CHIP)
    with pytest.raises(TypeError, match="chip must be a Chip"):
        map_to_chip(nn.Linear(2, 2), torch.zeros(1, 2), chip="hermes64")
    programmed = at.program(at.convert(nn.Sequential(nn.Linear(2, 2)), CHIP), seed=0).at("1 h")
    with pytest.raises(ValueError, match="programmed chip"):
        map_to_chip(programmed, torch.zeros(1, 2), chip=CHIP)


def test_the_chip_is_that_of_the_layers() -> None:
    noisy = dataclasses.replace(CHIP, training=at.TrainingNoise(scale=2.0))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    at.convert(model, CHIP, per_layer={"1": noisy}, exclude="2")
    mapping = map_to_chip(model, torch.zeros(1, 4))
    assert mapping.chip == CHIP
    assert mapping == map_to_chip(model, torch.zeros(1, 4), chip=CHIP)
    with pytest.raises(
        ValueError, match=r"Sequential has no analog layer.*chip=analogtorch.chips.hermes64\(\)\)"
    ):
        map_to_chip(at.to_digital(model), torch.zeros(1, 4))


def test_layers_whose_weight_scales_differ_are_on_one_chip() -> None:
    chip = at.chips.hermes64()
    model = at.convert(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), chip)
    model[1].chip = chip.replace(periphery={"weight_scale": "column"})
    assert at.map_to_chip(model, torch.zeros(1, 8)).chip == chip


def test_layers_on_several_chips_are_named_unless_one_is_chosen() -> None:
    other, x = at.chips.ibm_speech34(), torch.zeros(1, 4)
    layers = [nn.Linear(4, 4) for _ in range(7)]
    model = at.convert(
        nn.Sequential(*layers),
        CHIP,
        per_layer={"5": {"periphery": {"output_bits": 10}}, "6": other},
    )
    expected = (
        "the layers of Sequential are on 3 chips: hermes64 ('0', '1', '2' and 2 more); hermes64, "
        "differing in periphery.output_bits 10 ('5'); ibm_speech34 ('6'). Give the one to place "
        "all of them on"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        map_to_chip(model, x)
    assert map_to_chip(model, x, chip=other).chip == other


class CalledT(nn.Module):
    """A layer with two names, of which the first looks like that of a transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"T": nn.Linear(4, 4), "U": nn.Linear(4, 4)})
        self.again = self.block["T"]

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.block["U"](x))


def test_a_layer_may_be_called_t() -> None:
    mapping = map_to_chip(CalledT(), torch.zeros(1, 4), chip=CHIP)
    assert [(m.name, m.form) for m in mapping.matrices] == [("block.U", 0), ("block.T", 0)]
    assert [
        m.name
        for m in map_to_chip(CalledT(), torch.zeros(1, 4), chip=CHIP, exclude="again").matrices
    ] == ["block.U"]


def test_extreme_shapes() -> None:
    tiny = CHIP.replace(array={"rows": 1, "columns": 1, "tiles": 1})
    assert map_to_chip(nn.Linear(3, 2), torch.zeros(1, 3), chip=tiny, num_chips=None).num_chips == 6
    assert map_to_chip(nn.Linear(1, 1), torch.zeros(0, 1), chip=tiny).vectors == {"(root)": 0}
    with torch.device("meta"), pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Sequential(nn.Linear(2, 0), nn.Linear(0, 2), nn.Linear(2, 2))
    assert [m.name for m in map_to_chip(empty, torch.zeros(1, 2), chip=CHIP).matrices] == ["2"]


def test_remapping_around_failures() -> None:
    mapping = map_to_chip(Residual(), torch.zeros(1, 3, 6, 6), chip=CHIP, duplicate={"shared": 2})
    assert sorted(mapping.tile_utilisation) == [(0, 0), (0, 1), (0, 2)]
    moved = at.remap(mapping, retired=[(0, 0)], retired_columns=[(0, 1, 3)])
    assert sorted(moved.tile_utilisation) == [(0, 2), (0, 3), (0, 4)]
    assert at.remap(moved, retired=[(0, 2)]).retired == ((0, 0), (0, 2))
    assert moved.copies == mapping.copies
    with pytest.raises(ValueError, match="has 0 without the 64"):
        at.remap(mapping, retired=[(0, tile) for tile in range(64)])
    with pytest.raises(TypeError, match=r"mapping must be a ChipMapping such as at\.map_to_chip"):
        at.remap(Residual())
    with pytest.raises(ValueError, match="spread must be True or False"):
        at.remap(mapping, spread="yes")


def test_remapping_keeps_what_was_retired_on_chips_that_are_not_in_use() -> None:
    mapping = map_to_chip(
        nn.Linear(300, 300), torch.zeros(1, 300), chip=CHIP, num_chips=3, retired=[(2, 0)]
    )
    assert mapping.num_chips == 1
    again = at.remap(mapping, retired=[(0, 0)])
    assert again.retired == ((0, 0), (2, 0))
    assert at.remap(again, retired=[(0, 1)], spread=True).retired == ((0, 0), (0, 1), (2, 0))
    with pytest.raises(ValueError, match=r"chip from 0 to 0.*got \(2, 1\)"):
        at.remap(mapping, retired=[(2, 1)])


def test_refusals_of_what_does_not_fit_say_what_helps() -> None:
    chip, x = CHIP.replace(array={"tiles": 2}), torch.zeros(1, 256)
    wide = nn.Sequential(nn.Linear(256, 512))
    damaged: dict[str, Any] = {"chip": chip, "retired_columns": [(0, 0, 5)]}
    with pytest.raises(ValueError, match="Give num_chips=2 ") as refusal:
        map_to_chip(wide, x, **damaged)
    assert "exclude" not in str(refusal.value)
    assert map_to_chip(wide, x, num_chips=2, **damaged).tiles_used == 2
    with pytest.raises(ValueError, match="need 3 tiles") as refusal:
        map_to_chip(nn.Sequential(nn.Linear(256, 768)), x, chip=chip)
    assert "exclude" not in str(refusal.value)  # nothing would be left
    two = nn.Sequential(nn.Linear(256, 768), nn.Linear(768, 10))
    with pytest.raises(ValueError, match=re.escape("exclude=['0']")):
        map_to_chip(two, x, chip=chip)


def test_remapping_moves_what_has_failed_and_leaves_all_else() -> None:
    chip = CHIP.replace(array={"rows": 16, "columns": 16, "tiles": 4})
    model, x = nn.Sequential(*(nn.Linear(16, 16) for _ in range(3))), torch.zeros(1, 16)
    mapping = map_to_chip(model, x, chip=chip)
    tiles = [p.tile for p in mapping.placements]
    assert tiles == [0, 1, 2]
    assert [p.tile for p in at.remap(mapping, retired=[(0, 0)]).placements] == [3, 1, 2]
    around = at.remap(mapping, retired_columns=[(0, 1, 5)])
    check(around)
    assert [p.tile for p in around.placements] == [0, 3, 2]
    assert at.remap(mapping, retired=[(0, 3)]).placements == mapping.placements
    further = at.remap(around, retired=[(0, 0)], num_chips=2)
    assert [(p.chip, p.tile) for p in further.placements] == [(1, 0), (0, 3), (0, 2)]
    with pytest.raises(ValueError, match="need 3 tiles of 16x16; 1 x hermes64 has 2 without"):
        at.remap(mapping, retired=[(0, 0), (0, 1)])


def test_the_fully_connected_keyword_spotter_takes_four_tiles() -> None:
    layers = (nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 12))
    mapping = map_to_chip(
        nn.Sequential(*layers), torch.zeros(1, 1024), chip=at.chips.ibm_speech34()
    )
    assert mapping.tiles_used == 4


def test_weights_that_are_applied_transposed_too_are_named() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.encoder(x)) @ self.encoder.weight

    model, x = at.convert(Tied(), CHIP), torch.zeros(1, 16)
    with pytest.warns(UserWarning, match=r"'encoder\.T' on the chip.*exclude=\['encoder\.T'\]"):
        mapping = at.map_to_chip(model, x)
    assert len(mapping.matrices) == 2
    with pytest.warns(UserWarning, match=r"map_by_chip: 'encoder\.T' on the chip"):
        at.mapping.map_by_chip(model, x)
    assert len(at.map_to_chip(model, x, exclude="encoder.T").matrices) == 1


@pytest.mark.parametrize("converted", [True, False])
def test_layers_that_the_example_does_not_reach_are_placed_and_named(converted: bool) -> None:
    """Which kinds of layers a run reaches changes the vectors, not the matrices."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.all = nn.Linear(8, 8), False
            self.linear, self.conv = nn.Linear(8, 6), nn.Conv2d(8, 4, (3, 2), groups=2)
            self.transposed = nn.ConvTranspose1d(8, 4, 3, groups=2)
            self.lstm, self.cell = nn.LSTM(8, 5, 2, proj_size=3), nn.GRUCell(8, 5)
            self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            if self.all:
                self.linear(x), self.conv(x.mT[..., None].expand(-1, -1, -1, 3))
                self.transposed(x.mT), self.lstm(x), self.cell(x[:, 0])
                self.attention(x, x[..., :4], x[..., :6])
            return y

    model, x = Experts().eval(), torch.zeros(1, 8, 8)
    if converted:
        at.convert(model, CHIP)
    match = r"'linear', 'conv', .* and 10 more on the chip, which the example .* exclude"
    with pytest.warns(UserWarning, match=f"map_to_chip: {match}"):
        mapping = at.map_to_chip(model, x, chip=CHIP)
    model.all = True
    whole = at.map_to_chip(model, x, chip=CHIP)

    def sizes(matrices):
        return {(m.name, m.layer, m.rows, m.cols, m.groups, m.kernel) for m in matrices}

    assert sizes(mapping.matrices) == sizes(whole.matrices)
    assert (mapping.cells, mapping.digital_weights) == (whole.cells, whole.digital_weights)
    assert [name for name, vectors in mapping.vectors.items() if vectors] == ["first"]
    assert at.cost(mapping).macs == 8 * 64
    model.all = False
    with pytest.warns(UserWarning, match="'linear', .* and 9 more on the chip"):
        left = at.map_to_chip(model, x, chip=CHIP, exclude="conv")
    assert ("conv.weight", 96) in left.digital_weights
    with pytest.raises(ValueError, match="all 1 matrices of Experts that the example reaches stay"):
        at.map_to_chip(model, x, chip=CHIP, exclude="first")
    if converted:
        at.program(model, seed=0, mapping=mapping).yield_map()
        with pytest.warns(UserWarning, match=f"map_by_chip: {match}"):
            (by_chip,) = at.mapping.map_by_chip(model, x)
        assert by_chip.matrices == mapping.matrices


def test_layers_that_the_model_computes_with_digitally_are_named() -> None:
    """A call that is routed to its layer, or that is one of its ``forward``, is none of these."""

    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.called, self.direct, self.routed = (nn.Linear(8, 8) for _ in range(3))
            self.encoder, self.lstm = nn.TransformerEncoderLayer(8, 2, 16), nn.LSTM(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.linear(self.called.forward(x) @ self.direct.weight.T, self.routed.weight)
            return self.lstm(self.encoder(x))[0]

    model, x = at.convert(Direct(), CHIP), torch.zeros(1, 2, 8)
    match = r"'direct' on the chip: the model computes with .*guard.*exclude=\['direct'\]"
    with pytest.warns(UserWarning, match=f"map_to_chip: {match}"):
        mapping = at.map_to_chip(model, x)
    assert "direct" in {m.name for m in mapping.matrices}
    with pytest.warns(UserWarning, match=f"map_by_chip: {match}"):
        at.mapping.map_by_chip(model, x)
    left = at.map_to_chip(model, x, exclude="direct")
    assert "direct" not in {m.name for m in left.matrices}
    at.map_to_chip(Direct(), x, chip=CHIP)  # no program simulates a digital model


def test_counts_of_numpy_are_counts() -> None:
    model, x = at.convert(nn.Linear(8, 4), CHIP), torch.zeros(1, 8)
    given = map_to_chip(model, x, num_chips=np.int64(1), duplicate={"*": np.int64(2)})
    plain = map_to_chip(model, x, num_chips=1, duplicate={"*": 2})
    assert given.to_json() == plain.to_json()
