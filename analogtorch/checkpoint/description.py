"""``analog.json``: the description of a model beside its weights, written and read."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from analogtorch import chips
from analogtorch.calibration.norm_statistics import statistics_before
from analogtorch.chips import Chip
from analogtorch.conversion.digital_bits import quantised
from analogtorch.conversion.kinds import analog_layers
from analogtorch.conversion.route import routes
from analogtorch.files import checked, parse_json
from analogtorch.mapping import ChipMapping
from analogtorch.nn.converter_state import COLUMN_RANGES, EARLIER, Numbers
from analogtorch.nn.converters import dac_ranges_text
from analogtorch.ops import VERSION as GENERATOR
from analogtorch.simulate.chip import ProgrammedChip
from analogtorch.simulate.defects import Defects
from analogtorch.simulate.writing import GradientDescent, Method, ProgramAndVerify
from analogtorch.values import checks
from analogtorch.values.version import RELEASE

FORMAT = "analogtorch.checkpoint"
VERSION = 1
"""Version of the form; it rises when a field changes its meaning."""
WEIGHTS = "weights.safetensors"
DESCRIPTION = "analog.json"

_TOP = (
    "format", "version", "analogtorch", "generator", "weights", "tied", "chips", "layers",
    "routes", "int8", "batch_norm", "programmed", "averaged",
)  # fmt: skip
_LAYER = ("name", "key", "kind", "weight", "shape", "chip", "calibrated", "input_range")
_SEQUENCE = "sequence_first"
_GIVEN = "given_chip"
_METHODS: dict[str, type[ProgramAndVerify] | type[GradientDescent]] = {
    kind.__name__: kind for kind in (ProgramAndVerify, GradientDescent)
}


@dataclass(frozen=True)
class SavedLayer:
    """One analog layer of a checkpoint."""

    name: str
    """Name of the layer in the model."""
    key: str
    """Name that keys its noise: the one under which it was converted."""
    kind: str
    chip: Chip
    given_chip: Chip
    """The chip without what calibration chose for it."""
    shape: tuple[int, ...]
    input_range: float | tuple[float, ...] | None
    """The DAC range, or that of each row block; None if it is not calibrated."""
    column_ranges: dict[str, Numbers]
    """ADC ranges and output ranges: one number, or (row blocks, outputs); None: the chip's."""
    weight: str
    """Key of its weight in the ``state_dict``."""
    sequence_first: bool
    """Whether it is set to get (L, N, features)."""

    @property
    def owner(self) -> str:
        """Name of the module that holds the weight, which ``convert`` turns into the layer."""
        return self.weight.rpartition(".")[0]


@dataclass(frozen=True)
class SavedProgram:
    """The arguments of ``program``, without the model."""

    seed: int
    method: Method | None
    defects: Defects | None
    mapping: ChipMapping | None
    programmed_before: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint without its weights, as ``read`` returns it; print it."""

    folder: Path
    analogtorch: str
    """Version of AnalogTorch that wrote it."""
    generator: int
    """Version of the noise generator; another version programs another chip from the same seed."""
    layers: tuple[SavedLayer, ...]
    routes: dict[str, tuple[str, ...]]
    """The layers that modules reach by their weights: relative names by the module's."""
    int8: tuple[str, ...]
    """The digital layers that ``quantise_digital`` made."""
    batch_norm: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    """Mean and variance of the batch norms that ``reestimate_batch_norm`` moved, as they were."""
    tied: dict[str, str]
    """Keys that the weights file leaves out, each with the key of the same tensor."""
    size: int
    """Size of the weights file, bytes."""
    sha256: str
    """SHA-256 of the weights file."""
    programmed: SavedProgram | None
    averaged: int
    """Number of models that an ``AveragedModel`` has averaged; 0: it is of none."""

    def __str__(self) -> str:
        width = max(5, *(len(layer.name) for layer in self.layers))
        lines = [f"{'layer':<{width}}  {'kind':<14}  {'weight':<18}  {'chip':<14}  DAC range"]
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape))
            value = layer.input_range
            ranges = (value,) if isinstance(value, float | int) else value
            given = "not calibrated" if ranges is None else dac_ranges_text(ranges)
            lines.append(
                f"{layer.name or '(root)':<{width}}  {layer.kind:<14}  {shape:<18}  "
                f"{layer.chip.name:<14}  {given}"
            )
        what = "a model"
        if self.programmed is not None:
            what = f"a chip programmed with seed {self.programmed.seed}"
        lines.append(
            f"{what}, {self.size:,} bytes of weights, written by AnalogTorch {self.analogtorch}"
        )
        return "\n".join(lines)


