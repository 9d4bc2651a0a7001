"""Iterative refinement: the rough inverse of the residual, pass by pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.solver.chip import InverseCircuit
from analogtorch.solver.inverse import converted
from analogtorch.solver.multiply import SlicedMatrix

PASSES = 200
"""Passes after which a system has not converged."""
_PATIENCE = 20
"""Passes without a residual below nine tenths of the best before it."""


@dataclass(frozen=True)
class Refined:
    """Solutions after the passes."""

    x: Tensor
    """(B, n, k)."""
    residuals: Tensor
    """``||b - A x|| / ||b||`` as the chip measures it, before the first and after each pass:
    (passes + 1, B). Systems that need no more passes keep their last."""
    passes: Tensor
    """Passes that each system took, int64 (B,)."""


def refine(
    b: Tensor,
    inverse: Tensor,
    matrix: SlicedMatrix,
    circuit: InverseCircuit,
    tolerance: float,
    passes: int | None,
    rows: Tensor,
    able: Tensor,
) -> Refined:
    """Return solutions of ``A x = b``.

    Args:
        b: right-hand sides, (B, n, k).
        inverse: what the inverse circuits multiply by, (B, n, n).
        matrix: ``A`` in the arrays of the MVMs.
        circuit: the inverse circuit.
        tolerance: residual at which a system needs no more passes.
        passes: as many passes, whatever the residual; None: until the tolerance.
        rows: factors of the rows of ``A`` and ``b``, (B, n, 1), that residuals leave out.
        able: the systems whose circuits can solve them, bool (B,); others take no pass.
    """
    x, r = torch.zeros_like(b), b
    size, bits = norms(b / rows), None
    if matrix.mvm.multiplies == "correction" and circuit.output_bits is not None:
        bits = circuit.output_bits - 1
    history, taken = [residual(r / rows, size)], torch.zeros_like(able, dtype=torch.long)
    best, since = history[0].clone(), torch.zeros_like(taken)
    active = able & (history[0] > tolerance) if passes is None else able
    for number in range(passes or PASSES):
        if not active.any():
            break
        part = matrix.of(active)
        d = converted(inverse[active], r[active], circuit)
        x, r, now = x.clone(), r.clone(), history[-1].clone()
        x[active] = part.stored(x[active] + d)
        if bits is None:
            r[active] = b[active] - part.times(x[active], number)
        else:
            r[active] = r[active] - part.times(d, number, bits)
        now[active] = residual(r[active] / rows[active], size[active])
        history.append(now)
        taken += active
        since = torch.where(now < 0.9 * best, 0, since + 1)
        best = torch.minimum(best, now)
        if passes is None:
            active = active & (now > tolerance) & (since < _PATIENCE) & now.isfinite()
    return Refined(x, torch.stack(history), taken)


def norms(b: Tensor) -> Tensor:
    """Return the norm of each vector, (B, k), and 1 for a zero vector."""
    found = torch.linalg.vector_norm(b, dim=1)
    return torch.where(found > 0, found, torch.ones_like(found))


def residual(r: Tensor, size: Tensor) -> Tensor:
    """Return the largest relative residual among the vectors of each system, (B,)."""
    return (torch.linalg.vector_norm(r, dim=1) / size).amax(-1)
