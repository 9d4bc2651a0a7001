"""The error of a model's outputs on noisy chips, vector by vector, on the same draws for all."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.judge import Judge
from analogtorch.calibration.noisy_chips import on_noisy_chips
from analogtorch.calibration.outputs import by_class, class_dim, vectors
from analogtorch.calibration.padding import without_padding
from analogtorch.calibration.passes import Forward, one_pass
from analogtorch.calibration.units import are_in_units, variances
from analogtorch.conversion.restored import evaluated
from analogtorch.conversion.unread import quiet
from analogtorch.ops.scope import noise_in_turn
from analogtorch.values.warned import warn

CHIPS = 4
"""Fewest chips of an error: each batch runs on one of its own, or on several where that is too
few."""


class NothingLeftError(ValueError):
    """Each output has had another shape on a noisy chip than in the digital model."""


class NoisyJudge(Judge):
    """Compares the outputs of a model on noisy chips with those of its exact layers."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        forward: Forward | None,
        seed: int,
        first: int = 0,
    ) -> None:
        """Compute and keep the exact outputs.

        Args:
            model: the model.
            batches: batches to compare on.
            forward: as ``calibrate`` takes it.
            seed: seed of the chips.
            first: number of the first batch in those of ``calibrate``.
        """
        super().__init__(model, batches, forward, first)
        if self.draws:
            warn(
                "calibrate: the model draws random numbers in evaluation mode, which count as "
                "errors of its outputs; pass forward=, which returns outputs without them, such as "
                "means in place of samples"
            )
        self.seed = seed
        self.refusal = self._refusal()
        """Why its errors mean nothing and what helps, after "as" or "and"; None: they do."""
        self._scales = [] if self.refusal else self._spreads()
        self._sizes = [
            {
                which: len(vectors(exact))
                for which, (exact, scale) in enumerate(zip(each, self._scales, strict=False))
                if scale is not None and exact.numel() and not hidden
            }
            for each, hidden in zip(self.exact, self._hidden(), strict=True)
        ]
        """The number of vectors of each output that counts, batch by batch."""
        if self.refusal is None and not any(self._sizes):
            self.refusal = self.without or self.nothing_left

    def _refusal(self) -> str | None:
        if not self.judges:
            return self.without
        if not any(t.numel() for each in self.exact for t in each):
            return self.nothing_left
        finite = all(torch.isfinite(t).all() for each in self.exact for t in each)
        if not finite or all(self._hidden()):
            return (
                "the outputs of the digital model have infinite values, or nothing but NaN and "
                "masks; check weights and batches"
            )
        return None

    def _hidden(self) -> list[bool]:
        """Return of which batches masks leave nothing."""
        return [bool(each) and all(map(_hides, each)) for each in self.masks]

    def errors(
        self, alone: Collection[str] | None = None, chips: int = CHIPS, shared: bool = False
    ) -> Tensor:
        """Return the squared error of each output vector, (draws of chips x vectors,) float64.

        It is in units of the variance of the exact values, of all numbers of an output or, where
        they are quantities of several units, of each. A vector that is not finite has an infinite
        error, and so has one of an output that is ``apart``: compare what ``left`` keeps.

        Args:
            alone: names of the layers on the chip, the others being exact; None: all.
            chips: fewest chips to draw.
            shared: whether all batches run on the same chips, so that their split does not matter.

        Raises:
            NothingLeftError: all outputs are ``apart``.
        """
        draws = chips if shared else -(-chips // len(self.batches))
        with on_noisy_chips(self.model, alone), quiet():
            found = [error for draw in range(draws) for error in self._of_draw(draw, shared)]
        errors = torch.cat(found)
        if not self.left(errors)[0].numel():
            raise NothingLeftError(in_search(self.nothing_left))
        return errors

    def _of_draw(self, draw: int, shared: bool) -> list[Tensor]:
        """Return the errors on the chips of a draw, by batch and output."""
        found = []
        with evaluated(self.model):
            for step, batch in enumerate(self.batches):
                with noise_in_turn(self.seed + draw, step=0 if shared else step):
                    number = self.first + step
                    run = one_pass("calibrate", self.model, batch, self.forward, number)
                given = without_padding(self.model, run, batch)
                pairs = self._alike(step, self._unmasked(given, self.masks[step]))
                for which, size in self._sizes[step].items():
                    scale = self._scales[which]
                    if which in pairs and scale is not None:
                        found.append(_error(*pairs[which], scale))
                    else:
                        found.append(torch.full((size,), math.inf, device="cpu").double())
        return found

    def left(self, *errors: Tensor) -> list[Tensor]:
        """Return errors without those of outputs that are ``apart``.

        Args:
            errors: what calls of ``errors`` gave, whenever that was.
        """
        if not self.apart:
            return list(errors)
        kept = torch.cat(
            [
                torch.full((size,), (step, which) not in self.apart, device="cpu")
                for step, sizes in enumerate(self._sizes)
                for which, size in sizes.items()
            ]
        )
        return [each.view(-1, len(kept))[:, kept].flatten() for each in errors]

    def mean(self, errors: Tensor) -> float:
        """Return the mean of the errors that ``left`` keeps."""
        return self.left(errors)[0].mean().item()

    def _spreads(self) -> list[Tensor | None]:
        """Return the variance of each number of each output, over the vectors of all batches.

        The vectors of images are those of their pixels. All numbers have the mean of it, as scores
        need: of a class that is rare or absent in these batches it is small, and its errors would
        decide. Quantities of several units, beyond doubt, have their own.

        Outputs that differ in their size from batch to batch share the mean of their numbers. None:
        it is the same for all inputs, where others are not, and does not count beside them.
        """
        spreads, same = [], []
        for each in zip(*self.exact, strict=False):
            flat = [by_class(t.double()) for t in each if t.numel()] or [
                torch.ones(1, 1, device="cpu").double()
            ]
            if len({t.shape[1] for t in flat}) == 1 and sum(map(len, flat)) > 1:
                own = torch.cat(flat).var(0)
                spread = own.mean().expand_as(own)
                if are_in_units(flat):
                    spread = variances(flat).double()
            else:
                spread = torch.cat([t.flatten() for t in flat]).var(correction=0).view(1)
            size = torch.cat([t.flatten() for t in flat]).square().mean()
            same.append(bool(spread.mean() <= _SAME * size))
            if same[-1]:  # of outputs that are all the same, their size counts
                spread = size.view(1)
            spreads.append(spread.clamp_min(_TINY))
        return [None if s and not all(same) else x for x, s in zip(spreads, same, strict=True)]


_SAME = 1e-12
"""Variance of outputs that differ by rounding alone, in units of their mean square."""
_TINY = 1e-30


def in_search(refusal: str) -> str:
    """Return the message of a search that has nothing to compare."""
    return (
        f"calibrate: effort='search' compares the outputs of the model, and {refusal}; or use "
        "effort='ranges'"
    )


def _hides(masked: Tensor | None) -> bool:
    """Return whether a mask leaves nothing of an output."""
    return masked is not None and bool(masked.all())


def _error(exact: Tensor, output: Tensor, scale: Tensor) -> Tensor:
    off = (output.double() - exact.double()).square()
    off = off / scale.view(-1, *(1,) * (-1 - class_dim(off)))
    return vectors(off).mean(1).nan_to_num(math.inf).cpu()
