"""Iterative refinement: the rough inverse of the residual, pass by pass.

A correction ``d`` is what the circuits answer to the residual ``r``, and MVMs find its image
``A d``: the residual before minus that after it. Published chips add ``d``. Combined corrections
are generalised conjugate residuals (Eisenstat, Elman and Schultz, SIAM J. Numer. Anal. 20, 345
(1983)): what the images before make up is taken out of an image, and out of its correction
likewise, and of the rest as much is added as leaves the least residual, which is then the least
that any combination of all corrections leaves. Where a pass hardly lowers it, the circuits would
answer the same again: they are asked for the answer to the last image instead (Orthodir).

The residual that combined corrections leave is computed, not measured, and errors of an image count
the more, the less of it is new. Where MVMs multiply the whole solution, images are those of the
steps between solutions that were multiplied: what the computed residual is off by reaches none of
them. The residual is measured anew where images are dropped, and where a system that seems solved
fails the digital check, whose images are dropped then.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.solver.chip import SolverChip
from analogtorch.solver.inverse import converted
from analogtorch.solver.multiply import SlicedMatrix

PASSES = 200
"""Passes after which a system has not converged."""
_PATIENCE = 20
"""Passes without progress after which a system has not converged; at least n if combined."""
_PROGRESS = 0.9
"""Share of a residual below which there is progress."""

_DEPENDENT = 1e-6
"""Share of an image at which it is a combination of those before it."""


@dataclass(frozen=True)
class Refined:
    """Solutions after the passes."""

    x: Tensor
    """(B, n, k)."""
    residuals: Tensor
    """``||b - A x|| / ||b||`` as the chip finds it, before the first and after each pass:
    (passes + 1, B). Systems that need no more passes keep their last."""
    passes: Tensor
    """Passes that each system took, int64 (B,)."""
    measured: Tensor
    """Products besides those of the passes, which measure a residual anew, int64 (B,)."""


def refine(
    b: Tensor,
    inverse: Tensor,
    exact: Tensor,
    matrix: SlicedMatrix,
    chip: SolverChip,
    tolerance: float,
    passes: int | None,
    rows: Tensor,
    able: Tensor,
    complex: bool,
) -> Refined:
    """Return solutions of ``A x = b``.

    Args:
        b: right-hand sides, (B, n, k).
        inverse: what the inverse circuits multiply by, (B, n, n): about the inverse of ``R A``.
        exact: ``A``, by which the digital check multiplies.
        matrix: ``R A`` in the arrays of the MVMs.
        chip: their chip.
        tolerance: residual at which a system needs no more passes; the check allows twice as much.
        passes: as many passes, whatever the residual; None: until the tolerance.
        rows: factors of the rows in the arrays, ``R``, (B, n, 1).
        able: the systems whose circuits can solve them, bool (B,); others take no pass.
        complex: whether rows and columns are the real and then the imaginary parts of complex ones,
            so that corrections may be combined with complex factors.
    """
    x, r, size, bits = torch.zeros_like(b), b, norms(b), None
    if chip.mvm.multiplies == "correction" and chip.inverse.output_bits is not None:
        bits = chip.inverse.output_bits - 1
    history, taken = [residual(r, size)], torch.zeros_like(able, dtype=torch.long)
    best, since = history[0].clone(), torch.zeros_like(taken)
    known, measured = best.clone(), torch.zeros_like(taken)
    active = able & (history[0] > tolerance) if passes is None else able
    combined = chip.corrections == "combined"
    asked, held, patience = rows * r, list[Tensor](), _PATIENCE
    if combined:
        patience = max(patience, b.shape[1])
    # no more images are independent
    most = b.shape[1] // (2 if complex else 1)
    point, its_product = torch.zeros_like(b), torch.zeros_like(b)
    for number in range(passes or PASSES):
        if not active.any():
            break
        part, factors = matrix.of(active), rows[active]
        x, r, asked, now = x.clone(), r.clone(), asked.clone(), history[-1].clone()
        left = factors * r[active]
        d = converted(inverse[active], asked[active], chip.inverse)
        if bits is None:
            stored = part.stored(x[active] + d)
            d = stored - x[active]
            product = part.times(stored, number)
            image = left - factors * b[active] + product
        else:
            image = part.times(d, number, bits)
        whole = norms(image)
        if combined and bits is None:
            d, image = stored - point[active], product - its_product[active]
            point[active], its_product[active] = stored, product
        if combined:
            pair, rest = (_folded(v, complex) for v in (torch.stack((d, image)), left))
            found = _combined(pair, rest, held, active, whole)
            d, image, asked[active] = (_unfolded(v) for v in found)
        else:
            asked[active] = left - image
        x[active] = part.stored(x[active] + d)
        r[active] -= image / factors
        now[active] = residual(r[active], size[active])
        taken += active
        since = torch.where(now < _PROGRESS * best, 0, since + 1)
        best = torch.minimum(best, now)
        if combined:
            wrong = solved = active & (now <= tolerance) & (passes is None)
            if solved.any():
                wrong = solved & ~(residual(b - exact @ x, size) <= 2 * tolerance)
            full = len(held) == most and number + 1 < (passes or PASSES)
            if (anew := wrong | (active & ~solved & full)).any():
                # not the next step's first point: that step still has what came of those before
                r[anew] = b[anew] - matrix.of(anew).times(x[anew], PASSES + number) / rows[anew]
                asked[anew] = rows[anew] * r[anew]
                now[anew] = residual(r[anew], size[anew])
                for each in held:
                    each[:, anew] = 0
                # residuals that were computed alone are no progress
                since[anew & (now < _PROGRESS * known)] = 0
                since[wrong & ~(now < _PROGRESS * known)] = patience
                known[anew] = best[anew] = torch.minimum(known, now)[anew]
                measured += anew
            if full:
                held.clear()
        history.append(now)
        if passes is None:
            active = active & (now > tolerance) & (since < patience) & now.isfinite()
    return Refined(x, torch.stack(history), taken, measured)


def _combined(
    pair: Tensor, r: Tensor, held: list[Tensor], active: Tensor, whole: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the correction that leaves the least residual, its image, and what to ask next.

    Residuals and images are those of the rows in the arrays, which are of one size if scaled.

    Args:
        pair: what the circuits answered and its image, (2, b, n, k).
        r: the residual.
        held: pairs of the passes before, (2, B, n, k), whose images are orthogonal and have a norm
            of 1; that of this pass is appended.
        active: which of B systems these b are, bool (B,).
        whole: norms of the images of the corrections alone, (b, k).
    """
    n, whole = r.shape[1], whole.unsqueeze(1)
    for each in held:
        before = each[:, active]
        pair = pair - (before[1].conj() * pair[1]).sum(1, keepdim=True) * before
    size = norms(pair[1]).unsqueeze(1)
    # what is left of an image that those before make up is rounding
    pair = torch.where(size > _DEPENDENT * whole, pair / size, 0.0)
    held.append(pair.new_zeros(2, len(active), *r.shape[1:]))
    held[-1][:, active] = pair
    d, image = (pair[1].conj() * r).sum(1, keepdim=True) * pair
    left, before_it = (torch.linalg.vector_norm(v, dim=1, keepdim=True) for v in (r - image, r))
    again = (left > _PROGRESS * before_it) & (len(held) < n)
    return d, image, torch.where(again, left * pair[1], r - image)


def _folded(v: Tensor, complex: bool) -> Tensor:
    """Return vectors (..., n, k) of real and then imaginary parts as complex ones if they are."""
    return torch.complex(*v.chunk(2, -2)) if complex else v


def _unfolded(v: Tensor) -> Tensor:
    return torch.cat((v.real, v.imag), -2) if v.is_complex() else v


def norms(b: Tensor) -> Tensor:
    """Return the norm of each vector, (B, k), and 1 for a zero vector."""
    found = torch.linalg.vector_norm(b, dim=1)
    return torch.where(found > 0, found, torch.ones_like(found))


def residual(r: Tensor, size: Tensor) -> Tensor:
    """Return the largest relative residual among the vectors of each system, (B,)."""
    return (torch.linalg.vector_norm(r, dim=1) / size).amax(-1)
