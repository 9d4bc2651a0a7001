"""Copies of models whose modules keep results of their runs, or what nothing copies."""

import collections
import dataclasses
import io
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at
from analogtorch.conversion.detached import deep_copy
from tests.crossbar import crossbar

CHIP = crossbar()


@dataclasses.dataclass
class Result:
    """An output of a model."""

    y: Tensor


class Slots:
    """An output of a model, without a dictionary of attributes."""

    __slots__ = ("y",)

    def __init__(self, y: Tensor) -> None:
        self.y = y


class Keeps(nn.Module):
    """Keeps the output of its last run, in a container or bare."""

    def __init__(self, keep: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.keep, self.last = nn.Linear(4, 3), keep, keep(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        self.last = self.keep(y)
        return y


@pytest.mark.parametrize(
    "keep",
    [
        Result,
        Slots,
        lambda y: types.SimpleNamespace(y=y),
        lambda y: collections.deque([y], maxlen=2),
        lambda y: {"last": [Result(y)]},
    ],
    ids=["dataclass", "slots", "SimpleNamespace", "deque", "nested"],
)
def test_models_that_keep_their_last_output_are_copied(keep: Callable[[Tensor], Any]) -> None:
    model, x = at.convert(Keeps(keep), CHIP), torch.ones(2, 4)
    y = model(x)
    assert y.grad_fn is not None
    copied = deep_copy(model)
    assert torch.equal(copied.fc.weight, model.fc.weight)
    copied(x).sum().backward()
    assert copied.fc.weight.grad is not None
    assert model.fc.weight.grad is None
    physical = at.program(model, seed=0)
    assert physical.at(0)(x).shape == y.shape
    assert len(at.map_to_chip(model, x).placements) == 1


@pytest.mark.parametrize(
    ("held", "what"),
    [
        (threading.Lock, "lock"),
        (lambda: (i for i in range(3)), "generator"),
        (lambda: io.TextIOWrapper(io.BytesIO()), "TextIOWrapper"),
        (lambda: {"lock": threading.Lock()}, "lock"),
    ],
    ids=["lock", "generator", "file", "nested"],
)
def test_what_nothing_copies_is_named(held: Callable[[], Any], what: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model = at.convert(model, CHIP)
    model[1].held = held()
    message = rf"'1\.held'.*{what}"
    with pytest.raises(ValueError, match=message):
        at.program(model, seed=0)
    with pytest.raises(ValueError, match=message):
        at.map_to_chip(model, torch.ones(1, 4))
    with pytest.raises(ValueError, match=message):
        deep_copy(model)
