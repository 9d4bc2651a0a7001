"""Converter ranges in a ``state_dict``: its metadata holds them, so its keys stay digital.

``torch.save`` keeps the metadata.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from analogtorch.chips.choices import Choices
from analogtorch.values.warned import warn

if TYPE_CHECKING:
    from analogtorch.nn.converters import ConvertersMixin

COLUMN_RANGES = {"adc_ranges": "ADC ranges", "output_ranges": "output ranges"}
"""Ranges that a layer may have for each row block and output, and their names in errors."""

Numbers = float | list[list[float]] | None
"""One of ``COLUMN_RANGES`` in JSON and metadata: one number, (row blocks, outputs), or None if the
layer has none."""

EARLIER = {"output_bounds": "adc_ranges"}
"""Names of ``COLUMN_RANGES`` in files of earlier versions, with their present names."""

_INPUT_RANGE = "analogtorch.input_range"
_ELSEWHERE = "analogtorch.range_is_elsewhere"
"""Set in a process of FSDP whose layers have a DAC range of one number in another process."""
_KEYS = {name: f"analogtorch.{name}" for name in COLUMN_RANGES}
_EARLIER_KEYS = {f"analogtorch.{name}": _KEYS[present] for name, present in EARLIER.items()}
_CHOICES = {field.name: f"analogtorch.{field.name}" for field in fields(Choices)}
_CHIP = "analogtorch.chip"
_MATRICES = "analogtorch.matrices"
"""Set for a layer of several matrices that have ranges; they have the metadata of these."""
_APART = "analogtorch.ranges_are_apart"
"""Set for layers that get their ranges from elsewhere."""
_ALL_KEYS = frozenset(
    {_CHIP, _INPUT_RANGE, _ELSEWHERE, _MATRICES}
    | {*_CHOICES.values(), *_KEYS.values(), *_EARLIER_KEYS}
)


_SAVED: "WeakKeyDictionary[ConvertersMixin, int | None]" = WeakKeyDictionary()
"""Version of the weight of each layer when its ``state_dict`` was taken last."""


def save(layer: "ConvertersMixin", destination: Any, prefix: str) -> None:
    """Write the ranges of ``layer`` into the metadata of a ``state_dict``.

    Args:
        layer: the analog layer.
        destination: the ``state_dict``.
        prefix: prefix of the layer's keys in the ``state_dict``.
    """
    metadata, ranges = getattr(destination, "_metadata", None), layer.input_ranges
    for name, key in _KEYS.items():
        if metadata is not None and (values := layer.saved_column_ranges(name)) is not None:
            metadata[prefix[:-1]][key] = values
            if not layer.calibrated:
                metadata[prefix[:-1]][_INPUT_RANGE] = None
    if metadata is not None and (layer.calibrated or layer.ranged):
        choices = asdict(Choices.of(layer.chip))
        metadata[prefix[:-1]] |= {key: choices[name] for name, key in _CHOICES.items()}
        metadata[prefix[:-1]][_CHIP] = layer.chip.name
    if ranges is not None and metadata is not None:
        metadata[prefix[:-1]][_INPUT_RANGE] = ranges[0] if len(ranges) == 1 else list(ranges)
    elif not layer.calibrated or layer.input_range.is_meta or metadata is None:
        pass
    elif layer.input_range.numel() == 1:
        metadata[prefix[:-1]][_ELSEWHERE] = True
    else:
        warn(
            f"the DAC ranges of {layer.layer_name!r}, one for each row block, are spread over "
            "processes and not in this state_dict: keep layer.input_range.full_tensor(), which "
            "every process must call, beside it"
        )


def save_matrices(matrices: Iterable["ConvertersMixin"], destination: Any, prefix: str) -> None:
    """Write into the metadata of a ``state_dict`` that matrices of a layer have ranges there."""
    metadata = getattr(destination, "_metadata", None)
    if metadata is not None and any(matrix.ranged for matrix in matrices):
        metadata[prefix[:-1]][_MATRICES] = True


def lacks_ranges(
    layer: nn.Module, ranged: bool, state_dict: Mapping[str, Any], prefix: str, metadata: Any
) -> bool:
    """Return whether a ``state_dict`` with weights of a layer has no ranges where there were some.

    It has no ``metadata``; or it is of a digital layer, or of one that is not calibrated, with
    other weights than those that the layer's ranges were found for, if it is ``ranged``.
    """
    if metadata and not (ranged and _ALL_KEYS.isdisjoint(metadata) and _APART not in metadata):
        return False
    if not of_layer(layer, state_dict, prefix):
        return False  # files of adapters have nothing of the layer's own
    return not metadata or any(
        _differs(p, state_dict.get(prefix + name))
        for name, p in layer._parameters.items()
        if p is not None and name != "input_range" and "bias" not in name
    )


def _differs(held: Tensor, given: Any) -> bool:
    """Return whether a weight of a ``state_dict`` is another one than that of the layer."""
    if not isinstance(given, Tensor) or given.is_meta or held.is_meta:
        return True
    ours, theirs = local(held), local(given)
    return ours.shape != theirs.shape or not torch.equal(ours, theirs.to(ours))


def load_choices(layer: "ConvertersMixin", metadata: dict) -> None:
    """Give the layer's chip the unit of the weight scale and the targets from ``metadata``.

    Calibration may have changed them, and its ranges hold for them.
    """
    kept = {name: metadata[key] for name, key in _CHOICES.items() if key in metadata}
    found = metadata.get(_CHIP, layer.chip.name)
    if layer.takes_range and found != layer.chip.name:
        warn(
            f"this state_dict was saved on the chip {found!r}, and the layers are on "
            f"{layer.chip.name!r}: they get ranges, targets and weight scales that calibration "
            "chose for the other; call analogtorch.calibrate to find their own"
        )
    set_choices(layer, kept)


def set_choices(layer: "ConvertersMixin", kept: Mapping[str, Any]) -> None:
    """Give the layer's chip the fields of ``Choices`` that were kept, as far as it offers them."""
    chip = replace(Choices.of(layer.chip), **kept).made(layer.chip)
    if chip is not layer.chip:  # another chip makes other executions
        layer.put_on(chip)


