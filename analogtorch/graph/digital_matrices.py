"""The arithmetic operations of decompositions, inverses and systems of matrices.

They are the leading terms in G. Golub and C. Van Loan, Matrix Computations, 4th ed. (2013), for a
matrix of ``m >= n`` rows and columns, in either order. Complex numbers take four times as many.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_Count = Callable[[int, int], float]


@dataclass(frozen=True)
class _Work:
    """Operations of one matrix, and of each right-hand side."""

    matrix: _Count
    vector: _Count = lambda m, n: 0


def operations(name: str, arguments: Mapping[str, Any], output: Any) -> int | None:
    """Return the arithmetic operations of an operator on matrices; None if ``name`` is none."""
    work = _WORK.get(name)
    if work is None:
        return None
    x = arguments[next(key for key in ("input2", "A", "LU", "self") if key in arguments)]
    m, n = max(x.shape[-2:]), min(x.shape[-2:])
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    vectors = first.numel() // max(1, n)
    count = math.prod(x.shape[:-2]) * work.matrix(m, n) + vectors * work.vector(m, n)
    return round(count * (4 if x.is_complex() else 1))


def _both(m: int, n: int) -> float:
    """Count singular values and both sets of vectors."""
    return 14 * m * n**2 + 8 * n**3


_LU = _Work(lambda m, n: n**2 * (m - n / 3))
_SOLVED = _Work(lambda m, n: 0, lambda m, n: 2 * n**2)
_TRIANGULAR = _Work(lambda m, n: 0, lambda m, n: n**2)
_WORK = {
    **dict.fromkeys(("linalg_lu", "linalg_lu_factor", "linalg_lu_factor_ex"), _LU),
    **dict.fromkeys(("linalg_det", "det", "linalg_slogdet", "slogdet", "logdet"), _LU),
    **dict.fromkeys(("linalg_inv", "linalg_inv_ex", "inverse"), _Work(lambda m, n: 2 * n**3)),
    **dict.fromkeys(("linalg_solve", "linalg_solve_ex"), _Work(_LU.matrix, _SOLVED.vector)),
    **dict.fromkeys(("linalg_lu_solve", "cholesky_solve"), _SOLVED),
    **dict.fromkeys(("linalg_solve_triangular", "triangular_solve"), _TRIANGULAR),
    **dict.fromkeys(("linalg_cholesky", "linalg_cholesky_ex"), _Work(lambda m, n: n**3 / 3)),
    "cholesky_inverse": _Work(lambda m, n: 2 / 3 * n**3),
    # the triangle, and as many for the orthogonal factor
    "linalg_qr": _Work(lambda m, n: 4 * n**2 * (m - n / 3)),
    "linalg_lstsq": _Work(lambda m, n: 2 * n**2 * (m - n / 3), lambda m, n: 4 * m * n),
    "linalg_eigh": _Work(lambda m, n: 9 * n**3),
    "_linalg_eigh": _Work(lambda m, n: 9 * n**3),
    "linalg_eigvalsh": _Work(lambda m, n: 4 / 3 * n**3),
    "linalg_eig": _Work(lambda m, n: 25 * n**3),
    "linalg_eigvals": _Work(lambda m, n: 10 * n**3),
    **dict.fromkeys(("linalg_svd", "_linalg_svd", "svd", "linalg_pinv"), _Work(_both)),
    "linalg_svdvals": _Work(lambda m, n: 4 * n**2 * (m - n / 3)),
}
