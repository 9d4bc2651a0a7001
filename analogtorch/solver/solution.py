"""The solution of a system, with the evidence for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analogtorch.files.figures import draw
from analogtorch.solver.cost import SolveCost
from analogtorch.solver.errors import Condition
from analogtorch.values.shown import Shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution(Shown):
    """What ``solve`` found; print it for a table. Batches have the shape of those of ``A``."""

    x: Tensor
    """The solution, in shape and type of ``torch.linalg.solve``; gradients flow through it."""
    residual: Tensor
    """``||b - A x|| / ||b||`` of each system, the largest among its right-hand sides, computed
    digitally in float64 with ``A`` as given, before ``x`` is rounded to its type."""
    residuals: Tensor
    """The same as the chip finds it, before the first pass and after each, (passes + 1, *batch).
    Systems that need no more passes keep their last."""
    passes: Tensor
    """Passes of each system."""
    tolerance: float | None
    """The largest residual that was allowed; None: as many passes as were asked for."""
    spectral_radius: Tensor
    """Spectral radius of ``I - A M`` of each system, with what the inverse circuits multiply by,
    ``M``: below 1, corrections may be added as they are. It is that of ``I - M A`` too."""
    bound: Tensor
    """Largest singular value of ``I - A M`` of each system: no pass leaves a larger share of a
    residual, but for converters. Above 1 it bounds nothing."""
    condition: Tensor
    """Condition number of each matrix."""
    cost: SolveCost | None
    """Time and energy of one system, beside a digital LU, in the mean of those solved; None: those
    of the chip are unknown."""
    refused: Mapping[Condition, Tensor]
    """Systems that are not solved, bool, by the condition that failed, as ``NotSolvedError`` names
    it; empty with ``strict=True``. Their ``x`` is NaN, and so is the residual where no pass was
    made."""
    chip: str
    """Name of the chip."""

    @property
    def solved(self) -> Tensor:
        """Whether each system is solved, bool."""
        solved = torch.ones_like(self.residual, dtype=torch.bool)
        for which in self.refused.values():
            solved = solved & ~which
        return solved

    @property
    def bits(self) -> Tensor:
        """Bits of each residual: ``-log2(residual)``."""
        return -self.residual.log2()

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the residual after each pass, of the first 32 systems that are solved.

        File and errors are those of ``analogtorch.files.figures.draw``.
        """
        return draw(self, path)
