"""What travels in an inference, by hand: inputs, parts of results, and what the host gets."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.mapping.mapping import ChipMapping


class Net(nn.Module):
    """Layers ``a``, ``b``, ... and a function of them."""

    def __init__(self, run: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in zip("abcdef", layers, strict=False):
            self.add_module(name, layer)

    def forward(self, *given: Tensor) -> Any:
        return self.run(self, *given)


def _mapped(net: nn.Module, *shapes: tuple[int, ...]) -> ChipMapping:
    example = tuple(torch.zeros(shape) for shape in shapes)
    return at.map_to_chip(at.convert(net.eval(), at.chips.hermes64()), example, num_chips=None)


def _crossed(net: nn.Module, *shapes: tuple[int, ...]) -> dict[str, float]:
    """Return the numbers that pass a port for each operation, without those that move none."""
    steps = at.cost(_mapped(net, *shapes)).schedule.steps
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


def test_what_the_model_returns_leaves_and_nothing_else() -> None:
    layers = nn.Linear(64, 64), nn.Linear(64, 8)

    def both(s: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return s.b(kept := s.a(x)), kept

    assert _crossed(Net(both, *layers), (1, 50, 64))["output"] == 50 * (64 + 8)
    assert _crossed(Net(lambda s, x: (s.a(x), s.b(x))[1], *layers), (1, 64))["output"] == 8
    assert _crossed(Net(lambda s, x: s.a(x)[:, -1], *layers), (1, 50, 64))["output"] == 64
    # what the host has taken for a product of its own stays there
    square = Net(lambda s, x: (lambda y: (y @ y.t(), y))(s.a(x)), *layers)
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
