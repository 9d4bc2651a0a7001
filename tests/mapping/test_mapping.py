import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.cost_model import EnergySplit, cost
from analogtorch.mapping import ChipMapping, map_to_chip
from analogtorch.report.floorplan import colours, energy_unit, floorplan, short
from tests.mapping.nets import Residual


@pytest.fixture(scope="module")
def mapping() -> ChipMapping:
    return map_to_chip(
        Residual(), torch.zeros(1, 3, 6, 6), chip=at.chips.hermes64(), duplicate={"conv": 2}
    )


SPLIT = EnergySplit(
    control=0.0,
    dac=1e-9,
    array=0.0,
    adc=3e-9,
    chip_digital=0.0,
    chip_communication=0.0,
    host_digital=0.0,
    port_communication=0.0,
)


def test_table(mapping: ChipMapping) -> None:
    lines = str(mapping).splitlines()
    assert lines[0].split("  ")[0] == "matrix"
    assert re.fullmatch(r"conv +27 x 8 +1 +2 +2 +2 +0% +36", lines[2])
    assert (
        "tiles: 3 used, at least 1 needed (1,088 cells / 65,536); 0.6% of their cells are taken"
        in lines
    )
    assert "model: Residual, 872 weights on the chip in 1,088 cells" in lines
    assert any(line.startswith("digital operations: ") and "pool" in line for line in lines)


@pytest.mark.parametrize("name", at.chips.names())
def test_json_round_trip(name: str) -> None:
    chip = at.chips.get(name)
    retired = [(0, 1)] if chip.array.tiles > 1 else []
    mapping = map_to_chip(
        Residual(),
        torch.zeros(1, 3, 6, 6),
        chip=chip,
        exclude=["shared", "head"] if chip.light.on else None,  # which get no light
        retired=retired,
        retired_columns=[(0, 0, min(1, chip.array.columns - 1))],
    )
    assert ChipMapping.from_json(mapping.to_json()) == mapping
    assert json.loads(mapping.to_json())["version"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version 3, this AnalogTorch reads versions 1 to 2"),
        ({"version": "2"}, "version '2', this AnalogTorch reads versions 1 to 2"),
        ({"format": "other"}, "not written by ChipMapping.to_json"),
        ({"surprise": 1}, "unknown \\['surprise'\\]"),
        ({"placements": [{"chip": 0}]}, "wrong shape"),
        ({"matrices": []}, "belongs to no matrix"),
        ({"num_chips": 0}, "is on no tile"),
        ({"retired": [[0, 0]]}, "lies on a retired tile or column"),
        ({"retired_columns": [[0, 0, 1], [0, 1, 1]]}, "lies on a retired tile or column"),
    ],
)
def test_other_json_is_refused(
    mapping: ChipMapping, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ChipMapping.from_json(json.dumps({**_plain(mapping), **change}))
    with pytest.raises(ValueError, match="is not JSON"):
        ChipMapping.from_json("{")


def _plain(mapping: ChipMapping) -> dict:
    """Return the mapping as older versions wrote it, without a checksum."""
    return {
        name: value for name, value in json.loads(mapping.to_json()).items() if name != "checksum"
    }


def test_impossible_placements_are_refused(mapping: ChipMapping) -> None:
    first, *rest = mapping.placements
    with pytest.raises(ValueError, match="beyond its tile"):
        replace(mapping, placements=(replace(first, row=250), *rest))
    with pytest.raises(ValueError, match="over another block"):
        replace(
            mapping,
            placements=(
                first,
                replace(rest[0], tile=first.tile, row=first.row, col=first.col),
                *rest[1:],
            ),
        )
    with pytest.raises(ValueError, match="do not make up the matrix"):
        replace(
            mapping, placements=tuple(p for p in mapping.placements if p.block.matrix != "head")
        )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("col", 4, "every weight must be placed once"),  # the same columns twice, others never
        ("row", 1, "every weight must be placed once"),
        ("copy", 1, r"copies of 'shared' are \[1\], not 0"),
        ("tile", 0.0, "must be made of integers"),
        ("matrix", "head", "every weight must be placed once"),
    ],
)
def test_edited_blocks_are_refused(
    mapping: ChipMapping, field: str, value: object, message: str
) -> None:
    data = _plain(mapping)
    next(p for p in data["placements"] if p["matrix"] == "shared")[field] = value
    with pytest.raises(ValueError, match=message):
        ChipMapping.from_json(json.dumps(data))


def test_blocks_of_a_matrix_that_hold_the_same_weights_are_refused() -> None:
    mapping = map_to_chip(nn.Linear(256, 512), torch.zeros(1, 256), chip=at.chips.hermes64())
    data = _plain(mapping)
    data["placements"][1]["col"] = 0  # as many cells as before
    with pytest.raises(ValueError, match="every weight must be placed once"):
        ChipMapping.from_json(json.dumps(data))
    with pytest.raises(ValueError, match="is not JSON"):
        ChipMapping.from_json(mapping.to_json()[:500])


