"""Converted models and programmed chips on disk: weights as safetensors, everything else as versioned JSON. No pickle.

A checkpoint is a folder of two files. ``weights.safetensors`` has the keys of the digital model and loads into it by
any tool; ``analog.json`` says what of the model is analog and how, and which weights file it belongs to.
"""

import contextlib
import copy
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from analogtorch.convert import analog_layers, convert, reason, refuse_programmed
from analogtorch.convert.kinds import analog_type
from analogtorch.description import DESCRIPTION, WEIGHTS, Checkpoint, describe, library_version, read, recipe
from analogtorch.nn import AnalogLayer, AnalogMatrix
from analogtorch.nn.ranges import without_converters
from analogtorch.ops import VERSION as GENERATOR
from analogtorch.program import ProgrammedChip, program
from analogtorch.tiling import sections

_PREVIOUS = ".weights.previous.safetensors"  # there only between the replacement of the two files
_SHOWN = 5  # differences that an error lists


def save(model: nn.Module | ProgrammedChip, path: str | Path) -> Path:
    """Write a converted model, or a programmed chip, to the folder ``path``, in place of a checkpoint that is there.

    ``weights.safetensors`` has the keys of the digital model's ``state_dict``, of tied weights one; ``analog.json`` the
    rest. Of a programmed chip they hold the model that was programmed and what to program it with: not conductances,
    which the seed gives again. A checkpoint that was there stays readable until the new one is whole.

    Args:
        model: a converted model, or what ``program`` returned.
        path: the folder; it is made where it is missing.

    Returns:
        The folder.

    Raises:
        TypeError: ``model`` is of another type.
        ValueError: a model without analog layers, a programmed chip at one time, a parametrized analog layer, or a
            state that is no plain tensor with data. Nothing is written.
        ImportError: safetensors is not installed.
        OSError: the files could not be written. What was there is untouched.

    Example:
        >>> folder = save(at.convert(torch.nn.Linear(8, 4), at.chips.hermes64()), tempfile.mkdtemp())
        >>> load(folder, torch.nn.Linear(8, 4)).chip.name
        'hermes64'
    """
    physical = model if isinstance(model, ProgrammedChip) else None
    module = physical._model if physical is not None else model
    if not isinstance(module, nn.Module):
        raise TypeError(f"save: model must be a torch.nn.Module or a ProgrammedChip, got {type(model).__name__}")
    layers = dict(analog_layers(module))
    if not layers:
        raise ValueError("save: the model has no analog layer; call analogtorch.convert(model, chip) first")
    if any(layer.programmed is not None for layer in layers.values()):
        raise ValueError("save: this is a programmed chip at one time; save what analogtorch.program returned")
    if changed := [name for name, layer in layers.items() if parametrize.is_parametrized(layer)]:
        raise ValueError(f"save: remove the parametrizations of {changed[0]!r} first")
    tensors, tied = _unique(module)
    description = describe(layers) | {"tied": tied, "programmed": None if physical is None else recipe(physical)}
    return _write(Path(path), tensors, tied, description)


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Load what ``save`` wrote into a model of the same architecture, and convert what was analog of it.

    Weights, chips, input ranges and the names that key the noise are then those of the saved model, whatever they were
    before. A model on the meta device gets the tensors of the file.

    Args:
        path: the folder that ``save`` wrote.
        model: a digital model, or a converted one that has the same layers on the same chips.

    Returns:
        The model; assign it, as a root layer cannot be replaced in place.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a file that is truncated, damaged, of a newer version or of another checkpoint; a model of another
            architecture, or one that is analog otherwise. The model is unchanged.
        ImportError: safetensors is not installed.
        OSError: a file is missing or cannot be read.

    Example:
        >>> folder = save(at.convert(torch.nn.Linear(8, 4), at.chips.hermes64()), tempfile.mkdtemp())
        >>> model = load(folder, torch.nn.Linear(8, 4))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"load: model must be a torch.nn.Module, got {type(model).__name__}")
    saved = read(path)
    return _load(saved, _tensors(saved), model)


