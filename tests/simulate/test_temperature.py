"""Temperature: the formula, what is refused, and how compensation takes the change back."""

import math

import pytest
import torch
from torch import nn

import analogtorch as at
from analogtorch.devices.thermal import BOLTZMANN, kelvin, thermal_factor

WARM = at.chips.hermes64().replace(thermal={"activation_energy": 0.2})


def _physical(chip: at.Chip, seed: int = 3) -> tuple[at.ProgrammedChip, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(50, 64)
    nn.init.normal_(layer.weight)
    y = layer(x).detach()
    return at.program(at.convert(nn.Sequential(layer), chip), seed=seed), x, y


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def test_the_factor_is_that_of_arrhenius_and_falls_with_the_state() -> None:
    r = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2], dtype=torch.float64)
    found = thermal_factor(r, 0.3, 358.15, 298.15)
    for share, energy in ((0, 0.3), (1, 0.3), (2, 0.15), (3, 0.0), (4, 0.0)):
        expected = math.exp(-(energy / BOLTZMANN) * (1 / 358.15 - 1 / 298.15))
        assert found[share].item() == pytest.approx(expected)
    assert (thermal_factor(r, 0.3, 258.15, 298.15)[:3] < 1).all()
    assert torch.equal(thermal_factor(r, 0.3, 300.0, 300.0), torch.ones_like(r))


def test_conductances_are_those_of_the_temperature() -> None:
    exact = WARM.without("programming_noise", "drift", "read_noise", "dac", "adc", "adc_gain")
    physical, x, y = _physical(exact.replace(periphery={"column_calibration": False}))
    hot = physical.at("0 s", temperature="85 C", compensation="none")
    w = hot[0].weight.detach()
    r = (w / w.abs().max()).double()
    factor = exact.thermal.factor(r.abs(), 1.0, 358.15)
    expected = x.double() @ (w.double() * factor).T
    assert _error(hot(x).double(), expected) < 1e-5
    assert _error(hot(x), y) > 0.1


def test_the_reference_temperature_changes_nothing() -> None:
    usual, x, _ = _physical(at.chips.hermes64())
    physical, _, _ = _physical(WARM)
    assert torch.equal(physical.at("1 day")(x), usual.at("1 day")(x))
    assert torch.equal(physical.at("1 day", temperature=298.15)(x), usual.at("1 day")(x))


@pytest.mark.parametrize("compensation", ["global", "least_squares"])
def test_one_scale_per_array_takes_most_of_the_change_back(compensation: str) -> None:
    physical, x, y = _physical(WARM.without("drift"))
    room = _error(physical.at("1 day", compensation=compensation)(x), y)
    options = {"temperature": "85 C", "compensation": compensation}
    hot = _error(physical.at("1 day", **options)(x), y)
    cold_read = at.Recalibration(temperature="25 C")
    stale = _error(physical.at("1 day", **options, recalibration=cold_read)(x), y)
    assert stale > 2 * hot
    assert hot < room + 0.5 * (stale - room)


def test_wires_and_separate_phases_know_it() -> None:
    chip = WARM.replace(
        wires={"column_resistance": 1.0}, adc={"separate_phases": True, "gain_std": 0.0}
    )
    physical, x, _ = _physical(chip)
    room = physical.at("0 s", compensation="none")(x)
    hot = physical.at("0 s", temperature="60 C", compensation="none")(x)
    assert 1.02 < (hot.norm() / room.norm()).item() < 2


@pytest.mark.parametrize(
    ("given", "found"),
    [(300, 300.0), ("85 C", 358.15), ("-40 °C", 233.15), (" 358 K", 358.0), ("25C", 298.15)],
)
def test_kelvin(given, found: float) -> None:
    assert kelvin(given) == pytest.approx(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "above 0 K, got 0 K"),
        (-20, "such as '-20 C'"),
        (85, "in degrees Celsius, write '85 C'"),
        ("85", "'85 C' or '358 K'"),
        ("1.2.3 C", "is not understood"),
        (2000.0, "200 to 600 K"),
        ("-300 C", "above 0 K"),
        (math.nan, "temperature in kelvin"),
        (True, "temperature in kelvin"),
    ],
)
def test_bad_temperatures_are_refused(given, message: str) -> None:
    physical, _, _ = _physical(WARM)
    with pytest.raises(ValueError, match=message):
        physical.at("1 day", temperature=given)


def test_a_temperature_that_would_change_nothing_is_refused() -> None:
    physical, _, _ = _physical(at.chips.hermes64())
    with pytest.raises(ValueError, match="has no activation energy; give it"):
        physical.at("1 day", temperature="85 C")
    warm, _, _ = _physical(WARM)
    with pytest.raises(ValueError, match="before any read, which has no temperature"):
        warm.at("programmed", temperature="85 C")
    model = at.convert(nn.Sequential(nn.Linear(4, 2)), at.chips.hermes64())
    with pytest.raises(ValueError, match="budget: temperature '85 C' would change nothing"):
        at.budget(model, lambda view: 1.0, temperature="85 C")


def test_it_is_a_non_ideality_of_the_chip_and_travels_with_it(tmp_path) -> None:
    assert "temperature" in WARM.non_idealities()
    assert "temperature" not in at.chips.hermes64().non_idealities()
    assert WARM.without("temperature") == at.chips.hermes64()
    assert WARM.scaled(temperature=0.5).thermal.activation_energy == 0.1
    at.chips.save(WARM, tmp_path / "chip.json")
    assert at.chips.load(tmp_path / "chip.json") == WARM
    assert at.chips.Thermal(activation_energy=0.2, reference="27 C").reference == 300.15
    for bad in ({"activation_energy": -0.1}, {"activation_energy": 2}, {"reference": 25}):
        with pytest.raises(ValueError, match="activation_energy|temperature"):
            at.chips.Thermal(**bad)


def test_a_budget_at_a_temperature_has_its_cost() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 16, bias=False), torch.randn(40, 32)
    y = layer(x).detach()
    model = at.convert(nn.Sequential(layer), WARM)
    found = at.budget(
        model,
        lambda view: -_error(view(x), y),
        names=["temperature", "drift"],
        temperature="85 C",
        compensation="none",
        num_chips=2,
        growth=None,
    )
    rows = {row.name: row.alone.mean for row in found.rows}
    assert rows["temperature"] > 0.05


@pytest.mark.parametrize(
    "call",
    [
        "pcm_like()", "hermes_one_device()", "hermes_two_device()", "pcm_afm()", "pcm_projected()",
        "rram_wan()", "rram_cmo()", "rram_milo()", "rram_binary()", "sonos()", "memcapacitor()",
        "photodiode()",
        "ecram()", "ecram_metal_oxide()", "capacitor()", "capacitor(leak_time=1e9)",
    ],
)  # fmt: skip
def test_every_device_has_a_retention_to_ten_years(call: str) -> None:
    device = eval(call, {}, vars(at.devices))
    chip = at.chips.hermes64().replace(cell=at.devices.DifferentialPair(device=device), name="x")
    model = at.convert(nn.Sequential(nn.Linear(16, 8)), chip)
    found = at.sweep(model, lambda view: float(view(torch.ones(2, 16)).abs().mean()), num_chips=1,
                     times=["0 s", "10 years"], temperature=None)  # fmt: skip
    assert torch.isfinite(found.values).all()
    marked = "beyond the device's data" in found.note("10 years")
    assert marked == math.isfinite(device.valid_until)
