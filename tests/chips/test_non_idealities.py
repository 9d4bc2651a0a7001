"""Each non-ideality can be listed and switched off by name; all else of the chip stays."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

import analogtorch as at

NAMES = (
    "dac",
    "input_pulses",
    "programming_noise",
    "drift",
    "read_noise",
    "adc_gain",
    "adc_offset",
    "output_noise",
    "shot_noise",
    "dark_current",
    "adc",
    "digital_unit",
)
HERMES = at.chips.hermes64(output_noise=0.04)
OFFSETS = HERMES.replace(name="offsets", adc={"offset_std": 0.01})
CHIPS = [
    HERMES,
    OFFSETS,
    at.chips.hermes_core(),
    at.chips.ibm_speech34(),
    at.chips.neurram48(),
    at.chips.reram_4mb(),
    at.chips.sonos40(),
    at.chips.memcapacitor(),
    at.chips.photodiode_sensor(),
]


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_what_is_listed_can_be_switched_off_and_nothing_else_changes(chip: at.Chip) -> None:
    listed = chip.non_idealities()
    assert {"programming_noise", "adc"} <= set(listed) <= set(NAMES)
    for name in listed:
        gone, also = set(listed) - set(chip.without(name).non_idealities()), set()
        if name == "adc":
            also = {"digital_unit"} & set(listed)
        if name == "dac":
            also = {"input_pulses"} & set(listed)
        assert gone == {name} | also
        assert chip.without(name).without(name) == chip.without(name)
    for a, b in itertools.combinations(listed, 2):
        assert chip.without(a).without(b) == chip.without(b).without(a) == chip.without(a, b)
    assert chip.without(*listed).non_idealities() == ()
    assert chip.without() is chip


def test_the_ideal_chip_has_none_and_the_default_chip_those_of_hermes() -> None:
    assert at.chips.ideal().non_idealities() == ()
    assert at.chips.ideal().without("drift") is not None
    devices = ("programming_noise", "drift", "read_noise")
    assert at.chips.hermes64().non_idealities() == (
        "dac",
        *devices,
        "adc_gain",
        "adc",
        "digital_unit",
    )


def test_an_unknown_name_is_named_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown non-ideality 'drft', did you mean 'drift'.*known: dac, "
    ):
        HERMES.without("drft")
    with pytest.raises(ValueError, match="unknown non-ideality 3"):
        HERMES.without(3)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*beyond the device's data")  # of memcapacitor, at any time
@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_a_chip_without_any_computes_the_digital_product(chip: at.Chip) -> None:
    torch.manual_seed(0)
    digital, x = nn.Linear(300, 40), torch.randn(16, 300)
    x = x.abs() / x.abs().max() if chip.light.on else x  # light from 0 to 1
    if chip.slices.weight_bits:  # bits of weights are how the chip holds them, and stay
        with torch.no_grad():
            digital.weight.copy_(torch.randint(-127, 128, (40, 300)) / 127)
    bare = chip.without(*chip.non_idealities())
    physical = at.program(at.convert(nn.Sequential(digital), bare), seed=1)
    for t in ("programmed", "0 s", "1 day"):
        # compensation is measured, and so a number near 1
        assert torch.allclose(physical.at(t)(x), digital(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["programming_noise", "drift", "read_noise"])
def test_devices_without_one_keep_the_draws_of_the_others(name: str) -> None:
    model = at.convert(nn.Sequential(nn.Linear(64, 32, bias=False)), HERMES.without("adc_gain"))
    bare = at.convert(
        nn.Sequential(nn.Linear(64, 32, bias=False)), HERMES.without("adc_gain", name)
    )
    bare.load_state_dict(model.state_dict())
    pcm = dataclasses.replace(HERMES.cell.device, **{f"{name.removesuffix('_noise')}_scale": 0.0})
    scaled = dataclasses.replace(
        HERMES.without("adc_gain"), cell=dataclasses.replace(HERMES.cell, device=pcm)
    )
    other = at.convert(nn.Sequential(nn.Linear(64, 32, bias=False)), scaled)
    other.load_state_dict(model.state_dict())
    x, views = torch.randn(8, 64), []
    for m in (bare, other, model):
        views.append(at.program(m, seed=3).at("1 day", compensation="none")(x))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_reram_without_drift_keeps_its_first_error() -> None:
    cell = at.chips.neurram48().without("drift", "read_noise").cell
    g = torch.linspace(0, 40, 5, dtype=torch.float64)
    held = cell.device.program(g, torch.full_like(g, -0.5))
    assert not torch.equal(held, g)
    assert torch.equal(cell.device.drift(held, cell.device.drift_coefficient(g, g), 86_400.0), held)
    assert cell.device.valid_until == at.chips.neurram48().cell.device.valid_until


def test_reram_without_programming_noise_keeps_what_time_adds() -> None:
    chip, g = at.chips.neurram48(), torch.full((100_000,), 20.0, dtype=torch.float64)
    whole, device = (c.cell.device for c in (chip, chip.without("programming_noise")))
    z = torch.randn(len(g), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = device.program(g, z)
    assert torch.equal(held, g)
    for t in (1.0, 3600.0, 86_400.0):
        now = device.drift(held, device.drift_coefficient(g, z), t)
        first, later = (whole.sigma(g[:1], at_t).item() for at_t in (0.0, t))
        assert (now - g).std().item() == pytest.approx((later**2 - first**2) ** 0.5, rel=0.01)


@pytest.mark.parametrize("factor", [1e-3, 0.5, 1.0, 2.0])
def test_more_programming_noise_of_reram_leaves_what_time_adds(factor: float) -> None:
    chip, g = at.chips.neurram48(), torch.full((100_000,), 20.0, dtype=torch.float64)
    whole, device = (c.cell.device for c in (chip, chip.scaled(programming_noise=factor)))
    z = torch.randn(2, len(g), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held, nu = device.program(g, z[0]), device.drift_coefficient(g, z[1])
    first, later = (whole.sigma(g[:1], at_t).item() for at_t in (0.0, 86_400.0))
    now = device.drift(held, nu, 86_400.0)
    expected = (factor**2 * first**2 + later**2 - first**2) ** 0.5
    assert (now - g).std().item() == pytest.approx(expected, rel=0.01)
    assert torch.allclose(device.drift(held, nu, 0.0), held)
    if factor == 1:
        assert torch.equal(now, whole.drift(whole.program(g, z[0]), g, 86_400.0))


def test_reram_that_relaxes_too_does_so_without_programming_noise() -> None:
    line = at.devices.Polynomial(coefficients=(3.0,))
    grown = at.devices.Polynomial(coefficients=(5.0,))
    device = dataclasses.replace(
        at.devices.rram_cmo(), stds=(line, grown), shifts=(), relaxations=(line, line)
    )
    g = torch.full((100_000,), 50.0, dtype=torch.float64)
    z = torch.randn(len(g), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = at.devices.Scaled(device=device, programming_scale=0.0)
    now = exact.drift(exact.program(g, z), exact.drift_coefficient(g, z), 3600.0)
    assert (now - g).std().item() == pytest.approx((5**2 - 3**2 + 3**2) ** 0.5, rel=0.01)


def test_an_offset_cell_without_programming_noise_drifts() -> None:
    cell = at.devices.OffsetCell(device=at.devices.rram_wan())
    chip = at.chips.neurram48().replace(cell=cell)
    kept = set(chip.non_idealities()) - {"programming_noise"}
    assert set(chip.without("programming_noise").non_idealities()) == kept
    drifts = chip.without(*(kept - {"drift"}), "programming_noise")
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(16, 64)
    physical = at.program(at.convert(nn.Sequential(layer), drifts), seed=1)
    fresh, later = ((physical.at(t)(x) - layer(x)).norm() for t in ("programmed", "1 day"))
    assert fresh < 1e-4 * later


@pytest.mark.parametrize(
    ("weight", "cause"),
    [
        ("programming", ["programming_noise"]),
        ("device", ["programming_noise", "drift", "read_noise"]),
    ],
)
def test_training_noise_goes_with_what_causes_it(weight: str, cause: list[str]) -> None:
    torch.manual_seed(0)
    chip = HERMES.without("output_noise").replace(training=at.TrainingNoise(weight=weight))
    layer = at.convert(nn.Sequential(nn.Linear(64, 8)), chip.without(*cause)).train()
    x = torch.randn(4, 64)
    assert torch.equal(layer(x), layer(x))
    for left in cause:
        noisy = chip.without(*(name for name in cause if name != left))
        noisy = at.convert(nn.Sequential(nn.Linear(64, 8)), noisy).train()
        assert not torch.equal(noisy(x), noisy(x)), left


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_files_hold_a_chip_without(suffix: str, tmp_path) -> None:
    chip = HERMES.without("drift", "read_noise", "adc")
    assert at.chips.load(at.chips.save(chip, tmp_path / f"chip{suffix}")) == chip


def test_scaled_by_one_is_the_chip_and_by_zero_is_without() -> None:
    assert HERMES.scaled(drift=1.0, adc=1) is HERMES
    assert HERMES.scaled(drift=0, adc_gain=0) == HERMES.without("drift", "adc_gain")
    assert HERMES.scaled(drift=2.0).scaled(drift=0.5).cell.device.drift_scale == 1.0
    assert at.chips.ideal().scaled(drift=3.0) == at.chips.ideal()


def test_scaled_multiplies_what_it_names() -> None:
    chip = HERMES.scaled(output_noise=2.0, adc_gain=0.5, dac=4, adc=2.0, digital_unit=0.5)
    assert (chip.adc.noise, chip.adc.gain_std) == (0.08, 0.5 * HERMES.adc.gain_std)
    assert (chip.dac.bits, chip.adc.steps, chip.periphery.output_bits) == (6, 211, 9)
    assert chip.scaled(dac=0.25).dac.bits == 8


@pytest.mark.parametrize("preset", ["hermes64", "neurram48"])
def test_a_scaled_device(preset: str) -> None:
    """A scaled PCM device is the one with these scales; each factor acts on what it names alone."""
    device = at.chips.get(preset).cell.device
    g = torch.linspace(0, 1, 9, dtype=torch.float64) * device.g_max
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    chip = at.chips.get(preset).scaled(programming_noise=1.5, drift=2.0, read_noise=0.5)
    scaled = chip.cell.device
    assert torch.allclose(scaled.programming_sigma(g), 1.5 * device.programming_sigma(g))
    held = scaled.program(g, z)
    assert torch.allclose(held, (g + 1.5 * device.programming_sigma(g) * z).clamp_min(0))
    drifted = scaled.drift(held, scaled.drift_coefficient(g, z), 86_400.0)
    louder = at.devices.Scaled(device=device, programming_scale=1.5)
    once = louder.drift(held, louder.drift_coefficient(g, z), 86_400.0)
    kept = (held > 0) & (once > 0)
    assert torch.allclose(drifted[kept] * held[kept], once[kept] ** 2)
    read = scaled.read(held, drifted, 86_400.0, z)
    whole = device.read(held, drifted, 86_400.0, z)
    clear = (read > 0) & (whole > 0)
    assert torch.allclose((read - drifted)[clear], 0.5 * (whole - drifted)[clear])
    if preset == "hermes64":
        pcm = dataclasses.replace(device, programming_scale=1.5, drift_scale=2.0, read_scale=0.5)
        assert torch.allclose(held, pcm.program(g, z))
        assert torch.allclose(drifted, pcm.drift(held, pcm.drift_coefficient(g, z), 86_400.0))


def test_scaled_programming_noise_reaches_the_kernels() -> None:
    twice = HERMES.scaled(programming_noise=2.0).cell
    w = torch.linspace(-1, 1, 41, dtype=torch.float64)
    assert torch.allclose(twice.spread(w), twice.programming_sigma(w), rtol=0.02)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"drft": 2.0}, "unknown non-ideality 'drft', did you mean 'drift'"),
        ({"drift": -1.0}, "drift"),
        ({"drift": float("nan")}, "drift"),
        ({"drift": "2"}, "drift"),
        ({"dac": 3}, "8 bits takes a power of two, got 3"),
        ({"dac": 256}, "needs other than 2..16 bits"),
    ],
)
def test_scaled_refuses(factors, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        HERMES.scaled(**factors)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_files_hold_a_scaled_chip(suffix: str, tmp_path) -> None:
    chip = HERMES.scaled(drift=1.7, read_noise=0)
    at.chips.save(chip, tmp_path / f"chip{suffix}")
    assert at.chips.load(tmp_path / f"chip{suffix}") == chip
