"""Files: chips, checkpoints, mappings, recordings and lists of them."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import analogtorch as at
from analogtorch import chips
from tests.battery.calls import CHIP, NO_MODEL, Bad, X, analog, digital, every, mapping, programmed

NO_PATH = (None, 3, True, b"x")


def _folder() -> Path:
    return Path(tempfile.mkdtemp())


def written(name: str, data: bytes | str) -> Path:
    """A new file with the data."""
    path = _folder() / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def calls() -> Iterator[Bad]:
    """All of them."""
    yield from _chips()
    yield from _checkpoints()
    yield from _mappings()


def _edited(keys: tuple[str, ...], value: Any) -> Path:
    data = chips.to_dict(CHIP)
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return written("chip.json", json.dumps(data))


def _chips() -> Iterator[Bad]:
    yield from every("chips.load path", chips.load, NO_PATH, "path must be", TypeError)
    yield from every(
        "chips.load suffix", chips.load, ["", "a", "a.toml", "a.json.txt"], "must end in one of"
    )
    yield Bad(
        "chips.load absent", lambda: chips.load(_folder() / "no.json"), FileNotFoundError, "no.json"
    )
    yield Bad(
        "chips.load folder",
        lambda: chips.load(_folder()),
        (ValueError, OSError),
        "must end in one of",
    )
    for text in (
        "",
        "{",
        "[]",
        "3",
        "null",
        '"chip"',
        '{"version": 1}',
        '{"version": "1"}',
        "[" * 5000,
    ):
        yield Bad(
            f"chips.load json {text[:9]}",
            lambda text=text: chips.load(written("c.json", text)),
            ValueError,
            r"c\.json",
        )
    for text in ("", ":", "a: [", "- 1", "!!python/object:os.system {}", "a: *b", "\x00"):
        yield Bad(
            f"chips.load yaml {text[:9]}",
            lambda text=text: chips.load(written("c.yaml", text)),
            ValueError,
            r"c\.yaml",
        )
    yield Bad(
        "chips.load binary",
        lambda: chips.load(written("c.json", b"\xff\xfe\x00")),
        ValueError,
        r"c\.json",
    )
    edits: dict[tuple[str, ...], tuple[Any, ...]] = {
        ("array",): (None, "256x256", 3, []),
        ("array", "tiles"): (0, -1, 1.5, "3", True, None, []),
        ("array", "rows"): (0, "256", None),
        ("array", "sources"): (None, "a paper", 3, {"rowz": "a paper"}, {"rows": 3}),
        ("dac", "bits"): (1, 17, "8", 8.5, True),
        ("adc", "bits"): (8, 1, "8"),  # the ADC has steps
        ("adc", "range"): (0, -1, "12", None, True, float("nan"), float("inf")),
        ("adc", "noise"): (-1, "0", None, float("nan")),
        ("periphery", "output_bits"): (1, 17, "8", 8.5, True),
        ("periphery", "weight_scale"): ("row", None, 3),
        ("cell",): (None, "pcm", 3, []),
        ("cell", "device"): (None, "pcm", 3),
        ("cell", "type"): ("DifferentialPear", "PCM", None, 3, []),
        ("cell", "device", "g_max"): (0, -1, "20", None, float("nan")),
        ("cell", "device", "drift_mean"): (None, 0.05, "flat"),
        ("cell", "device", "programming_std", "coefficients"): (
            [], [float("nan")], "0.1", None, [None],
        ),
        ("training", "drop_connect"): (1, -0.1, "0"),
        ("training", "weight"): ("gausian", None),
        ("cost", "mvm_energy", "value"): (-1, "5e-8", None, True),
        ("cost", "phases"): (0, 1.5, "4"),
        ("version",): (3, 0, "1", None, True),
        ("typo",): (1,),
        ("training", "typo"): (1,),
    }  # fmt: skip
    for keys, values in edits.items():
        where = ".".join(keys)
        yield from every(
            f"chip file {where}",
            lambda v, keys=keys: chips.load(_edited(keys, v)),
            values,
            r"chip\.json: ",
        )
    yield from every(
        "chips.save chip",
        lambda v: chips.save(v, _folder() / "a.json"),
        [None, "hermes64", chips.hermes64],
        "chip must be a Chip",
        TypeError,
    )
    yield from every(
        "chips.save path", lambda v: chips.save(CHIP, v), NO_PATH, "path must be", TypeError
    )
    yield Bad(
        "chips.save suffix",
        lambda: chips.save(CHIP, _folder() / "a.toml"),
        ValueError,
        "must end in one of",
    )


def _checkpoints() -> Iterator[Bad]:
    yield from every(
        "save model",
        lambda v: at.save(v, _folder() / "m"),
        NO_MODEL,
        "save: model must be",
        TypeError,
    )
    yield from every("save path", lambda v: at.save(analog(), v), NO_PATH, "path", TypeError)
    yield from every("load path", lambda v: at.load(v, digital()), NO_PATH, "path", TypeError)
    yield Bad("load absent", lambda: at.load(_folder() / "none", digital()), OSError, "none")
    saved = at.save(analog(), _folder() / "m")
    chip = at.save(programmed(), _folder() / "p")
    yield from every(
        "load model", lambda v: at.load(saved, v), NO_MODEL, "load: model must be", TypeError
    )
    yield from every(
        "load chip, model", lambda v: at.load(chip, v), NO_MODEL, "load: model must be", TypeError
    )
    yield Bad("load other", lambda: at.load(saved, torch.nn.Linear(3, 3)), ValueError, "")
    yield Bad(
        "load chip",
        lambda: at.load(saved, programmed()),
        TypeError,
        "a programmed chip is a model at a time",
    )
    yield Bad(
        "load chip, other",
        lambda: at.load(chip, torch.nn.Linear(3, 3)),
        ValueError,
        "another architecture",
    )
    yield Bad(
        "load empty folder",
        lambda: at.load(_folder(), digital()),
        (ValueError, OSError),
        "analog.json",
    )
    for text in ("", "{", "[]", "null", "{}", "[" * 5000):

        def damaged(text: str = text) -> Any:
            path = at.save(analog(), _folder() / "m")
            (path / "analog.json").write_text(text)
            return at.load(path, digital())

        yield Bad(f"load analog.json {text[:9]}", damaged, ValueError, r"analog\.json")

    def cut() -> Any:
        path = at.save(analog(), _folder() / "m")
        weights = next(p for p in path.iterdir() if p.suffix == ".safetensors")
        weights.write_bytes(weights.read_bytes()[:-3])
        return at.load(path, digital())

    yield Bad("load cut weights", cut, ValueError, "safetensors")


def _mappings() -> Iterator[Bad]:
    text = mapping().to_json()
    for name, bad in {
        "cut": text[:-20],
        "digit": text.replace('"rows": 5', '"rows": 6', 1),
        "deep": "[" * 5000,
        "nan": text.replace("5", "NaN", 1),
    }.items():
        yield Bad(
            f"from_json {name}",
            lambda bad=bad: at.ChipMapping.from_json(bad),
            ValueError,
            "mapping",
        )
    yield Bad(
        "program other",
        lambda: at.program(at.convert(torch.nn.Linear(9, 9), CHIP), seed=1, mapping=mapping()),
        ValueError,
        "the mapping",
    )
    yield Bad(
        "map nan chips",
        lambda: at.map_to_chip(digital(), X, chip=CHIP, num_chips=float("nan")),
        ValueError,
        "num_chips must be an integer",
    )
