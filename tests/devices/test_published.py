"""The devices of papers: what their fits say, recomputed here from the published constants."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

import analogtorch as at
from analogtorch import devices
from benchmarks.validation import published
from benchmarks.validation.published import DAY
from tests.crossbar import crossbar

R = torch.tensor(published.R, dtype=torch.float64)


def _drawn(device, r: float, t: float | None) -> torch.Tensor:
    """Many devices of one target, as they are read at ``t``; None: as programmed."""
    g = torch.full((200_000,), device.g_min + r * (device.g_max - device.g_min)).double()
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(len(g), generator=generator, dtype=torch.float64) for _ in range(3)]
    programmed = device.program(g, z[0])
    if t is None:
        return programmed
    return device.drift(programmed, device.drift_coefficient(g, z[1]), t)


def test_sonos_has_the_spread_and_the_drift_of_its_days() -> None:
    device = devices.sonos()
    full = torch.tensor([device.g_max], dtype=torch.float64)
    percent = [100 * device.sigma(full, day * DAY).item() / device.g_max for day in range(6)]
    assert percent[0] == pytest.approx(published.PROGRAMMING["sonos()"].values["1"], rel=0.03)
    assert percent[5] == pytest.approx(published.LATER["sonos()", 5 * DAY].values["1"], rel=0.03)
    assert percent == sorted(percent)
    # A and B of five days, and their polynomial, at 800 nA
    moved = published.polynomial(published.SONOS_DRIFT, 800.0)
    a, b = published.SONOS_SPREAD
    spread = a * (1 - math.exp(-(800 + moved) / b))
    found = _drawn(device, 0.5, 5 * DAY) * 100  # nA at 0.1 V
    assert found.mean().item() == pytest.approx(800 + moved, rel=0.01)
    assert found.std().item() == pytest.approx(spread, rel=0.03)
    # single precision is enough for a polynomial of degree 10
    g = (R * device.g_max).float()
    torch.testing.assert_close(
        device.shift(g, DAY), device.shift(g.double(), DAY).float(), atol=5e-3, rtol=0
    )


def test_sonos_between_days_lies_on_the_line() -> None:
    device, g = devices.sonos(), R * 16
    for of in (device.sigma, device.shift):
        torch.testing.assert_close(of(g, 1.25 * DAY), 0.75 * of(g, DAY) + 0.25 * of(g, 2 * DAY))


def test_the_steep_end_of_the_drift_of_sonos_can_be_left_out() -> None:
    g = torch.tensor([12.0, 14.0, 16.0], dtype=torch.float64)
    whole, held = devices.sonos(), devices.sonos(drift_until=1400)
    torch.testing.assert_close(whole.shift(g, DAY)[:2], held.shift(g, DAY)[:2])
    assert whole.shift(g, DAY)[2].item() == pytest.approx(-2.459, abs=0.01)
    assert held.shift(g, DAY)[2].item() == pytest.approx(-0.389, abs=0.01)
    with pytest.raises(ValueError, match=r"drift_until must be a number in \(0, 1600\], got 2000"):
        devices.sonos(drift_until=2000)


@pytest.mark.parametrize("acceptance", [0.2, 2])
@pytest.mark.parametrize("t", [1.0, 600.0, 3600.0, 31_536_000.0])
def test_cmo_programs_within_its_acceptance_range_and_relaxes(acceptance: float, t: float) -> None:
    device = devices.rram_cmo(acceptance=acceptance)
    (base, slope), law = published.CMO_PROGRAMMING[acceptance], published.CMO_DRIFT
    for r in (0.0, 0.5, 1.0):
        g = 8 + 82 * r
        programmed, later = _drawn(device, r, None), _drawn(device, r, t)
        assert programmed.std().item() == pytest.approx(slope * g + base, rel=0.03)
        relaxed = law["spread"] * math.log(t) + law["spread at 1 s"]
        spread = math.hypot(slope * g + base, relaxed)
        assert later.mean().item() == pytest.approx(g + law["mean"] * math.log(t), rel=0.01)
        assert later.std().item() == pytest.approx(spread, rel=0.03)
    assert device.valid_until == 3600.0


def test_cmo_was_measured_in_two_acceptance_ranges() -> None:
    for bad in (0.02, [2], "2"):
        message = re.escape(f"acceptance must be 0.2 or 2, in % of the target, got {bad!r}")
        with pytest.raises(ValueError, match=message):
            devices.rram_cmo(acceptance=bad)


def test_milo_programs_within_a_spread_that_falls_with_conductance() -> None:
    device = devices.rram_milo()
    for r, g in ((0.0, 50.0), (1.0, 225.0)):
        sigma = published.polynomial(published.MILO_PROGRAMMING, g)
        assert _drawn(device, r, None).std().item() == pytest.approx(sigma, rel=0.03)
        assert torch.equal(_drawn(device, r, 3600.0), _drawn(device, r, None))


def test_the_current_of_milo_is_a_cubic_of_the_voltage() -> None:
    g = torch.tensor([62.5, 110.0, 225.0], dtype=torch.float64)
    volt = torch.tensor(0.3, dtype=torch.float64)
    decade = np.log10(g.numpy() * 1e-6)
    square = np.polyval([0.0001388, 0.001541, 0.005711, 0.007063], decade)
    cube = np.polyval([8.8710e-5, 6.7919e-4, 1.2968e-3], decade)
    expected = 1e6 * (g.numpy() * 1e-6 * 0.3 + square * 0.09 + cube * 0.027)
    assert devices.milo_current(g, volt).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    with pytest.raises(TypeError, match=r"milo_current: volt must be a Tensor .*, got 0\.2"):
        devices.milo_current(g, 0.2)
    for bad in (
        {"g": 49.0, "volt": 0.1},
        {"g": 226.0, "volt": 0.1},
        {"g": 60.0, "volt": 0.6},
        {"g": math.nan, "volt": 0.1},
    ):
        with pytest.raises(ValueError, match="where the paper has data"):
            devices.milo_current(torch.tensor(bad["g"]), torch.tensor(bad["volt"]))


def test_analog_foundation_models_have_their_spread_and_exact_zeros() -> None:
    device = devices.pcm_afm()
    percent = (100 * device.programming_sigma(R)).tolist()
    assert percent[1:] == pytest.approx(published.PROGRAMMING["pcm_afm()"].numbers, abs=0.006)
    assert percent[0] == 0
    assert 100 * device.programming_sigma(torch.tensor(0.6001 / 180)).item() == pytest.approx(
        1.43, abs=0.08
    )
    cell = devices.DifferentialPair(device=device)
    w = torch.tensor([-0.5, 0.0, 0.003, 0.5], dtype=torch.float64)
    # an empty polarity adds nothing: the spread of the weight is that of the fit
    assert (100 * cell.programming_sigma(w)).tolist() == pytest.approx([4.69, 0, 0, 4.69], abs=0.01)


def test_what_does_not_depend_on_the_state() -> None:
    device = devices.state_independent()
    assert torch.equal(device.programming_sigma(R * 25), torch.full_like(R, 0.2))
    nu = device.drift_coefficient(torch.full((100_000,), 10.0), torch.randn(100_000))
    assert nu.mean().item() == pytest.approx(0.1, rel=0.02)
    assert nu.std().item() == pytest.approx(0.05, rel=0.05)
    with pytest.raises(ValueError, match="state_independent: drift_std must be a number >= 0"):
        devices.state_independent(drift_std=-1)


def test_projected_pcm_drifts_by_points_between_which_lie_lines() -> None:
    device = devices.pcm_projected()
    g = torch.tensor([0.0, 5.0, 10.0, 25.0, 30.0], dtype=torch.float64)
    zero, one = torch.zeros_like(g), torch.ones_like(g)
    assert device.drift_coefficient(g, zero).tolist() == pytest.approx(
        [0.08, 0.065, 0.05, 0.03, 0.03]
    )
    spread = device.drift_coefficient(g, one) - device.drift_coefficient(g, zero)
    assert spread.tolist() == pytest.approx([0.03, 0.025, 0.02, 0.01, 0.01])
    for bad in (
        {"g": (0, 30, 40)},
        {"nu_mean": (0.1, -0.1, 0.0)},
        {"g": (10, 0, 25)},
        {"nu_std": (0.1,)},
    ):
        with pytest.raises(ValueError, match=r"pcm_projected|Interpolated"):
            devices.pcm_projected(**bad)


def test_binary_devices_hold_two_states() -> None:
    device = devices.rram_binary()
    g = torch.linspace(device.g_min, device.g_max, 101, dtype=torch.float64)
    assert device.program(g, torch.zeros_like(g)).unique().tolist() == pytest.approx(
        [1e3 / 900, 1e3 / 6]
    )
    assert device.state(g)[-1].item() == device.g_max  # in double precision, to the last bit
    for r, mean, std in ((0.2, 1e3 / 900, 0.2 * 1e3 / 900), (0.8, 1e3 / 6, 0.05 * 1e3 / 6)):
        found = _drawn(device, r, DAY)
        assert found.mean().item() == pytest.approx(mean, rel=0.01)
        assert found.std().item() == pytest.approx(std, rel=0.03)
    cell = devices.DifferentialPair(device=device, devices_per_polarity=3, split="sequential")
    w = torch.tensor([-1.0, -0.7, -1 / 3, 0.0, 0.3, 2 / 3, 1.0], dtype=torch.float64)
    targets = cell.targets(w)
    held = cell.weights(device.program(targets, torch.zeros_like(targets)))
    assert held.tolist() == pytest.approx([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("name", "pulses"), published.PULSES.items())
def test_pulsed_devices_end_within_half_a_pulse(name: str, pulses: float) -> None:
    device = getattr(devices, name)()
    for r in (0.3, 1.0):
        assert _drawn(device, r, None).std().item() == pytest.approx(1 / pulses / 12**0.5, rel=0.03)


def test_a_capacitor_leaks_exponentially_where_the_user_says_so() -> None:
    leaking, still = devices.capacitor(leak_time=0.5), devices.capacitor()
    assert _drawn(leaking, 0.8, 1.0).mean().item() == pytest.approx(0.8 * math.exp(-2), rel=0.01)
    assert torch.equal(_drawn(still, 0.8, 1.0), _drawn(still, 0.8, None))
    assert "illustrative" in leaking.name
    with pytest.raises(ValueError, match="PulsedDevice.leak_time must be a positive number"):
        devices.capacitor(leak_time=0)


def test_the_memcapacitor_has_a_dynamic_range_of_sixty() -> None:
    device = devices.memcapacitor()
    (times,) = published.MEMCAPACITOR_RANGE.numbers
    assert device.g_max / device.g_min == pytest.approx(times)
    assert "modelled" in device.name


def test_times_beyond_the_data_are_marked_and_say_what_the_model_does() -> None:
    cases = {
        devices.sonos(): ("5 days", "held at its last value"),
        devices.rram_cmo(): ("1 h", "extrapolated"),
        devices.rram_milo(): ("0 s", "held at its last value"),
        devices.capacitor(leak_time=1.0): ("0 s", "extrapolated"),
    }
    model = torch.nn.Linear(4, 4)
    for device, (last, how) in cases.items():
        chip = crossbar(cell=devices.DifferentialPair(device=device))
        programmed = at.program(at.convert(torch.nn.Sequential(model), chip), seed=1)
        with pytest.warns(UserWarning, match=rf"beyond the device's data \({last}, .*{how}"):
            programmed.at("30 days")


def test_the_last_measured_time_is_within_the_data_whose_clock_starts_at_the_first_read() -> None:
    device = dataclasses.replace(devices.hermes_one_device(), measured_until=86_400.0 - 20.0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    chip = crossbar(cell=devices.DifferentialPair(device=device))
    programmed = at.program(at.convert(model, chip), seed=1)
    programmed.at("1 day")  # warnings are errors
    with pytest.warns(UserWarning, match=r"beyond the device's data \(23.9944 h, "):
        programmed.at("25 h")
