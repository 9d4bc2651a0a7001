"""What travels in an inference, by hand: inputs, parts of results, and what the host gets."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.mapping.mapping import ChipMapping

HERMES = at.chips.hermes64()


class Net(nn.Module):
    """Layers ``a``, ``b``, ... and a function of them."""

    def __init__(self, run: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in zip("abcdef", layers, strict=False):
            self.add_module(name, layer)

    def forward(self, *given: Tensor) -> Any:
        return self.run(self, *given)


@dataclasses.dataclass
class Out:
    y: Any
    z: Any


def _mapped(net: nn.Module, *shapes: tuple[int, ...], chip: at.Chip = HERMES) -> ChipMapping:
    example = tuple(torch.zeros(shape) for shape in shapes)
    return at.map_to_chip(at.convert(net.eval(), chip), example, num_chips=None)


def _crossed(net: nn.Module, *shapes: tuple[int, ...], chip: at.Chip = HERMES) -> dict[str, float]:
    """Return the numbers that pass a port for each operation, without those that move none."""
    steps = at.cost(_mapped(net, *shapes, chip=chip)).schedule.steps
    return {s.operation: pytest.approx(s.port_elements) for s in steps if s.port_elements}


@pytest.mark.parametrize(
    ("layer", "shape", "entering"),
    [
        (nn.Conv2d(3, 64, 16, stride=16), (1, 3, 224, 224), 150_528),  # of a vision transformer
        (nn.Conv2d(3, 8, 7, stride=2, padding=3), (1, 3, 32, 32), 3 * 32 * 32),
        (nn.Conv2d(4, 8, 1, stride=2), (1, 4, 8, 8), 4 * 16),  # it skips three of four
        (nn.Conv1d(4, 8, 3, dilation=8), (1, 4, 20), 4 * 12),  # it skips eight of 20 positions
        (nn.Conv1d(1, 32, 10, stride=5), (1, 1, 1600), 1600),
        (nn.Linear(300, 4), (7, 300), 7 * 300),  # two blocks of rows
        (nn.Linear(40, 300), (7, 40), 7 * 40),  # two blocks of columns
        (nn.LSTM(16, 8, bidirectional=True), (5, 1, 16), 5 * 16),
    ],
)
def test_every_number_of_the_input_that_a_layer_needs_enters_once(
    layer: nn.Module, shape: tuple[int, ...], entering: int
) -> None:
    first, *_ = _crossed(layer, shape).values()
    assert first == entering


def test_an_input_enters_where_it_joins_a_result() -> None:
    net = Net(lambda s, x, z: s.b(torch.cat([s.a(x), z], -1)), nn.Linear(4, 8), nn.Linear(108, 16))
    assert _crossed(net, (1, 4), (1, 100)) == {"a": 4, "b": 100, "output": 16}
    layers = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
    shared = Net(lambda s, x: s.a(x) + s.b(x) + s.c(x), *layers)
    assert _crossed(shared, (1, 64)) == {"a": 64, "output": 64}


@pytest.mark.parametrize("kinds", [(), ("activation",), HERMES.cost.on_chip.kinds, ("pool",)])
def test_the_input_of_an_int8_layer_crosses_once(kinds: tuple[str, ...]) -> None:
    """The host rounds it, whatever operations the chip computes."""
    on_chip = dataclasses.replace(HERMES.cost.on_chip, kinds=kinds)
    chip = HERMES.replace(cost=dataclasses.replace(HERMES.cost, on_chip=on_chip))
    layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 8)
    model = at.convert(nn.Sequential(*layers), chip, exclude="2")
    x, reports = torch.zeros(5, 64), []
    for each in (model, at.quantise_digital(copy.deepcopy(model))):
        reports.append(at.cost(at.map_to_chip(each, x)))
    exact, int8 = reports
    assert int8.energy.port_communication == pytest.approx(exact.energy.port_communication)
    operations = 5 * (5 * 32 + 2)
    rounding = [s for s in int8.schedule.steps if s.operation.startswith("2.rounding.")]
    assert {step.place for step in rounding} == {"host"}
    assert sum(step.operations for step in rounding) == operations
    assert int8.latency == pytest.approx(exact.latency + operations / chip.cost.host.rate.value)


def test_what_the_model_returns_leaves_and_nothing_else() -> None:
    layers = nn.Linear(64, 64), nn.Linear(64, 8)

    def both(s: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return s.b(kept := s.a(x)), kept

    assert _crossed(Net(both, *layers), (1, 50, 64))["output"] == 50 * (64 + 8)
    whole = Net(lambda s, x: Out(*both(s, x)), *layers)
    assert _crossed(whole, (1, 50, 64))["output"] == 50 * (64 + 8)
    assert _crossed(Net(lambda s, x: (s.a(x), s.b(x))[1], *layers), (1, 64))["output"] == 8
    assert _crossed(Net(lambda s, x: s.a(x)[:, -1], layers[0]), (1, 50, 64))["output"] == 64
    # what the host has taken for a product of its own stays there
    square = Net(lambda s, x: (lambda y: (y @ y.t(), y))(s.a(x)), layers[0])
    assert _crossed(square, (2, 64)) == {"a": 2 * 64, "matmul": 2 * 64}


def test_chunks_of_a_result_travel_as_parts_of_it() -> None:
    def attend(s: Any, x: Tensor) -> Tensor:
        q, k, v = s.a(x).chunk(3, -1)
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v

    found = _crossed(Net(attend, nn.Linear(64, 192)), (1, 10, 64))
    assert found == {"a": 640, "matmul": 1280, "matmul#2": 640}


def test_a_mapping_without_inputs_and_outputs_is_charged_as_before() -> None:
    mapping = _mapped(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), (3, 8))
    data = mapping.to_dict()
    data["operations"] = [
        {name: value for name, value in op.items() if name != "taken"} | {"inputs": inputs}
        for op in data["operations"]
        if op["kind"] not in ("input", "output")
        for inputs in [[name for name in op["inputs"] if name != "(input)"]]
    ]
    earlier = ChipMapping.from_dict(data)
    assert at.cost(earlier).energy == at.cost(mapping).energy
    assert at.cost(earlier).schedule.latency == at.cost(mapping).schedule.latency
    for changed, message in (
        ({"taken": [25]}, r"at most \[24\], got \(25,\)"),
        ({"taken": [-1]}, r"got \(-1,\)"),
        ({"taken": [1, 2]}, "a number of elements of each of its 1 inputs"),
    ):
        data = mapping.to_dict()
        data["operations"][1] |= changed
        with pytest.raises(ValueError, match=message):
            at.cost(ChipMapping.from_dict(data))
    del data["operations"][1]["inputs"]
    with pytest.raises(ValueError, match="a field has the wrong shape"):
        ChipMapping.from_dict(data)


def test_expanded_inputs_travel_to_the_tiles() -> None:
    chip = HERMES.replace(expansion={"factor": 4.0})
    two = Net(lambda s, x: s.b(s.a(x).relu()), nn.Linear(64, 64), nn.Linear(64, 8))
    found = _crossed(two, (10, 64), chip=chip)
    assert (found["a"], found["b"]) == (2560, 2560)
    joined = Net(lambda s, x, z: s.a(torch.cat([x, z], -1)), nn.Linear(64, 8))
    assert _crossed(joined, (1, 32), (1, 32), chip=chip)["a"] == 256
    lstm = nn.LSTM(8, 8, num_layers=2, bidirectional=True)
    assert _crossed(lstm, (3, 1, 8), chip=chip)["output"] == 3 * 16


def test_what_is_written_into_a_buffer_is_read_from_it() -> None:
    linear = nn.Linear(64, 64)

    def cached(s: Any, x: Tensor, keys: Tensor) -> Tensor:
        keys[:, 20:21] = s.b(x)
        return (s.a(x) @ keys[:, :21].transpose(1, 2)).softmax(-1)

    net = Net(cached, linear, nn.Linear(64, 64))
    assert _crossed(net, (1, 1, 64), (1, 256, 64))["matmul"] == 128
    cropped = Net(lambda s, x: nn.functional.pad(s.a(x), (0, 0, 0, 60))[:4], nn.Linear(8, 4))
    assert _crossed(cropped, (4, 8))["output"] == 16

    def begun(s: Any, x: Tensor) -> Tensor:
        keys = torch.zeros(1, 1000, 64)
        keys[:, :10] = s.a(x)[:, :10]
        return keys[:, :10].softmax(-1)

    for tokens in (10, 20):
        (taken,) = (
            op.taken
            for op in _mapped(Net(begun, linear), (1, tokens, 64)).operations
            if op.kind == "activation"
        )
        assert taken == (640,)


def test_a_sum_of_a_result_and_an_input_is_where_the_result_is() -> None:
    for add in (lambda s, x: s.b(x + s.a(x)), lambda s, x: s.b(s.a(x) + x)):
        net = Net(add, nn.Linear(256, 256), nn.Linear(256, 256))
        steps = at.cost(_mapped(net, (16, 256))).schedule.steps
        assert [step.place for step in steps] == ["tiles", "chip", "tiles", "host"]


def test_operators_that_move_numbers_cost_nothing() -> None:
    for move in (torch.ravel, lambda y: torch.hstack([y, y]), lambda y: y.broadcast_to(2, 1, 8)):
        mapping = _mapped(Net(lambda s, x, move=move: move(s.a(x)), nn.Linear(8, 8)), (1, 8))
        assert not mapping.digital
