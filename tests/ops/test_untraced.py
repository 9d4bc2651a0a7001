"""Numbers that operators keep: the same after a trace, and under any default type of torch."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from analogtorch.chips import Expansion, Slices
from analogtorch.ops import block_scales, expansion, slices


def test_what_is_kept_inside_a_trace_has_numbers() -> None:
    device, slicing = torch.device("cpu"), Slices(weight_bits=8, bits_per_slice=2).slicing
    makers = {
        expansion._matrix: (9, 5, 123_456, torch.float32, device),
        expansion._orthonormal: (9, 5, 123_457),
        slices._table: (slicing,),
    }
    for make, arguments in makers.items():
        make.cache_clear()
        with FakeTensorMode():
            found = make(*arguments)
        assert type(found) is torch.Tensor
        assert make(*arguments) is found
        assert torch.equal(found, make.__wrapped__(*arguments))


def test_the_matrix_that_a_user_gets_is_not_the_one_that_is_kept() -> None:
    given = Expansion(factor=2.0, seed=9)
    first = expansion.expansion_matrix(given, 4)
    kept = first.clone()
    first.zero_()
    assert torch.equal(expansion.expansion_matrix(given, 4), kept)


def test_half_precision_has_the_bits_of_the_kernel_without_it() -> None:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain, found = expansion._plain(x, 48, 1), expansion._expand(x, 48, 1)
    assert plain.dtype == found.dtype == torch.bfloat16
    # sums in another order, rounded once
    assert (plain != found).float().mean() < 0.01


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_kernels_write_their_own_type(double_by_default: None) -> None:
    slicing = Slices(weight_bits=4, bits_per_slice=2).slicing
    w = torch.linspace(-1, 1, 20, dtype=torch.float32).view(4, 5)
    scale = block_scales(w, (0, 5), ())
    found = slices.columns(w, scale, (0, 5), slicing)
    assert found.dtype == torch.float32
    assert torch.equal(found, slices._by_torch(w, scale, (0, 5), slicing))
