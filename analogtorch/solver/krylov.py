"""Solver chips as linear operators of SciPy."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def operator(a: Tensor, function: Callable[[Tensor], Tensor], name: str) -> Any:
    """Return a function of tensors, of the shapes of right-hand sides, as a ``LinearOperator``.

    Real and imaginary parts of vectors are applied apart where the matrix is real.

    Raises:
        ValueError: there are several matrices.
        ImportError: SciPy is not installed.
    """
    if a.dim() != 2:
        raise ValueError(f"{name}: one matrix (n, n) is one operator, got {tuple(a.shape)}")
    try:
        scipy = importlib.import_module("scipy.sparse.linalg")
    except ImportError as error:
        raise ImportError(f'{name} needs SciPy: pip install "analogtorch[nodal]"') from error

    def apply(v: Any) -> Any:
        if np.iscomplexobj(v) and not a.is_complex():
            return apply(np.real(v)) + 1j * apply(np.imag(v))
        # torch takes no reversed arrays
        flat = torch.from_numpy(np.array(v)).to(a).reshape(len(v), -1)
        return function(flat).reshape(v.shape).cpu().numpy()

    kind = a.new_empty(0).cpu().numpy().dtype
    return scipy.LinearOperator(tuple(a.shape), matvec=apply, matmat=apply, dtype=kind)
