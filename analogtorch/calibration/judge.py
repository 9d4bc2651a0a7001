"""The comparison of a calibrated model with the uncalibrated one, on batches held back."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from analogtorch.calibration.outputs import (
    FIXED_SHAPE,
    by_class,
    masks,
    unmasked,
    vectors,
    without_tensors,
)
from analogtorch.calibration.padding import without_padding
from analogtorch.calibration.passes import Forward, exactly, one_pass
from analogtorch.conversion.restored import evaluated
from analogtorch.ops.scope import TURN

MARGIN = 0.01
"""Share of the output vectors that calibration may move more than no calibration does."""

MOVED = 0.1
"""Standard deviations by which outputs of one number have to differ to have moved."""

FIXED = f"If the shapes depend on values, as those of a detector's boxes do, {FIXED_SHAPE}"
"""What helps where outputs cannot be compared."""


_Rows = tuple[Tensor, Tensor, Tensor | None]
"""Exact vectors, those of the model, and where the exact ones hold a mask; None: nowhere. Images
have a vector of channels at each pixel, or one alone beside outputs of fewer dimensions."""


class Judge:
    """Compares a model with its exact layers on a few batches."""

    def __init__(
        self, model: nn.Module, batches: Sequence[Any], forward: Forward | None, first: int = 0
    ) -> None:
        """Compute and keep the exact outputs.

        Arguments are those of ``calibrate``; ``first`` is the number of the first batch there.
        """
        self.model, self.batches, self.forward, self.first = model, batches, forward, first
        self.without = ""
        """What an output without tensors to compare was, for messages; empty: there was none."""
        with TURN, exactly(model):
            state = torch.get_rng_state()
            self.exact = list(self._outputs())
            self.draws = not torch.equal(state, torch.get_rng_state())
        """Whether the model draws random numbers of its own, which then count as errors."""
        self.masks = [[masks(t) for t in outputs] for outputs in self.exact]
        """Where the exact outputs hold a mask, which says nothing of an error; None: nowhere."""
        self.exact = list(map(self._unmasked, self.exact, self.masks))
        self.apart: dict[tuple[int, int], str] = {}
        """Outputs that do not count any more, as they had another shape than the exact ones once:
        by the numbers of their batch and their own, with both shapes in words."""

    def _outputs(self) -> Iterator[list[Tensor]]:
        with evaluated(self.model):
            for number, batch in enumerate(self.batches, self.first):
                run = one_pass("calibrate", self.model, batch, self.forward, number)
                if not (found := without_padding(self.model, run, batch)):
                    self.without = without_tensors(run)
                yield found

    @staticmethod
    def _unmasked(outputs: Iterable[Tensor], masked: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the outputs of a batch, with zeros where the exact ones hold a mask."""
        found = list(outputs)
        for i, (y, mask) in enumerate(zip(found, masked, strict=False)):
            if mask is not None and y.shape == mask.shape:
                found[i] = y.masked_fill(mask, 0)
        return found

    @property
    def judges(self) -> bool:
        """Whether the model returns tensors that can be compared.

        A user's ``forward`` may return nothing.
        """
        return any(map(len, self.exact))

    @property
    def nothing_left(self) -> str:
        """Why no output counts and what helps, for messages."""
        return f"{self.unlike}. {FIXED}"

    @property
    def unlike(self) -> str:
        """Why outputs do not count, for messages."""
        if not self.apart:
            return "all outputs of the digital model are empty"
        example = next(iter(self.apart.values()))
        return f"outputs have other shapes on the chip than in the digital model, such as {example}"

    def notes(self) -> Iterator[str]:
        """Yield what a report has to say of outputs that do not count."""
        if self.apart:
            count = sum(map(len, self.exact))
            yield f"{len(self.apart)} of {count} outputs do not count: {self.nothing_left}"

    def _alike(self, step: int, found: Sequence[Tensor]) -> dict[int, tuple[Tensor, Tensor]]:
        """Return the exact outputs of a batch and those found, by number, if they can be compared.

        Those of another shape become ``apart``, for all settings of the model: errors of other
        outputs say nothing beside one another.
        """
        pairs = {}
        for which, exact in enumerate(self.exact[step]):
            shape = tuple(found[which].shape) if which < len(found) else None
            if shape != exact.shape:
                shown = "none" if shape is None else shape
                self.apart.setdefault((step, which), f"{shown} for {tuple(exact.shape)}")
            elif exact.numel() and (step, which) not in self.apart:
                pairs[which] = exact, found[which]
        return pairs

    def error(self) -> "Error":
        """Return how far the outputs of the model, as it is, are from the exact ones."""
        angle = 0.0
        moved = count = 0
        for a, y, mask in self._compared():
            rows = (unmasked(t, mask, lowest=True) for t in (a, y))
            moved += int(has_moved(*rows).sum())
            angle += len(a) * _angle(a, y)
            count += len(a)
        return Error(moved, angle / max(count, 1), count)

    def _compared(self) -> Iterator[_Rows]:
        """Yield the vectors that are compared with one another, batch by batch.

        A single vector has neither a spread nor a mean of its own: it is compared with those of
        other batches.
        """
        single: dict[tuple[int, int], list[_Rows]] = {}
        for step, outputs in enumerate(self._outputs()):
            exact, masks = self.exact[step], self.masks[step]
            # beside logits the many positions of a map, as of attention, would outvote them
            rows_of = by_class if all(a.dim() > 3 for a in exact) else vectors
            for which, (a, y) in self._alike(step, self._unmasked(outputs, masks)).items():
                mask = None if (masked := masks[which]) is None else rows_of(masked)
                rows = rows_of(a.double()), rows_of(y.double()), mask
                if len(rows[0]) > 1:
                    yield rows
                else:
                    single.setdefault((which, rows[0].shape[1]), []).append(rows)
        yield from map(_joined, single.values())


