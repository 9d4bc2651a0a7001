"""Conditions of convergence, checked before the first pass."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogtorch.solver.chip import InverseCircuit
from analogtorch.solver.errors import Condition
from analogtorch.solver.inverse import Blocks, dynamics, leaves


@dataclass(frozen=True, eq=False)
class Convergence:
    """What decides whether the passes converge, of each system: (B,), float64.

    ``E = I - A M`` with the matrix ``A`` and what the circuits multiply by, ``M``.
    """

    spectral_radius: Tensor
    """Largest magnitude of the eigenvalues of ``E``; NaN where a block has no inverse."""
    bound: Tensor
    """Largest singular value of ``E``: no pass leaves more of a residual, but for converters."""
    singular: Tensor
    """Whether the matrix in the arrays, ``R A C``, has no inverse in float64; bool."""
    condition: Tensor
    """Condition number of the matrix as given; infinite where that in the arrays is singular."""
    slowest: Tensor
    """Smallest real part of the eigenvalues of all circuits; <= 0: one does not settle."""


def convergence(
    a: Tensor, given: Tensor, inverse: Tensor, blocks: Blocks, circuit: InverseCircuit
) -> Convergence:
    """Return what decides whether the passes converge.

    Args:
        a: the matrices in the arrays, (B, n, n).
        given: the matrices before they were scaled.
        inverse: what the circuits multiply by.
        blocks: the inverse circuits.
        circuit: their description.
    """
    s, whole = torch.linalg.svdvals(given), invertible(a)
    rest = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - a @ inverse
    finite = rest.isfinite().all(-1).all(-1)
    rest = torch.where(finite.view(-1, 1, 1), rest, 0.0)
    radius = torch.linalg.eigvals(rest).abs().amax(-1)
    bound = torch.linalg.matrix_norm(rest, 2)
    return Convergence(
        torch.where(finite, radius, math.nan),
        torch.where(finite, bound, math.nan),
        ~whole,
        torch.where(whole, s[:, 0] / s[:, -1], math.inf),
        _slowest(blocks, circuit),
    )


def invertible(a: Tensor) -> Tensor:
    """Return which matrices (B, n, n) have an inverse in float64, bool (B,)."""
    s = torch.linalg.svdvals(a)
    return s[:, -1] > s.shape[-1] * torch.finfo(s.dtype).eps * s[:, 0]


def failed(found: Convergence, claimed: bool = True) -> dict[Condition, Tensor]:
    """Return the systems that are refused, bool (B,), by the first condition that each fails.

    Only if it is ``claimed`` that passes converge, those that do not are refused.
    """
    conditions: dict[Condition, Tensor] = {
        "singular": found.singular | found.spectral_radius.isnan(),
        "unstable": ~(found.slowest > 0),
    }
    if claimed:
        conditions["diverging"] = ~(found.spectral_radius < 1)
    refused, all_ = {}, torch.zeros_like(conditions["singular"])
    for name, which in conditions.items():
        if (own := which & ~all_).any():
            refused[name] = own
        all_ = all_ | which
    return refused


def _slowest(blocks: Blocks, circuit: InverseCircuit) -> Tensor:
    parts = []
    for leaf in leaves(blocks):
        if circuit.settling_time is None:  # whatever it takes
            parts.append(torch.full_like(leaf.scale[:, 0, 0], math.inf))
            continue
        m = dynamics(leaf, circuit)
        finite = m.isfinite().all(-1).all(-1)
        m = torch.where(finite.view(-1, 1, 1), m, 0.0)
        parts.append(torch.linalg.eigvals(m).real.amin(-1))
    return torch.stack(parts).amin(0)
