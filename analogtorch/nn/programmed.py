"""What a programmed chip holds of a layer, and how the layer counts the inputs that it
multiplies.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_COUNTING = threading.Lock()
"""Held while a layer counts; not a layer's own, which could not be copied."""


@dataclass(frozen=True)
class Programmed:
    """What a programmed chip holds of one layer, at one time: see ``analogtorch.program``."""

    weights: tuple[Tensor, ...]
    """Per section: the weights that its conductances stand for, in the section's shape."""
    scales: tuple[Tensor, ...]
    """Per section: weight at full conductance, (row blocks, outputs)."""
    gains: tuple[Tensor, ...]
    """Per section: digital correction of each block's readings, (row blocks, outputs)."""
    keys: Tensor
    """Keys of the output noise, (row blocks,) int64."""
    adc_gains: tuple[Tensor, ...] | None = None
    """Per section: gain of the ADC that reads each column, (row blocks, outputs), > 0; None: 1.
    ``gains`` has it."""
    offset: Tensor | None = None
    """Added digitally to each output beside the bias, (outputs,): see
    ``analogtorch.correct_columns``."""
    negatives: tuple[Tensor, ...] | None = None
    """Per section: the part of ``weights`` that the negative polarity holds, >= 0; None: it is not
    read by itself."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Programmed":
        """The same with ``fn`` applied to every tensor."""
        weights, scales, gains = (
            tuple(map(fn, part)) for part in (self.weights, self.scales, self.gains)
        )
        adc_gains = None if self.adc_gains is None else tuple(map(fn, self.adc_gains))
        offset = None if self.offset is None else fn(self.offset)
        negatives = None if self.negatives is None else tuple(map(fn, self.negatives))
        return Programmed(weights, scales, gains, fn(self.keys), adc_gains, offset, negatives)


class CountingLayer(nn.Module):
    """The part of an analog layer that belongs to a programmed chip."""

    layer_name: str
    programmed: Programmed | None
    has_run: bool = False
    """Of a programmed layer: whether it has multiplied anything, compiled calls aside."""
    vectors_read: Tensor
    """Of a programmed layer: how many input vectors (linear) or samples (convolution) it has
    multiplied, (1,) int64. It counts them for the output noise, so that every multiply has its own
    and batches of any size see the same."""

    def hold(self, programmed: Programmed) -> None:
        """Become the layer as a programmed chip holds it."""
        self.programmed = programmed
        # a buffer, so that torch.export and torch.compile carry on the count
        with torch.inference_mode(False):  # it must be able to count outside too
            count = torch.zeros(1, dtype=torch.int64, device=programmed.keys.device)
        self.register_buffer("vectors_read", count, persistent=False)

    def count_on(self, vectors: int) -> Tensor:
        """Count so many vectors of a programmed layer; the number of the first in the output noise,
        (1,) int64.

        Threads that share a layer never get the same numbers; which of them gets which depends on
        who comes first.
        """
        if torch.compiler.is_compiling():  # which cannot trace a lock
            return self._counted_on(vectors)
        with _COUNTING:
            return self._counted_on(vectors)

    def _counted_on(self, vectors: int) -> Tensor:
        first = self.vectors_read.clone()
        self.vectors_read.add_(vectors)
        return first

    def _refuse_training(self) -> None:
        if self.programmed is not None and self.training:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, which cannot train: call "
                ".eval() on it, or train the model that it was programmed from and program that "
                "again"
            )
