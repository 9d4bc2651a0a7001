"""Each non-ideality can be listed and switched off by name; all else of the chip stays."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

import analogtorch as at

NAMES = (
    "dac",
    "programming_noise",
    "drift",
    "read_noise",
    "adc_gain",
    "output_noise",
    "adc",
    "digital_unit",
)
HERMES = at.chips.hermes64(output_noise=0.04)
CHIPS = [HERMES, at.chips.ibm_speech34(), at.chips.neurram48()]


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_what_is_listed_can_be_switched_off_and_nothing_else_changes(chip: at.Chip) -> None:
    listed = chip.non_idealities()
    assert {"dac", "programming_noise", "adc"} <= set(listed) <= set(NAMES)
    for name in listed:
        gone, also = set(listed) - set(chip.without(name).non_idealities()), set()
        if name == "adc":
            also = {"digital_unit"} & set(listed)
        if name == "programming_noise" and chip.name == "neurram48":
            also = {"drift"}  # which is how its error grows
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


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_a_chip_without_any_computes_the_digital_product(chip: at.Chip) -> None:
    torch.manual_seed(0)
    digital, x = nn.Linear(300, 40), torch.randn(16, 300)
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


def test_training_noise_goes_with_the_noise_of_programming() -> None:
    torch.manual_seed(0)
    layer = at.convert(
        nn.Sequential(nn.Linear(64, 8)), HERMES.without("programming_noise", "output_noise")
    ).train()
    x = torch.randn(4, 64)
    assert torch.equal(layer(x), layer(x))
    noisy = at.convert(
        nn.Sequential(nn.Linear(64, 8)), HERMES.without("drift", "output_noise")
    ).train()
    assert not torch.equal(noisy(x), noisy(x))


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_files_hold_a_chip_without(suffix: str, tmp_path) -> None:
    chip = HERMES.without("drift", "read_noise", "adc")
    assert at.chips.load(at.chips.save(chip, tmp_path / f"chip{suffix}")) == chip
