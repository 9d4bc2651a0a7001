"""The inverse circuits and the bit-sliced MVMs, part by part, and what shows their solutions."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import analogtorch as at
from analogtorch.ops import key_of
from analogtorch.solver.arrays import power_above
from analogtorch.solver.inverse import converted, dynamics, leaves, matrix, place
from analogtorch.solver.multiply import fixed_point, slice_up
from tests.solver.systems import conditioned, system

EXACT = at.solver.rram_solver(spread=0.0)
KEY = key_of(0, 0)


def test_circuits_settle_as_the_differential_equation_says() -> None:
    a = conditioned(4, 3.0, 0, symmetric=True).unsqueeze(0)
    chip = EXACT.replace(inverse={"settling_time": 2e-9})
    blocks = place(a, chip, KEY)
    (leaf,) = leaves(blocks)
    m, steps = dynamics(leaf, chip.inverse), 2_000
    x, step = torch.zeros_like(m), 2 * math.pi * 100e6 * 2e-9 / steps
    target = m @ torch.linalg.inv(leaf.a)  # U b
    for _ in range(steps):
        x = x + step * (target - m @ x)
    found = matrix(blocks, chip.inverse)
    assert_close(found * leaf.scale, x, rtol=1e-2, atol=1e-3)
    assert (found * leaf.scale - torch.linalg.inv(leaf.a)).abs().max() > 0.1


@pytest.mark.parametrize("n", [8, 9, 24, 64])
def test_blocks_are_the_inverse_where_the_arrays_hold_them_exactly(n: int) -> None:
    a, _ = system(n, 2)
    chip = EXACT.replace(inverse={"bits": None, "settling_time": None})
    blocks = place(a, chip, KEY)
    assert all(leaf.a.shape[-1] <= 8 for leaf in leaves(blocks))
    assert_close(matrix(blocks, chip.inverse), torch.linalg.inv(a))
    assert_close(matrix(blocks.mT, chip.inverse), torch.linalg.inv(a.mT))


def test_analog_schur_complements_serve_as_well() -> None:
    a, b = system(24, 20)
    radii = {}
    for schur in ("digital", "analog"):
        chip = EXACT.replace(inverse={"schur": schur})
        found = at.solve(a, b, chip)
        radii[schur] = found.spectral_radius.median()
        assert found.residual.max() <= 2.0**-24
        assert found.cost is not None
        assert found.cost.setup_energy > 0
    assert radii["analog"] < 1.2 * radii["digital"]


def test_least_squares_settles_where_the_inverse_does_not() -> None:
    a = -conditioned(6, 2.0, 0, symmetric=True).unsqueeze(0)
    for circuit, stable in (("inverse", False), ("least_squares", True)):
        chip = EXACT.replace(inverse={"circuit": circuit})
        (leaf,) = leaves(place(a, chip, KEY))
        assert bool((torch.linalg.eigvals(dynamics(leaf, chip.inverse)).real > 0).all()) == stable


def test_more_slices_hold_the_matrix_more_finely() -> None:
    a, _ = system(8, 3)
    errors = []
    for slices in (1, 2, 3):
        chip = EXACT.replace(inverse={"slices": slices})
        (leaf,) = leaves(place(a, chip, KEY))
        errors.append(float((leaf.a * leaf.scale - a).abs().max() / a.abs().max()))
    assert errors[0] <= 0.5 / 7
    assert errors[1] <= 0.5 / 63
    assert errors[2] <= 0.5 / 511


@pytest.mark.parametrize("n", [3, 8, 20])
def test_counts_make_products_exact(n: int) -> None:
    """Errors of cells below half a count vanish; what is left is the fixed point of the matrix."""
    a, _ = system(n, 3)
    x = torch.randn(3, n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chip = at.solver.rram_solver(spread=0.1)
    sliced = slice_up(a, chip, KEY)
    assert (sliced.planes - sliced.planes.round()).abs().max() > 0.005
    x = sliced.stored(x)
    assert_close(sliced.times(x, 0), fixed_point(a, 30) @ x, rtol=0, atol=1e-14)
    back = sliced.mT
    assert_close(back.times(x, 0), fixed_point(a, 30).mT @ x, rtol=0, atol=1e-14)


def test_errors_above_half_a_count_do_not_vanish() -> None:
    a, x = system(8, 3)
    for chip in (at.solver.rram_solver(spread=1.0), EXACT.replace(mvm={"noise": 0.5})):
        sliced = slice_up(a, chip, KEY)
        error = sliced.times(x.unsqueeze(-1), 0) - a @ x.unsqueeze(-1)
        assert error.abs().max() > 1e-3


def test_noise_of_a_system_is_its_own_and_new_in_each_product() -> None:
    a, x = system(8, 3)
    sliced = slice_up(a, EXACT.replace(mvm={"noise": 0.5}), KEY)
    last, v = torch.tensor([False, False, True]), x.unsqueeze(-1)
    assert_close(sliced.of(last).times(v[2:], 0), sliced.times(v, 0)[2:])
    assert not torch.equal(sliced.times(v, 1), sliced.times(v, 0))


def test_cells_of_a_system_do_not_depend_on_how_many_follow() -> None:
    a, _ = system(20, 3)
    chip = at.solver.rram_solver(slices=2, circuit="least_squares")
    assert torch.equal(slice_up(a[:2], chip, KEY).planes, slice_up(a, chip, KEY).planes[:, :2])
    few, all_ = (matrix(place(of, chip, KEY), chip.inverse) for of in (a[:2], a))
    assert_close(few, all_[:2], rtol=0, atol=1e-12)
    assert not torch.equal(*slice_up(a[:1].expand(2, 20, 20), chip, KEY).planes.unbind(1))


def test_fixed_point_keeps_what_is_in_it() -> None:
    a = torch.tensor([[[0.75, -1.0 / 3], [1e-9, -0.999999]]], dtype=torch.float64)
    held = fixed_point(a, 10)
    assert held[0, 0, 0] == 0.75
    assert_close(held, a, rtol=0, atol=2.0**-10)
    assert held.abs().max() == 1 - 2.0**-10
    assert torch.equal(fixed_point(held, 10), held)
    assert power_above(torch.tensor([0.0, 0.5, 0.75, 3.0])).tolist() == [1.0, 1.0, 1.0, 4.0]


def test_converters_of_the_rough_inverse_follow_the_size_of_vectors() -> None:
    a, b = system(8, 2)
    inverse = torch.linalg.inv(a)
    d = converted(inverse, b.unsqueeze(-1), EXACT.inverse)
    assert_close(converted(inverse, 2.0**-30 * b.unsqueeze(-1), EXACT.inverse), 2.0**-30 * d)
    assert 0.001 < (d - inverse @ b.unsqueeze(-1)).norm() / d.norm() < 0.2


def test_costs_follow_the_passes_and_the_blocks() -> None:
    a, b = system(16)
    added = EXACT.replace(corrections="added")
    one, two = (at.solve(a, b, added, passes=p).cost for p in (1, 2))
    assert one is not None
    assert two is not None
    assert two.time == pytest.approx(2 * one.time)
    assert two.mvm_energy == pytest.approx(2 * one.mvm_energy)
    # five steps: three inversions of 200 ns, two MVMs of 100 ns; 34 pulses of 100 ns
    assert one.inverse_time == pytest.approx(800e-9)
    assert one.mvm_time == pytest.approx(3.4e-6)
    assert one.lu_energy == pytest.approx((16**3 / 3 + 256) * 12.89e-12)
    assert at.solve(a, b, at.solver.ideal_solver()).cost is None


def test_solutions_and_chips_print_and_draw_themselves(tmp_path: Path) -> None:
    a, b = system(16, 3)
    found = at.solve(a, b, EXACT)
    said = str(found)
    for wanted in ("spectral radius", "computed digitally", "digital LU", "modelled"):
        assert wanted in said
    assert "8x8 arrays: Zuo" in str(EXACT)
    found.plot(tmp_path / "residual.png")
    assert (tmp_path / "residual.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["mine.json", "mine.yaml"])
@pytest.mark.parametrize("chip", [EXACT, at.solver.ideal_solver()], ids=lambda c: c.name)
def test_files_hold_solver_chips(chip, name: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path = at.solver.save(chip, tmp_path / name)
    assert at.solver.load(path) == chip
    assert at.solver.load(path).mvm.sources == chip.mvm.sources


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "chip.json"
    at.chips.save(at.chips.ideal(), path)
    with pytest.raises(ValueError, match="version 2, this AnalogTorch reads 1"):
        at.solver.load(path)
    path.write_text('{"version": 1, "type": "Array", "rows": 1, "columns": 1, "tiles": 1}')
    with pytest.raises(ValueError, match="type 'Array', expected 'SolverChip'"):
        at.solver.load(path)
    with pytest.raises(TypeError, match="save: chip must be a SolverChip"):
        at.solver.save(at.chips.ideal(), path)
    with pytest.raises(ValueError, match=".yaml"):
        at.solver.save(EXACT, tmp_path / "chip.txt")
