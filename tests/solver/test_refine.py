"""What becomes of corrections: added, or combined so that the least residual is left."""

import pytest
import torch

import analogtorch as at
from analogtorch.solver import MatrixSolver
from tests.solver.systems import conditioned, system

CHIP = at.solver.rram_solver()
EXACT = CHIP.replace(mvm={"bits": None}, inverse={"input_bits": None, "output_bits": None})
TOLERANCE = 2.0**-24


def test_combined_corrections_solve_what_added_ones_do_not() -> None:
    symmetric = conditioned(16, 10.0, 5, symmetric=True)
    unlike = conditioned(25, 80.0, 23)  # where the least residual does not change at first
    for a, chip in (
        (symmetric, CHIP),
        (unlike, at.solver.rram_solver(slices=2, circuit="least_squares")),
    ):
        b = torch.ones(len(a), dtype=torch.float64)
        wide = chip.replace(inverse={"settling_time": 2e-5})
        found = at.solve(a, b, wide)
        assert found.residual <= TOLERANCE
        added = at.solve(a, b, wide.replace(corrections="added"), strict=False)
        assert not added.solved or added.passes > 2 * found.passes
        assert (found.residuals.diff() <= 0).all()


def test_combined_corrections_leave_the_least_residual_of_all_combinations() -> None:
    a, b = system(16, noise=0.6)
    solver = MatrixSolver(a, EXACT)
    product = a @ solver._system.inverse[0]
    space = torch.stack([b, product @ b, product @ product @ b], 1)
    for passes in (1, 2, 3):
        images = product @ space[:, :passes]
        least = (b - images @ torch.linalg.lstsq(images, b).solution).norm() / b.norm()
        assert solver.solve(b, passes=passes).residual == pytest.approx(float(least), rel=1e-6)


@pytest.mark.parametrize(("rows", "seed"), [(16, 23), (16, 31), (16, 37), (32, 12), (32, 17)])
def test_combined_corrections_end_at_the_residual_that_is_there(rows: int, seed: int) -> None:
    """What is computed and what is there had grown apart, from pass to pass."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, rows, generator=generator).double()
    chip = at.solver.rram_solver(slices=4, circuit="least_squares", bits=40)
    found = at.solve(a, torch.ones(rows).double(), chip, scaling=True)
    assert found.residual <= TOLERANCE
    assert found.passes > rows or found.cost.measured == 0


def test_wrong_counts_of_few_passes_are_mended_by_measuring_the_residual_anew() -> None:
    generator = torch.Generator().manual_seed(24)
    a = (torch.eye(8) + 0.12 * torch.randn(8, 8, generator=generator)).double()
    b = torch.randn(8, generator=generator).double().requires_grad_()
    x = at.solve(a, b, at.solver.rram_solver(spread=0.22), seed=24).x
    x.square().sum().backward()
    adjoint = 2 * x.detach()
    assert (adjoint - a.mT @ b.grad).norm() <= TOLERANCE * adjoint.norm()


def test_a_residual_that_is_measured_anew_costs_an_mvm() -> None:
    a, b = system(16)
    matrix, right, chip = a[:2, :2], b[:2], CHIP
    # images are dropped after the second and the fourth pass, but not after the last
    for passes, measured in ((2, 0), (3, 1), (4, 1), (5, 2)):
        cost = at.solve(matrix, right, chip, passes=passes).cost
        assert cost is not None
        assert cost.measured == measured
        each = chip.mvm.pulses(chip.mvm.input_bits) * chip.cost.mvm_time.value
        assert cost.mvm_time == pytest.approx((passes + measured) * each)
        one = at.solve(matrix, right, chip, passes=1).cost
        assert cost.mvm_energy == pytest.approx((passes + measured) * one.mvm_energy)
        assert cost.check_energy == pytest.approx((1 + measured) * one.check_energy)


def test_complex_factors_combine_corrections_of_complex_systems() -> None:
    (a, b), (c, d) = system(6, noise=0.6), system(6, seed=1, noise=0.6)
    twisted, right = torch.complex(a, c - torch.eye(6)), torch.complex(b, d)
    real = torch.cat((torch.cat((a, -twisted.imag), 1), torch.cat((twisted.imag, a), 1)))
    found = at.solve(twisted, right, EXACT, passes=1)
    image = twisted @ MatrixSolver(twisted, EXACT).rough(right)
    factor = torch.vdot(image, right) / torch.vdot(image, image)
    least = (right - factor * image).norm() / right.norm()
    assert found.residual == pytest.approx(float(least), rel=1e-6)
    assert found.residual < at.solve(real, torch.cat((b, d)), EXACT, passes=1).residual


@pytest.mark.parametrize("corrections", ["combined", "added"])
def test_work_between_passes_costs_its_multiplications(corrections: str) -> None:
    (a, b), passes = system(16), 3
    chip = CHIP.replace(corrections=corrections)
    for matrix, right, n, expected in (
        (a, b, 16, 10 * 3 * 16 + 3 * 16 * 3),
        (a[:2, :2], b[:2], 2, 10 * 3 * 2 + 3 * 2 * 1),  # the third pass begins anew
        (a[:8, :8] + 0j, b[:8] + 0j, 16, 13 * 3 * 16 + 6 * 16 * 3),
    ):
        cost = at.solve(matrix, right, chip, passes=passes).cost
        assert cost is not None
        multiplications = expected if corrections == "combined" else 2 * 3 * n
        # one nanosecond and 12.89 pJ of each
        assert cost.corrections_time == pytest.approx(multiplications * 1e-9)
        assert cost.corrections_energy == pytest.approx(multiplications * 12.89e-12)
        assert cost.time > cost.inverse_time + cost.mvm_time