@dataclass(frozen=True)
class Error:
    """Two measures of an error that ignore a common factor.

    Clipping changes a factor, and classes do not depend on it.
    """

    moved: int
    """Number of output vectors whose largest number is at another index: another class or next
    token. For outputs of one number, those that differ by more than a tenth of their standard
    deviation, over the batch, or over all batches of one vector."""
    angle: float
    """Mean of 1 - cosine between the output vectors and the exact ones, after subtracting the mean
    exact output from both."""
    vectors: int
    """Number of output vectors that were compared."""

    def exceeds(self, other: "Error") -> bool:
        """Return whether both measures are larger, by more than chance and a little rounding.

        The number of moved vectors has a standard error of its root, so a difference of less than
        two standard errors means nothing. Neither does one of less than ``MARGIN``: a digital unit
        that rounds to 8 bits, as it does after calibration only, moves some vectors of any model.
        """
        least = max(2 * math.sqrt(self.moved + other.moved), MARGIN * self.vectors)
        return self.angle > other.angle and self.moved - other.moved > least


def _joined(parts: Sequence[_Rows]) -> _Rows:
    exact, found, masked = zip(*parts, strict=True)
    mask = None
    if any(m is not None for m in masked):
        nowhere = torch.zeros_like(exact[0], dtype=torch.bool)
        mask = torch.cat([nowhere if m is None else m for m in masked])
    return torch.cat(exact), torch.cat(found), mask


def _angle(a: Tensor, y: Tensor) -> float:
    """Return the mean of 1 - cosine of the rows, after subtracting the mean exact row from both.

    Single numbers count as one vector.
    """
    mean = a.mean(0) if len(a) > 1 else torch.zeros_like(a[0])
    a, y = a - mean, y - mean
    a, y = (a.T, y.T) if a.shape[1] == 1 else (a, y)
    return (1 - cosine_similarity(a, y).nan_to_num(-1.0)).mean().item()


def has_moved(a: Tensor, y: Tensor, among: Tensor | None = None) -> Tensor:
    """Return which rows of ``y`` have moved from those of ``a``; see ``Error.moved``.

    Single numbers have by the spread ``among`` these; None: by that of ``a``.
    """
    if a.shape[1] > 1:
        return a.argmax(1) != y.argmax(1)
    return (a - y).abs() > MOVED * (a if among is None else among).std(correction=0)
