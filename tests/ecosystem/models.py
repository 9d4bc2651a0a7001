"""One small model per kind of analog layer: what the whole battery runs over."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import analogtorch as at

CHIP = dataclasses.replace(at.chips.hermes64(), rows=24, cols=16)
"""Tiles so small that every layer takes several."""

TORCHS_OWN = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
"""What torch says of the digital layers themselves."""


class Net(nn.Module):
    """A layer inside a model, whatever the layer takes and returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.layer(*inputs)
        return y if isinstance(y, Tensor) else y[0]


@dataclass(frozen=True)
class Entry:
    """A layer and what it takes: shapes of normal inputs, or makers of others."""

    name: str
    kind: Any
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...] | Callable[[], Tensor], ...]
    batch_dim: int = 0

    def digital(self) -> Net:
        """The same digital model at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Net(self.make())

    def converted(self) -> Net:
        """On the chip, not calibrated."""
        return at.convert(self.digital(), CHIP)  # type: ignore[return-value]

    def analog(self) -> Net:
        """On the chip, calibrated."""
        return at.calibrate(self.converted(), [self.inputs()], forward=lambda m, x: m(*x))  # type: ignore[return-value]

    def inputs(self, seed: int = 0) -> tuple[Tensor, ...]:
        """A batch of four, the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return tuple(shape() if callable(shape) else torch.randn(shape) for shape in self.shapes)


_kinds = at.nn
ENTRIES = (
    Entry("linear", _kinds.AnalogLinear, lambda: nn.Linear(40, 20), ((4, 40),)),
    Entry("conv1d", _kinds.AnalogConv1d, lambda: nn.Conv1d(6, 18, 5, padding=2), ((4, 6, 10),)),
    Entry("conv2d", _kinds.AnalogConv2d, lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2), ((4, 4, 7, 7),)),
    Entry("conv3d", _kinds.AnalogConv3d, lambda: nn.Conv3d(2, 5, 3, padding=1), ((4, 2, 4, 4, 4),)),
    Entry("rnn", _kinds.AnalogRNN, lambda: nn.RNN(5, 6, num_layers=2), ((2, 4, 5),), 1),
    Entry("lstm", _kinds.AnalogLSTM, lambda: nn.LSTM(5, 8, proj_size=3, bidirectional=True), ((2, 4, 5),), 1),
    Entry("attention", _kinds.AnalogMultiheadAttention, lambda: nn.MultiheadAttention(12, 3), ((5, 4, 12),) * 3, 1),
    Entry("gru", _kinds.AnalogGRU, lambda: nn.GRU(5, 9, batch_first=True), ((4, 2, 5),)),
)
"""A line per kind; ``test_every_kind_has_a_model`` names what is missing."""
