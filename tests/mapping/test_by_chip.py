"""``map_by_chip``: models on several chips, one mapping for each."""

import types

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.mapping import map_by_chip

HERMES, SPEECH = at.chips.hermes64(), at.chips.ibm_speech34()
X = torch.rand(1, 1, 8, 8)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10), nn.ReLU())


def test_costs_are_those_of_the_parts_by_themselves() -> None:
    sensor, rest = map_by_chip(at.convert(net(), HERMES, sensor="0"), X)
    alone = at.map_to_chip(net()[:1], X, chip=at.chips.photodiode_sensor())
    behind = at.map_to_chip(net()[1:], torch.rand(1, 4, 6, 6), chip=HERMES)
    for found, wanted in ((sensor, alone), (rest, behind)):
        cost, expected = at.cost(found), at.cost(wanted)
        assert cost.energy == expected.energy
        assert cost.schedule.latency == expected.schedule.latency
        assert found.tiles_used == wanted.tiles_used
    assert [op.kind for op in rest.operations] == [
        "input",
        "relu",
        "mvm",
        "relu",
        "output",
    ]
    assert sensor.digital_weights == ()
    assert dict(rest.digital_weights) == {"0.bias": 4, "3.bias": 10}


def test_layers_wait_for_those_of_other_chips_between_them() -> None:
    net, x = nn.Sequential(*(nn.Linear(200, 200) for _ in range(3))), torch.zeros(1, 200)
    whole = at.cost(at.map_to_chip(net, x, chip=HERMES))
    other = {"adc": {"noise": 0.01}}
    parts = map_by_chip(at.convert(net, HERMES, per_layer={"1": other}), x)
    costs = [at.cost(part) for part in parts]
    first, last = (step for step in costs[0].schedule.steps if step.mvms)
    assert last.start == first.finish
    assert sum(c.latency for c in costs) >= whole.latency
    assert sum(c.energy.tile for c in costs) == pytest.approx(whole.energy.tile)


def test_one_chip_is_one_mapping() -> None:
    model = at.convert(net(), HERMES)
    assert map_by_chip(model, X) == (at.map_to_chip(model, X),)
    options = {"duplicate": {"0": 3}, "exclude": "3"}
    assert map_by_chip(model, X, **options) == (at.map_to_chip(model, X, **options),)


def test_patterns_are_of_all_chips_and_energies_add_up() -> None:
    model = at.convert(net(), HERMES, sensor="0")
    sensor, rest = map_by_chip(model, X, duplicate={"*": 2})
    assert {p.block.copy for part in (sensor, rest) for p in part.placements} == {0, 1}
    (alone,) = map_by_chip(model, X, exclude="3")
    assert alone.chip == sensor.chip
    assert ("3.weight", 1440) in alone.digital_weights
    costs = [at.cost(part) for part in (sensor, rest)]
    total = at.cost_model.total_energy(costs)
    for scope in ("tile", "chip", "system"):
        each = [getattr(cost.energy, scope) for cost in costs]
        assert getattr(total, scope) == pytest.approx(sum(each))
        assert min(each) > 0


def test_branches_and_composite_layers_keep_what_arrives_from_another_chip() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.rnn = nn.Linear(8, 8), nn.Linear(8, 8), nn.LSTM(8, 4)
            self.unused = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(self.a(x) + self.b(x).relu())[0]

    other = at.chips.neurram48()
    model = at.convert(Branches(), HERMES, per_layer={"b": SPEECH, "unused": other})
    with pytest.warns(UserWarning, match="map_by_chip: 'unused' on the chip, which the example"):
        first, second, third = map_by_chip(model, torch.rand(5, 8))
    assert (first.chip, second.chip, third.chip) == (HERMES, SPEECH, other)
    assert {m.layer for m in second.matrices} == {"b"}
    assert first.weights + second.weights == 2 * 64 + 16 * 8 + 16 * 4
    arrived = [op for op in first.operations if op.kind == "input"]
    assert [(op.name, op.elements, op.operations) for op in arrived] == [
        ("(input)", 40, 0),
        ("b", 40, 0),
    ]
    assert second.operations[-1].takes({}) == {"b": 40}
    assert third.vectors == {"unused": 0}
    assert at.cost(first).energy.system > 0 < at.cost(second).energy.system


def test_layers_with_one_weight_may_be_on_two_chips() -> None:
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    found = map_by_chip(at.convert(tied, HERMES, per_layer={"1": SPEECH}), torch.rand(2, 4))
    assert [[m.name for m in mapping.matrices] for mapping in found] == [["0"], ["1"]]


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="map_by_chip: Sequential has no analog layer"):
        map_by_chip(net(), X)
    with pytest.raises(TypeError, match="map_by_chip: model"):
        map_by_chip(at.chips.hermes64(), X)
    with pytest.raises(ValueError, match=r"map_by_chip\(model, example\)"):
        at.map_to_chip(at.convert(net(), HERMES, sensor="0"), X)


def test_results_leave_where_it_is_not_known_what_is_returned() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor) -> object:
            return types.SimpleNamespace(y=self.net(x))  # nothing knows what is in it

    for each in map_by_chip(at.convert(Wrapped(), HERMES, sensor="net.0"), X):
        assert at.cost(each).schedule.steps[-1].port_elements > 0
