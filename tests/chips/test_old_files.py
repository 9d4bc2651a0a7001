"""Files of chips from before a chip was composed of parts, as they were written then."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import analogtorch as at

FOLDER = Path(__file__).parent / "version_1"


UNSTATED = {"encoding": None, "lsb_time": None}


def _hermes64(**options) -> at.Chip:
    """Return the chip as the preset was.

    It had no range of its own for each device, did not say that its inputs are pulses, and trained
    with noise shaped like programming.
    """
    options = {"training": at.TrainingNoise(), **options}
    now = at.chips.hermes64(**options)
    before = at.chips.hermes64(adc_range="notebook", **options)
    kinds = {"on_chip": {"kinds": ("activation", "norm", "add")}}
    return before.replace(name=now.name, dac=UNSTATED, cost=kinds)


def _ibm_speech34(**options) -> at.Chip:
    """Return the chip as the preset was: every activation was one of its own."""
    now = at.chips.ibm_speech34(training=at.TrainingNoise(), **options)
    assert now.cost is not None
    tile, *others = now.cost.published
    tile = dataclasses.replace(tile, excluded="everything off the tile")
    cost = {
        "on_chip": {"kinds": ("activation",)},
        "excluded": now.cost.excluded.replace("transport,", "transport, partly used tiles,"),
        "published": (tile, *others),
    }
    return now.replace(dac=UNSTATED, cost=cost)


def _neurram48(**options) -> at.Chip:
    """Return the chip as the preset was: it added partial sums itself."""
    cost = {"on_chip": {"kinds": ("activation",)}, "sums_on_host": False}
    return at.chips.neurram48(**options).replace(cost=cost)


HERMES = _hermes64()
CHIPS = {
    "hermes64.json": HERMES,
    "hermes64_options.json": _hermes64(
        device="two_sequential",
        phases=1,
        output_noise=0.04,
        weight_scale="column",
        training=at.TrainingNoise(weight="gaussian", scale=0.05),
    ),
    "hermes64_one_device.json": _hermes64(device="one_device"),
    "hermes64_two_equal.json": _hermes64(device="two_equal"),
    "hermes64_pcm_like.json": _hermes64(
        device="pcm_like",
        training=at.TrainingNoise(
            weight="device", time="1 year", drop_connect=0.1, per_sample=True
        ),
    ),
    "hermes64_without.json": _hermes64(output_noise=0.04).without("drift", "adc"),
    "hermes64_8_bit_adc.json": HERMES.replace(
        array={"grouped": "block_diagonal"},
        adc={"bits": 8, "steps": None, "separate_phases": True},
        periphery={"output_bits": None, "column_calibration": False},
    ),
    "hermes64_adc_alone.json": HERMES.replace(periphery={"output_bits": None}),
    "ibm_speech34.json": _ibm_speech34(),
    "ibm_speech34_two_pcm.json": _ibm_speech34(pcm_per_weight=2),
    "neurram48.yaml": _neurram48(),
    "neurram48_ten_bits.json": _neurram48(output_bits=10, input_bits=8),
    "ideal.json": at.chips.ideal(),
}
X = torch.linspace(-1, 1, 12).view(2, 6)


def _flat() -> dict:
    return json.loads((FOLDER / "hermes64.json").read_text())


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


@pytest.mark.parametrize("name", CHIPS)
def test_flat_files_are_the_presets_of_now(name: str) -> None:
    chip = at.chips.load(FOLDER / name)
    assert chip == CHIPS[name]
    assert chip.non_idealities() == CHIPS[name].non_idealities()


def test_every_file_has_a_case() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert files == {*CHIPS, "mapping.json"}


def test_what_they_tell_of_sources_is_kept(tmp_path: Path) -> None:
    chip = at.chips.load(FOLDER / "hermes64.json")
    assert chip.sources["name"] == "\n".join(_flat()["sources"])
    again = at.chips.load(at.chips.save(chip, tmp_path / "again.json"))
    assert (again, again.sources) == (chip, chip.sources)
    assert json.loads((tmp_path / "again.json").read_text())["version"] == 2


@pytest.mark.parametrize(
    ("absent", "plain"),
    [
        (("cost", "planes"), {"cost": None}),
        (
            ("adc_steps", "adc_gain_std", "column_calibration"),
            {
                "adc": {"bits": 8, "steps": None, "gain_std": 0.0},
                "periphery": {"output_bits": None, "column_calibration": False},
            },
        ),
        (("separate_phases", "sources", "grouped", "weight_scale"), {}),
    ],
)
def test_files_from_before_a_field_load(absent: tuple[str, ...], plain: dict) -> None:
    old = {name: value for name, value in _flat().items() if name not in absent}
    assert at.chips.from_dict(old) == HERMES.replace(**plain)


def test_files_from_before_device_noise_load() -> None:
    old = json.loads((FOLDER / "hermes64_options.json").read_text())
    for field in ("time", "drop_connect", "per_sample"):
        del old["training"][field]
    assert at.chips.from_dict(old) == CHIPS["hermes64_options.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_noize": 0.1}, r"chip: Chip has no field \['output_noize'\]; fields"),
        ({"output_noise": -1}, "chip.adc: ADC.noise must be a number >= 0, got -1"),
        ({"tiles": 0}, "chip.array: Array.tiles must be an integer >= 1, got 0"),
        ({"sources": "a paper"}, "Chip.sources must be a list of texts"),
        ({"cell": None}, "Chip.cell must be a unit cell"),
        ({"type": "Chips"}, "unknown type 'Chips'"),
    ],
)
def test_bad_flat_files_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        at.chips.from_dict({**_flat(), **change})


def test_a_flat_file_without_what_it_needed_is_refused() -> None:
    old = {name: value for name, value in _flat().items() if name != "output_bits"}
    with pytest.raises(ValueError, match=r"missing the fields \['output_bits'\]"):
        at.chips.from_dict(old)


def test_mappings_checkpoints_and_programmed_chips_that_hold_them_load() -> None:
    mapping = at.ChipMapping.from_json((FOLDER / "mapping.json").read_text())
    assert mapping.chip == HERMES
    model = at.load(FOLDER / "converted", _net()).eval()
    six = HERMES.replace(periphery={"output_bits": 6})
    assert [layer.chip for _, layer in at.analog_layers(model)] == [HERMES, six]
    expected = torch.tensor([[-0.2168, -0.6575, 0.2690], [-0.0521, -0.4892, 0.2333]])
    assert torch.allclose(model(X), expected, atol=1e-4)
    programmed = at.load(FOLDER / "programmed", _net())
    assert programmed.mapping == mapping
    expected = torch.tensor([[-0.2339, 0.0492, 0.1873], [-0.3215, 0.1969, -0.5048]])
    assert torch.allclose(programmed.at("1 day")(X), expected, atol=1e-4)


def test_a_field_that_came_later_is_written_where_it_counts() -> None:
    """Versions without it read the others, and folders of their runs go on."""
    plain = at.chips.hermes64()
    assert "corrected" not in at.chips.to_dict(plain)["training"]
    chip = plain.replace(training=at.TrainingNoise(weight="device", corrected=True))
    assert at.chips.to_dict(chip)["training"]["corrected"] is True
    assert at.chips.from_dict(at.chips.to_dict(chip)) == chip
    assert at.chips.from_dict(at.chips.to_dict(plain)) == plain
    assert "sums_on_host" not in at.chips.to_dict(plain)["cost"]
    assert at.chips.to_dict(at.chips.neurram48())["cost"]["sums_on_host"] is True


def test_files_name_whole_families_of_functions_and_are_charged_as_before() -> None:
    """``activation`` was ReLU, sigmoid and gates too, ``norm`` was batch norm."""
    old = at.chips.load(FOLDER / "hermes64.json")
    assert old.cost is not None
    on_chip = old.cost.on_chip
    assert on_chip.kinds == ("activation", "norm", "add")
    assert all(map(on_chip.runs, ("relu", "sigmoid", "gates", "activation", "batch_norm", "norm")))
    assert not any(map(on_chip.runs, ("pool", "matmul", "rounding")))
