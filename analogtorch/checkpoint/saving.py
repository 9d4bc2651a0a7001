"""A converted model, or a programmed chip, into a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from analogtorch.checkpoint.description import describe, recipe
from analogtorch.checkpoint.folder import write_folder
from analogtorch.conversion import analog_layers
from analogtorch.simulate.chip import ProgrammedChip
from analogtorch.values import checks


def save(model: nn.Module | ProgrammedChip, path: str | Path) -> Path:
    """Write a converted model, or a programmed chip, to the folder ``path``, in place of a
    checkpoint that is there.

    ``weights.safetensors`` has the keys of the digital model's ``state_dict``, of tied weights one;
    ``analog.json`` the rest. Of a programmed chip they hold the model that was programmed and what
    to program it with: not conductances, which the seed gives again. A checkpoint that was there
    stays readable until the new one is whole.

    Args:
        model: a converted model, or what ``program`` returned.
        path: the folder; it is made where it is missing.

    Returns:
        The folder.

    Raises:
        TypeError: ``model`` is of another type.
        ValueError: a model without analog layers, a programmed chip at one time, a parametrized
            analog layer, or a state that is no plain tensor with data. Nothing is written.
        ImportError: safetensors is not installed.
        OSError: the files could not be written. What was there is untouched.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> folder = save(model, tempfile.mkdtemp())
        >>> load(folder, torch.nn.Linear(8, 4)).chip.name
        'hermes64'
    """
    folder = checks.path("save: path", path)
    physical = model if isinstance(model, ProgrammedChip) else None
    module = physical._model if physical is not None else model
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"save: model must be a torch.nn.Module or a ProgrammedChip, got {type(model).__name__}"
        )
    layers = dict(analog_layers(module))
    if not layers:
        raise ValueError(
            "save: the model has no analog layer; call analogtorch.convert(model, chip) first"
        )
    if any(layer.programmed is not None for layer in layers.values()):
        raise ValueError(
            "save: this is a programmed chip at one time; save what analogtorch.program returned"
        )
    if changed := [name for name, layer in layers.items() if parametrize.is_parametrized(layer)]:
        raise ValueError(f"save: remove the parametrizations of {changed[0]!r} first")
    tensors, tied = _unique(module)
    description = describe(layers) | {
        "tied": tied,
        "programmed": None if physical is None else recipe(physical),
    }
    return write_folder(folder, tensors, tied, description)


def _unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model by key, ties left out; and the keys left out, each with that of the
    same tensor.
    """
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[Any, str] = {}
    storages = set()
    for key, t in model.state_dict().items():
        if type(t) is not Tensor or t.layout is not torch.strided or t.is_quantized:
            raise ValueError(
                f"save: {key!r} is no plain dense tensor but {type(t).__name__}; materialise it, "
                "or gather a sharded model first"
            )
        if t.is_meta:
            raise ValueError(f"save: {key!r} is on the meta device; load weights first")
        storage = t.untyped_storage()._cdata
        place = (storage, t.storage_offset(), t.shape, t.stride(), t.dtype)
        if place in seen and t.numel():
            tied[key] = seen[place]
            continue
        seen[place] = key
        tensors[key] = (
            t.clone(memory_format=torch.contiguous_format)
            if storage in storages
            else t.contiguous()
        )
        storages.add(storage)
    return tensors, tied
