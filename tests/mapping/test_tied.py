"""Layers that hold one Parameter: on a chip, each analog one has cells of its own."""

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.cost_model import WeightMemory
from analogtorch.evaluate.plan_cost import Costs

CHIP = at.chips.hermes64()
X = torch.rand(1, 8)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


def test_all_rooms_count_a_matrix_for_each_analog_layer() -> None:
    model = at.convert(Tied().eval(), CHIP)
    mapping = at.map_to_chip(model, X)
    assert [(m.name, m.layer) for m in mapping.matrices] == [("a", "a"), ("b", "b")]
    assert [(op.name, op.vectors) for op in mapping.operations if op.matrix] == [("a", 1), ("b", 1)]
    summary = at.summary(model)
    assert sum(row.cells for row in summary.layers) == mapping.cells == 128
    assert summary.share.total == summary.share.analog == mapping.weights == 128
    assert at.guard(model, X).share == summary.share
    physical = at.program(model, seed=1, mapping=mapping)
    assert sum(physical.writes().counts) == CHIP.cell.devices * mapping.cells
    assert len({(p.tile, p.col) for p in mapping.placements}) == 2
    a, b = (layer.programmed.weights[0] for _, layer in at.analog_layers(physical.at("1 day")))
    assert not torch.equal(a, b)
    twice = at.map_to_chip(Tied(), X, chip=CHIP, duplicate={"b": 2})
    assert twice.copies == {"a": 1, "b": 2}


class _Joint(nn.Module):
    """Multiplies by two weights in one matrix, as the head of MobileBERT does."""

    def __init__(self, first: str) -> None:
        super().__init__()
        sizes = {"small": (3, 5), "large": (5, 5)}
        for name in sorted(sizes, key=first.__ne__):
            self.add_module(name, nn.Linear(*sizes[name], bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.cat([self.small.weight.t(), self.large.weight])


@pytest.mark.parametrize("first", ["small", "large"])
def test_layers_that_share_one_matrix_are_named_together(first: str) -> None:
    model = at.convert(_Joint(first), CHIP)
    with pytest.warns(UserWarning, match=r"'large' \(one matrix with 'small'\) on the chip"):
        mapping = at.map_to_chip(model, X)
    with pytest.raises(ValueError, match=rf"'{first}'.* several weights in one matrix: .*guard"):
        at.program(model, seed=1, mapping=mapping)


@pytest.mark.parametrize("left", ["a", "b"])
def test_one_that_stays_digital_is_counted_as_digital(left: str) -> None:
    kept = {"a": "b", "b": "a"}[left]
    model = at.convert(Tied().eval(), CHIP, exclude=left)
    mapping = at.map_to_chip(model, X)
    assert [m.name for m in mapping.matrices] == [kept]
    macs = {op.name: op.operations for op in mapping.digital if op.kind == "matmul"}
    assert macs == {left: 2 * 64}
    assert dict(mapping.digital_weights) == {f"{left}.weight": 64}
    assert at.summary(model).share.digital == {left: 64}
    chosen = at.map_to_chip(Tied(), X, chip=CHIP, exclude=left)
    assert chosen.matrices == mapping.matrices
    assert chosen.operations == mapping.operations
    other = at.map_to_chip(Tied(), X, chip=CHIP, exclude=kept)
    with pytest.raises(ValueError, match=f"the mapping has no matrix of layer '{kept}'"):
        at.program(at.convert(Tied().eval(), CHIP), seed=1, mapping=other)


def test_a_layer_that_is_called_twice_is_one_matrix() -> None:
    layer = nn.Linear(8, 8)
    mapping = at.map_to_chip(nn.Sequential(layer, layer), X, chip=CHIP)
    assert [m.name for m in mapping.matrices] == ["0"]
    assert mapping.copies == {"0": 1}


def test_a_plan_charges_them_one_by_one() -> None:
    model = at.convert(Tied().eval(), CHIP)
    costs = Costs(model, X, CHIP, WeightMemory())
    found = [costs.one(name, 0) for name in ("a", "b")]
    assert [(each.digital_macs, each.macs) for each in found] == [(64, 128), (64, 128)]
    assert costs.one("b", 1).digital_macs == 0
