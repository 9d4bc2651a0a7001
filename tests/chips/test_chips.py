import dataclasses
import json

import pytest

import analogtorch as at


@pytest.mark.parametrize(
    "device", ["two_device", "one_device", "two_equal", "two_sequential", "pcm_like"]
)
def test_every_option_survives_json(device: str) -> None:
    chip = at.chips.hermes64(device=device)
    assert at.chips.from_dict(json.loads(json.dumps(at.chips.to_dict(chip)))) == chip


def test_hermes64_is_the_published_chip() -> None:
    chip = at.chips.hermes64()
    assert (chip.tiles, chip.rows, chip.cols, chip.input_bits, chip.output_bits) == (
        64,
        256,
        256,
        8,
        8,
    )
    assert chip.cells == 4_194_304
    assert any("ASSUMED" in source for source in chip.sources)


def test_unknown_names_are_refused_with_what_is_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown chip 'hermes', did you mean 'hermes64'\?; known: hermes64"
    ):
        at.chips.get("hermes")
    with pytest.raises(ValueError, match="device must be one of"):
        at.chips.hermes64(device="three_device")
    with pytest.raises(ValueError, match="unexpected keyword argument 'divice'"):
        at.chips.get("hermes64", divice="one_device")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tiles", 0),
        ("rows", 2.5),
        ("input_bits", 1),
        ("output_bits", 17),
        ("output_bound", 0.0),
        ("adc_steps", 0),
        ("adc_steps", 422.0),
        ("adc_steps", True),
        ("adc_gain_std", -0.1),
        ("adc_gain_std", float("nan")),
        ("adc_gain_std", "7 %"),
        ("column_calibration", 1),
        ("column_calibration", None),
        ("output_noise", -0.1),
        ("tiles", True),
        ("cell", "pcm"),
        ("training", None),
        ("sources", ["paper"]),
        ("weight_scale", "tile"),
        ("grouped", "both"),
    ],
)
def test_bad_fields_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Chip.{field} must be"):
        dataclasses.replace(at.chips.hermes64(), **{field: value})


@pytest.mark.parametrize(
    ("bits", "steps", "adc", "unit"),
    [
        (8, None, 127, 0),
        (4, None, 7, 0),
        (None, None, 0, 0),
        (8, 422, 422, 8),
        (None, 422, 422, 0),
        (8, 1, 1, 8),
    ],
)
def test_the_bits_are_the_adcs_or_those_of_the_unit_behind_it(
    bits: object, steps: object, adc: int, unit: int
) -> None:
    chip = dataclasses.replace(at.chips.hermes64(), output_bits=bits, adc_steps=steps)
    assert (chip.output_steps, chip.unit_bits) == (adc, unit)


def test_hermes64_names_the_noise_it_is_given() -> None:
    noisy = at.chips.hermes64(output_noise=0.04)
    assert noisy.name == "hermes64[output noise 0.04]"
    assert dataclasses.replace(noisy, name="hermes64", output_noise=0.0) == at.chips.hermes64()
    with pytest.raises(ValueError, match="Chip.output_noise must be a number >= 0, got -1"):
        at.chips.hermes64(output_noise=-1)


@pytest.mark.parametrize(
    "kwargs",
    [{"weight": "uniform"}, {"scale": -1.0}, {"scale": float("nan")}, {"weight": "gaussian"}],
)
def test_bad_training_noise_is_refused(kwargs: dict) -> None:
    with pytest.raises(ValueError, match="TrainingNoise"):
        at.TrainingNoise(**kwargs)


def test_bad_descriptions_are_refused() -> None:
    good = at.chips.to_dict(at.chips.hermes64())
    with pytest.raises(ValueError, match="version 99"):
        at.chips.from_dict({**good, "version": 99})
    with pytest.raises(ValueError, match=r"no field \['colour'\]"):
        at.chips.from_dict({**good, "colour": 1})
    with pytest.raises(ValueError, match="unknown type 'FeFET'"):
        at.chips.from_dict({**good, "cell": {"type": "FeFET"}})
    with pytest.raises(ValueError, match="missing"):
        at.chips.from_dict({k: v for k, v in good.items() if k != "rows"})
    with pytest.raises(ValueError, match="expected 'Chip'"):
        at.chips.from_dict({"version": 1, "type": "TrainingNoise"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight": "devices"},
            r"one of \('none', 'gaussian', 'programming', 'device'\), got 'devices'",
        ),
        (
            {"weight": "device", "time": "soon"},
            "TrainingNoise.time: time 'soon' is not understood; give seconds",
        ),
        ({"weight": "device", "time": -1.0}, "TrainingNoise.time: .* >= 0, got -1.0"),
        ({"time": "1 year"}, "time='1 year' needs weight='device', got weight='programming'"),
        (
            {"drop_connect": 1.0},
            r"drop_connect must be a probability in \[0, 1\), got 1.0; write one such as 0.01",
        ),
        ({"drop_connect": "0.1"}, "drop_connect must be a probability"),
        ({"per_sample": 1}, "per_sample must be True or False, got 1"),
    ],
)
def test_training_noise_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        at.TrainingNoise(**options)


def test_training_noise_reads_its_time() -> None:
    assert at.TrainingNoise(weight="device").seconds == 86400.0
    assert at.TrainingNoise(weight="device", time="programmed").seconds is None
    assert dataclasses.replace(at.TrainingNoise(weight="device"), time=60).seconds == 60.0
    assert at.TrainingNoise(weight="device").strength == 1.0