def load_column_ranges(layer: "ConvertersMixin", metadata: dict, errors: list) -> None:
    """Set the ranges of ADCs and digital unit from ``metadata``; append misfits to ``errors``."""
    metadata = {_EARLIER_KEYS.get(key, key): value for key, value in metadata.items()}
    saved = metadata.keys() & _ALL_KEYS
    for name, key in _KEYS.items():
        if saved:  # whoever saved one kind of range had these others, or none
            try:
                layer.set_column_ranges(name, metadata.get(key))
            except ValueError as error:
                errors.append(str(error))
        values = getattr(layer, name)
        if values is not None and values.is_meta and not layer.weight.is_meta:
            warn(
                f"the {COLUMN_RANGES[name]} of {layer.layer_name!r} were lost on the meta device, "
                "and this state_dict carries none: the layer has that of its chip; call "
                "analogtorch.calibrate to find them again"
            )
            layer.set_column_ranges(name, None)


def load_input_range(layer: "ConvertersMixin", value: Any, metadata: dict, errors: list) -> None:
    """Set the DAC range.

    Args:
        layer: the analog layer.
        value: the entry ``input_range`` of the ``state_dict``, which FSDP and accelerate may write;
            None: use the metadata.
        metadata: metadata of the layer in the ``state_dict``.
        errors: the list to which misfits are appended.
    """
    if value is None:
        value = metadata.get(_INPUT_RANGE)
        if value is None and _INPUT_RANGE in metadata and layer.calibrated:
            layer.forget_input_range()
    elif isinstance(value, Tensor):
        value = value.flatten().tolist()
    values = value if isinstance(value, list) else [0.0 if value is None else float(value)]
    if not all(v > 0 for v in values):
        layer._follow_weight()
        if _ELSEWHERE in metadata:
            if layer.range_is_elsewhere:
                layer.start_range()
            else:
                warn_of_lost_ranges(layer.calibrated)
        return
    try:
        layer.set_input_range(values)
    except ValueError as error:
        errors.append(str(error))


