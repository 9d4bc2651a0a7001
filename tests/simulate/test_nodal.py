"""A tile solved node by node, and the closed form of IR drop against it."""

import pytest
import torch
from torch.testing import assert_close

from analogtorch.chips import Wires
from analogtorch.ops import ir_drop
from analogtorch.simulate import nodal
from benchmarks.validation.published import WIRES
from benchmarks.validation.wires import drop_and_error, tile


def _dense(g, v, wires):
    """Currents into the ADCs by a dense solve of all nodes."""
    rows, columns = g.shape
    row = torch.arange(rows * columns).view(rows, columns)
    column = row + rows * columns
    matrix = torch.zeros(2 * rows * columns, 2 * rows * columns, dtype=g.dtype)
    right = torch.zeros(2 * rows * columns, dtype=g.dtype)

    def join(a, b, conductance):
        matrix[a, a] += conductance
        matrix[b, b] += conductance
        matrix[a, b] -= conductance
        matrix[b, a] -= conductance

    for i in range(rows):
        for j in range(columns):
            join(row[i, j], column[i, j], g[i, j])
            if j + 1 < columns:
                join(row[i, j], row[i, j + 1], 1 / wires.row_resistance)
            if i + 1 < rows:
                join(column[i, j], column[i + 1, j], 1 / wires.column_resistance)
    for end in range(wires.row_ends):
        for i, node in enumerate(row[:, -end]):
            matrix[node, node] += 1 / wires.row_resistance
            right[node] += v[i] / wires.row_resistance
    for end in range(wires.column_ends):
        for node in column[-end]:
            matrix[node, node] += 1 / wires.column_resistance
    x = torch.linalg.solve(matrix, right)
    return (g * (x[row] - x[column])).sum(0)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_equals_a_dense_solve(ends):
    g, v = tile(7, 5)
    wires = Wires(
        row_resistance=900.0, column_resistance=400.0, row_ends=ends[0], column_ends=ends[1]
    )
    assert_close(nodal.solve(1e2 * g, v, wires), _dense(1e2 * g, v, wires), rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("row", "column"), [(0.0, 0.0), (3.0, 0.0), (0.0, 3.0)], ids=["ideal", "rows", "columns"]
)
def test_ideal_lines(row, column):
    """An ideal line is the limit of a very good one, and the closed form is exact there."""
    g, v = tile(20, 9)
    y = nodal.solve(g, v, Wires(row_resistance=row, column_resistance=column))
    almost = Wires(row_resistance=row or 1e-6, column_resistance=column or 1e-6)
    assert_close(y, nodal.solve(g, v, almost), rtol=1e-6, atol=0)
    wires = Wires(row_resistance=row, column_resistance=column)
    closed = v @ (20e-6 * ir_drop.effective(g.T / 20e-6, wires=wires, unit=20e-6).T)
    assert_close(closed, y, rtol=3e-5, atol=0)


@pytest.mark.parametrize(("signed", "bound"), WIRES.items())
@pytest.mark.parametrize("ends", [1, 2])
def test_closed_form(ends, signed, bound):
    """256 x 256 cells behind 0.35 ohm a segment: the stated error of the closed form."""
    wires = Wires(row_resistance=0.35, column_resistance=0.35, row_ends=ends, column_ends=ends)
    drop, error = drop_and_error(wires, signed=signed)
    assert drop > 0.03
    assert error < bound


def test_batch():
    g, v = tile(6, 4)
    wires = Wires(row_resistance=5.0, column_resistance=5.0)
    both = nodal.solve(g, torch.stack((v, -2 * v)), wires)
    assert_close(both[1], -2 * both[0])
    assert nodal.solve(g[:, :0], v, wires).shape == (0,)


@pytest.mark.parametrize(
    ("g", "v", "told"),
    [
        (torch.rand(3), torch.rand(3), r"got \(3,\) and \(3,\)"),
        (torch.rand(3, 2), torch.rand(2), r"got \(3, 2\) and \(2,\)"),
        (-torch.ones(3, 2), torch.rand(3), "must be finite and >= 0"),
        (torch.rand(3, 2), torch.full((3,), float("nan")), "inputs finite"),
    ],
)
def test_refused(g, v, told):
    with pytest.raises(ValueError, match=told):
        nodal.solve(g, v, Wires(row_resistance=1.0))
