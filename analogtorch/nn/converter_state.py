"""How a ``state_dict`` carries the ranges of the converters: in its metadata, which ``torch.save``
keeps, so that its keys are those of the digital layer.
"""

import warnings
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from analogtorch.nn.converters import ConvertersMixin

COLUMN_RANGES = {"output_bounds": "ADC bounds", "output_ranges": "output ranges"}
"""The ranges that a layer may have for each row block and output, and what errors call them."""

Numbers = float | list[list[float]] | None
"""One of ``COLUMN_RANGES`` as JSON and metadata hold it: one for all, (row blocks, outputs), or
None where the layer has none."""

_INPUT_RANGE = "analogtorch.input_range"
_KEYS = {name: f"analogtorch.{name}" for name in COLUMN_RANGES}
_ALL_KEYS = frozenset({_INPUT_RANGE, *_KEYS.values()})


def save(layer: "ConvertersMixin", destination: Any, prefix: str) -> None:
    """Write the ranges of ``layer`` into the metadata of a ``state_dict``.

    Args:
        layer: whose ranges are saved.
        destination: the ``state_dict``.
        prefix: of the layer's keys in it.
    """
    metadata, ranges = getattr(destination, "_metadata", None), layer.input_ranges
    for name, key in _KEYS.items():
        if metadata is not None and (values := layer.saved_column_ranges(name)) is not None:
            metadata[prefix[:-1]][key] = values
            if not layer.calibrated:
                metadata[prefix[:-1]][_INPUT_RANGE] = None
    if ranges is not None and metadata is not None:
        metadata[prefix[:-1]][_INPUT_RANGE] = ranges[0] if len(ranges) == 1 else list(ranges)
    elif layer.calibrated and not layer.input_range.is_meta and layer.input_range.numel() > 1:
        warnings.warn(
            f"the input ranges of {layer.layer_name!r}, one for each row block, are spread over "
            "processes and not in this state_dict: keep layer.input_range.full_tensor(), which "
            "every process must call, beside it",
            stacklevel=3,
        )


def load_column_ranges(layer: "ConvertersMixin", metadata: dict, errors: list) -> None:
    """Take the ranges of ADCs and digital unit; ``errors`` gains what does not fit the layer."""
    saved = metadata.keys() & _ALL_KEYS
    for name, key in _KEYS.items():
        if saved:  # whoever saved one kind of range had these others, or none
            try:
                layer.set_column_ranges(name, metadata.get(key))
            except ValueError as error:
                errors.append(str(error))
        values = getattr(layer, name)
        if values is not None and values.is_meta and not layer.weight.is_meta:
            warnings.warn(
                f"the {COLUMN_RANGES[name]} of {layer.layer_name!r} were lost on the meta device, "
                "and this state_dict carries none: the layer has that of its chip; call "
                "analogtorch.calibrate for its own",
                stacklevel=4,
            )
            layer.set_column_ranges(name, None)


def load_input_range(layer: "ConvertersMixin", value: Any, metadata: dict, errors: list) -> None:
    """Take the DAC range.

    Args:
        layer: whose range it is.
        value: what the ``state_dict`` has under ``input_range``, as one that FSDP or accelerate
            gathered may; None: the metadata is asked.
        metadata: of the layer.
        errors: gains what does not fit the layer.
    """
    if value is None:
        value = metadata.get(_INPUT_RANGE)
        if value is None and _INPUT_RANGE in metadata and layer.calibrated:
            layer.forget_input_range()
    elif isinstance(value, Tensor):
        value = value.flatten().tolist()
    values = value if isinstance(value, list) else [0.0 if value is None else float(value)]
    if not all(v > 0 for v in values):
        layer._leave_meta()
        return
    try:
        layer.set_input_range(values)
    except ValueError as error:
        errors.append(str(error))


def without_converters(metadata: Any) -> Any:
    """The metadata of a ``state_dict`` as that of a digital model has it."""
    return {
        name: {k: v for k, v in own.items() if k not in _ALL_KEYS} for name, own in metadata.items()
    }


def warn_of_lost_ranges(calibrated: bool) -> None:
    """Warn that a state_dict brought no ranges; ``calibrated``: whether the layer has one that it
    keeps.
    """
    kept = "the layers keep those that they have. To get others, " if calibrated else ""
    warnings.warn(
        "this state_dict carries no input ranges (safetensors and plain dicts drop its metadata): "
        f"{kept}call analogtorch.calibrate, or load a state_dict that was saved by torch.save",
        stacklevel=3,
    )
