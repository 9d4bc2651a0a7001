"""A tile solved node by node with Kirchhoff's equations, to check the models of IR drop.

Every cell joins a node of its row (word line) to a node of its column (bit line). Neighbouring
nodes of a line are one segment apart. Rows are driven at column 0, or there and at the other end;
columns end in ADCs, which hold them at 0 V, at row 0, or there and at the other end. A line ends
one segment beyond its last cell: cells that are not used belong to it, with 0 S.
"""

import importlib
import itertools
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from analogtorch.chips import Wires

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

RESIDUAL = 1e-10
"""Relative residual of the currents at which the solver stops."""


def solve(g: Tensor, v: Tensor, wires: Wires) -> Tensor:
    """Return the output currents of a tile, by conjugate gradients on its sparse nodal matrix.

    Args:
        g: conductances of the cells, (rows, columns), S, >= 0.
        v: inputs, (rows,) or (inputs, rows), V.
        wires: the wires of the tile.

    Returns:
        Current into the ADC of each column, both ends together: (columns,) or (inputs, columns), A,
        float64.

    Raises:
        ValueError: the shapes do not agree, or a conductance is negative or not finite.
        RuntimeError: the solver reaches no residual of ``RESIDUAL``.
        ImportError: SciPy is not installed.

    Example:
        >>> wires = at.chips.Wires(row_resistance=0.35, column_resistance=0.35)
        >>> solve(1e-6 * torch.rand(8, 4), torch.rand(8), wires).shape
        torch.Size([4])
    """
    _check(g, v)
    g, v = g.detach().double().cpu(), v.detach().double().cpu()
    if not g.numel():
        return v.new_zeros(*v.shape[:-1], g.shape[1])
    network = _Network(g, wires)
    outputs = [network.outputs(each) for each in v.reshape(-1, len(g))]
    return torch.stack(outputs).reshape(*v.shape[:-1], g.shape[1])


def solve_pulses(g: Tensor, widths: Tensor, wires: Wires) -> Tensor:
    """Return the mean output currents of a tile whose rows are driven by pulses of 1 V.

    All pulses begin together, and transistors switch the cells of a row off when its pulse ends.
    The tile is solved anew between any two ends of pulses, without an approximation in time.

    Args:
        g: conductances of the cells, (rows, columns), S, >= 0.
        widths: widths of the pulses in units of the longest, with the sign of their voltage,
            (rows,) or (inputs, rows), in [-1, 1].
        wires: the wires of the tile.

    Returns:
        Current into the ADC of each column, averaged over the longest pulse, both ends together:
        (columns,) or (inputs, columns), A, float64.

    Raises:
        ValueError: as ``solve``, or a width is larger than 1.
    """
    _check(g, widths)
    if (widths.abs() > 1).any():
        raise ValueError("nodal.solve_pulses: widths must be in [-1, 1]; divide by the DAC range")
    found = []
    for each in widths.detach().double().cpu().reshape(-1, len(g)):
        ends = torch.cat((each.new_zeros(1), each.abs().unique()))
        total = each.new_zeros(g.shape[1])
        for start, end in itertools.pairwise(ends.tolist()):
            on = each.abs() > start
            total += (end - start) * solve(g * on.unsqueeze(1), each.sign() * on, wires)
        found.append(total)
    return torch.stack(found).reshape(*widths.shape[:-1], g.shape[1])


def _check(g: Tensor, v: Tensor) -> None:
    if g.dim() != 2 or v.dim() not in (1, 2) or v.shape[-1] != len(g):
        raise ValueError(
            "nodal.solve: g must be (rows, columns) and v (rows,) or (inputs, rows), got "
            f"{tuple(g.shape)} and {tuple(v.shape)}"
        )
    if not (torch.isfinite(g).all() and (g >= 0).all() and torch.isfinite(v).all()):
        raise ValueError("nodal.solve: conductances must be finite and >= 0 S, inputs finite")


