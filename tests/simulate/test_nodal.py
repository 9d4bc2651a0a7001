"""A tile solved node by node, and the closed form of IR drop against it."""

import pytest
import torch
from torch.testing import assert_close

from analogtorch.chips import Wires
from analogtorch.ops import ir_drop
from analogtorch.simulate import nodal
from benchmarks.validation.published import WIRES, WIRES_BY_MODEL
from benchmarks.validation.wires import WIDTHS, drop_and_error, pulse_error, tile


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


def test_pulses_are_products_of_the_cells_that_are_on():
    """Two pulses of 0.25 and 1, one of them negative: three quarters with one row alone."""
    g, _ = tile(3, 4)
    wires = Wires(column_resistance=50.0)
    widths = torch.tensor([0.25, -1.0, 0.0])
    both, later = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.0, -1.0, 0.0])
    without = [g * torch.tensor(on).unsqueeze(1) for on in ((1, 1, 0), (0, 1, 0))]
    expected = 0.25 * nodal.solve(without[0], both, wires)
    expected += 0.75 * nodal.solve(without[1], later, wires)
    assert_close(nodal.solve_pulses(g, widths, wires), expected)
    # ideal wires: the mean of the pulses
    ideal = nodal.solve_pulses(g, widths, Wires())
    assert_close(ideal, widths.double() @ g)
    assert torch.equal(nodal.solve_pulses(g, 0 * widths, wires), torch.zeros(4).double())
    with pytest.raises(ValueError, match="divide by the DAC range"):
        nodal.solve_pulses(g, 2 * widths, wires)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("pairs", [False, True], ids=["columns", "pairs"])
@pytest.mark.parametrize("model", ["pulses", "standard", "ladder"])
def test_models_of_pulses(model, pairs, widths):
    """128 rows behind 1.4 ohm, drops of 2 to 7 %: the stated error of each model."""
    given = {"pairs": pairs, "ohm": 1.4, "rows": 128, "columns": 8}
    drop, error = pulse_error(model, widths, **given)
    assert 0.015 < drop < 0.1
    assert error < WIRES_BY_MODEL[pairs][model]
    if model != "ladder":
        assert error < drop
    else:  # the reason for the others
        assert error > (2 if pairs else 5) * pulse_error("pulses", widths, **given)[1]


def test_pulses_in_columns_with_two_ends():
    drop, error = pulse_error("pulses", "uniform in [0, 1]", ohm=4.0, rows=128, columns=8, ends=2)
    assert drop > 0.015
    assert error < 0.005


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
