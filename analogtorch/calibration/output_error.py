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
from analogtorch.conversion.unread import quiet
from analogtorch.conversion.watch import evaluating
from analogtorch.ops.scope import noise_in_turn
from analogtorch.values.warned import warn

CHIPS = 4
"""Fewest chips of an error: each batch runs on one of its own, or on several where that is too
few."""


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
        """Why its errors mean nothing; None: they do."""
        self._scales = [] if self.refusal else self._spreads()

    def _refusal(self) -> str | None:
        if not self.judges or not any(t.numel() for each in self.exact for t in each):
            return (
                "calibrate: effort='search' compares the outputs of the model, and there is no "
                "floating-point tensor in them; return one from the model or from forward, or use "
                "effort='default'"
            )
        if not all(torch.isfinite(t).all() for each in self.exact for t in each):
            return (
                "calibrate: an output of the digital model has NaN or infinite values, so that "
                "effort='search' has nothing to compare with; check weights and batches"
            )
        return None

    def errors(
        self, alone: Collection[str] | None = None, chips: int = CHIPS, shared: bool = False
    ) -> Tensor:
        """Return the squared error of each output vector, (draws of chips x vectors,) float64.

        Each number of a vector counts in units of the variance of its exact values, and the mean
        over the vector is taken. A vector that is not finite has an infinite error.

        Args:
            alone: names of the layers on the chip, the others being exact; None: all.
            chips: fewest chips to draw.
            shared: whether all batches run on the same chips, so that their split does not matter.
        """
        found, draws = [], chips if shared else -(-chips // len(self.batches))
        with on_noisy_chips(self.model, alone), quiet(), evaluating(self.model):
            for draw in range(draws):
                for step, (batch, exact) in enumerate(zip(self.batches, self.exact, strict=True)):
                    with noise_in_turn(self.seed + draw, step=0 if shared else step):
                        number = self.first + step
                        run = one_pass("calibrate", self.model, batch, self.forward, number)
                    given = without_padding(self.model, run, batch)
                    outputs = self._unmasked(given, self.masks[step])
                    for a, y, scale in zip(exact, outputs, self._scales, strict=False):
                        if scale is not None:
                            found.append(_error(a, y, scale))
        return torch.cat(found)

    def _spreads(self) -> list[Tensor | None]:
        """Return the variance of each number of each output, over the vectors of all batches.

        Images have one for each channel, over all pixels.

        Outputs that differ in their size from batch to batch share the mean of their numbers. None:
        it is the same for all inputs, where others are not, and does not count beside them.
        """
        spreads, same = [], []
        for each in zip(*self.exact, strict=False):
            flat = [by_class(t.double()) for t in each if t.numel()] or [
                torch.ones(1, 1, device="cpu").double()
            ]
            if len({t.shape[1] for t in flat}) == 1 and sum(map(len, flat)) > 1:
                spread = torch.cat(flat).var(0)
            else:
                spread = torch.cat([t.flatten() for t in flat]).var(correction=0).view(1)
            size = torch.cat([t.flatten() for t in flat]).square().mean()
            same.append(bool(spread.mean() <= _SAME * size))
            if same[-1]:  # of outputs that are all the same, their size counts
                spread = size.view(1)
            spreads.append(spread.clamp_min(max(_LEAST * spread.mean().item(), _TINY)))
        return [None if s and not all(same) else x for x, s in zip(spreads, same, strict=True)]


_LEAST = 1e-3
"""Smallest variance of a number of an output, in units of the mean of all: a number that is always
the same must not decide."""
_SAME = 1e-12
"""Variance of outputs that differ by rounding alone, in units of their mean square."""
_TINY = 1e-30


def _error(exact: Tensor, output: Tensor, scale: Tensor) -> Tensor:
    if exact.shape != output.shape or not exact.numel():
        return torch.zeros(0, dtype=torch.float64, device="cpu")
    off = (output.double() - exact.double()).square()
    off = off / scale.view(-1, *(1,) * (-1 - class_dim(off)))
    return vectors(off).mean(1).nan_to_num(math.inf).cpu()
