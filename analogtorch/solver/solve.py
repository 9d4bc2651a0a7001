"""``solve``: a system of equations on a solver chip."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.solver.arrays import power_above
from analogtorch.solver.chip import SolverChip
from analogtorch.solver.convergence import failed
from analogtorch.solver.cost import cost_of
from analogtorch.solver.diagnosis import beyond_range, not_convergent, stalled
from analogtorch.solver.errors import Condition
from analogtorch.solver.given import checked_chip, checked_matrix, checked_vectors
from analogtorch.solver.inverse import converted
from analogtorch.solver.refine import Refined, norms, residual
from analogtorch.solver.solution import Solution
from analogtorch.solver.system import System, programmed_system
from analogtorch.values import checks

TOLERANCE = 2.0**-24


def solve(
    A: Tensor,
    b: Tensor,
    chip: SolverChip,
    *,
    tolerance: float = TOLERANCE,
    passes: int | None = None,
    scaling: bool = False,
    strict: bool = True,
    seed: int = 0,
) -> Solution:
    """Solve ``A x = b`` on an analog chip, as ``torch.linalg.solve`` does digitally.

    A rough analog inverse of the residual corrects the solution, pass by pass, while bit-sliced
    MVMs measure the residual. Before the first pass it is checked that all circuits settle, and
    after the last one the residual is computed digitally, in float64: the solution is within the
    tolerance, or NotSolvedError says which condition failed and what would mend it. What is
    returned is rounded to the type of ``A``, which for float32 adds a residual of up to 2^-24 times
    the condition number; give float64 to keep it.

    Args:
        A: square matrices, (*, n, n), float32, float64, complex64 or complex128. Complex ones are
            solved as real ones of twice the size.
        b: right-hand sides, (*, n) or (*, n, k); batch dimensions broadcast as those of
            ``torch.linalg.solve``. Several of one matrix are solved in the same arrays.
        chip: a solver chip, such as ``at.solver.rram_solver()``.
        tolerance: largest ``||b - A x|| / ||b||``, in (0, 1); by default 2^-24, that of float32.
        passes: make exactly this many passes, and return the residual that they leave, whatever it
            is and whether or not more would converge; by default as many as the tolerance takes, at
            most 200.
        scaling: put rows in an order and give them signs with large and positive elements on the
            diagonal, and multiply rows and columns by powers of two, so that their largest elements
            are near 1; all of it digitally. The tolerance stays that of ``b`` as given: rows that
            are far smaller than the others hardly count in it.
        strict: if one system is not solved, raise NotSolvedError; False: solve the others. The
            solution names those that are ``refused``, whose ``x`` and gradients are NaN; where
            nothing is computed from such an ``x``, its gradients are 0.
        seed: chip with other errors of its cells, and other noise in its passes. Each system of a
            batch is programmed by itself, with errors that depend on its number.

    Returns:
        The solution ``x``, with residuals, spectral radius, and time and energy. Gradients of ``A``
        and ``b`` are those of the equation: the chip solves the transposed one, in the same arrays.

    Raises:
        NotSolvedError: a system has no inverse, does not converge, or not to the tolerance, or its
            solution is beyond the range of its type.
        ValueError: shapes do not fit, numbers are not finite, or the system is larger than the
            chip.
        TypeError: an argument is of another type.

    Example:
        >>> A = torch.eye(16) + 0.05 * torch.randn(16, 16)
        >>> at.solve(A, torch.ones(16), at.solver.rram_solver()).x
    """
    return MatrixSolver(A, chip, scaling=scaling, seed=seed).solve(
        b, tolerance=tolerance, passes=passes, strict=strict
    )


class MatrixSolver:
    """Matrices in the arrays of a solver chip, for right-hand sides that come one after another.

    The seed decides all errors of the cells. ``chip.mvm.noise`` is new in each pass of ``solve``
    and in each call of ``multiply``: a call of ``solve`` repeats with its arguments, and calls of
    ``multiply`` with their number since the solver was made, whatever was solved between them.

    Args:
        A: see ``solve``.
        chip: see ``solve``.
        scaling: see ``solve``.
        seed: see ``solve``.

    Raises:
        ValueError: ``A`` is not square, not finite, or larger than the chip.
        TypeError: an argument is of another type.

    Example:
        >>> solver = at.solver.MatrixSolver(A, at.solver.rram_solver())
        >>> x = solver.solve(b).x
    """

    def __init__(
        self, A: Tensor, chip: SolverChip, *, scaling: bool = False, seed: int = 0
    ) -> None:
        checks.flag("solve: scaling", scaling)
        self.chip, self._given = checked_chip(chip), A
        real = _real(checked_matrix(A, chip).detach())
        # near 1, so that no norm overflows or vanishes
        self._unit = power_above(real.abs().amax((1, 2), keepdim=True))
        # scaling may put real and imaginary parts in another order
        in_order = A.is_complex() and not scaling
        self._system = programmed_system(real / self._unit, chip, seed, scaling, in_order)
        self._order, self._products = self._system.order, 0

    @property
    def shape(self) -> torch.Size:
        """The shape of ``A``."""
        return self._given.shape

    @property
    def spectral_radius(self) -> Tensor:
        """Spectral radius of ``I - A M`` of each system; below 1, added corrections converge."""
        return self._system.convergence.spectral_radius.reshape(self.shape[:-2])

    def solve(
        self,
        b: Tensor,
        *,
        tolerance: float = TOLERANCE,
        passes: int | None = None,
        strict: bool = True,
    ) -> Solution:
        """Return the solution for right-hand sides; see ``solve``."""
        checks.flag("solve: strict", strict)
        tolerance = checks.number("solve: tolerance", tolerance, above=0, below=1)
        if passes is not None:
            passes = checks.count("solve: passes", passes)
        right, back = checked_vectors(self._given, b)
        evidence: list[_Evidence] = []
        vectors, unit = _near_1(_stacked(right, self._given))
        asked = _Asked(tolerance, passes, strict)
        # anew for each solution: a backward frees the graph that leads to what was given
        a = self._order.of(_real(self._given) / self._unit)
        x = _Solve.apply(a, self._order.of(vectors), self._system, asked, evidence)
        x = _unstacked(x * (unit / self._unit), self._given)
        refined, residual, refused = evidence[0]
        beyond = _beyond(x, vectors)
        if beyond.any():
            if strict:
                raise beyond_range(x, beyond)
            refused["range"] = beyond
            x = x.masked_fill(beyond.view(-1, 1, 1), torch.nan)
        return self._solution(back(x), refined, residual, refused, asked)

    def rough(self, b: Tensor) -> Tensor:
        """Return what the inverse circuits answer to ``b``, a few bits of the solution.

        Raises:
            NotSolvedError: a block has no inverse in the arrays, or a circuit does not settle.
        """
        if refused := failed(self._system.convergence, claimed=False):
            raise not_convergent(self._system, refused)
        right, back = checked_vectors(self._given, b)
        vectors, unit = _near_1(_stacked(right.detach(), self._given))
        system, v = self._system, self._order.of(vectors)
        d = system.columns.mT * converted(system.inverse, system.rows * v, self.chip.inverse)
        return back(_unstacked(d * (unit / self._unit), self._given))

    def multiply(self, x: Tensor) -> Tensor:
        """Return ``A x`` by the bit-sliced MVMs, for ``x`` in the shapes of ``b``.

        Each call has other noise of the counts, ``chip.mvm.noise``. A solver of the same seed gives
        the same products in the same order.
        """
        right, back = checked_vectors(self._given, x)
        system, (v, unit) = self._system, _near_1(_stacked(right.detach(), self._given))
        self._products += 1
        # passes of a solution count up from 0
        product = system.slices.times(v / system.columns.mT, -self._products)
        y = self._order.back(product / system.rows)
        return back(_unstacked(y * (unit * self._unit), self._given))

    def linear_operator(self) -> Any:
        """Return ``multiply`` as a ``scipy.sparse.linalg.LinearOperator``.

        It is linear but for the rounding of its inputs and the noise, which each product has anew.

        Raises:
            ValueError: there are several matrices.
            ImportError: SciPy is not installed.
        """
        from analogtorch.solver.krylov import operator

        return operator(self._given, self.multiply, "linear_operator")

    def preconditioner(self) -> Any:
        """Return ``rough`` as a ``LinearOperator``: ``M`` of SciPy's Krylov solvers.

        The converters round, so that it is not exactly linear: ``gmres`` with restarts and
        ``lgmres`` bear that, ``cg`` down to the error of the converters alone.

        Raises:
            ValueError: there are several matrices.
            ImportError: SciPy is not installed.
        """
        from analogtorch.solver.krylov import operator

        return operator(self._given, self.rough, "preconditioner")

    def _solution(
        self,
        x: Tensor,
        refined: Refined,
        residual: Tensor,
        refused: dict[Condition, Tensor],
        asked: "_Asked",
    ) -> Solution:
        batch, found = self.shape[:-2], self._system.convergence
        n, vectors = refined.x.shape[-2:]
        solved = ~_any(refused, residual)
        passes, measured = (
            float(counts[solved].sum()) / max(int(solved.sum()), 1)
            for counts in (refined.passes, refined.measured)
        )
        return Solution(
            x=x,
            residual=residual.reshape(batch),
            residuals=refined.residuals.reshape(-1, *batch),
            passes=refined.passes.reshape(batch),
            tolerance=asked.tolerance if asked.passes is None else None,
            spectral_radius=found.spectral_radius.reshape(batch),
            bound=found.bound.reshape(batch),
            condition=found.condition.reshape(batch),
            cost=cost_of(self.chip, n, vectors, passes, measured, self._system.complex),
            refused={name: which.reshape(batch) for name, which in refused.items()},
            chip=self.chip.name,
        )


class _Asked(NamedTuple):
    """What a solution is asked for."""

    tolerance: float
    passes: int | None
    strict: bool


class _Evidence(NamedTuple):
    """How well systems are solved: the passes, residuals (B,), and which are refused, (B,)."""

    refined: Refined
    residual: Tensor
    refused: dict[Condition, Tensor]


class _Solve(torch.autograd.Function):
    """The solution of real systems, (B, n, k); its gradients by the implicit function theorem.

    ``A x = b`` gives ``A dx = db - dA x``: with ``l`` that solves ``A^T l = g``, the gradient of
    ``b`` is ``l``, and that of ``A`` is ``-l x^T``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        system: System,
        asked: "_Asked",
        evidence: list[_Evidence],
    ) -> Tensor:
        added = system.chip.corrections == "added"
        refused = failed(system.convergence, claimed=added and asked.passes is None)
        if refused and asked.strict:
            raise not_convergent(system, refused, b, asked.tolerance)
        able = ~_any(refused, b[:, 0, 0])
        refined = system.refined(b, asked.tolerance, asked.passes, able)
        left = residual(b - system.a @ refined.x, norms(b)).masked_fill(~able, torch.nan)
        limit = asked.tolerance if asked.passes is None else torch.inf
        above = able & ~(left <= limit)
        if above.any():
            if asked.strict:
                raise stalled(system, b, refined, left, above, limit)
            refused["stalled"] = above
        evidence.append(_Evidence(refined, left, refused))
        x = refined.x.masked_fill((~able | above).view(-1, 1, 1), torch.nan)
        ctx.save_for_backward(a, x)
        ctx.given = system, asked
        return x

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        a, x = ctx.saved_tensors
        system, asked = ctx.given
        g, unit = _near_1(gradient[0])  # gradients have units, too
        adjoint = _Solve.apply(a.mT, g, system.mT, asked, []) * unit
        if not asked.strict:
            # NaN reaches no gradient to which a refused system adds nothing
            idle = (gradient[0] == 0).all(-1, keepdim=True).all(-2, keepdim=True)
            adjoint = torch.where(idle & adjoint.isnan(), 0.0, adjoint)
            x = torch.where(idle & x.isnan(), 0.0, x)
        gradient_a = -(adjoint @ x.mT) if ctx.needs_input_grad[0] else None
        return gradient_a, adjoint, None, None, None


