"""Whether a calibration is worth keeping: the error of the model's outputs on batches that it was
not made from.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analogtorch.calibration.passes import Forward, evaluating, exactly, one_pass

MARGIN = 0.01
"""Share of the output vectors that calibration may move, beyond those that are moved without."""


class Judge:
    """Compares a model with what its exact layers give, on a few batches."""

    def __init__(self, model: nn.Module, batches: Sequence[Any], forward: Forward | None) -> None:
        """``batches`` and ``forward`` as ``calibrate`` takes them; the exact outputs are kept in
        memory.
        """
        self.model, self.batches, self.forward = model, batches, forward
        with exactly(model):
            self.exact = [list(outputs) for outputs in self._outputs()]

    def _outputs(self) -> Iterator[Iterator[Tensor]]:
        with evaluating(self.model):
            for batch in self.batches:
                yield _tensors(one_pass("calibrate", self.model, batch, self.forward))

    @property
    def judges(self) -> bool:
        """Whether the model gives tensors that can be compared: a ``forward`` of the user's may
        return nothing.
        """
        return any(map(len, self.exact))

    def error(self) -> "Error":
        """How far the outputs of the model, as it is, are from the exact ones."""
        angle, moved, count = 0.0, 0, 0
        for exact, outputs in zip(self.exact, self._outputs(), strict=True):
            for a, y in zip(exact, outputs, strict=False):
                if a.shape == y.shape and a.numel():
                    a, y = _vectors(a), _vectors(y)
                    angle += len(a) * _angle(a, y)
                    moved += int(_moved(a, y).sum())
                    count += len(a)
        return Error(moved, angle / max(count, 1), count)


@dataclass(frozen=True)
class Error:
    """Two measures that do not mind a common factor, which clipping changes and classes do not
    depend on.
    """

    moved: int
    """Output vectors whose largest number is another one: other classes, other next tokens. Of
    outputs of one number, those that are off by more than a tenth of their standard deviation."""
    angle: float
    """Mean of 1 - cosine between the output vectors and the exact ones, the mean exact output
    subtracted from both."""
    vectors: int
    """Output vectors that were compared."""

    def exceeds(self, other: "Error") -> bool:
        """Whether it is larger by both measures, and by more than chance and a little rounding
        explain.

        The number of moved vectors has a standard error of its root, so that a difference of less
        than two standard errors says nothing. Nor does one of less than ``MARGIN``: a digital unit
        that rounds to 8 bits, which it does after calibration only, moves some vectors of any
        model.
        """
        least = max(2 * math.sqrt(self.moved + other.moved), MARGIN * self.vectors)
        return self.angle > other.angle and self.moved - other.moved > least


def _angle(a: Tensor, y: Tensor) -> float:
    """Mean of 1 - cosine of the rows, the mean exact row subtracted from both; single numbers are
    one vector.
    """
    mean = a.mean(0) if len(a) > 1 else torch.zeros_like(a[0])
    a, y = a - mean, y - mean
    a, y = (a.T, y.T) if a.shape[1] == 1 else (a, y)
    return (1 - cosine_similarity(a, y).nan_to_num(-1.0)).mean().item()


def _moved(a: Tensor, y: Tensor) -> Tensor:
    """Which rows of ``y`` say something else than those of ``a``: see ``Error.moved``."""
    if a.shape[1] > 1:
        return a.argmax(1) != y.argmax(1)
    return (a - y).abs() > 0.1 * a.std(correction=0)


def _vectors(y: Tensor) -> Tensor:
    """An output as (vectors, numbers): sequences by step, images and the like by sample."""
    y = y.double()
    return (
        y.reshape(-1, y.shape[-1])
        if y.dim() in (1, 2, 3)
        else y.flatten(1)
        if y.dim()
        else y.view(1, 1)
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in what a model returns, which may be nested."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output.detach()
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
