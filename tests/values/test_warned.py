"""Warnings name the user's line, whatever lies between."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.values.warned import warn


def test_own_line() -> None:
    with pytest.warns(UserWarning, match="careful") as found:
        warn("careful")
    assert found[0].filename == __file__


def test_category() -> None:
    with pytest.warns(RuntimeWarning, match="careful"):
        warn("careful", RuntimeWarning)


def test_behind_a_decorator_of_torch() -> None:
    """``calibrate`` runs without gradients, by a decorator whose line says nothing."""
    model = nn.Sequential(nn.Linear(256, 4, bias=False))
    nn.init.ones_(model[0].weight)  # sums beyond the range of the ADC
    at.convert(model, at.chips.hermes64())
    with pytest.warns(UserWarning, match="fixed range of the ADC") as found:
        at.calibrate(model, [torch.rand(64, 256)], method="absmax")
    assert found[0].filename == __file__


def test_behind_a_hook_of_the_model() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = at.convert(Unused(), at.chips.hermes64()).eval()
    with pytest.warns(UserWarning, match="did not run") as found:
        model(torch.rand(2, 4))
    assert found[0].filename == __file__


def test_behind_a_context() -> None:
    @contextlib.contextmanager
    def careful() -> Iterator[None]:
        exec(compile("warn('careful')", "inner", "exec"), {"__name__": "torch.x", "warn": warn})
        yield

    with pytest.warns(UserWarning, match="careful") as found, careful():
        pass
    assert found[0].filename == __file__
