"""``solve``: within the tolerance or a named refusal, as torch, with the equation's gradients."""

import ast
import copy
import math
import re
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import analogtorch as at
from analogtorch.solver import MatrixSolver, NotSolvedError
from analogtorch.solver.system import order_of
from tests.solver.systems import conditioned, system

CHIP = at.solver.rram_solver()
ADDED = CHIP.replace(corrections="added")
IDEAL = at.solver.ideal_solver()
TOLERANCE = 2.0**-24


@pytest.mark.parametrize("n", [1, 2, 8, 9, 16, 33, 64])
def test_an_ideal_chip_equals_torch(n: int) -> None:
    a, b = system(n)
    assert_close(at.solve(a, b, IDEAL).x, torch.linalg.solve(a, b), rtol=0, atol=1e-12)


SYSTEMS = {
    "n": st.integers(2, 64),
    "condition": st.floats(1, 100),
    "seed": st.integers(0, 10_000),
    "symmetric": st.booleans(),
    "slices": st.integers(1, 3),
    "circuit": st.sampled_from(["inverse", "least_squares"]),
    "scaling": st.booleans(),
}


def solved_or_refused(n, condition, seed, symmetric, slices, circuit, scaling) -> None:
    a, chip = conditioned(n, condition, seed, symmetric), at.solver.rram_solver(slices=slices)
    b = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chip, refusal = chip.replace(inverse={"circuit": circuit}), None
    try:
        x = at.solve(a, b, chip, scaling=scaling, seed=seed).x
    except NotSolvedError as error:
        refusal = error
    if refusal is None:
        assert (b - a @ x).norm() <= TOLERANCE * b.norm()
    else:
        assert refusal.condition in ("singular", "unstable", "diverging", "stalled")
        assert "What mends it: " in str(refusal)


@settings(max_examples=5, deadline=None)
@given(**SYSTEMS | {"n": st.integers(2, 20)})
def test_a_solution_is_within_the_tolerance_or_refused_by_name(**options) -> None:
    solved_or_refused(**options)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(**SYSTEMS)
def test_many_solutions_are_within_the_tolerance_or_refused_by_name(**options) -> None:
    solved_or_refused(**options)


