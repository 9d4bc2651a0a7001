"""What a user gives to ``solve``, checked before anything is computed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from analogtorch.solver.chip import SolverChip
from analogtorch.values import checks

_TYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def checked_chip(chip: Any) -> SolverChip:
    """Return the chip.

    Raises:
        TypeError: it is no ``SolverChip``.
    """
    example = "at.solver.rram_solver(); chips of at.chips compute MVMs alone"
    return checks.instance("solve: chip", chip, SolverChip, example)


def checked_matrix(a: Any, chip: SolverChip) -> Tensor:
    """Return the matrices.

    Raises:
        ValueError: not square, empty, not finite, or larger than the chip.
        TypeError: no floating-point tensor.
    """
    _tensor("A", a)
    if 0 in a.shape[:-2]:
        raise ValueError(f"solve: A holds no system, got {tuple(a.shape)}; leave empty batches out")
    if a.dim() < 2 or a.shape[-1] != a.shape[-2] or not a.numel():
        raise ValueError(
            f"solve: A must be square, (*, n, n), with n >= 1, got {tuple(a.shape)}; for least "
            "squares solve A.mT @ A with A.mT @ b"
        )
    _finite("A", a)
    n = a.shape[-1] * (2 if a.is_complex() else 1)
    needed = n * n * chip.cell.devices * (chip.mvm.slices + chip.inverse.arrays)
    if chip.cells is not None and needed > chip.cells:
        raise ValueError(
            f"solve: a system of {n} real rows takes {needed:,} devices, and {chip.name} has "
            f"{chip.cells:,}; give chip.replace(cells=None) for several chips, or smaller systems"
        )
    return a


def checked_vectors(a: Tensor, b: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return right-hand sides as (B, n, k), and what gives solutions the shape that torch gives.

    Raises:
        ValueError: the shape does not fit ``a``, or numbers are not finite.
        TypeError: no tensor of the type of ``a``.
    """
    _tensor("b", b)
    if b.dtype != a.dtype or b.device != a.device:
        raise TypeError(
            f"solve: A and b must be of one type on one device, got {a.dtype} on {a.device} and "
            f"{b.dtype} on {b.device}; write b.to(A)"
        )
    _finite("b", b)
    batch, n = a.shape[:-2], a.shape[-1]
    vectors = b.dim() == 1 or b.shape == (*batch, n)  # as torch tells them from matrices
    if found := _broadcast(batch, n, b.unsqueeze(-1) if vectors else b):
        columns, back = found
        return columns, (lambda x: back(x).squeeze(-1)) if vectors else back
    raise ValueError(
        f"solve: b must be {(*batch, n)}, or broadcast with {(*batch, n, 'k')}, for A of "
        f"{tuple(a.shape)}, got {tuple(b.shape)}"
    )


def _broadcast(
    batch: torch.Size, n: int, b: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """Return matrices (*, n, k) as the columns of each system, (B, n, k), and what undoes it.

    Batch dimensions of ``b`` in which there is one matrix are among the columns: it is programmed
    once. None: shapes do not fit.
    """
    if not b.numel() or b.shape[-2] != n:
        return None
    try:
        whole = torch.broadcast_shapes(batch, b.shape[:-2])
    except RuntimeError:
        return None
    own = (1,) * (len(whole) - len(batch)) + batch
    of_matrix = [d for d, size in enumerate(own) if size > 1]
    of_columns = [d for d, size in enumerate(own) if size == 1]
    order = [*of_matrix, len(whole), *of_columns, len(whole) + 1]
    moved = b.expand(*whole, *b.shape[-2:]).permute(order)
    undo = sorted(range(len(order)), key=order.__getitem__)
    columns = moved.reshape(batch.numel(), n, -1)
    return columns, lambda x: x.reshape(moved.shape).permute(undo)


def _tensor(name: str, t: Any) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"solve: {name} must be a tensor, got {checks.shown(t)}")
    if torch._C._functorch.is_functorch_wrapped_tensor(t):
        raise NotImplementedError(
            "solve: torch.func transforms are not supported; give one batch that holds all "
            "systems, and take gradients by backward() or torch.autograd.grad"
        )
    if t.layout != torch.strided or t.is_meta:
        kind = "on the meta device" if t.is_meta else f"{t.layout}"
        raise TypeError(f"solve: {name} must be a dense tensor with values, got one that is {kind}")
    if t.dtype not in _TYPES:
        raise TypeError(
            f"solve: {name} must be float32, float64, complex64 or complex128, got {t.dtype}; "
            f"write {name}.double()"
        )


def _finite(name: str, t: Tensor) -> None:
    wrong = int((~t.isfinite()).sum())
    if wrong:
        raise ValueError(
            f"solve: {name} has {wrong} of {t.numel()} elements that are NaN or infinite; replace "
            "or remove them"
        )
