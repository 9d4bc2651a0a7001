"""Weights with the noise of a training step by themselves."""

import dataclasses

import pytest
import torch

from analogtorch.devices import Spread
from analogtorch.ops import Plan, block_scales, fold, mvm, seed_tensor
from analogtorch.ops.native import loading
from analogtorch.ops.noisy_weight import noisy_weight

KEY = fold(seed_tensor(1), 2)
SHAPED = Spread(coefficients=(0.1, 0.7, -0.3, 0.2), step=0.05, pieces=3, dip=0.7, rate=1.5)
CONV = {"stride": (1,), "padding": (0,), "dilation": (1,)}
PLANS = {
    "linear": ((37, 300), Plan(bounds=(0, 256, 300), first_row=7, first_output=5)),
    "columns": ((37, 70), Plan(bounds=(0, 33, 70), columns=(0, 20, 37))),
    "groups": ((6, 4, 3), Plan(bounds=(0, 6, 12), groups=3, **CONV)),
}


@pytest.mark.parametrize("spread", [Spread(), SHAPED], ids=["uniform", "shaped"])
@pytest.mark.parametrize("name", PLANS)
def test_they_are_those_of_the_product(name: str, spread: Spread, monkeypatch) -> None:
    shape, plan = PLANS[name]
    plan = dataclasses.replace(plan, weight_noise=0.3, spread=spread)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    scale = block_scales(w, plan.bounds, plan.columns)
    fast = noisy_weight(w, scale, KEY, plan)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "available", lambda: False)
        slow = noisy_weight(w, scale, KEY, plan)
    assert not torch.equal(fast, w)
    assert torch.allclose(fast, slow, atol=1e-5)
    x = torch.randn(5, shape[1] * plan.groups, *(8,) * plan.dims)
    exact = dataclasses.replace(plan, weight_noise=0.0)
    found = mvm(x, torch.ones(1), w, plan, scale=scale, key=KEY)
    assert torch.allclose(found, mvm(x, torch.ones(1), fast, exact, scale=scale), atol=1e-4)
    double = noisy_weight(w.double(), scale.double(), KEY, plan)
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), fast, atol=1e-5)


def test_without_noise_they_are_the_weights() -> None:
    shape, plan = PLANS["linear"]
    w = torch.randn(shape)
    assert torch.equal(noisy_weight(w, block_scales(w, plan.bounds), KEY, plan), w)


def test_weights_and_scales_that_do_not_fit_the_plan_are_refused() -> None:
    shape, plan = PLANS["linear"]
    w = torch.randn(shape)
    scale = block_scales(w, plan.bounds)
    for weights, scales in ((w[:, :299], scale), (w[:36], scale), (w, scale[:1])):
        with pytest.raises(ValueError, match="the plan has 300 rows"):
            noisy_weight(weights, scales, KEY, plan)