@pytest.mark.parametrize("n", [2, 5, 16, 40, 64])
def test_what_is_well_conditioned_and_stable_is_solved(n: int) -> None:
    a = conditioned(n, 10.0, n, symmetric=True)
    b = torch.randn(n, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    found = at.solve(a, b, at.solver.rram_solver(slices=2))
    assert found.residual <= TOLERANCE
    assert found.spectral_radius < 0.5


def test_sixteen_rows_to_24_bits_as_published() -> None:
    """Zuo 2025: 16x16, a matrix of 24 bits in fixed point, 3-bit arrays of 8x8, 3 bits a pass."""
    a, b = system(16, 20)
    fixed = (a * 2.0**22).round() / 2.0**22  # 24 bits below the largest power of two, 2
    found = at.solve(fixed, b, at.solver.rram_solver(bits=24))
    assert found.residual.max() <= TOLERANCE
    error = (found.x - torch.linalg.solve(fixed, b)).abs().amax(-1) / found.x.abs().amax(-1)
    assert error.max() <= TOLERANCE
    per_pass = (found.bits / found.passes).mean()
    assert 2 < per_pass < 4


@pytest.mark.parametrize("systems", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_batches_are_solved_system_by_system(systems: int) -> None:
    a, b = system(16, systems)
    found = at.solve(a, b, CHIP)
    assert found.residual.max() <= TOLERANCE
    assert found.passes.shape == (systems,)
    assert_close(at.solve(a[:3], b[:3], CHIP).residuals[:9], found.residuals[:9, :3])


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("vectors", [(), (4,)])
def test_shapes_are_those_of_torch(batch: tuple[int, ...], vectors: tuple[int, ...]) -> None:
    a, _ = system(5, *batch)
    b = torch.ones(*batch, 5, *vectors, dtype=torch.float64)
    found = at.solve(a, b, CHIP)
    assert_close(found.x, torch.linalg.solve(a, b), rtol=0, atol=1e-6)
    assert found.residual.shape == found.spectral_radius.shape == batch
    assert found.residuals.shape[1:] == batch


def test_one_matrix_takes_a_batch_of_vectors() -> None:
    a, _ = system(5)
    b = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    assert_close(at.solve(a, b, CHIP).x, torch.linalg.solve(a, b), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128])
def test_types_are_those_of_torch(dtype: torch.dtype) -> None:
    a, b = (t.to(dtype) for t in system(9))
    if dtype.is_complex:
        a = a + 0.2j * torch.eye(9, dtype=dtype).flip(0)
    found = at.solve(a, b, CHIP)
    assert found.x.dtype == dtype
    assert_close(found.x, torch.linalg.solve(a, b), rtol=0, atol=2e-6)


@pytest.mark.parametrize("chip", [IDEAL, at.solver.rram_solver(bits=44)], ids=lambda c: c.name)
def test_gradients_are_those_of_the_equation(chip) -> None:
    a, b = (t.requires_grad_() for t in system(2))
    blocks = chip.replace(inverse={"size": 1})

    def x(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return at.solve(a, b, blocks, tolerance=2.0**-40).x

    assert torch.autograd.gradcheck(x, (a, b))


def test_second_and_complex_gradients() -> None:
    a, b = (t.requires_grad_() for t in system(3))
    assert torch.autograd.gradgradcheck(lambda a, b: at.solve(a, b, IDEAL).x, (a, b))
    a, b = (t.detach().to(torch.complex128).requires_grad_() for t in (a, b))
    assert torch.autograd.gradcheck(lambda a, b: at.solve(a, b, IDEAL).x, (a, b))


def test_a_seed_is_a_chip_and_repeats() -> None:
    a, b = system(16)
    first, again, other = (at.solve(a, b, CHIP, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.residuals, again.residuals)
    assert first.spectral_radius != other.spectral_radius


def test_passes_take_as_many_as_asked() -> None:
    a, b = system(16)
    found = at.solve(a, b, CHIP, passes=3)
    assert found.passes == 3
    assert found.tolerance is None
    assert TOLERANCE < found.residual < 0.05
    assert found.residual == pytest.approx(float(found.residuals[-1]), rel=1e-3)


def test_corrections_multiply_as_precisely_with_fewer_pulses() -> None:
    a, b = system(16, 3)
    chip = CHIP.replace(mvm={"multiplies": "correction"})
    whole, part = at.solve(a, b, CHIP), at.solve(a, b, chip)
    assert part.residual.max() <= TOLERANCE
    assert_close(part.residuals[:9], whole.residuals[:9], rtol=0.05, atol=0)
    assert whole.cost is not None
    assert part.cost is not None
    assert part.cost.mvm_time < 0.25 * whole.cost.mvm_time
    with pytest.raises(ValueError, match="'output_bits': 8"):
        chip.replace(inverse={"output_bits": None})


@pytest.mark.parametrize("size_of_a", [1e-290, 1.0, 1e290])
@pytest.mark.parametrize("size_of_b", [1e-290, 1e290])
def test_numbers_of_any_size_are_solved(size_of_a: float, size_of_b: float) -> None:
    a, b = system(12)
    given = a * size_of_a, b * size_of_b
    if size_of_b / size_of_a in (0.0, math.inf):
        with pytest.raises(NotSolvedError, match="beyond the range of torch.float64"):
            at.solve(*given, CHIP)
        return
    found = at.solve(*given, CHIP)
    assert found.residual <= TOLERANCE
    expected = torch.linalg.solve(a, b)
    assert_close(found.x / size_of_b * size_of_a, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        ((), (6,)),
        ((), (6, 2)),
        ((), (3, 6, 2)),
        ((4,), (6,)),
        ((4,), (4, 6)),
        ((4,), (6, 2)),
        ((4,), (1, 6, 2)),
        ((4,), (3, 1, 6, 2)),
        ((1,), (4, 6, 2)),
        ((4, 1), (3, 6, 2)),
        ((2, 1, 3), (5, 1, 6, 2)),
    ],
)
def test_batches_broadcast_as_those_of_torch(batch, shape) -> None:
    a, _ = system(6, *batch)
    b = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = at.solve(a, b, CHIP)
    torch.testing.assert_close(found.x, torch.linalg.solve(a, b), rtol=0, atol=1e-6)
    assert found.residual.shape == batch


def test_scaling_puts_rows_in_order() -> None:
    a, b = system(20)
    shuffled = a[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    shuffled = shuffled * torch.logspace(-1, 1, 20, dtype=torch.float64).unsqueeze(1)
    shuffled[3] *= -1
    with pytest.raises(NotSolvedError, match="scaling=True"):
        at.solve(shuffled, b, CHIP)
    leaves = [t.clone().requires_grad_() for t in (shuffled, b)]
    found = at.solve(*leaves, CHIP, scaling=True)
    assert found.residual <= TOLERANCE
    assert_close(found.x, torch.linalg.solve(shuffled, b), rtol=1e-5, atol=1e-5)
    found.x.sum().backward()
    expected = torch.linalg.solve(shuffled.mT, torch.ones_like(b))
    assert_close(leaves[1].grad, expected, rtol=1e-5, atol=1e-5)
    solver = MatrixSolver(shuffled, CHIP, scaling=True)
    assert_close(solver.multiply(b), shuffled @ b, rtol=1e-6, atol=1e-6)
    assert (solver.rough(shuffled @ b) - b).norm() < b.norm()


def test_scaling_makes_matrices_invertible_that_are_not_in_float64() -> None:
    a = torch.diag(torch.tensor([1.0, 1e-17], dtype=torch.float64))
    b = torch.ones(2, dtype=torch.float64)
    found = at.solve(a, b, CHIP, scaling=True)
    torch.testing.assert_close(found.x, torch.linalg.solve(a, b), rtol=1e-6, atol=0)
    assert found.condition.item() == pytest.approx(1e17)
    far = torch.tensor([1e-9, 1.0, 1e9], dtype=torch.float64)
    a = far.unsqueeze(1) * (torch.eye(3, dtype=torch.float64) + 0.1)
    assert at.solve(a, far, CHIP, scaling=True).residual <= 2**-24
    with pytest.raises(NotSolvedError, match="in the arrays has no inverse.*scaling=True") as error:
        at.solve(a, far, CHIP)
    assert error.value.condition == "singular"
    with pytest.raises(NotSolvedError, match="such as A .* I .ridge") as error:
        at.solve(torch.ones_like(a), far, CHIP, scaling=True)
    assert error.value.condition == "singular"


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("scaling", [False, True])
def test_the_ridge_that_is_named_mends_a_singular_matrix_of_any_size(size, scaling) -> None:
    for a in (torch.ones(4, 4), torch.eye(5) - 0.2, torch.ones(4, 4).roll(1, 0) + torch.eye(4)[1]):
        a, b = size * a.double(), torch.linspace(1, 2, len(a)).double()
        batch = torch.stack((torch.eye(len(a)).double(), a))  # each system has its own cells
        with pytest.raises(NotSolvedError, match="in the arrays has no inverse") as refusal:
            at.solve(batch, b, CHIP, scaling=scaling)
        share = float(re.search("such as A [+] (.*) m I .ridge", str(refusal.value))[1])
        assert "enough" not in str(refusal.value)
        batch[1] += share * a.abs().max() * torch.eye(len(a))
        assert at.solve(batch, b, CHIP, scaling=scaling).solved.all()
        with pytest.raises(NotSolvedError, match="A [+] .* m I .ridge"):
            MatrixSolver(a, CHIP, scaling=scaling).rough(b)


def test_a_ridge_after_which_another_condition_fails_is_said_to_be_not_enough() -> None:
    with pytest.raises(NotSolvedError, match="ridges of up to 1 times .* are not enough alone"):
        at.solve(-torch.ones(4, 4), torch.ones(4), CHIP)


def test_a_ridge_leads_away_from_zero() -> None:
    a, b = -torch.ones(2, 2), torch.ones(2)
    with pytest.raises(NotSolvedError, match="such as A - (.*) m I .ridge.") as refusal:
        at.solve(a, b, CHIP, scaling=True)
    share = float(re.search("A - (.*) m I", str(refusal.value))[1])
    assert at.solve(a - share * torch.eye(2), b, CHIP, scaling=True).solved.all()


def test_counts_that_are_wrong_in_few_passes_are_no_fault_of_the_inverse() -> None:
    generator = torch.Generator().manual_seed(12)
    a = (torch.eye(8) + 0.12 * torch.randn(8, 8, generator=generator)).double().requires_grad_()
    b = torch.randn(8, generator=generator).double()
    chip = at.solver.rram_solver(spread=0.25)
    with pytest.raises(NotSolvedError, match="in some of the passes") as refusal:
        at.solve(a, b, chip, seed=12).x.square().sum().backward()
    rows = int(re.search("'rows': ([0-9]+)", str(refusal.value))[1])
    at.solve(a, b, chip.replace(mvm={"rows": rows}), seed=12).x.square().sum().backward()
    assert a.grad.isfinite().all()


def test_noise_far_above_a_count_is_named_with_one_that_solves() -> None:
    a, b = torch.eye(16).double() + 0.08 * torch.ones(16, 16).tril(-1), torch.ones(16).double()
    with pytest.raises(NotSolvedError, match="the noise of the counts, 100") as refusal:
        at.solve(a, b, CHIP.replace(mvm={"noise": 100.0}))
    less = float(re.search("'noise': ([0-9.]*)", str(refusal.value))[1])
    assert less > 0
    assert at.solve(a, b, CHIP.replace(mvm={"noise": less})).solved.all()


def test_scaling_leaves_positive_definite_matrices_in_order() -> None:
    a = conditioned(16, 50.0, 0, symmetric=True).unsqueeze(0)
    assert torch.equal(order_of(a, True).of(a), a)
    assert torch.equal(order_of(a, True).back(a), a)


def test_a_zero_vector_takes_no_pass() -> None:
    a, b = system(4)
    found = at.solve(a, 0 * b, CHIP)
    assert torch.equal(found.x, torch.zeros(4, dtype=torch.float64))
    assert found.passes == 0


@pytest.mark.parametrize(
    ("a", "condition", "said"),
    [
        (torch.ones(3, 3), "singular", "ridge"),
        (torch.zeros(3, 3), "singular", "ridge"),
        (-torch.eye(3), "unstable", "least_squares"),
        (conditioned(24, 60.0, 1, symmetric=True), "diverging", "'slices': 2"),
        (torch.diag(torch.tensor([1.0, 1e-3, 1e-5])), "stalled", "scaling=True"),
    ],
)
def test_refusals_say_what_failed_and_what_mends_it(a, condition: str, said: str) -> None:
    b = torch.ones(len(a)).to(a)
    with pytest.raises(NotSolvedError, match="What mends it") as refusal:
        at.solve(a, b, ADDED if condition == "diverging" else CHIP)
    assert refusal.value.condition == condition
    assert said in str(refusal.value)
    assert refusal.value.system == 0


def test_what_a_refusal_names_mends_it() -> None:
    a = conditioned(24, 60.0, 1, symmetric=True)
    b = torch.ones(24, dtype=torch.float64)
    with pytest.raises(NotSolvedError) as refusal:
        at.solve(a, b, ADDED)
    assert "chip.replace(inverse={'slices': 2})" in str(refusal.value)
    assert at.solve(a, b, ADDED.replace(inverse={"slices": 2})).residual <= TOLERANCE
    assert (
        at.solve(
            -a,
            b,
            at.solver.rram_solver(slices=2, circuit="least_squares").replace(
                inverse={"settling_time": 2e-5}
            ),
        ).residual
        <= TOLERANCE
    )


def test_a_matrix_of_rows_of_many_sizes_may_need_scaling_and_another_circuit() -> None:
    near = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.logspace(0, 6, 16, dtype=torch.float64).unsqueeze(1)
    a = rows * (torch.eye(16, dtype=torch.float64) + 0.08 * near)
    chip, b = at.solver.rram_solver(), a.sum(1)
    with pytest.raises(NotSolvedError, match="better conditioned|scaling=True") as refusal:
        at.solve(a, b, chip)
    assert "scaling=True and chip.replace(inverse={'circuit': 'least_squares'}" in str(
        refusal.value
    )
    mended = chip.replace(inverse={"circuit": "least_squares"})
    assert at.solve(a, b, mended, scaling=True).residual <= TOLERANCE


def test_cells_that_are_too_coarse_for_any_slices_are_named() -> None:
    a = conditioned(32, 1e4, 1, symmetric=True)
    with pytest.raises(NotSolvedError, match="cells with a quarter of their spread and chip.rep"):
        at.solve(a, torch.ones(32, dtype=torch.float64), CHIP)


def test_few_bits_of_the_matrix_are_what_a_refusal_names() -> None:
    a, b = system(16)
    with pytest.raises(NotSolvedError, match="20 bits of the matrix") as refusal:
        at.solve(a, b, at.solver.rram_solver(bits=20))
    assert "'bits': 2" in str(refusal.value)
    with pytest.raises(NotSolvedError, match="errors of cells change counts"):
        at.solve(a, b, at.solver.rram_solver(spread=1.0))


def refused(a: torch.Tensor, b: torch.Tensor, chip) -> str:
    """Return what is said of a system that stalls."""
    with pytest.raises(NotSolvedError, match="What mends it: ") as refusal:
        at.solve(a, b, chip)
    assert refusal.value.condition == "stalled"
    return str(refusal.value)


def named(said: str) -> list[dict]:
    """Return the changes of the MVMs that a refusal names."""
    return [ast.literal_eval(text) for text in re.findall(r"chip\.replace\(mvm=({.*?})\)", said)]


@pytest.mark.parametrize("noise", [0.15, 0.2, 2.0])
@pytest.mark.parametrize("rows", [8, 1])
def test_noise_of_counts_is_named_as_such_and_less_of_it_mends(noise: float, rows: int) -> None:
    a, b = system(16, 3)
    a[0] = torch.eye(16)  # each system has its own noise
    b[0] = 0
    chip = CHIP.replace(mvm={"noise": noise, "rows": rows})
    said = refused(a, b, chip)
    assert f"the noise of the counts, {noise:g}," in said
    assert "cells" not in said
    (change,) = named(said)
    assert list(change) == ["noise"]
    assert 0 < change["noise"] < noise
    first = slice(0, 2)
    assert at.solve(a[first], b[first], chip.replace(mvm=change)).residual.max() <= TOLERANCE


@pytest.mark.parametrize(
    ("spread", "mvm", "fields"),
    [
        (0.3, {}, ["rows"]),
        (0.5, {}, ["rows"]),
        (0.1, {"bits_per_slice": 5}, ["rows"]),
        (1.0, {"rows": 1}, ["bits_per_slice"]),
    ],
)
def test_what_is_named_against_errors_of_cells_mends_them(spread, mvm: dict, fields) -> None:
    a, b = system(16, 2)
    b[0] = 0  # each system has its own errors
    chip = at.solver.rram_solver(spread=spread).replace(mvm=mvm)
    said = refused(a, b, chip)
    assert "errors of cells change counts" in said
    changes = named(said)
    assert [field for change in changes for field in change] == fields
    for change in changes:
        assert at.solve(a, b, chip.replace(mvm=change)).residual.max() <= TOLERANCE
    assert "cells with a quarter of their spread" in said
    assert at.solve(a, b, at.solver.rram_solver(spread=spread / 4).replace(mvm=mvm)).solved.all()


def test_cells_that_no_change_of_the_mvms_mends_are_named() -> None:
    said = refused(*system(16), at.solver.rram_solver(spread=8.0))
    assert "cells that lie closer to their levels; a quarter of their spread is not enough" in said
    assert not named(said)


@pytest.mark.parametrize(
    ("mvm", "fields"),
    [
        ({"bits": 10}, ["bits"]),
        ({"bits": 20}, ["bits"]),
        ({"input_bits": 10}, ["input_bits"]),
        ({"bits": 10, "input_bits": 12}, ["bits", "input_bits"]),
    ],
)
def test_bits_that_are_named_are_those_that_lack_and_mend(mvm: dict, fields) -> None:
    a, b = system(16)
    chip = CHIP.replace(mvm=mvm)
    (change,) = named(refused(a, b, chip))
    assert list(change) == fields
    assert all(bits < mvm[field] + 22 for field, bits in change.items())
    assert at.solve(a, b, chip.replace(mvm=change)).residual <= TOLERANCE


def test_a_larger_tolerance_is_named_only_where_no_part_has_enough_bits() -> None:
    a, b = conditioned(4, 1e4, 0, symmetric=True), torch.ones(4, dtype=torch.float64)
    chip = CHIP.replace(inverse={"slices": 7}, mvm={"bits": 44, "input_bits": 44})
    with pytest.raises(NotSolvedError, match="stays at") as refusal:
        at.solve(a, b, chip, tolerance=1e-13)
    assert "a larger tolerance: no part of the MVMs has more than 48 bits" in str(refusal.value)
    with pytest.raises(NotSolvedError, match="stays at") as refusal:
        at.solve(a, b, chip, tolerance=1e-11)
    (change,) = named(str(refusal.value))
    assert max(change.values()) == 48
    assert at.solve(a, b, chip.replace(mvm=change), tolerance=1e-11).solved


def test_the_failing_system_of_a_batch_is_named() -> None:
    a, b = system(4, 3)
    a[1] = 0
    with pytest.raises(NotSolvedError, match=r"system 1 \(1 of 3 fail\)") as refusal:
        at.solve(a, b, CHIP)
    assert math.isinf(refusal.value.measured)


def mixed() -> tuple[torch.Tensor, torch.Tensor]:
    """Six systems, (2, 3), of which three are refused: singular, unstable, diverging."""
    a, b = system(24, 2, 3)
    a[0, 1], a[1, 0], a[1, 2] = 0, -a[0, 0], conditioned(24, 60.0, 1, symmetric=True)
    return a, b


def test_a_refusal_names_all_systems_that_fail() -> None:
    with pytest.raises(NotSolvedError, match=r"system 1 \(3 of 6 fail\).*strict=False") as refusal:
        at.solve(*mixed(), ADDED)
    assert (refusal.value.condition, refusal.value.systems) == ("singular", (1, 3, 5))
    copied = copy.copy(refusal.value)  # as another process gives it back
    assert vars(copied) == vars(refusal.value)
    assert str(copied) == str(refusal.value)


def test_the_other_systems_are_solved_on_request() -> None:
    a, b = mixed()
    found = at.solve(a, b, ADDED, strict=False)
    assert {name: which.nonzero().tolist() for name, which in found.refused.items()} == {
        "singular": [[0, 1]],
        "unstable": [[1, 0]],
        "diverging": [[1, 2]],
    }
    assert found.solved.tolist() == [[True, False, True], [False, True, False]]
    assert_close(found.x[found.solved], torch.linalg.solve(a[found.solved], b[found.solved]))
    for nothing in (found.x, found.residual):
        assert nothing[~found.solved].isnan().all()
    assert (found.residual[found.solved] <= TOLERANCE).all()
    assert found.cost.passes == found.passes[found.solved].double().mean()
    assert "3 of 6 systems refused: 1 singular, 1 unstable, 1 diverging" in str(found)
    assert at.solve(a, b, ADDED, strict=False, passes=3).solved.sum() == 4  # whatever is left
    all_ = at.solve(*system(24, 2), CHIP, strict=False)
    assert not all_.refused
    assert all_.solved.all()
    none = at.solve(torch.zeros(2, 2), torch.ones(2), CHIP, strict=False)
    assert not none.solved
    assert none.cost.passes == 0


def test_what_stalls_or_leaves_its_type_is_refused_too() -> None:
    a, b = torch.eye(3).repeat(3, 1, 1), torch.ones(3, 3)
    a[0] = torch.diag(torch.tensor([1.0, 1e-3, 1e-5]))
    a[2] *= 1e-30
    b[2] *= 1e30
    found = at.solve(a, b, CHIP, strict=False)
    assert {name: which.tolist() for name, which in found.refused.items()} == {
        "stalled": [True, False, False],
        "range": [False, False, True],
    }
    assert found.residual[0] > TOLERANCE
    with pytest.raises(NotSolvedError, match=r"system 2 .*beyond the range of torch.float32"):
        at.solve(a[[1, 1, 2]], b, CHIP)


def test_gradients_of_the_others_do_not_meet_what_is_refused() -> None:
    a, b = (t.requires_grad_() for t in mixed())
    found = at.solve(a, b, CHIP, strict=False)
    some = found.solved
    weights = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = torch.autograd.grad((found.x[some] @ weights).sum(), (a, b))
    wanted = torch.autograd.grad((torch.linalg.solve(a[some], b[some]) @ weights).sum(), (a, b))
    for gradient, expected in zip(gradients, wanted, strict=True):
        assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
    whole = torch.autograd.grad(at.solve(a, b, CHIP, strict=False).x.sum(), b)[0]
    assert torch.equal(whole.isnan().all(-1), ~some)


def test_gradients_of_a_system_that_its_transposed_does_not_solve_are_refused() -> None:
    a, b = system(16)
    x = at.solve(a.requires_grad_(), b, at.solver.rram_solver(spread=0.6), passes=2).x
    assert torch.isfinite(torch.autograd.grad(x.sum(), a)[0]).all()


def test_each_solution_of_a_solver_has_gradients_of_its_own() -> None:
    a, b = system(8)
    solver = MatrixSolver(a.requires_grad_(), CHIP)
    first, second = (torch.autograd.grad(solver.solve(b).x.sum(), a)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_noise_of_counts_is_new_in_each_product_and_repeats_with_the_solver() -> None:
    a, b = system(16)
    noisy = at.solver.rram_solver(spread=0.0).replace(mvm={"noise": 0.3})
    first, again, other = (MatrixSolver(a, noisy, seed=s) for s in (1, 1, 2))
    products = torch.stack([first.multiply(b) for _ in range(20)])
    assert len(products.unique(dim=0)) == 20
    again.solve(b, passes=2)  # which takes none of them
    with pytest.raises(ValueError, match="b"):
        again.multiply(b[:3])
    assert torch.equal(again.multiply(b), products[0])
    if find_spec("scipy"):
        operator = again.linear_operator()
        assert_close(torch.from_numpy(operator @ b.numpy()), products[1], rtol=0, atol=0)
        assert_close(torch.from_numpy(operator @ b.numpy()), products[2], rtol=0, atol=0)
    assert not torch.equal(other.multiply(b), products[0])
    solved = [first.solve(b, passes=2).x for _ in range(2)]
    assert torch.equal(*solved)


def test_operators_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.sparse.linalg")
    a, b = conditioned(16, 100.0, 3), torch.ones(16, dtype=torch.float64)
    chip = at.solver.rram_solver(slices=2, circuit="least_squares")
    solver = MatrixSolver(a, chip.replace(inverse={"settling_time": 2e-5}))
    rough, operator = solver.preconditioner(), solver.linear_operator()
    assert_close(torch.from_numpy(operator @ b.numpy()), a @ b, rtol=0, atol=1e-6)
    assert operator.matmat(a.numpy()).shape == (16, 16)
    rising = torch.arange(16.0).double()
    turned = torch.from_numpy(operator @ rising.numpy()[::-1])
    assert_close(turned, a @ rising.flip(0), rtol=0, atol=1e-5)
    parts = torch.from_numpy(operator @ (b + 1j * rising).numpy())
    assert_close(parts, a @ b + 1j * (a @ rising), rtol=0, atol=1e-5)
    counts = []
    x, failed = scipy.lgmres(operator, b.numpy(), M=rough, rtol=1e-6, callback=counts.append)
    assert failed == 0
    assert (b - a @ torch.from_numpy(x)).norm() < 2e-6 * b.norm()
    assert len(counts) < 16
    assert operator.dtype == a.numpy().dtype
    twisted = MatrixSolver((a + 0.1j * torch.eye(16)).to(torch.complex128), solver.chip)
    product = torch.from_numpy(twisted.linear_operator() @ (1j * b.numpy()))
    assert_close(product, 1j * (a @ b) - 0.1 * b, rtol=0, atol=1e-6)
    for bad, condition in ((-a @ a.mT, "unstable"), (0 * a, "singular")):
        with pytest.raises(NotSolvedError) as refusal:
            MatrixSolver(bad, at.solver.rram_solver()).preconditioner() @ b.numpy()
        assert refusal.value.condition == condition
        assert "preconditioner" not in str(refusal.value)
    with pytest.raises(ValueError, match="one matrix"):
        MatrixSolver(a.expand(2, 16, 16), chip).preconditioner()


@pytest.mark.parametrize(
    ("unit", "loss"), [(1e-13, 1.0), (1e-90, 1.0), (1.0, 1e200), (1.0, 1e-200)]
)
def test_gradients_are_right_in_any_unit(unit: float, loss: float) -> None:
    """They were zero, or the solver refused the transposed system and blamed the matrix."""
    torch.manual_seed(0)
    a = torch.eye(16).double() + 0.05 * torch.randn(16, 16).double()
    b0, weights = torch.randn(2, 16).double()
    b = (unit * b0).requires_grad_()
    (loss * weights * at.solve(a, b, at.solver.rram_solver()).x).sum().backward()
    right = torch.linalg.solve(a.mT, weights)
    torch.testing.assert_close(b.grad / loss, right, rtol=1e-6, atol=1e-7)
