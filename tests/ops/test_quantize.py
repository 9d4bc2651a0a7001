import pytest
import torch

from analogtorch.ops import rounded


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
