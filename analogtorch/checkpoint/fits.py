"""The checks that a checkpoint belongs to a model, all before the model is changed."""

import itertools
import math
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from analogtorch.calibration.norm_statistics import tracking
from analogtorch.checkpoint.description import DESCRIPTION, WEIGHTS, Checkpoint, SavedLayer
from analogtorch.chips.choices import Choices
from analogtorch.chips.tiling import sections
from analogtorch.conversion.kinds import analog_layers, analog_type, reason
from analogtorch.nn import AnalogLayer, AnalogMatrix
from analogtorch.nn.converter_state import COLUMN_RANGES, Numbers
from analogtorch.nn.kinds import kind_of
from analogtorch.values.listed import counted

_SHOWN = 5  # differences that an error lists


def check_keys(saved: Checkpoint, tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise ValueError unless model and file have the same tensors: names, shapes and ties."""
    found = _differences(tensors, model.state_dict(keep_vars=True))
    problems = list(itertools.islice(found, _SHOWN + 1))
    if problems:
        more = "; and more" if len(problems) > _SHOWN else ""
        raise ValueError(
            f"{saved.folder} is of another architecture than this {type(model).__name__}: "
            f"{'; '.join(problems[:_SHOWN])}{more}.{_folded(tensors, model)} The model is unchanged"
        )


def check_buffers(model: nn.Module) -> None:
    """Raise ValueError if a buffer has no numbers and gets none from a file, as it is in none."""
    state = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers():
        owner, _, own = name.rpartition(".")
        ours = own in COLUMN_RANGES and isinstance(model.get_submodule(owner), AnalogLayer)
        if buffer.is_meta and name not in state and not ours:
            raise ValueError(
                f"load: buffer {name!r} is on the meta device, and no file has it, as it is not "
                f"persistent; give it its numbers first, model.get_submodule({owner!r})."
                f"register_buffer({own!r}, numbers, persistent=False), or make the model outside "
                'of torch.device("meta"). The model is unchanged'
            )


def _folded(tensors: dict[str, Tensor], model: nn.Module) -> str:
    """Return what to do if batch norms were folded into other layers before the file was written.

    It is empty if the file has a tensor of each norm.
    """
    norms = {name: m.state_dict() for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    gone = [n for n, own in norms.items() if own and not any(f"{n}.{k}" in tensors for k in own)]
    if not gone:
        return ""
    return (
        f" The file has nothing of {counted(len(gone), 'batch norm')}, such as "
        f"{gone[0]!r}; if they were folded, call analogtorch.fold_batch_norm(model, example) on "
        "the digital model, before convert, and then load."
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
            shape = tuple(given.shape)
            yield f"{key!r} has shape {tuple(t.shape)} in the model and {shape} in the file"
        elif tensors[one] is not given and not torch.equal(tensors[one], given):
            yield f"{one!r} and {key!r} are one tensor in the model and two in the file"


def _near(key: str, known: Any) -> str:
    near = get_close_matches(key, sorted(known), n=1, cutoff=0.5)
    return f" (nearest: {near[0]!r})" if near else ""


def check_layers(saved: Checkpoint, tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise ValueError unless each analog layer of the file fits the model.

    It must be the same layer in the model, or ``convert`` must be able to make it so.
    """
    modules, state = dict(model.named_modules()), model.state_dict(keep_vars=True)
    names = {entry.name for entry in saved.layers}
    if more := [name for name, _ in analog_layers(model) if name not in names]:
        raise ValueError(
            f"load: layer {more[0]!r} is analog in the model and digital in {saved.folder}; call "
            "analogtorch.to_digital(model) first"
        )
    for entry in saved.layers:
        label = f"load: layer {entry.name!r}, analog in {saved.folder},"
        module = _module(label, entry, modules, model)
        kind = _kind(entry, module, modules)
        if kind.__name__ != entry.kind:
            raise ValueError(
                f"{label} is an {entry.kind} there and would be an {kind.__name__} in the model"
            )
        if entry.weight not in tensors:
            raise ValueError(f"{label} has its weight under {entry.weight!r}, which the file lacks")
        _check_numbers(label, entry, module, kind, tensors[entry.weight], state[entry.weight])


def _module(
    label: str, entry: SavedLayer, modules: dict[str, nn.Module], model: nn.Module
) -> nn.Module:
    """Return the module that is the layer in the model, or of which it is a matrix."""
    # a matrix of a module not yet converted
    inside = entry.name.startswith(f"{entry.owner}.".lstrip("."))
    module = modules.get(entry.name, modules.get(entry.owner) if inside else None)
    if module is None:
        raise ValueError(f"{label} is no module of the model{_near(entry.name, modules)}")
    if isinstance(module, AnalogLayer):
        # the file says what calibrate chose, so that a model not yet calibrated can take it
        chip = Choices.of(entry.chip).made(module.chip)
        if chip != entry.chip or parametrize.is_parametrized(module):
            raise ValueError(
                f"{label} is on another chip in the model or parametrized; call "
                "analogtorch.to_digital(model) first"
            )
    elif (why := reason(model, entry.owner, module, embeddings=True)) is not None:
        raise ValueError(f"{label} cannot be analog in the model: {why}")
    return module


def _kind(entry: SavedLayer, module: nn.Module, modules: dict[str, nn.Module]) -> type[AnalogLayer]:
    """Return the class of the analog layer that the model has or would have."""
    if isinstance(module, AnalogMatrix) or module is not modules.get(entry.name):
        return AnalogMatrix
    return type(module) if isinstance(module, AnalogLayer) else analog_type(module, entry.chip)


def _check_numbers(
    label: str,
    entry: SavedLayer,
    module: nn.Module,
    kind: type[AnalogLayer],
    given: Tensor,
    present: Tensor,
) -> None:
    """Check shape and ranges of a layer.

    ``given`` is the weight in the file, ``present`` that of the model.
    """
    if tuple(given.shape) != entry.shape:
        raise ValueError(
            f"{label} has shape {entry.shape} in {DESCRIPTION} and {tuple(given.shape)} in "
            f"{WEIGHTS}"
        )
    dtype = given.dtype if present.is_meta else present.dtype
    stored = torch.tensor(
        1.0 if entry.input_range is None else entry.input_range, dtype=dtype, device="cpu"
    )
    if not ((stored > 0) & (stored < math.inf)).all():
        raise ValueError(
            f"{label} has DAC range {entry.input_range}, which does not fit in {dtype}"
        )
    shape: Any = entry.shape
    if kind is not AnalogMatrix:
        shape = kind.as_matrix(module, present.detach().to("meta")).shape  # type: ignore[arg-type]
    shape = entry.chip.expansion.shape(tuple(shape))
    cut = sections(shape, getattr(module, "groups", 1), entry.chip)
    blocks = max(section.blocks for section in cut)
    if stored.numel() not in (1, blocks):
        raise ValueError(
            f"{label} has {stored.numel()} DAC ranges and {blocks} row "
            f"block{'s' * (blocks > 1)} in the model"
        )
    columns = (blocks, cut[-1].adcs.stop)
    for name, values in entry.column_ranges.items():
        _check_column_ranges(f"{label} has", COLUMN_RANGES[name], values, columns, dtype)


def check_routes(saved: Checkpoint, model: nn.Module) -> None:
    """Raise ValueError unless each module that reaches layers by their weights is in the model."""
    modules = dict(model.named_modules())
    names = {*saved.int8, *(entry.name for entry in saved.layers)}
    # a layer that several modules hold has one name in the file
    held = {modules[name] for name in names & modules.keys()}
    every = model.named_modules(remove_duplicate=False)
    names.update(name for name, module in every if module in held)
    for name, inner in saved.routes.items():
        reached = [f"{name}.{n}".lstrip(".") for n in inner]
        if name not in modules or not names.issuperset(reached):
            raise ValueError(
                f"load: {name or '(root)'!r}, which reaches {reached} by their weights in "
                f"{saved.folder}, is no module of the model, or these are no layers that are "
                "analog or in int8"
            )


def check_int8(saved: Checkpoint, model: nn.Module) -> None:
    """Raise ValueError unless each layer that ``quantise_digital`` made is in the model."""
    modules = dict(model.named_modules())
    for name in saved.int8:
        if name not in modules or kind_of(modules[name]) is None:
            raise ValueError(
                f"load: {name or '(root)'!r}, a digital layer in int8 in {saved.folder}, is no "
                f"layer of the model that could be one{_near(name, modules)}"
            )


def check_batch_norm(saved: Checkpoint, model: nn.Module) -> None:
    """Raise ValueError unless each batch norm that was moved is in the model, of the same size."""
    norms = tracking(model)
    for name, pair in saved.batch_norm.items():
        size = norms[name].num_features if name in norms else None
        if any(len(values) != size for values in pair):
            raise ValueError(
                f"load: {name!r}, of which {saved.folder} has the statistics of {len(pair[0])} "
                f"channels, is no such batch norm of the model{_near(name, norms)}"
            )


def _check_column_ranges(
    label: str, what: str, values: Numbers, columns: tuple[int, int], dtype: torch.dtype
) -> None:
    if isinstance(values, list):
        row_blocks, outputs = columns
        if len(values) != row_blocks or {len(row) for row in values} != {outputs}:
            raise ValueError(
                f"{label} {len(values)} rows of {what}, and {columns} (row blocks, outputs) in "
                "the model"
            )
    precise = torch.promote_types(dtype, torch.float32)
    limits = torch.tensor(1.0 if values is None else values, dtype=precise, device="cpu")
    if not ((limits > 0) & (limits < math.inf)).all():
        raise ValueError(f"{label} {what} that do not fit in {limits.dtype}")