class _Network:
    """The nodal equations of a tile.

    Unknown are what each row node has lost of its input, and the potential of each column node, a
    line after the other: both are fed by the currents of the cells. The lines alone are
    tridiagonal; solving them is the preconditioner.
    """

    def __init__(self, g: Tensor, wires: Wires) -> None:
        self.g = g.numpy()
        self.rows = _Lines(self.g, wires.row_resistance, wires.row_ends)
        self.columns = _Lines(self.g.T, wires.column_resistance, wires.column_ends)

    def outputs(self, v: Tensor) -> Tensor:
        """Return the current into the ADC of each column, (columns,), for inputs (rows,)."""
        ideal = self.g * v.numpy()[:, None]
        lost = self._lost(ideal)
        return torch.from_numpy((ideal - self.g * lost).sum(0))

    def _lost(self, ideal: "Array") -> "Array":
        """Return the loss of each cell's input, (rows, columns), V, from its ideal current, A."""
        if self.columns.ideal:
            return self.rows.solve(ideal)
        if self.rows.ideal:
            return self.columns.solve(ideal.T).T
        return self._both(ideal)

    def _both(self, ideal: "Array") -> "Array":
        import numpy as np

        sparse = _scipy("scipy.sparse.linalg")
        shape, size = ideal.shape, ideal.size

        def split(x: "Array") -> "tuple[Array, Array]":
            return x[:size].reshape(shape), x[size:].reshape(shape[::-1])

        def join(row: "Array", column: "Array") -> "Array":
            return np.concatenate((row.ravel(), column.ravel()))

        def currents(x: "Array") -> "Array":
            row, column = split(x)
            return join(
                self.rows.matrix(row) + self.g * column.T,
                self.columns.matrix(column) + (self.g * row).T,
            )

        def by_lines(x: "Array") -> "Array":
            row, column = split(x)
            return join(self.rows.solve(row), self.columns.solve(column))

        matrix, guess = (
            sparse.LinearOperator((2 * size, 2 * size), matvec=f) for f in (currents, by_lines)
        )
        x, failed = sparse.cg(matrix, join(ideal, ideal.T), rtol=RESIDUAL, M=guess, maxiter=10_000)
        if failed:
            raise RuntimeError(
                f"nodal.solve: not solved to {RESIDUAL:g} in {failed} iterations; the resistance "
                "of the wires must stay well below that of the cells"
            )
        row, column = split(x)
        return row + column.T


class _Lines:
    """Parallel resistive lines with cells that lead off them; one system, which is tridiagonal."""

    def __init__(self, g: "Array", resistance: float, ends: int) -> None:
        import numpy as np

        self.ideal = resistance == 0
        if self.ideal:
            return
        wire, (lines, cells) = 1 / resistance, g.shape
        self.diagonal, self.wire = g + 2 * wire, wire
        if ends == 1:
            self.diagonal[:, -1] -= wire
        between = np.full((lines, cells), -wire)
        between[:, -1] = 0.0  # no segment leads to the next line
        self.bands = np.stack((self.diagonal.ravel(), between.ravel()))
        self._factor: Any = None

    def matrix(self, potential: "Array") -> "Array":
        """Return the current out of each node along its line and through its cell to 0 V."""
        out = self.diagonal * potential
        out[:, 1:] -= self.wire * potential[:, :-1]
        out[:, :-1] -= self.wire * potential[:, 1:]
        return out

    def solve(self, current: "Array") -> "Array":
        """Return the potentials at which the nodes pass on these currents; 0 for ideal lines."""
        if self.ideal:
            return 0 * current
        linear = _scipy("scipy.linalg")
        if self._factor is None:
            self._factor = linear.cholesky_banded(self.bands, lower=True)
        return linear.cho_solve_banded((self._factor, True), current.ravel()).reshape(current.shape)


def _scipy(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError('nodal.solve needs SciPy: pip install "analogtorch[nodal]"') from error
