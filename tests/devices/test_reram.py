"""The ReRAM model: the fits at their times, one draw at all of them."""

import dataclasses

import pytest
import torch

import analogtorch as at
from analogtorch import devices

R = torch.tensor([0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)


# the formulas of the fits (Wan 2022, as published in aihwkit), run in an independent program:
# percent of g_max
@pytest.mark.parametrize(
    ("seconds", "percent"),
    [
        (0.0, (0.87, 2.61, 3.89, 5.65, 5.06, 3.83, 2.76)),
        (1.0, (0.87, 2.61, 3.89, 5.65, 5.06, 3.83, 2.76)),
        (86_400.0, (1.75, 4.21, 6.12, 9.30, 9.77, 8.42, 6.63)),
    ],
)
@pytest.mark.parametrize("g_max", [40.0, 20.0])
def test_sigma_is_that_of_the_fit(seconds: float, percent: tuple[float, ...], g_max: float) -> None:
    device = dataclasses.replace(devices.rram_wan(), g_max=g_max)
    assert (100 * device.sigma(R * g_max, seconds) / g_max).tolist() == pytest.approx(
        percent, abs=0.006
    )


def test_sigma_grows_in_log_time_and_then_holds() -> None:
    device, g = devices.rram_wan(), R * 40
    hour, day = device.sigma(g, 3600.0), device.sigma(g, 86_400.0)
    assert (device.sigma(g, 1.0) < hour).all()
    assert (hour < day).all()
    assert torch.equal(device.sigma(g, 172_800.0), device.sigma(g, 1e9))


def test_the_error_is_one_draw_that_grows() -> None:
    device = devices.rram_wan()
    g = (torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 40).double()
    g[:5000] = 0
    z = torch.randn(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    programmed = device.program(g, z)
    for t in (1.0, 3600.0, 86_400.0, 1e6):
        now = device.drift(programmed, device.drift_coefficient(g, z), t)
        torch.testing.assert_close(now, (g + device.sigma(g, t) * z).clamp_min(0.0))


def test_read_noise_and_exact_devices() -> None:
    device, g = devices.rram_wan(), R * 40
    one = torch.ones_like(g)
    torch.testing.assert_close(device.read(g, g, 1.0, one) - g, one * 0.4 / 2**0.5)
    exact = dataclasses.replace(device, programming_scale=0.0, read_std=0.0)
    assert torch.equal(exact.program(g, one), g)
    assert torch.equal(exact.read(g, exact.drift(g, g, 1e6), 1e6, one), g)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"g_max": 0.0}, "ReRAM.g_max must be a positive number"),
        ({"read_std": -0.1}, "ReRAM.read_std must be a number >= 0"),
        ({"times": (1.0, 1.0, 2.0)}, "ReRAM.times must be positive and ascending"),
        ({"times": ()}, "ReRAM.times must be positive and ascending"),
        ({"times": (1.0, 2.0)}, "one curve per time, got 3 for 2"),
    ],
)
def test_bad_devices_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(devices.rram_wan(), **changes)


@pytest.mark.parametrize(
    "chip", [at.chips.neurram48(), at.chips.ibm_speech34(pcm_per_weight=2)], ids=lambda c: c.name
)
def test_chips_with_it_train_and_are_programmed(chip: at.Chip) -> None:
    torch.manual_seed(0)
    model = at.convert(torch.nn.Linear(200, 30), chip)
    x = torch.randn(16, 200)
    at.calibrate(model, [x])
    model.train()(x).square().mean().backward()
    assert model.weight.grad.isfinite().all()
    exact, physical = model.eval()(x).detach(), at.program(model, seed=1)
    errors = [(physical.at(t)(x) - exact).norm() / exact.norm() for t in ("1 s", "1 day")]
    assert 0.01 < errors[0] < errors[1] < 1.0
