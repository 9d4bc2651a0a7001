"""Real systems in the arrays of a chip: what is programmed, checked and refined."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from analogtorch.ops import fold, seed_tensor
from analogtorch.solver.arrays import power_above
from analogtorch.solver.chip import SolverChip
from analogtorch.solver.convergence import Convergence, convergence
from analogtorch.solver.inverse import Blocks, matrix, place
from analogtorch.solver.multiply import SlicedMatrix, slice_up
from analogtorch.solver.order import Order, as_given, dominant
from analogtorch.solver.refine import Refined, refine

_ROUNDS = 4


@dataclass(frozen=True)
class System:
    """Matrices ``A`` (B, n, n), float64, with ``R A C`` in the arrays of a chip."""

    a: Tensor
    order: Order
    """The order of the rows of ``A``, which are those of the matrix that was given."""
    rows: Tensor
    """``R``: factors of the rows, (B, n, 1), powers of two."""
    columns: Tensor
    """``C``: factors of the columns, (B, 1, n), powers of two."""
    chip: SolverChip
    blocks: Blocks
    slices: SlicedMatrix
    seed: int
    scaling: bool
    complex: bool
    """Whether the rows are real parts and then imaginary parts, in the order of a complex matrix,
    as are the columns."""

    @property
    def mT(self) -> "System":
        """The transposed system, in the same arrays, which are driven by their columns."""
        return replace(
            self,
            a=self.a.mT,
            order=as_given(self.a),
            rows=self.columns.mT,
            columns=self.rows.mT,
            blocks=self.blocks.mT,
            slices=self.slices.mT,
        )

    @cached_property
    def inverse(self) -> Tensor:
        """What the inverse circuits multiply by, (B, n, n): about the inverse of ``R A C``."""
        return matrix(self.blocks, self.chip.inverse)

    @cached_property
    def convergence(self) -> Convergence:
        """What decides whether the passes converge."""
        scaled = self.rows * self.a * self.columns
        return convergence(scaled, self.a, self.inverse, self.blocks, self.chip.inverse)

    def refined(self, b: Tensor, tolerance: float, passes: int | None, able: Tensor) -> Refined:
        """Return solutions for right-hand sides (B, n, k); see ``refine``."""
        # the check has the last half of the tolerance
        found = refine(
            b,
            self.inverse,
            self.a * self.columns,
            self.slices,
            self.chip,
            tolerance / 2,
            passes,
            self.rows,
            able,
            self.complex,
        )
        return replace(found, x=self.columns.mT * found.x)


def programmed_system(
    a: Tensor, chip: SolverChip, seed: int, scaling: bool, complex: bool = False
) -> System:
    """Return matrices (B, n, n), float64, in the arrays of a chip; see ``System``.

    With ``scaling``, their rows are put in order.
    """
    order = order_of(a, scaling)
    a = order.of(a)
    rows, columns = torch.ones_like(a[:, :, :1]), torch.ones_like(a[:, :1])
    if scaling:
        rows, columns = scales(a)
    key, scaled = fold(seed_tensor(seed, a.device), 0), rows * a * columns
    blocks, slices = place(scaled, chip, key), slice_up(scaled, chip, key)
    return System(a, order, rows, columns, chip, blocks, slices, seed, scaling, complex)


def order_of(a: Tensor, scaling: bool) -> Order:
    """Return the order of the rows of matrices (B, n, n) in the arrays."""
    if not scaling:
        return as_given(a)
    rows, columns = scales(a)
    return dominant(rows * a * columns)


def scales(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return powers of two that bring rows and columns near 1 (Ruiz 2001); equal if symmetric."""
    rows, columns = torch.ones_like(a[:, :, :1]), torch.ones_like(a[:, :1])
    for _ in range(_ROUNDS):
        scaled = (rows * a * columns).abs()
        rows = rows / scaled.amax(2, keepdim=True).clamp_min(math.ulp(0.0)).sqrt()
        columns = columns / scaled.amax(1, keepdim=True).clamp_min(math.ulp(0.0)).sqrt()
    return power_above(rows), power_above(columns)