def _any(refused: dict[Condition, Tensor], like: Tensor) -> Tensor:
    """Return which systems are refused, bool (B,), for the device of ``like`` (B,)."""
    return torch.stack([torch.zeros_like(like, dtype=torch.bool), *refused.values()]).any(0)


def _beyond(x: Tensor, b: Tensor) -> Tensor:
    """Return which solutions (B, n, k) are infinite, or vanish where ``b`` does not, bool (B,)."""
    largest, wanted = x.detach().abs().amax(1), b.detach().abs().amax(1) > 0
    return (largest.isinf() | ((largest < torch.finfo(x.dtype).tiny) & wanted)).any(-1)


def _real(a: Tensor) -> Tensor:
    """Return matrices as real ones, (B, n, n) or (B, 2 n, 2 n), float64."""
    a = a.reshape(-1, *a.shape[-2:])
    if a.is_complex():
        a = torch.cat((torch.cat((a.real, -a.imag), -1), torch.cat((a.imag, a.real), -1)), -2)
    return a.double()


def _near_1(b: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors (B, n, k) with their largest elements near 1, and what they are in units of.

    Units are powers of two, so that nothing is rounded.
    """
    unit = power_above(b.detach().abs().amax(1, keepdim=True))
    return b / unit, unit


def _stacked(b: Tensor, a: Tensor) -> Tensor:
    """Return vectors (B, n, k) as real ones."""
    return (torch.cat((b.real, b.imag), -2) if a.is_complex() else b).double()


def _unstacked(x: Tensor, a: Tensor) -> Tensor:
    """Return real vectors as those of ``a``, in its type."""
    if not a.is_complex():
        return x.to(a.dtype)
    real, imaginary = x.chunk(2, -2)
    return torch.complex(real, imaginary).to(a.dtype)
