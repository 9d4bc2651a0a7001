"""Which functions the units of the chips compute, and where partial sums are added."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analogtorch as at
from analogtorch.graph.types import Matrix
from tests.mapping.parts import digital, mapping, matrix, mvm, put

HERMES = {"relu", "hardsigmoid", "sigmoid", "tanh", "lstm", "norm", "add"}
ON_CHIP = {
    "hermes64": HERMES,
    "hermes_core": {"relu", "hardsigmoid", "norm", "add"},
    "ibm_speech34": {"relu", "hardsigmoid"},
    "neurram48": {"relu", "hardsigmoid"},
    "reram_4mb": {"relu", "hardsigmoid"},
    "sonos40": {"relu", "hardsigmoid"},
    "memcapacitor": {"relu", "hardsigmoid"},
}
"""The functions that a chip computes itself; ``norm`` is a batch norm."""


class _Functions(nn.Module):
    """Layers with a function of each behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.norm, self.layer = nn.LSTM(8, 8), nn.BatchNorm1d(8), nn.LayerNorm(8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(10))

    def forward(self, x: Tensor) -> Tensor:
        one, two, *others = self.layers
        x = two(one(x)) + one(x)
        x = self.lstm(x)[0]
        functions = (F.relu, F.hardsigmoid, torch.sigmoid, torch.tanh, F.gelu, self.layer,
                     lambda h: h.softmax(-1), self.norm)  # fmt: skip
        for layer, function in zip(others, functions, strict=True):
            x = function(layer(x))
        return x


@pytest.mark.parametrize("name", ON_CHIP)
def test_a_chip_computes_the_functions_that_it_has_and_the_host_the_others(name: str) -> None:
    chip = at.chips.get(name)
    found = at.map_to_chip(_Functions().eval(), torch.zeros(3, 8), chip=chip, num_chips=None)
    steps = [s for s in at.cost(found).schedule.steps if s.kind != "transfer" and not s.mvms]
    where = {s.operation.split(".")[0]: s.place for s in steps if s.kind != "partial_sums"}
    assert len(where) == 10
    assert {function for function, place in where.items() if place == "chip"} == ON_CHIP[name]
    assert chip.costs.on_chip.sources["kinds"]


def test_partial_sums_leave_a_chip_whose_host_adds_them() -> None:
    chip = at.chips.neurram48()  # tiles of 128 rows
    found = at.map_to_chip(nn.Linear(512, 256, bias=False), torch.zeros(2, 512), chip=chip)
    report = at.cost(found)
    product, sums, out = report.schedule.steps
    assert (product.port_elements, product.operations, product.element_hops) == (2 * 512, 0, 0)
    assert sums.operation == f"{product.operation}.partial_sums"
    assert (sums.kind, sums.place) == ("partial_sums", "host")
    assert (sums.port_elements, sums.operations) == (2 * 4 * 256, 2 * 3 * 256)
    assert out.port_elements == 0
    energy, costs = report.energy, chip.costs
    assert (energy.chip_digital, energy.chip_communication) == (0, 0)
    assert energy.host_digital == pytest.approx(2 * 3 * 256 * costs.host.energy.value)
    assert energy.port_communication == pytest.approx(
        2 * (512 + 4 * 256) * costs.network.chip_energy.value
    )
    after = sums.start + sums.transfer + 2 * 3 * 256 / costs.host.rate.value
    assert (sums.start, report.latency) == (product.finish, pytest.approx(after))


def test_what_follows_partial_sums_of_the_host_takes_their_result_there() -> None:
    """The layer of one block keeps its results on the chip."""
    chip = at.chips.neurram48()
    operations = [
        mvm("a", 10), mvm("b", 10, "a"), digital("relu", "relu", 10, "b"), mvm("c", 5, "relu")
    ]  # fmt: skip
    blocks = [put(0, "a", 100, 10), put(1, "b", 6, 10), put(2, "b", 4, 10, row=6),
              put(3, "c", 10, 5)]  # fmt: skip
    matrices = [matrix("a", 100, 10), matrix("b", 10, 10), matrix("c", 10, 5)]
    steps = at.cost(mapping(chip, operations, matrices, blocks)).schedule.steps
    a, b, sums, *_ = steps
    assert [s.place for s in steps] == ["tiles", "tiles", "host", "host", "tiles", "host"]
    assert [s.port_elements for s in steps] == [100, 0, 20, 0, 10, 5]
    assert (b.element_hops, sums.operations, a.element_hops) == (10 * 1 * 0.6 + 10 * 2 * 0.4, 10, 0)


@pytest.mark.parametrize("one_hot", [False, True])
def test_results_of_the_unit_cells_of_a_weight_are_partial_sums_too(one_hot: bool) -> None:
    chip = at.chips.neurram48()
    operation = dataclasses.replace(mvm("a", 10, vectors=4), one_hot=one_hot)
    twice: Matrix = dataclasses.replace(matrix("a", 8, 10), cells=2)
    blocks = [put(0, "a", 8, 10), put(1, "a", 8, 10, copy=1)]
    _, sums, _ = at.cost(mapping(chip, [operation], [twice], blocks)).schedule.steps
    assert (sums.port_elements, sums.operations) == (4 * 2 * 10, 4 * 10)


def test_a_recurrent_matrix_takes_past_results_from_the_gates_that_are_behind_the_host() -> None:
    hermes = at.chips.hermes64()
    chip = hermes.replace(cost={"sums_on_host": True})
    example = torch.zeros(5, 1, 8)
    # the recurrent matrix has two row blocks, so that its sums enter the chip for the gates
    lstm = nn.LSTM(8, 300)
    found = at.map_to_chip(lstm, example, chip=chip, num_chips=None)
    steps = {s.operation: s for s in at.cost(found).schedule.steps}
    assert steps["weight_hh_l0.partial_sums"].port_elements == 5 * 2 * 1200
    assert steps["weight_ih_l0.gates"].place == "chip"
    assert steps["weight_ih_l0.gates"].port_elements == 5 * 1200
    assert steps["weight_hh_l0"].port_elements == 0
    # without a matrix of several blocks nothing changes
    small = at.map_to_chip(nn.LSTM(8, 8), example, chip=chip)
    same = at.map_to_chip(nn.LSTM(8, 8), example, chip=hermes)
    assert at.cost(small).schedule == at.cost(same).schedule


def test_slices_and_pulses_are_added_on_the_chip() -> None:
    sliced = at.chips.neurram48().replace(
        dac={"bits": 8}, slices={"weight_bits": 8, "bits_per_slice": 2, "bits_per_pulse": 1}
    )
    found = at.map_to_chip(nn.Linear(256, 8, bias=False), torch.zeros(1, 256), chip=sliced)
    product, sums, _ = at.cost(found).schedule.steps
    blocks, parts = 2, 4 * 7  # columns of a weight, pulses of an input
    assert product.operations == blocks * 8 * (parts - 1)
    assert (sums.port_elements, sums.operations) == (blocks * 8, 8)
