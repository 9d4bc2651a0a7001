"""What the exact model returns for a few batches, and how far the outputs of a chip are from it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analogtorch.calibration.column_outputs import SINGLE, unlike
from analogtorch.calibration.outputs import TEMPERATURE, by_class, masks, spread
from analogtorch.calibration.padding import without_padding
from analogtorch.calibration.passes import Forward, one_pass
from analogtorch.calibration.units import are_alike, are_shares, variances

_TINY = torch.finfo(torch.float32).tiny
"""Smallest divisor."""

_SOME = 256
"""Vectors of each batch at most, about, by which outputs are scaled."""


class ExactOutputs:
    """Outputs of the exact model for some batches, beside which those of a chip are judged.

    Args:
        model: the programmed model.
        batches: inputs.
        exact: outputs of the exact model for each batch, as ``without_padding`` has them.
        forward: as ``calibrate`` takes it.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        exact: Sequence[Sequence[Tensor]],
        forward: Forward | None,
    ) -> None:
        self._model, self._batches, self._forward = model, batches, forward
        self._outputs = [_Output(each) for each in zip(*exact, strict=False)]
        self.empty = not any(y.numel() for outputs in exact for y in outputs)
        """Whether there is no number to compare."""
        self.vary = any(output.varies for output in self._outputs)
        """Whether they say anything: not if they are the same for all inputs."""

    def error(self, number: int, found: Sequence[Tensor] | None = None) -> Tensor | None:
        """Return how far outputs for a batch are off; None: there is nothing to compare.

        Args:
            number: that of the batch.
            found: the outputs, as ``without_padding`` has them; None: the model runs.
        """
        if found is None:
            batch = self._batches[number]
            run = one_pass("correct_columns", self._model, batch, self._forward, number)
            found = without_padding(self._model, run, batch)
        pairs = zip(self._outputs, found, strict=False)
        errors = [error for out, y in pairs if (error := out.error(y, number)) is not None]
        return torch.stack(errors).mean() if errors else None

    def errors(self, found: Sequence[Sequence[Tensor]] | None = None) -> list[float]:
        """Return how far outputs are off, of all batches that can be compared."""
        each = [None] * len(self._batches) if found is None else found
        errors = (self.error(number, outputs) for number, outputs in enumerate(each))
        return [error.item() for error in errors if error is not None]

    @property
    def other_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The shape of an output that had not the exact one, and that; None: all had it."""
        return next((o.unlike for o in self._outputs if o.unlike is not None), None)


class _Output:
    """One of the outputs of the exact model, for all batches, and how far others are from it."""

    def __init__(self, exact: Sequence[Tensor]) -> None:
        self._shapes = [tuple(y.shape) for y in exact]
        self.unlike: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        """The last shape that was not the exact one, and that; None: all were."""
        self._exact = [_rows(y) for y in exact]
        self._masks = [masks(y) for y in self._exact]
        pairs = [pair for pair in zip(self._exact, self._masks, strict=True) if len(pair[0])]
        whole = [_without_masks(*pair) for pair in pairs]
        some = [y[:: -(-len(y) // _SOME)] for y in whole]
        numbers = torch.cat(
            [y.flatten() for y in some] or [torch.zeros(1, dtype=torch.float32, device="cpu")]
        )
        self._variance = numbers.var(correction=0).clamp_min(_TINY)
        """That of all numbers, or that of each where they are quantities of several units."""
        own = variances(whole)
        self.varies = not bool(own.isinf().all())
        """Whether it says anything: not if it is the same for all inputs."""
        self._scores = are_shares(whole) or are_alike(own, sum(map(len, whole)))
        if not self._scores:
            self._variance = own
        spreads = [spread(*pair) for pair in pairs]
        self._temperature = max(TEMPERATURE * sum(spreads) / max(1, len(spreads)), _TINY)
        self._counted: tuple[Tensor, Tensor, Tensor] | None = None
        if len({y.shape[1] for y in some}) == 1 and some[0].shape[1] >= SINGLE:
            y = torch.cat(some).double()
            mean, variance = (x.expand(2, -1) for x in (y.mean(0), y.var(0)))
            self._counted = torch.full_like(y[0], len(y)), mean, variance

    def error(self, y: Tensor, number: int) -> Tensor | None:
        """Return how far an output for a batch is off, as numbers and as scores: a scalar >= 0.

        Both are 0 where it is exact: squared error over the variance, which numbers need, and the
        divergence of the softmax, which keeps decisions between classes. Quantities of several
        units have the first alone, each over its own variance. None: there is nothing to compare,
        as where the chip went on with other words.
        """
        given, exact, masked = tuple(y.shape), self._exact[number], self._masks[number]
        y = _rows(y)
        if y.shape != exact.shape:
            self.unlike = given, self._shapes[number]
        if y.shape != exact.shape or not y.numel():
            return None
        if self._counted is not None:
            first, target = (_without_masks(t, masked) for t in (y.detach(), exact))
            other = unlike(first, target, self._counted)
            if other is not None and other.any():
                kept = ~other[:, 0]
                y, exact = y[kept], exact[kept]
                masked = None if masked is None else masked[kept]
        if not (self.varies and y.numel()):
            return None
        change = _without_masks(y, masked) - _without_masks(exact, masked)
        if not self._scores:
            return (change.square() / self._variance).mean()
        error = change.square().mean() / self._variance
        if y.shape[1] < 3:
            return error
        lowest, scaled = torch.finfo(y.dtype).min, (t / self._temperature for t in (y, exact))
        y, exact = (F.log_softmax(_without_masks(t, masked, lowest), -1) for t in scaled)
        return error + F.kl_div(y, exact, log_target=True, reduction="batchmean")


def _rows(y: Tensor) -> Tensor:
    """Return an output as (positions, classes), in single precision at least."""
    return by_class(y.to(torch.promote_types(y.dtype, torch.float32)))


def _without_masks(rows: Tensor, masked: Tensor | None, value: float = 0.0) -> Tensor:
    return rows if masked is None else rows.masked_fill(masked, value)
