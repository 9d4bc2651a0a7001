"""The arithmetic operations of common decompositions, inverses and systems of matrices.

They are the leading terms in G. Golub and C. Van Loan, Matrix Computations, 4th ed. (2013). Complex
numbers take four times as many. Operators that are not listed count one operation per result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_Arguments = Mapping[str, Any]


_Count = Callable[[int, int, _Arguments], float]
"""Operations of a matrix of so many rows and columns."""


@dataclass(frozen=True)
class _Work:
    argument: str
    """The argument that is the matrix."""
    matrix: _Count
    vector: float
    """Operations per number of the matrix of each right-hand side."""


def operations(name: str, arguments: _Arguments, output: Any) -> int | None:
    """Return the arithmetic operations of an operator on matrices; None if it is not listed."""
    work = _WORK.get(name)
    if work is None:
        return None
    x: Tensor = arguments[work.argument]
    rows, columns = x.shape[-2:]
    count = x.shape[:-2].numel() * work.matrix(rows, columns, arguments)
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    # a solution has a number for each column
    count += first.numel() // max(1, columns) * work.vector * rows * columns
    return round(count * (4 if x.is_complex() else 1))


def _none(rows: int, columns: int, a: _Arguments) -> float:
    return 0


def _lu(rows: int, columns: int, a: _Arguments | None = None) -> float:
    """Count an LU decomposition; the triangle of a QR decomposition takes twice as many."""
    m, n = max(rows, columns), min(rows, columns)
    return n**2 * (m - n / 3)


def _completed(rows: int, n: int) -> float:
    """Count the orthogonal columns that make a square matrix of ``n`` of them."""
    return 2 * n * (rows - n) * (2 * rows - n)


def _qr(rows: int, columns: int, a: _Arguments) -> float:
    n, triangle = min(rows, columns), 2 * _lu(rows, columns)
    if a["mode"] == "r":
        return triangle
    return triangle + 2 * _lu(rows, n) + (_completed(rows, n) if a["mode"] == "complete" else 0)


def _svd(rows: int, columns: int, a: _Arguments) -> float:
    """Count singular values, and both sets of vectors if they are asked for."""
    m, n = max(rows, columns), min(rows, columns)
    if not a.get("compute_uv", True):
        return 4 * _lu(m, n)
    is_full = a.get("full_matrices", not a.get("some", True))
    return 14 * m * n**2 + 8 * n**3 + (_completed(m, n) if is_full else 0)


def _eigh(rows: int, columns: int, a: _Arguments) -> float:
    return (9 if a.get("compute_v", True) else 4 / 3) * rows**3


def _pinv(rows: int, columns: int, a: _Arguments) -> float:
    found = (_eigh if a.get("hermitian") else _svd)(rows, columns, {})
    return found + 2 * rows * columns * min(rows, columns)


def _of(argument: str, names: str, matrix: _Count, vector: float = 0) -> dict[str, _Work]:
    return dict.fromkeys(names.split(), _Work(argument, matrix, vector))


_WORK = {
    **_of("A", "linalg_lu linalg_lu_factor linalg_lu_factor_ex", _lu),
    **_of("A", "linalg_det _linalg_det linalg_slogdet _linalg_slogdet", _lu),
    **_of("self", "_lu_with_info det slogdet logdet", _lu),
    **_of("A", "linalg_inv linalg_inv_ex", lambda n, *_: 2 * n**3),
    **_of("self", "inverse", lambda n, *_: 2 * n**3),
    **_of("A", "linalg_solve linalg_solve_ex _linalg_solve_ex", _lu, 2),
    **_of("LU", "linalg_lu_solve", _none, 2),
    **_of("LU_data", "lu_solve", _none, 2),
    **_of("self", "linalg_solve_triangular", _none, 1),
    **_of("A", "triangular_solve", _none, 1),
    **_of("self", "linalg_cholesky linalg_cholesky_ex", lambda n, *_: n**3 / 3),
    **_of("self", "cholesky_inverse", lambda n, *_: 2 / 3 * n**3),
    **_of("input2", "cholesky_solve", _none, 2),
    **_of("A", "linalg_qr", _qr),
    **_of("self", "linalg_lstsq", lambda m, n, _: 2 * _lu(m, n), 4),
    **_of("A", "_linalg_eigh", _eigh),
    **_of("self", "linalg_eigh", _eigh),
    **_of("self", "linalg_eigvalsh", lambda n, *_: 4 / 3 * n**3),
    **_of("self", "linalg_eig", lambda n, *_: 25 * n**3),
    **_of("self", "linalg_eigvals", lambda n, *_: 10 * n**3),
    **_of("A", "linalg_svd _linalg_svd", _svd),
    **_of("self", "svd", _svd),
    **_of("A", "linalg_svdvals", lambda m, n, _: 4 * _lu(m, n)),
    **_of("self", "linalg_pinv pinverse", _pinv),
}
