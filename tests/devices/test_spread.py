"""The spread of a programmed weight: exact against drawn devices, closed form against exact."""

import dataclasses
import math

import pytest
import torch

import analogtorch as at
from analogtorch.devices import DifferentialPair, PowerClip, Spread, hermes_one_device, pcm_like
from analogtorch.devices.spread import EMPTY, clamped_share

CELLS = {
    **{
        name: at.chips.hermes64(device=name).cell  # type: ignore[arg-type]
        for name in ("two_device", "one_device", "two_equal", "two_sequential", "pcm_like")
    },
    "ibm_speech34": at.chips.ibm_speech34().cell,
    "rram_wan": at.chips.neurram48().cell,
    "a curve of one's own": DifferentialPair(
        device=dataclasses.replace(
            pcm_like(), programming_std=PowerClip(scale=1, power=0.5, floor=0.1, high=2)
        )
    ),
}
CLOSED = [name for name in CELLS if name not in ("rram_wan", "a curve of one's own")]
DRAWS = 400_000


@pytest.mark.parametrize("name", CELLS)
def test_the_sigma_of_a_cell_is_that_of_the_weights_it_is_programmed_to(name: str) -> None:
    cell, generator = CELLS[name], torch.Generator().manual_seed(0)
    for w in (0.0, 0.005, -0.02, 0.05, 0.1, -0.5, 1.0):
        targets = cell.targets(torch.full((DRAWS,), w, dtype=torch.float64))
        z = torch.randn(targets.shape, generator=generator, dtype=torch.float64)
        drawn = cell.weights(cell.device.program(targets, z)).std().item()
        # the standard error of a std of so many draws is 0.11 % of it, 0.15 % with the tails of
        # clamped devices
        assert cell.programming_sigma(torch.tensor([w])).item() == pytest.approx(
            drawn, rel=0.006
        ), w


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 4.0])
def test_the_closed_form_of_the_kernels_is_that_sigma_within_a_few_percent(
    name: str, scale: float
) -> None:
    cell = CELLS[name]
    cell = dataclasses.replace(
        cell, device=dataclasses.replace(cell.device, programming_scale=scale)
    )
    ends = torch.logspace(-6, 0, 2000, dtype=torch.float64)
    w = torch.cat(
        (torch.linspace(-1, 1, 4001, dtype=torch.float64), ends, 0.5 + ends / 2, 0.5 - ends / 2)
    )
    assert cell.spread is not None
    torch.testing.assert_close(cell.spread(w), cell.programming_sigma(w), rtol=0.014, atol=0)
    zero = torch.zeros(1, dtype=torch.float64)
    torch.testing.assert_close(cell.spread(zero), cell.programming_sigma(zero))


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("split", ["equal", "sequential"])
def test_any_number_of_devices_has_the_closed_form(devices: int, split: str) -> None:
    cell = DifferentialPair(device=hermes_one_device(), devices_per_polarity=devices, split=split)  # type: ignore[arg-type]
    w = torch.linspace(-1, 1, 6001, dtype=torch.float64)
    assert cell.spread is not None
    torch.testing.assert_close(cell.spread(w), cell.programming_sigma(w), rtol=0.014, atol=0)


def test_a_curve_that_is_no_cubic_has_no_spread() -> None:
    assert CELLS["rram_wan"].spread is None  # a quartic
    assert CELLS["a curve of one's own"].spread is None


def test_the_share_of_the_variance_that_a_clamp_at_zero_leaves() -> None:
    # by integration: a normal of mean a and variance 1, clamped at 0, on a grid of 2e6 steps
    z = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    weight = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    means = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    expected = []
    for a in means:
        x = (z + a).clamp_min(0.0)
        expected.append((weight * x * x).sum() - (weight * x).sum() ** 2)
    torch.testing.assert_close(clamped_share(means), torch.stack(expected), rtol=1e-6, atol=0)
    assert clamped_share(means)[0].item() == pytest.approx(EMPTY, rel=1e-12)
    far = torch.tensor([1e3, 1e30, float("inf")])
    assert torch.equal(clamped_share(far), torch.ones(3))
    assert clamped_share(torch.tensor(float("nan"))).isnan()


def test_an_exact_device_does_not_vary() -> None:
    cell, w = at.chips.ideal().cell, torch.linspace(-1, 1, 11)
    assert cell.spread is not None
    for sigma in (cell.spread(w), cell.programming_sigma(w)):
        assert torch.equal(sigma, torch.zeros(11))


def test_the_variance_is_never_below_zero() -> None:
    w = torch.linspace(-1, 1, 100_001)
    # p^2 - p^2, rounded
    assert Spread(coefficients=(0.1, 0.7, -0.3, 0.2), dip=1.0)(w).isfinite().all()
    with pytest.raises(
        ValueError,
        match=r"Spread.step must leave base \+ \(pieces - 1\) \* step >= 0, got -0.2 with",
    ):
        Spread(base=0.1, step=-0.2, pieces=2)
    with pytest.raises(ValueError, match=r"Spread.dip must be .*, got 1.5"):
        Spread(dip=1.5)
    with pytest.raises(ValueError, match=r"Spread.rate must be .*, got -1"):
        Spread(rate=-1)
