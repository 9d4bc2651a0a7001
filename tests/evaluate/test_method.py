"""What measures chips takes the method with which they are written."""

from functools import partial

import pytest
import torch
from torch import nn

import analogtorch as at
from tests.crossbar import crossbar

METHOD = at.GradientDescent(rounds=3)
X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
HOW = {"num_chips": 2, "seed": 5}


def _model() -> nn.Module:
    torch.manual_seed(0)
    return at.convert(nn.Linear(16, 8), crossbar(device="one_device")).eval()


def _closeness(view: nn.Module) -> float:
    exact = nn.functional.linear(X, _model().weight, _model().bias)
    return 1 - ((view(X) - exact).norm() / exact.norm()).item()


def _by_hand(time: str) -> list[float]:
    seeds = at.sweep(_model(), _closeness, times=[time], **HOW).seeds
    chips = [at.program(_model(), seed=seed, method=METHOD) for seed in seeds]
    return [_closeness(chip.at(time)) for chip in chips]


def test_a_sweep_of_chips_that_are_written_closer() -> None:
    found = at.sweep(_model(), _closeness, times=["0 s"], method=METHOD, **HOW)
    assert found.values[:, 0].tolist() == _by_hand("0 s")
    assert (found.values > at.sweep(_model(), _closeness, times=["0 s"], **HOW).values).all()


def test_so_do_comparisons_budgets_and_sensitivities() -> None:
    written = sum(_by_hand("1 day")) / 2
    compared = at.compare(
        _model(), {"a": crossbar(device="one_device")}, _closeness,
        example=X[:1], times=["1 day"], method=METHOD, **HOW,
    )  # fmt: skip
    assert compared["a"].sweep.mean.item() == pytest.approx(written)
    budget = at.budget(_model(), _closeness, time="1 day", growth=None, method=METHOD, **HOW)
    assert budget.reference - budget.total.mean == pytest.approx(written)
    lost = at.sensitivity(_model(), _closeness, effects="drift", time="1 day", method=METHOD, **HOW)
    assert lost.reference - lost.total["drift"].mean == pytest.approx(written)


def test_and_lifetimes() -> None:
    monthly = at.Recalibration(every="30 days")
    at_once, closer = (
        sum(_by_hand("0 s")) / 2 if method else _plain() for method in (None, METHOD)
    )
    assert closer > at_once
    lifetime = partial(
        at.lifetime, _model(), _closeness,
        limit=(at_once + closer) / 2, recalibration=monthly, longest="1 day", **HOW,
    )  # fmt: skip
    assert lifetime(method=METHOD).recalibrated.sum() > lifetime().recalibrated.sum()


def _plain() -> float:
    return at.sweep(_model(), _closeness, times=["0 s"], **HOW).mean.item()


def test_what_is_no_method_is_refused() -> None:
    monthly = at.Recalibration(every="30 days")
    for measure in (
        at.sweep,
        at.budget,
        at.sensitivity,
        partial(at.compare, chips=["hermes64"], example=X[:1]),
        partial(at.lifetime, limit=0.5, recalibration=monthly),
        partial(at.recalibration_interval, limit=0.5),
    ):
        with pytest.raises(TypeError, match=r"method must be .*at.GradientDescent\(\), or None"):
            measure(_model(), metric=_closeness, method="gdp")