def load_programmed(path: str | Path, model: nn.Module) -> ProgrammedChip:
    """Program again the chip that ``save`` was given: the same devices, defects and numbers at any time.

    Args:
        path: the folder that ``save`` wrote.
        model: a model of the same architecture, digital or converted; it is copied and not changed.

    Raises:
        ValueError: as ``load``; or the checkpoint holds no programmed chip, was written with another version of the
            noise generator, or the model has weights of another type.
        TypeError, ImportError, OSError: as ``load``.

    Example:
        >>> physical = at.program(at.convert(torch.nn.Linear(8, 4), at.chips.hermes64()), seed=7)
        >>> load_programmed(save(physical, tempfile.mkdtemp()), torch.nn.Linear(8, 4)).seed
        7
    """
    saved = read(path)
    recipe = saved.programmed
    if recipe is None:
        raise ValueError(
            f"{saved.folder} holds a model, not a programmed chip; load it with analogtorch.load, then call "
            "analogtorch.program(model, seed=...)"
        )
    if saved.generator != GENERATOR:
        raise ValueError(
            f"{saved.folder} was programmed with version {saved.generator} of the noise generator, AnalogTorch "
            f"{library_version()} has version {GENERATOR} and would make another chip of seed {recipe.seed}; "
            "use AnalogTorch "
            f"{saved.analogtorch}"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"load_programmed: model must be a torch.nn.Module, got {type(model).__name__}")
    tensors = _tensors(saved)
    loaded = _load(saved, tensors, copy.deepcopy(model))
    for key, t in loaded.state_dict().items():
        if t.dtype != tensors[key].dtype:
            raise ValueError(
                f"{saved.folder}: {key!r} is {t.dtype} in the model and {tensors[key].dtype} in the file, which makes "
                f"other conductances; call model.to({tensors[key].dtype}) first"
            )
    return program(loaded, seed=recipe.seed, method=recipe.method, defects=recipe.defects, mapping=recipe.mapping)


def _unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model by key, ties left out; and the keys left out, each with that of the same tensor."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[Any, str] = {}
    storages = set()
    for key, t in model.state_dict().items():
        if type(t) is not Tensor or t.layout is not torch.strided or t.is_quantized:
            raise ValueError(
                f"save: {key!r} is no plain dense tensor but {type(t).__name__}; materialise it, or gather a sharded "
                "model first"
            )
        if t.is_meta:
            raise ValueError(f"save: {key!r} is on the meta device; load weights first")
        storage = t.untyped_storage()._cdata
        place = (storage, t.storage_offset(), t.shape, t.stride(), t.dtype)
        if place in seen and t.numel():
            tied[key] = seen[place]
            continue
        seen[place] = key
        tensors[key] = t.clone(memory_format=torch.contiguous_format) if storage in storages else t.contiguous()
        storages.add(storage)
    return tensors, tied


