"""The device models reproduce the published figures (golden values: see each test)."""

import dataclasses

import pytest
import torch

from analogtorch.devices import (
    PCM,
    DifferentialPair,
    hermes_one_device,
    hermes_two_device,
    pcm_like,
)

DRAWS = 400_000


def _draws(seed: int, n: int = DRAWS) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def _weights_at(cell: DifferentialPair, w: float, t: float | None) -> torch.Tensor:
    """Many independent cells with target ``w``, as read at ``t`` (None: as programmed)."""
    device = cell.device
    targets = cell.targets(torch.full((DRAWS,), w))
    z = torch.stack([_draws(i) for i in range(cell.devices)])
    programmed = device.program(targets, z)
    if t is None:
        return cell.weights(programmed)
    nu = device.drift_coefficient(
        targets, torch.stack([_draws(10 + i) for i in range(cell.devices)])
    )
    read = torch.stack([_draws(20 + i) for i in range(cell.devices)])
    return cell.weights(device.read(programmed, device.drift(programmed, nu, t), t, read))


# std of 400,000 draws is known to 0.11 % (1 sigma), so 2 % is far outside chance
@pytest.mark.parametrize(
    ("w", "t", "mean", "std"),
    [
        (0.0, None, None, 0.0087),
        (0.1, None, None, 0.0189),
        (1.0, None, None, 0.0427),
        (0.0, 3600.0, 0.0, 0.0069),
        (0.1, 3600.0, 0.0710, 0.0217),
        (1.0, 3600.0, 0.7731, 0.0566),
        (0.0, 86400.0, 0.0, 0.0056),
        (0.1, 86400.0, 0.0595, 0.0209),
        (1.0, 86400.0, 0.6630, 0.0608),
        (0.0, 31536000.0, 0.0, 0.0042),
        (0.1, 31536000.0, 0.0434, 0.0201),
        (1.0, 31536000.0, 0.4989, 0.0663),
    ],
)
def test_pcm_like_golden_values(w: float, t: float | None, mean: float | None, std: float) -> None:
    read = _weights_at(DifferentialPair(device=pcm_like()), w, t)
    assert read.std().item() == pytest.approx(std, rel=0.02)
    if mean is not None:
        assert read.mean().item() == pytest.approx(mean, rel=0.02, abs=1e-4)


R = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("device", "percent"),
    [
        (pcm_like(), (1.05, 1.44, 1.79, 2.73, 3.81, 4.31, 4.22)),
        (hermes_two_device(), (0.80, 1.84, 2.69, 4.29, 4.79, 4.41, 5.28)),
    ],
    ids=["pcm_like", "hermes_two_device"],
)
def test_programming_sigma_over_g_max(device: PCM, percent: tuple[float, ...]) -> None:
    sigma = device.programming_sigma(torch.tensor(R) * device.g_max) / device.g_max * 100
    assert sigma.tolist() == pytest.approx(percent, abs=0.006)


@pytest.mark.parametrize(
    ("device", "factors"),
    [
        (pcm_like(), {3600: 0.775, 86400: 0.664, 2592000: 0.562, 31536000: 0.497}),
        (hermes_two_device(), {3600: 0.956, 86400: 0.906, 2592000: 0.854, 31536000: 0.818}),
    ],
    ids=["pcm_like", "hermes_two_device"],
)
def test_drift_factor_at_full_conductance_and_mean_coefficient(
    device: PCM, factors: dict[int, float]
) -> None:
    g = torch.tensor([device.g_max])
    nu = device.drift_coefficient(g, torch.zeros(1))
    for t, factor in factors.items():
        assert (device.drift(g, nu, t) / g).item() == pytest.approx(factor, abs=0.0006)


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
