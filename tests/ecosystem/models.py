"""One small model per kind of analog layer: what the whole battery runs over."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

import analogtorch as at
from analogtorch.conversion.subclass import analog_class
from analogtorch.nn.huggingface import AnalogConv1D as _Conv1D
from tests.crossbar import crossbar

CHIP = crossbar(array={"rows": 24, "columns": 16})
"""Tiles so small that most layers take several."""

TORCHS_OWN = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN:UserWarning"
)
"""What torch says of the digital layers themselves."""


class Doubled(nn.Linear):
    """A subclass whose forward names its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * F.linear(input, self.weight, self.bias)


class Net(nn.Module):
    """A layer inside a model, whatever the layer takes and returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        if isinstance(self.layer, nn.LSTMCell):
            inputs = inputs[0], inputs[1:]  # type: ignore[assignment]
        y = self.layer(*inputs)
        return y if isinstance(y, Tensor) else y[0]


@dataclass(frozen=True)
class Entry:
    """A layer and its inputs: shapes of normal inputs, or makers of others.

    There are four samples along ``batch_dim``.
    """

    name: str
    kind: Any
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...] | Callable[[], Tensor], ...]
    batch_dim: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    """Options of ``convert``."""

    @property
    def takes_range(self) -> bool:
        """Whether its inputs go through a DAC."""
        return getattr(self.kind, "takes_range", True)

    def digital(self) -> Net:
        """The same digital model at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Net(self.make())

    def converted(self) -> Net:
        """Return the layer on the chip, not calibrated."""
        return at.convert(self.digital(), CHIP, **self.options)  # type: ignore[return-value]

    def analog(self) -> Net:
        """Return the layer on the chip, calibrated."""
        return self.calibrated(self.converted())

    def calibrated(self, model: Net) -> Net:
        """Return the model with ranges for its inputs, if the layer takes a range."""
        if not self.takes_range:
            return model
        return at.calibrate(
            model,
            [self.inputs()],
            forward=lambda m, x: m(*x),
            method="absmax",
            adc="mse",
            adc_per="column",
        )  # type: ignore[return-value]

    def inputs(self, seed: int = 0) -> tuple[Tensor, ...]:
        """A batch of four, the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return tuple(
                shape() if callable(shape) else torch.randn(shape) for shape in self.shapes
            )


def _tokens() -> Tensor:
    return torch.randint(0, 50, (4, 3))


ENTRIES = (
    Entry("linear", at.nn.AnalogLinear, lambda: nn.Linear(40, 20), ((4, 40),)),
    Entry("conv1d", at.nn.AnalogConv1d, lambda: nn.Conv1d(6, 18, 5, padding=2), ((4, 6, 10),)),
    Entry(
        "conv2d",
        at.nn.AnalogConv2d,
        lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2),
        ((4, 4, 7, 7),),
    ),
    Entry("conv3d", at.nn.AnalogConv3d, lambda: nn.Conv3d(2, 5, 3, padding=1), ((4, 2, 4, 4, 4),)),
    Entry(
        "transposed1d",
        at.nn.AnalogConvTranspose1d,
        lambda: nn.ConvTranspose1d(8, 5, 4, 2),
        ((4, 8, 5),),
    ),
    Entry(
        "transposed2d",
        at.nn.AnalogConvTranspose2d,
        lambda: nn.ConvTranspose2d(4, 5, 2),
        ((4, 4, 3, 3),),
    ),
    Entry(
        "transposed3d",
        at.nn.AnalogConvTranspose3d,
        lambda: nn.ConvTranspose3d(4, 3, (2, 1, 2)),
        ((4, 4, 2, 2, 2),),
    ),
    Entry(
        "attention",
        at.nn.AnalogMultiheadAttention,
        lambda: nn.MultiheadAttention(12, 3),
        ((5, 4, 12),) * 3,
        1,
    ),
    Entry("rnn", at.nn.AnalogRNN, lambda: nn.RNN(5, 6, num_layers=2), ((2, 4, 5),), 1),
    Entry(
        "lstm",
        at.nn.AnalogLSTM,
        lambda: nn.LSTM(5, 8, proj_size=3, bidirectional=True),
        ((2, 4, 5),),
        1,
    ),
    Entry("gru", at.nn.AnalogGRU, lambda: nn.GRU(5, 9, batch_first=True), ((4, 2, 5),)),
    Entry("rnn_cell", at.nn.AnalogRNNCell, lambda: nn.RNNCell(5, 6), ((4, 5), (4, 6))),
    Entry("lstm_cell", at.nn.AnalogLSTMCell, lambda: nn.LSTMCell(5, 6), ((4, 5), (4, 6), (4, 6))),
    Entry("gru_cell", at.nn.AnalogGRUCell, lambda: nn.GRUCell(30, 6), ((4, 30), (4, 6))),
    Entry(
        "embedding",
        at.nn.AnalogEmbedding,
        lambda: nn.Embedding(50, 20),
        (_tokens,),
        0,
        {"embeddings": True},
    ),
    Entry(
        "subclass", analog_class(at.nn.AnalogLinear, Doubled), lambda: Doubled(40, 20), ((4, 40),)
    ),
    Entry("hugging_face", _Conv1D, lambda: Conv1D(11, 37), ((4, 3, 37),)),
)
"""A line per kind, and one for subclasses; ``test_every_kind_has_a_model`` names what is
missing."""


def few(*names: str) -> list[Any]:
    """Return the entries for a test that takes seconds for each; all but these are long tests."""
    assert set(names) <= {entry.name for entry in ENTRIES}
    return [
        pytest.param(entry, id=entry.name, marks=() if entry.name in names else pytest.mark.slow)
        for entry in ENTRIES
    ]


COMPILED = few("linear", "conv2d", "attention", "lstm", "gru_cell")
"""One for each way of a layer to compute."""
