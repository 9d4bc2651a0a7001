"""Chips in YAML and JSON files, as a user writes them."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import analogtorch as at
from analogtorch.files import parse_yaml

PRESETS = [
    at.chips.hermes64(phases=1),
    at.chips.hermes_core(device="one_device"),
    at.chips.ibm_speech34(pcm_per_weight=2),
    at.chips.neurram48(output_bits=8, input_bits=6),
    at.chips.reram_4mb(precision=4),
    at.chips.sonos40(),
    at.chips.memcapacitor(bits=8),
    at.chips.photodiode_sensor(spread=0.0),
    at.chips.ideal(),
    at.chips.hermes64(
        training=at.TrainingNoise(
            weight="device", time=("0 s", "1 h"), drop_connect=0.01, per_sample=True, scale=0.5
        )
    ),
]


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
@pytest.mark.parametrize("chip", PRESETS, ids=lambda chip: chip.name)
def test_a_file_gives_the_chip_back(chip: at.Chip, suffix: str, tmp_path: Path) -> None:
    path = at.chips.save(chip, tmp_path / "deep" / f"mine{suffix}")
    assert at.chips.load(path) == chip
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_numbers_of_numpy_are_saved_as_numbers(suffix: str, tmp_path: Path) -> None:
    device = dataclasses.replace(at.devices.pcm_like(), g_max=np.float32(20.0), t0=np.int64(10))
    cell = at.devices.DifferentialPair(device=device, devices_per_polarity=np.int32(2))
    chip = at.chips.hermes64().replace(adc={"range": np.float64(10.0)}, cell=cell)
    loaded = at.chips.load(at.chips.save(chip, tmp_path / f"mine{suffix}"))
    assert loaded == chip
    assert (loaded.cell.device.g_max, loaded.cell.devices_per_polarity, loaded.adc.range) == (
        20.0,
        2,
        10.0,
    )


def test_a_curve_without_a_form_in_files_is_named(tmp_path: Path) -> None:
    device = dataclasses.replace(at.devices.pcm_like(), drift_mean=lambda r: 0.05 + 0 * r)
    chip = dataclasses.replace(at.chips.hermes64(), cell=at.devices.DifferentialPair(device=device))
    with pytest.raises(
        TypeError, match=r"chip.cell.device.drift_mean is <function .*; what has: .*register"
    ):
        at.chips.save(chip, tmp_path / "mine.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_curve_that_is_not_finite_is_refused(suffix: str, tmp_path: Path) -> None:
    data = at.chips.to_dict(at.chips.hermes64())
    data["cell"]["device"]["programming_std"]["coefficients"][1] = float("nan")
    path = tmp_path / f"mine{suffix}"
    path.write_text(json.dumps(data) if suffix == ".json" else yaml.safe_dump(data))
    with pytest.raises(
        ValueError, match=r"programming_std: Polynomial.coefficients\[1\] must be a finite number"
    ):
        at.chips.load(path)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_field_that_is_given_twice_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine{suffix}"
    at.chips.save(at.chips.hermes64(), path)
    text = path.read_text()
    path.write_text(text.replace('"rows"', '"columns"').replace("rows:", "columns:"))
    with pytest.raises(ValueError, match="gives 'columns' twice; leave one of them out"):
        at.chips.load(path)


def test_a_merged_field_may_be_given_again(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nmore: &more {<<: *base, a: 3}\nlast: {<<: *more, b: 4}\n"
    assert parse_yaml(text) == yaml.safe_load(text)


def test_numbers_with_an_exponent_need_no_point(tmp_path: Path) -> None:
    chip = at.chips.hermes64().replace(name="1e5", cost=None, adc={"noise": 2e-7, "range": 2e7})
    path = at.chips.save(chip, tmp_path / "mine.yaml")
    text = path.read_text().replace("2.0e-07", "2e-7").replace("20000000.0", "2e7")
    assert "noise: 2e-7\n" in text
    assert "range: 2e7\n" in text
    path.write_text(text)
    assert at.chips.load(path) == chip
    assert parse_yaml("[-1e1, 1.e+2, .5E3, 1.5e-3, 1e, e1, 1e1s, '1e1']") == (
        [-10.0, 100.0, 500.0, 0.0015, "1e", "e1", "1e1s", "1e1"]
    )


def _edited(path: Path, keys: tuple[str, ...], value: object) -> Path:
    data = at.chips.to_dict(at.chips.hermes64())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("tiles",), 3, r"Chip has no field \['tiles'\]; fields"),
        (("array", "tiles"), 0, "chip.array: Array.tiles must be an integer >= 1, got 0"),
        (("array", "rowz"), 3, r"Array has no field \['rowz'\]; fields"),
        (("adc", "bits"), 8, "ADC takes bits or steps, never both"),
        (("adc", "sources", "bitz"), "a paper", "ADC has no field 'bitz', did you mean 'bits'"),
        (("cost", "mvm_enregy"), 3, r"chip.cost: Cost has no field \['mvm_enregy'\]"),
        (
            ("cost", "mvm_energy", "value"),
            -1.0,
            r"chip.cost.mvm_energy: Figure.value must be .* >= 0, got -1.0",
        ),
        (
            ("cost", "network", "hop_energy", "kind"),
            "guess",
            "chip.cost.network.hop_energy: Figure.kind must be one of",
        ),
        (("cell", "type"), "DiferentialPair", "unknown type 'DiferentialPair', did you mean 'Diff"),
        (("adc", "range"), "12", "ADC.range must be a positive number, got '12'"),
        (("version",), 3, "version 3, this AnalogTorch reads versions 1 to 2"),
    ],
)
def test_bad_files_name_the_place_and_the_remedy(keys, value, message, tmp_path: Path) -> None:
    path = _edited(tmp_path / "mine.yaml", keys, value)
    with pytest.raises(ValueError, match=message) as caught:
        at.chips.load(path)
    assert str(path) in str(caught.value)


def test_a_misspelt_key_names_the_nearest_one(tmp_path: Path) -> None:
    data = at.chips.to_dict(at.chips.hermes64())
    data["adc"]["noize"] = data["adc"].pop("noise")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    with pytest.raises(
        ValueError, match=r"chip.adc: ADC has no field \['noize'\], did you mean 'noise'\?"
    ):
        at.chips.load(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("cell",), r"chip: Chip lacks the field \['cell'\]; fields that it must have: \['adc', "),
        (("cell", "name"), r"chip: Chip lacks the fields \['cell', 'name'\]; fields that it must"),
        (("array.rows",), r"chip.array: Array lacks the field \['rows'\]; fields that it must"),
    ],
)
def test_fields_that_a_file_lacks_are_named(
    keys: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    data = at.chips.to_dict(at.chips.hermes64())
    for key in keys:
        *parts, name = key.split(".")
        del functools.reduce(dict.__getitem__, parts, data)[name]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=f"mine.yaml: {message}"):
        at.chips.load(tmp_path / "mine.yaml")


def test_files_that_are_no_chip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="not YAML that can be loaded safely"):
        at.chips.load(path)
    path.write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match="must be a mapping"):
        at.chips.load(path)
    broken = tmp_path / "mine.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        at.chips.load(broken)
    broken.write_text("[" * 5000)
    with pytest.raises(ValueError, match=r"mine\.json: is nested more than 50 levels deep"):
        at.chips.load(broken)
    with pytest.raises(ValueError, match="must end in one of .yaml, .yml, .json"):
        at.chips.save(at.chips.ideal(), tmp_path / "mine.toml")
    with pytest.raises(FileNotFoundError):
        at.chips.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a0 [x]\n" + "".join(f"b{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 40)),
            "values once",
        ),
        (
            "a: &a0 [x]\n" + "".join(f"b{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 900)),
            "nested more than 50 levels",
        ),
        ("a: &a [*a]\n", "nested more than 50 levels"),
        ("[" * 3000, "nested more than 50 levels"),
    ],
    ids=["bomb", "chain", "loop", "deep"],
)
def test_yaml_that_grows_when_it_is_read_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        at.chips.load(path)
    assert str(path) in str(caught.value)


def test_yaml_is_not_needed_for_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)  # importing it is an ImportError
    chip = at.chips.hermes64()
    assert at.chips.load(at.chips.save(chip, tmp_path / "mine.json")) == chip
    with pytest.raises(
        ImportError, match=r'pip install "analogtorch\[yaml\]", or use a .json file'
    ):
        at.chips.save(chip, tmp_path / "mine.yaml")