def test_json_of_version_1_is_read(mapping: ChipMapping) -> None:
    data = _plain(mapping)
    data |= {
        "version": 1,
        "chips": data.pop("num_chips"),
        "matrices": list(map(_of_version_1, data["matrices"])),
    }
    assert ChipMapping.from_json(json.dumps(data)) == mapping
    assert data.pop("example") == ["(1, 3, 6, 6) float32"]
    assert ChipMapping.from_json(json.dumps(data)) == replace(mapping, example=())


def _of_version_1(matrix: dict) -> dict:
    return {
        name: value for name, value in matrix.items() if name not in ("layer", "outputs", "form")
    }


class Shared(nn.Module):
    """A weight that is applied in parts, and one that is applied both ways round."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.tied = nn.Linear(8, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attention(x, x[:, :2], x[:, :2], need_weights=False)[0]
        return self.tied(y) @ self.tied.weight


def test_the_parts_and_forms_of_a_weight_are_fields_and_are_found_in_the_names_of_version_1() -> (
    None
):
    mapping = map_to_chip(Shared(), torch.zeros(1, 4, 8), chip=at.chips.hermes64())
    found = {m.name: (m.layer, m.outputs, m.form) for m in mapping.matrices}
    assert found == {
        **{
            f"attention.in_proj_weight[{i}:{i + 8}]": ("attention.in_proj_weight", (i, i + 8), 0)
            for i in (0, 8, 16)
        },
        "attention.out_proj": ("attention.out_proj", None, 0),
        "tied": ("tied", None, 0),
        "tied.T": ("tied", None, 1),
    }
    data = _plain(mapping)
    data |= {
        "version": 1,
        "chips": data.pop("num_chips"),
        "matrices": list(map(_of_version_1, data["matrices"])),
    }
    assert ChipMapping.from_json(json.dumps(data)) == mapping


@pytest.mark.parametrize(
    "change", [{"layer": 3}, {"outputs": [4, 4]}, {"outputs": [0.0, 4]}, {"form": None}]
)
def test_matrices_of_impossible_parts_are_refused(mapping: ChipMapping, change: dict) -> None:
    data = _plain(mapping)
    data["matrices"][0] |= change
    with pytest.raises(ValueError, match="'conv' must have a layer by name"):
        ChipMapping.from_json(json.dumps(data))


def test_an_inference_is_one_run_of_the_example() -> None:
    one, eight = (
        map_to_chip(Residual(), torch.zeros(n, 3, 6, 6), chip=at.chips.hermes64()) for n in (1, 8)
    )
    assert {name: 8 * n for name, n in one.vectors.items()} == eight.vectors
    assert "an inference: one run of (8, 3, 6, 6) float32" in str(eight)
    assert one.placements == eight.placements


def test_unknown_matrix(mapping: ChipMapping) -> None:
    with pytest.raises(ValueError, match="no matrix is called 'haed'; closest names: .*'head'"):
        mapping.matrix_blocks("haed")


def test_html_is_complete(mapping: ChipMapping) -> None:
    page = mapping.to_html()
    for name in [m.name for m in mapping.matrices] + [op.name for op in mapping.digital]:
        assert f'<th scope="row">{name}</th>' in page
    assert page.count('class="block"') == len(mapping.placements)
    priced = cost(mapping, mode="sequential")
    assert f"{100 * priced.energy.dac / priced.energy.system:.1f} %" in page
    assert "one operation at a time: one inference per" in mapping.to_html(cost=priced)
    assert "one operation at a time" not in page
    assert "analogtorch map" not in page
    assert ">analogtorch map &lt;here&gt;<" in mapping.to_html(command="analogtorch map <here>")


def test_the_energy_is_shown_wherever_the_chip_has_a_cost(mapping: ChipMapping) -> None:
    assert mapping.to_html() == mapping.to_html(cost=cost(mapping))
    free = map_to_chip(Residual(), torch.zeros(1, 3, 6, 6), chip=at.chips.ideal())
    assert "Energy" not in free.to_html()
    assert len(free.plot().axes) == 2
    nothing = map_to_chip(Residual(), torch.zeros(0, 3, 6, 6), chip=at.chips.hermes64())
    assert "Energy" not in nothing.to_html()


def test_the_cost_of_another_mapping_is_refused(mapping: ChipMapping) -> None:
    one = torch.zeros(1, 3, 6, 6)
    other = map_to_chip(Residual(), one, chip=at.chips.hermes_core())
    batch = map_to_chip(Residual(), torch.zeros(2, 3, 6, 6), chip=at.chips.hermes64())
    once = map_to_chip(Residual(), one, chip=at.chips.hermes64())
    dear = mapping.chip.replace(adc={"noise": 0.01})
    changed = map_to_chip(Residual(), one, chip=dear)
    macs = f"{cost(mapping).macs:,} MACs and "
    for given, theirs, mine in (
        (other, "of the chip hermes_core;", "of the chip hermes64."),
        (changed, "of the chip hermes64 of other values;", "of the chip hermes64."),
        (batch, f"of {2 * cost(mapping).macs:,} MACs and ", f"of Residual, with {macs}"),
        (once, f"of {macs}", f"of Residual, with {macs}"),
    ):
        for show in (mapping.to_html, mapping.plot):
            with pytest.raises(ValueError, match="cost is that of another mapping: ") as found:
                show(cost=cost(given))
            assert theirs in str(found.value)
            assert mine in str(found.value)
    nothing = map_to_chip(Residual(), torch.zeros(0, 3, 6, 6), chip=at.chips.hermes64())
    with pytest.raises(ValueError, match="this mapping is of Residual, with no MACs"):
        nothing.to_html(cost=cost(mapping))


def test_the_cost_of_other_digital_operations_is_refused() -> None:
    x, linear = torch.zeros(1, 64), nn.Linear(64, 64)
    mine, theirs = (
        map_to_chip(net, x, chip=at.chips.hermes64())
        for net in (nn.Sequential(linear, nn.Tanh()), nn.Sequential(linear))
    )
    with pytest.raises(ValueError, match="and 0 digital operations .* and 64 digital operations"):
        mine.to_html(cost=cost(theirs))


def test_energies_have_a_unit_that_can_be_read() -> None:
    assert energy_unit({"a": 4e-4, "b": 2e-9}) == ("uJ", 1e-6)
    assert energy_unit({"a": 1.2e-3}) == ("mJ", 1e-3)
    assert energy_unit({"a": 3e-11}) == ("pJ", 1e-12)
    assert [short(x) for x in (1158.4, 401.8, 40.18, 2.0, 0.305, 0.01511, 1e-5)] == [
        "1,158",
        "402",
        "40.2",
        "2",
        "0.305",
        "0.0151",
        "< 0.001",
    ]


def test_html_escapes_names() -> None:
    model = nn.Sequential()
    model.add_module("<b>&", nn.Linear(2, 2))
    page = map_to_chip(model, torch.zeros(1, 2), chip=at.chips.hermes64()).to_html()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_plot(mapping: ChipMapping, tmp_path: Path) -> None:
    figure = mapping.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 3
    energy = mapping.plot(cost=replace(cost(mapping), energy=SPLIT)).axes[2]
    assert energy.get_xlabel() == "energy of one inference, nJ"
    energy.figure.canvas.draw()
    inside = energy.get_window_extent()
    assert all(label.get_window_extent().x1 < inside.x1 for label in energy.texts)
    with pytest.raises(ValueError, match="must end in .png"):
        mapping.plot(tmp_path / "plan.txt")


@pytest.mark.parametrize(("package", "method"), [("matplotlib", "plot"), ("jinja2", "to_html")])
def test_missing_packages_are_named(mapping, package, method, monkeypatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}; run: pip install "analogtorch\[report\]"'):
        getattr(mapping, method)()


def test_floorplan(mapping: ChipMapping) -> None:
    plan = floorplan(mapping)
    assert len(plan.tiles) == mapping.chip.array.tiles  # unused ones too
    used = [(t.chip, t.tile, t.x, t.y) for t in plan.tiles if t.placements]
    assert used == [(0, 0, 0.0, 0.0), (0, 1, 1.12, 0.0), (0, 2, 2.24, 0.0)]
    across = mapping.chip.cost.network.grid_columns  # as on the chip
    assert (plan.tiles[across].x, plan.tiles[across].y) == (0.0, 1.12)
    assert len(list(plan.blocks())) == len(mapping.placements)
    assert plan.frames == ()
    assert len(set(colours(mapping).values())) == 3


def test_floorplan_of_several_chips() -> None:
    chip = at.chips.hermes64().replace(array={"tiles": 9})
    mapping = map_to_chip(nn.Linear(256, 256 * 50), torch.zeros(1, 256), chip=chip, num_chips=None)
    plan = floorplan(mapping)
    assert [f.chip for f in plan.frames] == list(range(6))
    frames = {f.chip: f for f in plan.frames}
    assert len({(f.x, f.y) for f in plan.frames}) == 6
    for tile in plan.tiles:
        own = frames[tile.chip]
        assert own.x < tile.x < tile.x + 1 < own.x + own.width
        assert own.y < tile.y < tile.y + 1 < own.y + own.height
    assert 0.9 < plan.width / plan.height < 3
    assert ">chip 5<" in mapping.to_html().replace("\n", "")
    mapping.plot()
