import dataclasses
import json

import pytest

import analogtorch as at


@pytest.mark.parametrize("device", ["two_device", "one_device", "two_equal", "two_sequential", "pcm_like"])
def test_every_option_survives_json(device: str) -> None:
    chip = at.chips.hermes64(device=device)
    assert at.chips.from_dict(json.loads(json.dumps(at.chips.to_dict(chip)))) == chip


def test_hermes64_is_the_published_chip() -> None:
    chip = at.chips.hermes64()
    assert (chip.tiles, chip.rows, chip.cols, chip.input_bits, chip.output_bits) == (64, 256, 256, 8, 8)
    assert chip.cells == 4_194_304
    assert any("ASSUMED" in source for source in chip.sources)


def test_unknown_names_are_refused_with_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"unknown chip 'hermes'.*hermes64.*Did you mean 'hermes64'"):
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
    "kwargs", [{"weight": "uniform"}, {"scale": -1.0}, {"scale": float("nan")}, {"weight": "gaussian"}]
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
