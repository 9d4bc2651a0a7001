from pathlib import Path

import pytest
import torch

import analogtorch as at
from analogtorch.devices import Spread
from analogtorch.ops import converters, drift, in_steps, physics, rounded


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_steps_and_bounds(bits: int) -> None:
    x = torch.linspace(-3, 3, 10001, dtype=torch.float64)
    y = rounded(x, torch.tensor([1.5], dtype=torch.float64), bits)
    assert y.abs().max() == 1.5
    assert torch.equal(y, -y.flip(0))
    step = 1.5 / (2 ** (bits - 1) - 1)
    inside = x.abs() <= 1.5
    assert (y - x)[inside].abs().max() <= step / 2 + 1e-12
    if bits <= 8:
        assert len(y.unique()) == 2**bits - 1


def test_per_vector_bounds_broadcast() -> None:
    x = torch.tensor([[0.5, 2.0], [0.5, 20.0]])
    y = rounded(x, x.abs().amax(-1, keepdim=True), 8)
    assert torch.allclose(y[:, 1], x[:, 1])
    assert (y[:, 0] - 0.5).abs().max() <= 20 / 127 / 2


def test_zero_vector_gives_zeros() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        y = rounded(torch.zeros(3, dtype=dtype), torch.zeros(1, dtype=dtype), 8)
        assert torch.equal(y, torch.zeros(3, dtype=dtype))


def test_nan_stays_nan_and_infinity_is_clipped() -> None:
    y = rounded(torch.tensor([float("nan"), float("inf"), -float("inf")]), torch.ones(1), 8)
    assert y[0].isnan()
    assert y[1:].tolist() == [1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_quantised_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    bound = torch.tensor([2.0])
    assert torch.equal(rounded(x, bound, 8), rounded(x.float(), bound, 8).to(dtype))


def test_the_adc_outputs_of_phases_are_noisy_clipped_and_added_by_themselves() -> None:
    sums = [torch.tensor([0.9, 3.0]), torch.tensor([0.4, 0.1])]
    z = torch.tensor([1.0, -1.0])
    full, bound = torch.tensor(2.0), torch.tensor(1.5)  # an ADC range of 0.75 x full
    asked: list[int] = []

    def normals(number: int) -> torch.Tensor:
        asked.append(number)
        return z * (number + 1)

    total, clipped = converters.adc_outputs(sums, [1.0, -1.0], full, 0.75, 3, 0.1, normals)
    noisy = [sums[0] + 0.2 * z, sums[1] + 0.4 * z]
    assert asked == [0, 1]
    assert torch.equal(total, in_steps(noisy[0], bound, 3) - in_steps(noisy[1], bound, 3))
    assert [c.tolist() for c in clipped] == [[False, True], [False, False]]
    total, clipped = converters.adc_outputs(sums, [1.0, -1.0], full, 0.75, 0, 0.0, normals)
    assert torch.equal(total, sums[0] - sums[1])  # no ADC: nothing is clipped
    assert clipped == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_block_of_zeros_has_relative_weights_of_zero(dtype: torch.dtype) -> None:
    w = torch.zeros(2, 6, dtype=dtype)
    w[1, 3:] = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    full = physics.over_rows(physics.block_scales(w, (0, 3, 6)), (0, 3, 6))
    r = physics.relative(w, full)
    assert r.dtype == physics.wide(dtype)
    assert r.tolist() == [[0.0] * 6, [0.0, 0.0, 0.0, 0.5, -1.0, 0.25]]
    assert torch.equal(
        physics.noisy(w, full, torch.ones_like(full), 0.5, Spread()), w + (0.5 * full).to(dtype)
    )


def test_corrections_of_drift() -> None:
    then = torch.tensor([[1.0, -1.0], [0.5, 0.5], [0.0, 0.0]])
    now = 0.5 * then
    # 1: nothing to go by
    assert drift.ratio(*drift.magnitude_sums(then, now)).tolist() == [2.0, 2.0, 1.0]
    assert drift.ratio(*drift.fit_sums(then.T, now.T, now.T)).tolist() == [2.0, 2.0, 1.0]


def test_the_physics_is_written_once() -> None:
    """Rounding, weight noise and guards against zero blocks are written in one place.

    Rounding is in ``ops/converters.py``, the others in ``ops/physics.py``.
    """
    package = Path(at.__file__).parent
    telling = ("torch.round", "addcmul(", "full.clamp_min(")
    found = {
        str(path.relative_to(package))
        for room in ("ops", "nn", "simulate", "calibration")
        for path in (package / room).rglob("*.py")
        if any(word in path.read_text() for word in telling)
    }
    assert found == {"ops/converters.py", "ops/physics.py"}
