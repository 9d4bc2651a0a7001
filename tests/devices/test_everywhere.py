"""Every device that ships, through everything that uses a device."""

import math

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch import devices
from tests.crossbar import crossbar

SHIPPED = {
    "pcm_like": devices.pcm_like(),
    "hermes_one_device": devices.hermes_one_device(),
    "pcm_afm": devices.pcm_afm(),
    "pcm_projected": devices.pcm_projected(),
    "state_independent": devices.state_independent(),
    "rram_wan": devices.rram_wan(),
    "rram_cmo": devices.rram_cmo(),
    "rram_cmo_2": devices.rram_cmo(acceptance=2),
    "rram_milo": devices.rram_milo(),
    "rram_binary": devices.rram_binary(),
    "sonos": devices.sonos(),
    "sonos_held": devices.sonos(drift_until=1400),
    "memcapacitor": devices.memcapacitor(),
    "photodiode": devices.photodiode(),
    "ecram": devices.ecram(),
    "ecram_metal_oxide": devices.ecram_metal_oxide(),
    "capacitor": devices.capacitor(leak_time=1e6),
}
EACH = pytest.mark.parametrize("device", SHIPPED.values(), ids=SHIPPED)
SETTLED = pytest.mark.filterwarnings("ignore:.*beyond the device's data")


def _cells(device: devices.Device) -> list[devices.DifferentialPair]:
    """Pairs of the device: one a polarity, three that share, three that are filled in turn."""
    return [
        devices.DifferentialPair(device=device),
        devices.DifferentialPair(device=device, devices_per_polarity=3),
        devices.DifferentialPair(device=device, devices_per_polarity=3, split="sequential"),
    ]


def _model(chip: at.Chip) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12)
    )
    model = at.convert(layers, chip)
    at.calibrate(
        model, [torch.randn(32, 4, 8, generator=torch.Generator().manual_seed(1))], effort="ranges"
    )
    return model


@EACH
def test_targets_span_the_range_in_both_polarities(device) -> None:
    w = torch.tensor([-1.0, -0.4, 0.0, 0.4, 1.0], dtype=torch.float64)
    for cell in _cells(device):
        targets = cell.targets(w)
        assert targets.min().item() == pytest.approx(device.g_min)
        assert targets.max().item() == pytest.approx(device.g_max)
        torch.testing.assert_close(cell.weights(targets), w)
        # an empty polarity sits at the smallest conductance
        n = cell.devices_per_polarity
        empty = torch.full((n, 3), device.g_min, dtype=torch.float64)
        torch.testing.assert_close(targets[n:, 2:], empty)
        torch.testing.assert_close(targets[:n, :3], empty)


@EACH
def test_the_spread_of_a_weight_is_the_one_that_is_programmed(device) -> None:
    # a binary device rounds all targets between its two states, which is no spread
    held = (0.0, -1.0, 1.0) if isinstance(device, devices.BinaryDevice) else (0.0, -0.08, 0.5, 1.0)
    for cell in _cells(device):
        for w in held:
            targets = cell.targets(torch.full((100_000,), w))
            z = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
            drawn = cell.weights(device.program(targets, z)).std().item()
            wanted = cell.programming_sigma(torch.tensor([w])).item()
            assert drawn == pytest.approx(wanted, rel=0.03, abs=1e-6)


@EACH
def test_what_kernels_draw_is_that_spread(device) -> None:
    w = torch.linspace(-1, 1, 401, dtype=torch.float64)
    for cell in _cells(device):
        if cell.spread is not None:
            expected = cell.programming_sigma(w)
            torch.testing.assert_close(cell.spread(w), expected, rtol=0.014, atol=1e-9)


def test_kernels_know_devices_whose_lowest_conductance_is_not_0() -> None:
    for name in ("rram_cmo", "rram_cmo_2", "rram_milo", "memcapacitor"):
        assert devices.DifferentialPair(device=SHIPPED[name]).spread is not None, name


@EACH
def test_files_of_chips_hold_it(device, tmp_path) -> None:
    chip = crossbar(cell=devices.DifferentialPair(device=device))
    for name in ("chip.json", "chip.yaml"):
        at.chips.save(chip, tmp_path / name)
        assert at.chips.load(tmp_path / name) == chip


@SETTLED
@EACH
def test_programmed_chips_run_at_any_time_and_without_any_error(device, tmp_path) -> None:
    chip = crossbar(cell=devices.DifferentialPair(device=device))
    model, x = _model(chip), torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(2))
    physical = at.program(model, seed=3)
    for time in ("programmed", "0 s", "1 h", "1 day", "1 year"):
        for compensation in ("none", "global", "column", "least_squares"):
            assert physical.at(time, compensation=compensation)(x).isfinite().all()
    quiet = chip.without("programming_noise", "drift", "read_noise", "output_noise", "adc", "dac")
    whole = chip.without("output_noise", "adc", "dac")
    exact = _model(quiet)(x)
    if not isinstance(device, devices.BinaryDevice):
        found = at.program(_model(quiet), seed=3).at("1 day", compensation="none")(x)
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-4)
    noisy = at.program(_model(whole), seed=3).at("1 day")(x)
    assert not torch.allclose(noisy, exact, atol=1e-6)
    found = at.sweep(
        model, lambda m: m(x).square().mean().item(), times=("0 s", "1 day"), num_chips=2
    )
    assert found.mean.isfinite().all()


@pytest.mark.parametrize("weight", ["programming", "device"])
@SETTLED
@EACH
def test_training_noise_is_that_of_the_device(device, weight: str) -> None:
    noise = at.TrainingNoise(weight=weight)
    chip = crossbar(cell=devices.DifferentialPair(device=device), training=noise)
    model, x = _model(chip), torch.randn(6, 4, 8)
    loss = model.train()(x).square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert math.isfinite(loss.item())


@SETTLED
def test_closer_programming_works_on_devices_whose_lowest_conductance_is_not_0() -> None:
    chip = crossbar(cell=devices.DifferentialPair(device=devices.rram_milo()))
    model, x = _model(chip), torch.randn(64, 4, 8)
    exact = model(x)
    errors = [
        (at.program(model, seed=1, method=method).at("programmed")(x) - exact).norm().item()
        for method in (None, at.GradientDescent(rounds=10))
    ]
    assert errors[1] < errors[0]


def test_wires_carry_the_current_of_empty_polarities_too() -> None:
    ends = {"column_resistance": 1.0}
    cell = devices.DifferentialPair(device=devices.rram_milo())
    quiet = crossbar(cell=cell, wires=ends, training=at.TrainingNoise(weight="none"))
    quiet = quiet.without("programming_noise", "output_noise", "adc", "dac")
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 6, bias=False), torch.eye(24)
    model = at.convert(nn.Sequential(linear), quiet)
    seen = at.program(model, seed=1).at("programmed", compensation="none")(x).T
    w = linear.weight.detach()
    scale = w.abs().max()
    g = (cell.targets(w / scale) * 1e-6).transpose(0, 1).flatten(0, 1)
    left = at.ops.ir_drop.effective(g, wires=at.chips.Wires(**ends))
    plus, minus = left.view(6, 2, 24).unbind(1)
    expected = scale * (plus - minus) / (cell.g_total * 1e-6)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    assert (seen - w).abs().max() > 1e-3
    torch.testing.assert_close(model.train()(x).detach().T, seen)  # training knows them too