def _write(folder: Path, tensors: dict[str, Tensor], tied: dict[str, str], description: dict[str, Any]) -> Path:
    save_file, _, failed = _safetensors()
    part = uuid.uuid4().hex
    weights, text = folder / f".{WEIGHTS}.{part}", folder / f".{DESCRIPTION}.{part}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, weights, metadata={"format": "pt", **tied})
        size, sha256 = _digest(weights)
        description["weights"] = {"file": WEIGHTS, "bytes": size, "sha256": sha256}
        text.write_text(json.dumps(description, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        _digest(text)
        _replace(folder, weights, text)
    except (OSError, failed) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(
            f"could not write a checkpoint to {folder}: {why}. What was there before is untouched; free some space or "
            "choose another folder"
        ) from error
    finally:
        for file in (weights, text):
            with contextlib.suppress(OSError):
                file.unlink()
    return folder


def _replace(folder: Path, new: Path, text: Path) -> None:
    """Put both new files in place, the description last; if that fails, the old weights are back.

    The old weights stay beside the new ones until the description is there, so that a process that is killed between
    the two leaves both halves of the old checkpoint, which ``_weights`` finds.
    """
    weights, previous = folder / WEIGHTS, folder / _PREVIOUS
    _recover(folder)
    if weights.exists():
        try:
            os.link(weights, previous)
        except OSError:  # a file system without hard links
            shutil.copyfile(weights, previous)
    os.replace(new, weights)
    try:
        os.replace(text, folder / DESCRIPTION)
    except BaseException:
        if previous.exists():
            os.replace(previous, weights)
        else:
            weights.unlink()
        raise
    previous.unlink(missing_ok=True)


def _recover(folder: Path) -> None:
    """Finish what a process that was killed in ``_replace`` began."""
    previous = folder / _PREVIOUS
    if not previous.exists():
        return
    with contextlib.suppress(OSError, ValueError):
        if _weights(read(folder)) == previous:
            os.replace(previous, folder / WEIGHTS)
            return
    previous.unlink()


def _digest(file: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file that is on the disk for good."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
        return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()


def _safetensors() -> tuple[Any, Any, type[Exception]]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file
    except ImportError as error:
        raise ImportError("checkpoints need the package safetensors; run: pip install safetensors") from error
    return save_file, load_file, SafetensorError


def _weights(saved: Checkpoint) -> Path:
    """The file that the description belongs to."""
    wrong = []
    for file in (saved.folder / WEIGHTS, saved.folder / _PREVIOUS):
        if not file.is_file():
            continue
        size = file.stat().st_size
        if size != saved.size:
            state = "truncated, or of another checkpoint" if size < saved.size else "of another checkpoint"
            wrong.append(f"{file} has {size:,} bytes, {DESCRIPTION} belongs to one of {saved.size:,}: it is {state}")
            continue
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == saved.sha256:
                return file
        wrong.append(f"{file} is not the file that {DESCRIPTION} belongs to: it is damaged, or of another checkpoint")
    if wrong:
        raise ValueError(f"{wrong[0]}; copy both files of a checkpoint together")
    raise FileNotFoundError(f"{saved.folder} has no {WEIGHTS}; copy both files of a checkpoint together")


def _tensors(saved: Checkpoint) -> dict[str, Tensor]:
    """The tensors of the file by key, tied ones under all of theirs."""
    _, load_file, failed = _safetensors()
    file = _weights(saved)
    try:
        tensors = load_file(file)
    except failed as error:
        raise ValueError(f"{file} is no safetensors file that can be read: {error}") from error
    if lost := [f"{key!r} as {kept!r}" for key, kept in saved.tied.items() if kept not in tensors or key in tensors]:
        raise ValueError(f"{saved.folder / DESCRIPTION} and {WEIGHTS} do not fit together: tied {lost[0]}")
    return tensors | {key: tensors[kept] for key, kept in saved.tied.items()}


@torch.no_grad()
def _load(saved: Checkpoint, tensors: dict[str, Tensor], model: nn.Module) -> nn.Module:
    refuse_programmed(model, "load")
    _check_keys(saved, tensors, model)
    _check_layers(saved, tensors, model)
    model = _converted(saved, model)
    layers = dict(analog_layers(model))
    for layer in layers.values():
        layer.set_output_bounds(None)  # those of before may be of another chip, or on the meta device
    _fill(model, tensors)
    for entry in saved.layers:
        layer = layers[entry.name]
        if entry.input_range is not None:
            layer.set_input_range(entry.input_range)
        elif layer.calibrated:
            layer.forget_input_range()
        layer.set_output_bounds(entry.output_bounds)
    return model


def _check_keys(saved: Checkpoint, tensors: dict[str, Tensor], model: nn.Module) -> None:
    problems = list(itertools.islice(_differences(tensors, model.state_dict(keep_vars=True)), _SHOWN + 1))
    if problems:
        more = "; and more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{saved.folder} is of another architecture than this {type(model).__name__}: "
            f"{'; '.join(problems[:_SHOWN])}{more}. The model is unchanged"
        )


def _differences(tensors: dict[str, Tensor], state: dict[str, Tensor]) -> Iterator[str]:
    missing, unexpected = state.keys() - tensors.keys(), tensors.keys() - state.keys()
    for key in sorted(missing):
        yield f"the file lacks {key!r}{_near(key, unexpected or tensors)}"
    for key in sorted(unexpected):
        yield f"the model lacks {key!r}{_near(key, missing or state)}"
    first: dict[int, str] = {}
    for key, t in state.items():
        if key in missing:
            continue
        one, given = first.setdefault(id(t), key), tensors[key]
        if is_lazy(t):
            yield f"{key!r} is not initialised; run the model once first"
        elif t.shape != given.shape:
            yield f"{key!r} has shape {tuple(t.shape)} in the model and {tuple(given.shape)} in the file"
        elif tensors[one] is not given and not torch.equal(tensors[one], given):
            yield f"{one!r} and {key!r} are one tensor in the model and two in the file"


def _near(key: str, known: Any) -> str:
    near = get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    return f" (nearest: {near[0]!r})" if near else ""


def _check_layers(saved: Checkpoint, tensors: dict[str, Tensor], model: nn.Module) -> None:
    modules, analog, state = dict(model.named_modules()), dict(analog_layers(model)), model.state_dict(keep_vars=True)
    names = {entry.name for entry in saved.layers}
    if more := [name for name in analog if name not in names]:
        raise ValueError(
            f"load: layer {more[0]!r} is analog in the model and digital in {saved.folder}; call "
            "analogtorch.to_digital(model) first"
        )
    for entry in saved.layers:
        label = f"load: layer {entry.name!r}, analog in {saved.folder},"
        inside = entry.name.startswith(f"{entry.owner}.".lstrip("."))  # a matrix of a module not yet converted
        module = modules.get(entry.name, modules.get(entry.owner) if inside else None)
        if module is None:
            raise ValueError(f"{label} is no module of the model{_near(entry.name, modules)}")
        if isinstance(module, AnalogLayer):
            if module.chip != entry.chip or parametrize.is_parametrized(module):
                raise ValueError(
                    f"{label} is on another chip in the model or parametrized; call analogtorch.to_digital(model) first"
                )
        elif (why := reason(model, entry.owner, module, embeddings=True)) is not None:
            raise ValueError(f"{label} cannot be analog in the model: {why}")
        matrix = isinstance(module, AnalogMatrix) or module is not modules.get(entry.name)
        kind = AnalogMatrix if matrix else type(module) if isinstance(module, AnalogLayer) else analog_type(module)
        if kind.__name__ != entry.kind:
            raise ValueError(f"{label} is an {entry.kind} there and would be an {kind.__name__} in the model")
        if entry.weight not in tensors:
            raise ValueError(f"{label} has its weight under {entry.weight!r}, which the file lacks")
        given, own = tensors[entry.weight], state[entry.weight]
        if tuple(given.shape) != entry.shape:
            raise ValueError(f"{label} has shape {entry.shape} in {DESCRIPTION} and {tuple(given.shape)} in {WEIGHTS}")
        dtype = given.dtype if own.is_meta else own.dtype
        stored = torch.tensor(1.0 if entry.input_range is None else entry.input_range, dtype=dtype)
        if not ((stored > 0) & (stored < math.inf)).all():
            raise ValueError(f"{label} has input range {entry.input_range}, which does not fit in {dtype}")
        shape = entry.shape if matrix else kind.as_matrix(module, own.detach().to("meta")).shape
        cut = sections(tuple(shape), getattr(module, "groups", 1), entry.chip)
        blocks = max(len(section.row_blocks) for section in cut)
        if stored.numel() not in (1, blocks):
            raise ValueError(
                f"{label} has {stored.numel()} input ranges and {blocks} row block{'s' * (blocks > 1)} in the model"
            )
        bounds, readings = entry.output_bounds, (blocks, cut[-1].outputs.stop)
        if isinstance(bounds, list) and ({len(row) for row in bounds}, len(bounds)) != ({readings[1]}, blocks):
            raise ValueError(
                f"{label} has {len(bounds)} rows of ADC bounds, and {readings} (row blocks, outputs) in the model"
            )
        limits = torch.tensor(1.0 if bounds is None else bounds, dtype=torch.promote_types(dtype, torch.float32))
        if not ((limits > 0) & (limits < math.inf)).all():
            raise ValueError(f"{label} has ADC bounds that do not fit in {limits.dtype}")


def _converted(saved: Checkpoint, model: nn.Module) -> nn.Module:
    """The model with what the file says analog, on its chips and with its noise."""
    present = dict(analog_layers(model))
    if todo := [entry for entry in saved.layers if entry.name not in present]:
        chip = next((layer.chip for layer in present.values()), todo[0].chip)
        owners = sorted({f"re:{re.escape(entry.owner)}" for entry in todo})
        model = convert(model, chip, include=owners, embeddings=True)
    layers = dict(analog_layers(model))
    for entry in saved.layers:
        layer = layers[entry.name]
        if (layer.layer_name, layer.chip) != (entry.key, entry.chip):
            layer.layer_name = entry.key
            layer.chip = entry.chip  # also draws the streams of the noise from the name
    return model


def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = model.state_dict(keep_vars=True)
    given = OrderedDict((key, tensors[key]) for key in state)
    assign = any(t.is_meta for t in state.values())
    if assign:  # the tensors themselves go into the model: one for each that it has, or ties would come or go
        made: dict[int, Tensor] = {}
        taken = set()
        for key, t in state.items():
            if id(t) not in made:
                own = tensors[key].clone() if id(tensors[key]) in taken else tensors[key]
                made[id(t)] = nn.Parameter(own, t.requires_grad) if isinstance(t, nn.Parameter) else own
                taken.add(id(tensors[key]))
            given[key] = made[id(t)]
    given._metadata = without_converters(state._metadata)  # type: ignore[attr-defined]
    model.load_state_dict(given, strict=True, assign=assign)
