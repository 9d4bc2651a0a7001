"""Which numbers of an output are alike, and which are quantities of several units."""

import pytest
import torch

from analogtorch.calibration.units import (
    MANY,
    are_alike,
    are_far_apart,
    are_in_units,
    variances,
)


def _x(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_variances_are_those_of_all_batches() -> None:
    x = _x(90, 4) * torch.tensor([1.0, 10.0, 0.0, 1.0]) + torch.tensor([0.0, 0.0, 3.0, 1e5])
    found = variances(x.split(30))
    torch.testing.assert_close(found[:2], x[:, :2].var(0, correction=0))
    assert found[2].isinf()  # never varies
    assert found[3] == pytest.approx(1e-6 * 1e10, rel=1e-3)  # little beside its size
    assert (variances([_x(9, MANY)]) == 1).all()
    assert variances([_x(9, 3), _x(9, 4)]).shape == (1,)
    assert variances([]).isinf().all()


@pytest.mark.parametrize("vectors", [3, 16, 100, 1000])
def test_scores_are_alike_however_few_and_units_are_not(vectors: int) -> None:
    for seed in range(50):
        x = _x(vectors, 10, seed=seed)
        assert are_alike(variances([x]), vectors)
        assert not are_far_apart(variances([x]), vectors)
        x[:, 4] *= 10  # as a class that is rare has less
        assert not are_far_apart(variances([x]), vectors)
        x[:, 4] *= 100
        assert vectors == 3 or not are_alike(variances([x]), vectors)
        assert are_far_apart(variances([x]), vectors) == (vectors > 3)
    assert are_alike(torch.tensor([1.0, torch.inf]), vectors)
    assert not are_far_apart(torch.tensor([1.0, torch.inf]), vectors)


def test_probabilities_are_in_no_units_though_a_class_is_absent() -> None:
    x = _x(100, 10)
    x[:, 4] -= 20
    shares = x.softmax(-1)
    assert are_far_apart(variances([shares]), 100)
    assert not are_in_units(shares.split(50))
    assert are_in_units([x * torch.logspace(-3, 3, 10)])
