"""Loading of a model or a programmed chip from a checkpoint."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from analogtorch.calibration.norm_statistics import remember_digital
from analogtorch.checkpoint.description import Checkpoint, SavedProgram
from analogtorch.checkpoint.fits import (
    check_batch_norm,
    check_buffers,
    check_int8,
    check_keys,
    check_layers,
    check_routes,
)
from analogtorch.checkpoint.folder import read_folder
from analogtorch.conversion import convert
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.int8 import quantise_inputs
from analogtorch.conversion.kinds import analog_layers, check_module, refuse_programmed
from analogtorch.conversion.route import route
from analogtorch.nn.adapters import rewrapped, unwrapped
from analogtorch.nn.converter_state import COLUMN_RANGES, without_converters
from analogtorch.ops import VERSION as GENERATOR
from analogtorch.simulate.chip import ProgrammedChip, program
from analogtorch.values.version import RELEASE


def load(path: str | Path, model: nn.Module) -> nn.Module | ProgrammedChip:
    """Load what ``save`` wrote: a converted model, or a programmed chip.

    A model is loaded into ``model``, whose layers are converted as in the saved model. Weights,
    chips, ranges and the names that key the noise are then those of the saved model, whatever they
    were before. A model on the meta device gets the tensors of the file; buffers that are not in
    its ``state_dict`` must have their numbers.

    A programmed chip is programmed again on a copy of ``model``, which is not changed. It has the
    same devices and defects, and gives the same numbers at any time.

    Args:
        path: the folder that ``save`` wrote.
        model: a model of the same architecture, digital or converted. If it is converted, the same
            layers must be analog. It may be compiled or wrapped, as that of ``save``; of a compiled
            layer that is a model of its own, the layer is returned.

    Returns:
        The model, if the folder holds one; assign it, as a root layer cannot be replaced in place.
        Otherwise the ``ProgrammedChip``.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a file is truncated, damaged, of a newer version or of another checkpoint; the
            model has another architecture or other analog layers, or a buffer on the meta device
            that is not in its ``state_dict``; or a programmed chip was written with another version
            of the noise generator, or its weights have another type than those of the model. The
            model is unchanged.
        ImportError: safetensors is not installed.
        OSError: a file is missing or cannot be read.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> at.load(at.save(model, tempfile.mkdtemp()), torch.nn.Linear(8, 4)).chip.name
        'hermes64'
        >>> folder = at.save(at.program(model, seed=7), tempfile.mkdtemp())
        >>> at.load(folder, torch.nn.Linear(8, 4)).seed
        7
    """
    check_module("load", model)
    saved, tensors = read_folder(path)
    inner = unwrapped(model)
    if tensors.keys().isdisjoint(inner.state_dict()):
        inner = model  # files of before have the names that a wrapper gives
    if saved.programmed is not None:
        return _programmed(saved, saved.programmed, tensors, inner)
    loaded = _load(saved, tensors, inner)
    if isinstance(model, AveragedModel) and saved.averaged:
        model.n_averaged.fill_(saved.averaged)  # else the next update would replace the average
    return model if loaded is inner else rewrapped(model, loaded)


def _programmed(
    saved: Checkpoint, recipe: SavedProgram, tensors: dict[str, Tensor], model: nn.Module
) -> ProgrammedChip:
    if saved.generator != GENERATOR:
        raise ValueError(
            f"{saved.folder} was programmed with version {saved.generator} of the noise generator, "
            f"AnalogTorch {RELEASE} has version {GENERATOR} and would make another chip of seed "
            f"{recipe.seed}; use AnalogTorch {saved.analogtorch}"
        )
    loaded = _load(saved, tensors, deep_copy(model))
    for key, t in loaded.state_dict().items():
        if t.dtype != tensors[key].dtype:
            raise ValueError(
                f"{saved.folder}: {key!r} is {t.dtype} in the model and {tensors[key].dtype} in "
                f"the file, which makes other conductances; call model.to({tensors[key].dtype}) "
                "first"
            )
    return program(
        loaded,
        seed=recipe.seed,
        method=recipe.method,
        defects=recipe.defects,
        mapping=recipe.mapping,
        programmed_before=recipe.programmed_before,
    )


@torch.no_grad()
def _load(saved: Checkpoint, tensors: dict[str, Tensor], model: nn.Module) -> nn.Module:
    refuse_programmed(model, "load")
    check_keys(saved, tensors, model)
    check_buffers(model)
    check_layers(saved, tensors, model)
    check_routes(saved, model)
    check_int8(saved, model)
    check_batch_norm(saved, model)
    model = _converted(saved, model)
    layers = dict(analog_layers(model))
    for layer in layers.values():
        for name in COLUMN_RANGES:  # those of before may be of another chip, or on the meta device
            layer.set_column_ranges(name, None)
    _fill(model, tensors)
    before = {}
    for name, pair in saved.batch_norm.items():
        like: Any = model.get_submodule(name).running_mean
        before[name] = like.new_tensor(pair[0]), like.new_tensor(pair[1])
    remember_digital(model, before)
    for entry in saved.layers:
        layer = layers[entry.name]
        if entry.input_range is not None:
            layer.set_input_range(entry.input_range)
        elif layer.calibrated:
            layer.forget_input_range()
        for name, values in entry.column_ranges.items():
            layer.set_column_ranges(name, values)
    return model


def _converted(saved: Checkpoint, model: nn.Module) -> nn.Module:
    """Return the model with the analog layers of the file, on their chips and with their noise."""
    quantise_inputs(model, saved.int8)  # their weights are rounded in the file
    present = dict(analog_layers(model))
    if todo := [entry for entry in saved.layers if entry.name not in present]:
        pattern = {entry.name: f"re:{re.escape(entry.name)}" for entry in todo}
        # chips that sense light take layers of their own kind
        sensing = {pattern[each.name]: each.chip for each in todo if each.chip.light.on}
        chips = [*(layer.chip for layer in present.values()), *(entry.chip for entry in todo)]
        model = convert(
            model,
            next((chip for chip in chips if not chip.light.on), chips[0]),
            include=list(pattern.values()),
            per_layer=sensing,
            embeddings=True,
        )
    layers = dict(analog_layers(model))
    for entry in saved.layers:
        layer = layers[entry.name]
        there = layer.layer_name, layer.chip, layer.given_chip
        if there != (entry.key, entry.chip, entry.given_chip):
            layer.layer_name = entry.key
            # executions key their noise by the name
            layer.put_on(entry.chip, given=entry.given_chip)
        if entry.sequence_first:
            layer.sequence_first = True
    for name, inner in saved.routes.items():
        route(model.get_submodule(name), list(inner))
    return model


def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    state = model.state_dict(keep_vars=True)
    given = OrderedDict((key, tensors[key]) for key in state)
    assign = any(t.is_meta for t in state.values())
    # the tensors themselves go into the model: one for each that it has, or ties would come or go
    if assign:
        made: dict[int, Tensor] = {}
        taken = set()
        for key, t in state.items():
            if id(t) not in made:
                tensor = tensors[key].clone() if id(tensors[key]) in taken else tensors[key]
                if isinstance(t, nn.Parameter):
                    tensor = nn.Parameter(tensor, t.requires_grad)
                made[id(t)] = tensor
                taken.add(id(tensors[key]))
            given[key] = made[id(t)]
    given._metadata = without_converters(state._metadata)  # type: ignore[attr-defined]
    model.load_state_dict(given, strict=True, assign=assign)
