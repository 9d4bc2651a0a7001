"""The shares of conductances that are left behind resistive lines."""

import pytest
import torch
from torch.testing import assert_close

from analogtorch.ops.ir_drop import drop, wire_shares


def _exact(g, r, first, last, ends):
    """The same by a dense solve of Kirchhoff's equations."""
    g = g.T
    cells = len(g)
    laplacian = torch.zeros(cells, cells, dtype=g.dtype)
    for k in range(cells - 1):
        laplacian[k, k] += 1
        laplacian[k + 1, k + 1] += 1
        laplacian[k, k + 1] -= 1
        laplacian[k + 1, k] -= 1
    laplacian[0, 0] += 1 / (1 + first)
    if ends == 2:
        laplacian[-1, -1] += 1 / (1 + last)
    lost = [torch.linalg.solve(laplacian / r + line.diag(), line) for line in g.T]
    return 1 - torch.stack(lost)


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (5, 0), (0, 9), (5, 9)])
@pytest.mark.parametrize("resistance", [0.35, 5.0, 500.0])
def test_kirchhoff(resistance, first, last, ends):
    g = 20e-6 * torch.rand(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    g[:, 10:14] = 0
    assert_close(
        wire_shares(g / 20e-6, resistance * 20e-6, first=first, last=last, ends=ends),
        _exact(g, resistance, first, last, ends),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("ends", [1, 2])
@pytest.mark.parametrize("resistance", [2.0, 900.0])
def test_gradient(resistance, ends):
    g = torch.rand(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    g = (1e-4 * g).requires_grad_()
    # in units in which g is about 1, for gradcheck's steps
    torch.autograd.gradcheck(
        lambda unit: wire_shares(unit, 1e-4 * resistance, first=2, last=3, ends=ends),
        (g.detach() * 1e4).requires_grad_(),
        atol=1e-4,
    )


def test_first_order():
    """Cells of equal conductance: Rasch's parabola 1 - (1 - k / n)^2, times half of the load."""
    n, g, r = 512, 5e-6, 1e-4
    lost = 1 - wire_shares(torch.ones(1, n, dtype=torch.float64), r * g)
    k = torch.arange(1, n + 1, dtype=torch.float64).unsqueeze(0)
    parabola = r * g * n * n / 2 * (1 - (1 - k / n) ** 2)
    assert_close(lost, parabola, rtol=0.01, atol=1e-7)


def test_ideal_wires():
    g = torch.rand(8, 2)
    assert torch.equal(wire_shares(g, 0.0), torch.ones_like(g))
    assert torch.equal(wire_shares(torch.zeros(8, 2), 1.0), torch.ones(8, 2))
    assert wire_shares(torch.zeros(2, 0), 1.0).shape == (2, 0)


@pytest.mark.parametrize("resistance", [0.001, 5.0])
def test_cells_behind_which_the_line_goes_on_are_those_of_a_line_with_empty_cells(resistance):
    g = torch.rand(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole = torch.cat((g.new_zeros(3, 4), g, g.new_zeros(3, 9)), 1)
    expected = wire_shares(whole, resistance, ends=2)[:, 4:16]
    assert_close(wire_shares(g, resistance, first=4, last=9, ends=2), expected, rtol=0, atol=1e-5)


def test_a_second_end_at_least_halves_the_drop():
    g = torch.full((1, 100), 1e-5, dtype=torch.float64)
    one = drop(g, 1.0)
    assert drop(g, 1.0, ends=2).max() < one.max() / 3.9
