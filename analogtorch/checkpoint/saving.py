"""Saving of a converted model or a programmed chip as a checkpoint."""

from collections.abc import Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from analogtorch.checkpoint.description import describe, recipe
from analogtorch.checkpoint.folder import write_folder
from analogtorch.conversion.kinds import refuse_changed, refuse_flat, some_layers
from analogtorch.nn.adapters import unwrapped
from analogtorch.simulate.chip import ProgrammedChip
from analogtorch.values import checks

_GATHER = (
    "inside FullyShardedDataParallel.summon_full_params(model, writeback=False), copy its "
    "named_parameters() and named_buffers() to those of a deep copy that was made before it was "
    "sharded, and save that copy"
)
"""What to do with a model of whose weights a process has a part."""


def save(model: nn.Module | ProgrammedChip, path: str | Path) -> Path:
    """Write a converted model, or a programmed chip, to a folder.

    ``weights.safetensors`` has the keys of the digital model's ``state_dict``, with one key for
    tied weights; ``analog.json`` has the rest. For a programmed chip they hold the model and the
    arguments of ``program``, not the conductances, which the seed gives again. A checkpoint that
    was there is replaced; it stays readable until the new one is complete.

    Of a model that ``torch.compile`` returned, or that ``DistributedDataParallel`` or
    ``AveragedModel`` (EMA, SWA) wraps, the model inside is written, with its own names, and how
    many models were averaged.

    Args:
        model: a converted model, or what ``program`` returned.
        path: the folder; it is made if it does not exist.

    Returns:
        The folder.

    Raises:
        TypeError: ``model`` is of another type.
        ValueError: the model has no analog layer, is a programmed chip at one time, has an
            analog layer of which a weight or bias is no plain Parameter (it is parametrized,
            pruned, or another tensor), is sharded by ``FullyShardedDataParallel``, or has a state
            that is no plain tensor with data. Nothing is written.
        RuntimeError: a weight or bias of a recurrent layer or an attention is no plain Parameter
            since the conversion. Nothing is written.
        ImportError: safetensors is not installed.
        OSError: the files could not be written. What was there is untouched.

    Example:
        >>> model = at.convert(torch.nn.Linear(8, 4), at.chips.hermes64())
        >>> folder = at.save(model, tempfile.mkdtemp())
        >>> at.load(folder, torch.nn.Linear(8, 4)).chip.name
        'hermes64'
    """
    folder = checks.path("save: path", path)
    physical = model if isinstance(model, ProgrammedChip) else None
    module = physical._model if physical is not None else model
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"save: model must be a torch.nn.Module or a ProgrammedChip, got {type(model).__name__}"
        )
    averaged = int(module.n_averaged) if isinstance(module, AveragedModel) else 0
    module = unwrapped(module)
    refuse_flat(module, "save", _GATHER)
    layers = some_layers(module, "save")
    if any(layer.programmed is not None for layer in layers.values()):
        raise ValueError(
            "save: this is a programmed chip at one time; save what analogtorch.program returned"
        )
    refuse_changed(module, "save")
    tensors, tied = _unique(module)
    _refuse_renamed(module, tensors.keys() | tied.keys())
    description = describe(module) | {
        "tied": tied,
        "programmed": None if physical is None else recipe(physical),
        # files of other models stay as they were
        **({"averaged": averaged} if averaged else {}),
    }
    return write_folder(folder, tensors, tied, description)


def _refuse_renamed(model: nn.Module, keys: Set[str]) -> None:
    """Raise ValueError for a model whose ``state_dict`` calls all that learns by other names."""
    names = [name for name, _ in model.named_parameters()]
    if names and keys.isdisjoint(names):
        raise ValueError(
            f"save: the state_dict of {type(model).__name__} has keys such as "
            f"{next(iter(keys), None)!r}, but calls no Parameter by its name, such as "
            f"{names[0]!r}, as wrappers of a model may do; nothing could load that: save the model "
            "inside it"
        )


def _unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a model by key without ties, and the tied keys with the keys kept."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[Any, str] = {}
    storages = set()
    for key, t in model.state_dict().items():
        if not isinstance(t, Tensor):
            raise ValueError(
                f"save: {key!r} is no tensor but {type(t).__name__}, and weights.safetensors has "
                "tensors alone; let what gives it, such as get_extra_state of the module, return a "
                "tensor, which set_extra_state gets back"
            )
        if type(t) is not Tensor or t.layout is not torch.strided or t.is_quantized:
            raise ValueError(
                f"save: {key!r} is no plain dense tensor but {type(t).__name__}; materialise it, "
                "or gather a sharded model first"
            )
        if t.is_meta:
            raise ValueError(f"save: {key!r} is on the meta device; load weights first")
        storage = t.untyped_storage()._cdata
        view = (storage, t.storage_offset(), t.shape, t.stride(), t.dtype)
        if view in seen and t.numel():
            tied[key] = seen[view]
            continue
        seen[view] = key
        if storage in storages:
            tensors[key] = t.clone(memory_format=torch.contiguous_format)
        else:
            tensors[key] = t.contiguous()
        storages.add(storage)
    return tensors, tied
