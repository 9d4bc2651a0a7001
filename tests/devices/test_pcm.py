"""The device models reproduce the published figures (golden values: see each test)."""

import dataclasses

import pytest
import torch

from analogtorch.devices import (
    DifferentialPair,
    hermes_one_device,
    hermes_two_device,
    pcm_like,
)
from benchmarks.validation import published
from benchmarks.validation.devices import pairs


# std of 400,000 draws is known to 0.11 % (1 sigma), so 2 % is far outside chance
@pytest.mark.parametrize(
    ("w", "t", "mean", "std"),
    [
        (w, published.SECONDS[time], mean, std)
        for w, times in published.PAIR.items()
        for time, (mean, std) in times.items()
    ],
)
def test_pcm_like_golden_values(w: float, t: float | None, mean: float | None, std: float) -> None:
    read = pairs(DifferentialPair(device=pcm_like()), w, t)
    assert read.std().item() == pytest.approx(std, rel=0.02)
    if mean is not None:
        assert read.mean().item() == pytest.approx(mean, rel=0.02, abs=1e-4)


CALLS = {"pcm_like()": pcm_like(), "hermes_two_device()": hermes_two_device()}


@pytest.mark.parametrize("call", CALLS)
def test_programming_sigma_over_g_max(call: str) -> None:
    device, percent = CALLS[call], published.PROGRAMMING[call].numbers
    sigma = device.programming_sigma(torch.tensor(published.R) * device.g_max) / device.g_max * 100
    assert sigma.tolist() == pytest.approx(percent, abs=0.006)


@pytest.mark.parametrize("call", CALLS)
def test_drift_factor_at_full_conductance_and_mean_coefficient(call: str) -> None:
    device = CALLS[call]
    g = torch.tensor([device.g_max])
    nu = device.drift_coefficient(g, torch.zeros(1))
    for time, factor in published.DRIFT[call].values.items():
        drifted = device.drift(g, nu, published.SECONDS[time])
        assert (drifted / g).item() == pytest.approx(factor, abs=0.0006)


def test_fit_scales_with_g_max() -> None:

    device = pcm_like()
    half = dataclasses.replace(device, g_max=12.5)
    r = torch.linspace(0, 1, 5)
    assert torch.allclose(
        half.programming_sigma(r * 12.5) / 12.5, device.programming_sigma(r * 25) / 25
    )


def test_programmed_conductance_is_clamped_at_zero_and_not_at_g_max() -> None:
    device = hermes_one_device()
    assert device.program(torch.zeros(1), torch.tensor([-3.0])).item() == 0
    assert device.program(torch.tensor([device.g_max]), torch.tensor([2.0])).item() > device.g_max


@pytest.mark.parametrize("split", ["equal", "sequential"])
def test_targets_stand_for_the_weights(split: str) -> None:
    w = torch.linspace(-1, 1, 41)
    cell = DifferentialPair(device=hermes_one_device(), devices_per_polarity=2, split=split)
    targets = cell.targets(w)
    assert targets.shape == (4, 41)
    assert targets.min() >= 0
    assert targets.max() <= cell.device.g_max + 1e-5
    assert torch.allclose(cell.weights(targets), w, atol=1e-6)
    first, second = targets[0], targets[1]
    assert (
        torch.equal(first, second)
        if split == "equal"
        else (second[first < cell.device.g_max - 1e-4] == 0).all()
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("g_max", 0.0), ("t0", -1.0), ("t_read", 20.0), ("programming_scale", -0.1)],
)
def test_bad_fields_are_refused(field: str, value: float) -> None:

    with pytest.raises(ValueError, match=rf"PCM\..*{field}"):
        dataclasses.replace(pcm_like(), **{field: value})


@pytest.mark.parametrize("kwargs", [{"devices_per_polarity": 0}, {"split": "half"}])
def test_bad_cells_are_refused(kwargs: dict) -> None:
    with pytest.raises(ValueError, match="DifferentialPair"):
        DifferentialPair(device=pcm_like(), **kwargs)


def test_a_number_is_no_curve() -> None:
    with pytest.raises(TypeError, match="drift_mean must be a curve"):
        dataclasses.replace(pcm_like(), drift_mean=0.05)
