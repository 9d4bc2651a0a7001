"""Numbers that a user gives: what is taken, and as what."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analogtorch as at
from analogtorch.devices import seconds
from analogtorch.mapping.capacity import chips_needed
from analogtorch.values import checks


@pytest.mark.parametrize(
    ("bounds", "value", "allowed"),
    [
        ({}, 1e39, r"a number in \[-3.40282e\+38, 3.40282e\+38\], got 1e\+39"),
        ({}, -(10**400), r"a number in \[-3.40282e\+38, 3.40282e\+38\], got -1000"),
        ({"above": 0}, 10**39, r"a number in \(0, 3.40282e\+38\], got 1000"),
        ({"least": 0, "most": 2}, 10**400, r"a number in \[0, 2\]"),
        ({"least": 0}, -1e300, "a number in"),
        ({"least": 0}, math.inf, "a number >= 0, got inf"),
        ({"largest": 1e9}, 2e9, r"a number in \[-1e\+09, 1e\+09\], got 2"),
    ],
)
def test_numbers_beyond_float32_are_refused(bounds: dict, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^a must be {allowed}"):
        checks.number("a", value, **bounds)


def test_counts_beyond_32_bits_are_refused_unless_they_may_be_larger() -> None:
    for value in (2**31, 10**400):
        with pytest.raises(ValueError, match=r"^a must be an integer in \[1, 2147483647\], got \d"):
            checks.count("a", value)
    assert checks.count("a", 2**31 - 1) == 2**31 - 1
    assert checks.count("a", 2**40, largest=checks.INT64) == 2**40
    assert checks.count("a", 2**40, most=2**62) == 2**40


def test_numbers_become_those_that_tensors_take() -> None:
    for value in (np.float32(3.4e38), np.float16(2.0), 10**30, 0.5, np.int64(-3)):
        found = checks.number("a", value)
        assert type(found) in (int, float)
        assert found == float(value)
        assert torch.full((1,), found).isfinite()
    assert type(checks.number("a", np.int64(3))) is int


def test_times_and_64_bit_counts_are_as_large_as_they_were() -> None:
    assert seconds(1e308) == 1e308
    with pytest.raises(ValueError, match=r"seconds in \[0, 1.79769e\+308\]"):
        seconds(10**400)  # type: ignore[arg-type]
    assert chips_needed(at.chips.hermes64(), 70 * 10**9) > 1000
    with at.noise(seed=0, step=2**40, first_sample=2**33):
        pass


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("adc", "range", 1e308, "ADC.range must be a number in"),
        ("adc", "steps", 10**30, "ADC.steps must be an integer in"),
        ("dac", "gain_std", 10**39, "DAC.gain_std must be a number in"),
        ("array", "columns", 10**30, "Array.columns must be an integer in"),
        ("wires", "row_resistance", 1e308, "Wires.row_resistance must be a number in"),
        ("training", "scale", 1e308, "TrainingNoise.scale must be a number in"),
        ("cell", "devices_per_polarity", 10**30, "DifferentialPair.devices_per_polarity must be"),
        ("cell", "device", 1e308, r"Polynomial.coefficients\[0\] must be a number in"),
    ],
)
def test_files_of_chips_with_such_numbers_name_the_field(
    part: str, field: str, value: Any, message: str, tmp_path: Path
) -> None:
    chip: Any = at.chips.to_dict(at.chips.hermes64())
    if field == "device":
        chip[part][field]["programming_std"]["coefficients"] = [value]
    else:
        chip[part][field] = value
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(chip))
    with pytest.raises(ValueError, match=f"mine.json: .*{message}"):
        at.chips.load(file)


def test_a_large_integer_of_a_chip_computes() -> None:
    chip = at.chips.hermes64().replace(adc={"range": 10**30})
    model = at.convert(torch.nn.Sequential(torch.nn.Linear(20, 10)), chip).eval()
    assert at.program(model, seed=0).at("1 day")(torch.ones(2, 20)).isfinite().all()