def local(tensor: Tensor) -> Tensor:
    """Return what this process has of a sharded tensor: to ask the others would wait for them."""
    found: Any = tensor.detach()
    return found.to_local() if hasattr(found, "to_local") else found


def filled(layer: "ConvertersMixin", weight: Any, metadata: dict) -> bool:
    """Return whether ``weight`` of a ``state_dict`` is the layer's own and was written since.

    ``torch.distributed.checkpoint`` reads files into such tensors and leaves the metadata alone,
    which then holds the present ranges.
    """
    if layer not in _SAVED or not isinstance(weight, Tensor):
        return False
    if weight.is_meta or layer.weight.is_meta:
        return False
    if metadata.get("assign_to_params_buffers"):  # a layer tied to it may have taken it already
        return False
    given, held = local(weight), local(layer.weight)
    if not given.numel() or given.data_ptr() != held.data_ptr():
        return False
    if (version := _version(layer.weight)) is not None and version == _SAVED[layer]:
        return False
    now: Any = OrderedDict()
    now._metadata = {"": {}}
    save(layer, now, "")
    return now._metadata[""] == {key: v for key, v in metadata.items() if key in _ALL_KEYS}


def note(layer: "ConvertersMixin") -> None:
    """Remember the weight of a layer whose ``state_dict`` is taken, for ``filled``."""
    _SAVED[layer] = _version(layer.weight)


def _version(weight: Tensor) -> int | None:
    """Return how often a weight was written; None: torch does not count it."""
    return None if weight.is_inference() or hasattr(weight, "to_local") else weight._version


def without_converters(metadata: Any) -> Any:
    """Return the metadata of a ``state_dict`` without converter ranges, which come otherwise."""
    return {
        name: {_APART: True, **{k: value for k, value in entries.items() if k not in _ALL_KEYS}}
        for name, entries in metadata.items()
    }


def of_layer(layer: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> bool:
    """Return whether a ``state_dict`` has weights of the layer itself, parametrized or not.

    Files of adapters may hold its biases alone.
    """
    own = {prefix + name for name in layer._parameters if "bias" not in name}
    return any(k in own or k.startswith(f"{prefix}parametrizations.") for k in state_dict)


def warn_of_lost_ranges(calibrated: bool) -> None:
    """Warn that a state_dict has no ranges; ``calibrated``: the layer keeps the range it has."""
    kept = "the layers keep those that they have. To get others, " if calibrated else ""
    warn(
        "this state_dict carries no DAC ranges (those of digital and uncalibrated models have "
        f"none, and safetensors and plain dicts drop its metadata): {kept}call "
        "analogtorch.calibrate, or load a state_dict with the _metadata of model.state_dict(), "
        "which torch.save keeps and a collections.OrderedDict takes, as does "
        "Accelerator.save_state(folder, safe_serialization=False); Trainers keep them by the "
        "KeepRanges of analogtorch.hwa.huggingface or analogtorch.hwa.lightning, which puts them "
        "back after this warning. Output ranges are missing too, and what calibration chose for "
        "the chip: targets that allow for drift, and the unit of the weight scale. "
        "analogtorch.save keeps everything"
    )


def warn_of_own_ranges() -> None:
    """Warn that a state_dict has the tensors of the layers, and the ranges that they have."""
    warn(
        "this state_dict is the model's own, as torch.distributed.checkpoint fills it, and has the "
        "DAC ranges that the layers have now: those of the files are not in it. Keep them beside "
        "the files, torch.save(state_dict._metadata, file) in the first process, and set "
        "state_dict._metadata = torch.load(file) before load_state_dict"
    )
