"""Devices that are fitted at some times: one draw at all of them, and what relaxes by itself."""

import dataclasses
import math

import pytest
import torch

import analogtorch as at
from analogtorch import devices

FLAT = devices.Polynomial(coefficients=(1.0,))
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
    exact = dataclasses.replace(device, programming_scale=0.0, read_scale=0.0)
    assert torch.equal(exact.program(g, one), g)
    assert torch.equal(exact.read(g, exact.drift(g, g, 1e6), 1e6, one), g)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"g_max": 0.0}, "TimedDevice.g_max must be a positive number"),
        ({"g_min": 40.0}, "TimedDevice.g_min must be below g_max, got 40.0 and 40.0 uS"),
        ({"g_min": -1.0}, "TimedDevice.g_min must be a number >= 0"),
        ({"read_std": -0.1}, "TimedDevice.read_std must be a curve"),
        ({"times": (1.0, 1.0, 2.0)}, "TimedDevice.times must be ascending"),
        ({"times": (-1.0, 1.0, 2.0)}, r"TimedDevice.times\[0\] must be a number >= 0"),
        ({"times": (0.0, 1.0, 2.0)}, "the logarithm of time has no 0"),
        ({"times": ()}, "TimedDevice.times must be ascending"),
        ({"times": (1.0, 2.0)}, "one curve per time, got 3 for 2"),
        ({"shifts": (FLAT,)}, "TimedDevice.shifts needs one curve per time, got 1 for 3"),
        ({"relaxations": FLAT}, "TimedDevice.relaxations must be a tuple"),
        ({"between": "cubic"}, "TimedDevice.between must be one of"),
        ({"t_read": 0.0}, "TimedDevice.t_read must be a positive number"),
    ],
)
def test_bad_devices_are_refused(changes: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        dataclasses.replace(devices.rram_wan(), **changes)


def test_a_time_before_programming_is_refused() -> None:
    device, g = devices.rram_wan(), R * 40
    for use in (lambda t: device.drift(g, g, t), lambda t: device.read(g, g, t, g)):
        with pytest.raises(ValueError, match="t must be >= 0, seconds after programming, got -1"):
            use(-1.0)
    with pytest.raises(ValueError, match="t must be >= 0"):
        devices.pcm_like().drift(g, g, -1.0)


def test_what_relaxes_does_so_by_a_draw_of_its_own() -> None:
    device = devices.rram_cmo(acceptance=2)
    g = torch.full((200_000,), 50.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(len(g), generator=generator, dtype=torch.float64) for _ in range(2)]
    programmed = device.program(g, z[0])
    later = device.drift(programmed, device.drift_coefficient(g, z[1]), 3600.0)
    lost = later - programmed
    assert lost.mean().item() == pytest.approx(-0.08900206 * math.log(3600), rel=0.01)
    assert lost.std().item() == pytest.approx(0.04201137 * math.log(3600) + 0.41183342, rel=0.01)
    assert abs(torch.corrcoef(torch.stack((lost, programmed)))[0, 1].item()) < 0.01
    still = dataclasses.replace(device, drift_scale=0.0)
    assert torch.equal(still.drift(programmed, torch.stack((g, z[1])), 3600.0), programmed)


def test_fits_are_carried_on_in_a_straight_line_or_held() -> None:
    lines = (FLAT, devices.Polynomial(coefficients=(2.0,)))
    device = devices.TimedDevice(
        name="mine", g_max=1, g_reference=1, times=(1.0, 10.0), stds=lines, shifts=lines
    )
    on, r = dataclasses.replace(device, extrapolates=True), torch.tensor([0.5])
    for of in ("sigma", "shift"):
        assert getattr(device, of)(r, 1000.0).item() == pytest.approx(2.0)
        assert getattr(on, of)(r, 1000.0).item() == pytest.approx(4.0)
        assert getattr(on, of)(r, 0.0).item() == pytest.approx(1.0)
    linear = dataclasses.replace(on, between="linear")
    assert linear.sigma(r, 5.5).item() == pytest.approx(1.5)
    assert linear.sigma(r, 19.0).item() == pytest.approx(3.0)


def test_read_noise_of_a_spectrum_grows_with_time() -> None:
    device = devices.rram_cmo()
    g, one = torch.full((1,), 50.0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for t in (1.0, 3600.0):
        expected = 0.0277316483 * math.log10(50) * math.sqrt(math.log((t + 1e-6) / 2e-6))
        assert (device.read(g, g, t, one) - g).item() == pytest.approx(expected, rel=1e-6)
    # before the first time noise is as spreads are: those of the first time
    assert torch.equal(device.read(g, g, 0.0, one), device.read(g, g, 1.0, one))


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