def read(path: str | Path) -> Checkpoint:
    """Return the content of a checkpoint without its weights.

    Args:
        path: the folder that ``save`` wrote.

    Raises:
        ValueError: the file is no JSON, of a newer version, or has fields that are missing, unknown
            or impossible.
        OSError: the file is missing or cannot be read.
    """
    folder = checks.path("path", path)
    file = folder / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no {DESCRIPTION}; give the folder that analogtorch.save wrote"
        )
    try:
        return _decoded(folder, checked(parse_json(file.read_bytes())))
    except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: a field has the wrong shape: {type(error).__name__}: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the fields that describe which layers of a model are analog and how."""
    layers, reached, int8 = dict(analog_layers(model)), routes(model), quantised(model)
    before = statistics_before(model).items()
    norms = {name: [t.tolist() for t in pair] for name, pair in before}
    used: list[Chip] = []
    for chip in (c for layer in layers.values() for c in (layer.chip, layer.given_chip)):
        if chip not in used:
            used.append(chip)
    return {
        "format": FORMAT,
        "version": VERSION,
        "analogtorch": RELEASE,
        "generator": GENERATOR,
        "chips": [chips.to_dict(chip) for chip in used],
        "layers": [
            {
                "name": name,
                "key": layer.layer_name,
                "kind": type(layer).__name__,
                "weight": layer.parameter_name(name),
                "shape": list(layer.weight.shape),
                "chip": used.index(layer.chip),
                "calibrated": layer.calibrated,
                "input_range": _saved(layer.input_ranges),
                **{kind: layer.saved_column_ranges(kind) for kind in COLUMN_RANGES},
                # files of layers and models without them stay as they were
                **({_SEQUENCE: True} if layer.sequence_first else {}),
                **(
                    {_GIVEN: used.index(layer.given_chip)} if layer.given_chip != layer.chip else {}
                ),
            }
            for name, layer in layers.items()
        ],
        **({"routes": reached} if reached else {}),
        **({"int8": int8} if int8 else {}),
        **({"batch_norm": norms} if norms else {}),
    }


def _saved(ranges: tuple[float, ...] | None) -> float | list[float] | None:
    if ranges is None:
        return None
    return ranges[0] if len(ranges) == 1 else list(ranges)


_BEFORE = "programmed_before"
_TILES = "chips_by_array"
_APART = 2
"""What it says where no two tiles draw the same; earlier versions wrote True."""


def recipe(physical: ProgrammedChip) -> dict[str, Any]:
    """Return the arguments of ``program`` as JSON-ready types."""
    seed, method, defects, mapping = (
        getattr(physical, name) for name in ("seed", "method", "defects", "mapping")
    )
    used = [layer.chip for _, layer in analog_layers(physical._model)]
    return {
        "seed": int(seed),
        "method": None if method is None else {"type": type(method).__name__, **asdict(method)},
        "defects": None if defects is None else _written(defects),
        "mapping": None if mapping is None else mapping.to_dict(),
        # files of chips that were not programmed before stay as they were
        **({_BEFORE: physical.programmed_before} if physical.programmed_before else {}),
        **({_TILES: _APART} if _of_sizes(used) else {}),
    }


_ALWAYS = ("cells", "worst_tile", "columns", "tiles", "tile_gain")
"""The defects that every file states; it states the others where they are not the default, so that
files without them stay as they were."""


def _of_sizes(used: list[chips.Chip]) -> bool:
    """Return whether arrays of chips have several sizes."""
    return len({chip.array.size for chip in used}) > 1


def _written(defects: Defects) -> dict[str, Any]:
    usual = asdict(Defects())
    return {
        name: value
        for name, value in asdict(defects).items()
        if name in _ALWAYS or value != usual[name]
    }


def _decoded(folder: Path, data: Any) -> Checkpoint:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"not written by analogtorch.save: its 'format' is not {FORMAT!r}")
    version = data.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        remedy = "it is damaged"
        if newer:
            remedy = f"update AnalogTorch; it was written by {data.get('analogtorch')}"
        raise ValueError(
            f"has version {version!r}, AnalogTorch {RELEASE} reads version {VERSION}: {remedy}"
        )
    data = {"routes": {}, "int8": [], "batch_norm": {}, "averaged": 0, **data}
    _check_fields("", data, _TOP)
    weights, used = data["weights"], [chips.from_dict(chip) for chip in data["chips"]]
    _check_fields("weights: ", weights, ("file", "bytes", "sha256"))
    if weights["file"] != WEIGHTS:
        raise ValueError(f"weights: file must be {WEIGHTS!r}, got {weights['file']!r}")
    programmed = data["programmed"]
    if not data["layers"]:
        raise ValueError("layers is empty: no layer is analog")
    return Checkpoint(
        folder=folder,
        analogtorch=str(data["analogtorch"]),
        generator=data["generator"],
        layers=tuple(_layer(entry, used) for entry in data["layers"]),
        routes={str(name): tuple(map(str, names)) for name, names in data["routes"].items()},
        int8=tuple(map(str, data["int8"])),
        batch_norm={
            str(name): (tuple(map(float, mean)), tuple(map(float, var)))
            for name, (mean, var) in data["batch_norm"].items()
        },
        tied={str(key): str(kept) for key, kept in data["tied"].items()},
        size=int(weights["bytes"]),
        sha256=str(weights["sha256"]),
        programmed=None if programmed is None else _program(programmed, _of_sizes(used)),
        averaged=checks.count("averaged", data["averaged"], least=0),
    )


def _check_fields(where: str, data: Any, known: tuple[str, ...]) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where}must be a mapping, got {data!r}")
    missing, unknown = sorted(set(known) - data.keys()), sorted(data.keys() - set(known))
    if missing or unknown:
        raise ValueError(f"{where}missing fields {missing}, unknown {unknown}")


def _layer(data: Any, used: list[Chip]) -> SavedLayer:
    if isinstance(data, dict):
        data = {EARLIER.get(field, field): value for field, value in data.items()}
        # earlier checkpoints have none
        data = {**dict.fromkeys(COLUMN_RANGES), _SEQUENCE: False, _GIVEN: data.get("chip"), **data}
    _check_fields("layers: ", data, (*_LAYER, *COLUMN_RANGES, _SEQUENCE, _GIVEN))
    name, value = data["name"], data["input_range"]
    for field in ("name", "key", "kind", "weight"):
        if not isinstance(data[field], str):
            raise ValueError(f"layers: {name!r}: {field} must be text, got {data[field]!r}")
    for index in (data["chip"], data[_GIVEN]):
        if type(index) is not int or not 0 <= index < len(used):
            raise ValueError(
                f"layers: {name!r} is on chip {index!r}, but the file has {len(used)} chips"
            )
    if data["calibrated"] is not (value is not None):
        raise ValueError(
            f"layers: {name!r} has calibrated {data['calibrated']!r} and input_range {value!r}"
        )
    if isinstance(value, list):
        value = tuple(value)
    values = value if isinstance(value, tuple) and len(value) > 1 else (value,)
    if value is not None and not all(type(v) in (int, float) and 0 < v < math.inf for v in values):
        raise ValueError(f"layers: {name!r} must have a positive finite input_range, got {value!r}")
    shape = tuple(map(int, data["shape"]))
    column_ranges = {field: data[field] for field in COLUMN_RANGES}
    for field, values in column_ranges.items():
        if values is not None and not _are_ranges(values):
            raise ValueError(
                f"layers: {name!r} must have positive {field}, one or (row blocks, outputs), got "
                f"{values!r:.50}"
            )
    return SavedLayer(
        name=name,
        key=data["key"],
        kind=data["kind"],
        chip=used[data["chip"]],
        given_chip=used[data[_GIVEN]],
        shape=shape,
        input_range=value,
        column_ranges=column_ranges,
        weight=data["weight"],
        sequence_first=checks.flag(f"layers: {name!r}: {_SEQUENCE}", data[_SEQUENCE]),
    )


def _are_ranges(value: Any) -> bool:
    rows = value if isinstance(value, list) and value else [[value]]
    numbers: list[Any] = [
        v for row in rows for v in (row if isinstance(row, list) and row else [None])
    ]
    return all(type(v) in (int, float) and 0 < v < math.inf for v in numbers)


def _program(data: Any, of_sizes: bool) -> SavedProgram:
    data = {_BEFORE: 0, _TILES: False, **data}
    _check_fields("programmed: ", data, ("seed", "method", "defects", "mapping", _BEFORE, _TILES))
    if of_sizes and data["mapping"] is None and data[_TILES] != _APART:
        raise ValueError(
            "programmed: chips with arrays of several sizes, by an earlier version, which gave "
            f"several tiles the same defects; load {WEIGHTS} into a model, and program it anew"
        )
    before = checks.count("programmed: programmed_before", data[_BEFORE], least=0)
    method, defects, mapping = data["method"], data["defects"], data["mapping"]
    if method is not None:
        kind = _METHODS.get(method.get("type"))
        if kind is None:
            raise ValueError(
                f"programmed: method must be one of {sorted(_METHODS)}, got {method.get('type')!r}"
            )
        if kind is GradientDescent and "full_steps" not in method:
            raise ValueError(
                "programmed: method is the GradientDescent of an earlier version, which wrote "
                f"other chips; load {WEIGHTS} into a model, and program it anew"
            )
        _check_fields("programmed: method: ", method, ("type", *(f.name for f in fields(kind))))
        method = kind(**{name: value for name, value in method.items() if name != "type"})
    if isinstance(defects, dict) and defects.get("column_gain", 1) == 0:
        # older files: the chip's
        defects = {name: value for name, value in defects.items() if name != "column_gain"}
    if defects is not None:
        if isinstance(defects, dict):
            usual = asdict(Defects())
            defects = {n: v for n, v in usual.items() if n not in _ALWAYS} | defects
        _check_fields("programmed: defects: ", defects, tuple(f.name for f in fields(Defects)))
        defects = Defects(**defects)
    seed = data["seed"]
    if type(seed) is not int:
        raise ValueError(f"programmed: seed must be an integer, got {seed!r}")
    return SavedProgram(
        seed, method, defects, None if mapping is None else ChipMapping.from_dict(mapping), before
    )
