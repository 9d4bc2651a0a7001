"""The converters of an analog layer: how the full scales of DAC, ADC and digital unit are set, and
how they travel.

No ``state_dict`` lists them, so that the keys are those of the digital layer; their values go into
its metadata, which ``torch.save`` keeps.
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

_KEY = "analogtorch.input_range"

EACH = {"output_bounds": "ADC bounds", "output_ranges": "output ranges"}
"""What a layer may have of its own for each row block and output, and what to call it."""
_EACH_KEYS = {name: f"analogtorch.{name}" for name in EACH}

Bounds = float | list[list[float]] | None
"""One of ``EACH`` as JSON and metadata hold it: one for all, (row blocks, outputs), or None: there
are none."""


class RangedLayer(nn.Module):
    """The part of an analog layer that keeps its input range and ADC bounds."""

    input_range: nn.Parameter
    output_bounds: Tensor | None
    """Of the ADC of each reading, (row blocks, outputs), in units of (full-scale input x weight
    scale): a deviation from the chip, which has one bound for all. None: the chip's own."""
    output_ranges: Tensor | None
    """In which the digital unit of a chip with ``unit_bits`` rounds what it passes on, (row blocks,
    outputs), in the same units: software sets them. None: they are not known yet, and ADC outputs
    are passed on as they are."""
    calibrated: bool
    """Whether the range is known; before, it is found in each input."""
    layer_name: str
    programmed: Any
    takes_range: ClassVar[bool]
    chip: Any
    weight: Any
    sections: Any
    row_blocks: int

    @property
    def input_ranges(self) -> tuple[float, ...] | None:
        """The DAC's full scale, or that of each row block; None while it is not known to this
        process.

        FSDP shards a range like any other parameter: one of a single number stays with the first
        process.
        """
        own = self.input_range.detach()
        # to ask the other processes would wait for them
        own = own.to_local() if hasattr(own, "to_local") else own
        if not self.calibrated or own.is_meta or own.numel() < self.input_range.numel():
            return None
        return tuple(own.abs().tolist())  # the forward uses the magnitude

    def set_input_range(self, value: float | Sequence[float]) -> None:
        """Fix the DAC's full scale, in the units of the input; training goes on from there.

        Args:
            value: > 0; one for the whole layer, or one for each of its row blocks, whose tiles have
                DACs of their own. Groups of a convolution share that of a row block. On a GPU, and
                where row blocks cut a kernel, such a layer computes in plain torch, more slowly. An
                optimizer that has stepped with another number of ranges must be made anew.

        Raises:
            ValueError: a value is not a positive finite number, or their number is neither 1 nor
                that of row blocks.
        """
        values = self.checked_ranges(value)
        # weights were assigned to a layer made on meta
        if self.input_range.is_meta and not self.weight.is_meta:
            self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)
        # whatever the default device is
        stored = torch.tensor(values, dtype=self.input_range.dtype, device="cpu")
        with torch.no_grad():
            # the same Parameter, which an optimizer may know
            if self.input_range.shape != stored.shape:
                # it must be able to learn, whatever it was set under
                with torch.inference_mode(False):
                    self.input_range.data, self.input_range.grad = (
                        self.input_range.new_empty(stored.shape),
                        None,
                    )
            self.input_range.fill_(values[0]) if len(values) == 1 else self.input_range.copy_(
                stored
            )
        if not self.calibrated:
            self.input_range.requires_grad_(
                self.weight.requires_grad and self.chip.input_bits is not None
            )
        self.calibrated = True

    def forget_input_range(self) -> None:
        """Find the DAC's full scale in each input again, as before any calibration."""
        self.calibrated = False
        self.input_range.requires_grad_(False)
        with torch.no_grad():
            self.input_range.zero_()

    def checked_ranges(self, value: float | Sequence[float]) -> list[float]:
        """What ``set_input_range`` would set; it raises what that would."""
        values, kind = (
            [float(v) for v in value] if isinstance(value, Sequence) else [value],
            self.input_range.dtype,
        )
        if bad := [v for v in values if not 0 < v < float("inf")]:
            raise ValueError(
                f"input range of {self.layer_name!r} must be a positive finite number, got {bad[0]}"
            )
        if len(values) not in (1, self.row_blocks):
            each = (
                ""
                if self.row_blocks == 1
                else f", or one for each of its {self.row_blocks} row blocks"
            )
            raise ValueError(
                f"input range of {self.layer_name!r} must be one number{each}; got {len(values)}: "
                "calibrate it anew"
            )
        if bad := [
            v
            for v in values
            if not 0 < torch.tensor(v, dtype=kind, device="cpu").item() < float("inf")
        ]:
            raise ValueError(f"input range {bad[0]} of {self.layer_name!r} does not fit in {kind}")
        return values

    @property
    def readings(self) -> tuple[int, int]:
        """(row blocks, outputs): one ADC reading of each for every input vector or place."""
        return self.row_blocks, self.sections[-1].outputs.stop

    def set_output_bounds(self, value: "float | Sequence[Sequence[float]] | Tensor | None") -> None:
        """Give the readings ADC bounds of their own, in units of (full-scale input x weight scale).

        A deviation from a chip whose bound is fixed, which ``summary`` lists: ``calibrate(adc=)``
        finds them. They do not learn, and stay as they are when weights change.

        Args:
            value: > 0; one for all readings, or (row blocks, outputs). None: the bound of the chip.

        Raises:
            ValueError: a bound is not a positive finite number, or their shape is another. Nothing
                is changed.
        """
        self.output_bounds = self.checked_each("output_bounds", value)

    def set_output_ranges(self, value: "float | Sequence[Sequence[float]] | Tensor | None") -> None:
        """Set the ranges in which the digital unit of a chip such as ``hermes64`` rounds to 8 bits
        what it passes on.

        They belong to software, so that they are no deviation from the chip: ``calibrate`` finds
        them. Without effect on a chip whose ADC has the bits of the outputs (``Chip.adc_steps``
        None).

        Args:
            value: > 0, in units of (full-scale input x weight scale), after the gain of the column;
                one for all, or (row blocks, outputs). None: ADC outputs are passed on as they are.

        Raises:
            ValueError: as ``set_output_bounds``.
        """
        self.output_ranges = self.checked_each("output_ranges", value)

    def checked_each(
        self, name: str, value: "float | Sequence[Sequence[float]] | Tensor | None"
    ) -> Tensor | None:
        """What the setter of ``name``, one of ``EACH``, would set, on the device of the weight; it
        raises as that.
        """
        if value is None:
            return None
        what = f"{EACH[name]} of {self.layer_name!r}"
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        try:
            given = torch.as_tensor(value, dtype=dtype, device="cpu")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} must be numbers, of one shape: {error}") from error
        if given.dim() and tuple(given.shape) != self.readings:
            raise ValueError(
                f"{what} must be one number, or one for each of {self.readings} (row "
                f"blocks, outputs), got shape {tuple(given.shape)}: calibrate them anew"
            )
        if bad := given[~((given > 0) & given.isfinite())].flatten().tolist():
            raise ValueError(f"{what} must be positive finite numbers, got {bad[0]}")
        with torch.inference_mode(False):  # they serve outside too
            return given.expand(self.readings).to(self.weight.device, copy=True).contiguous()

    def saved_each(self, name: str) -> Bounds:
        """One of ``EACH`` as numbers."""
        values = getattr(self, name)
        if values is None or values.is_meta:
            return None
        first = values.flatten()[0]
        return first.item() if bool((values == first).all()) else values.tolist()

    def _each_of(self, name: str, section: Any, outputs: slice | None) -> Tensor | None:
        """One of ``EACH`` of a section's outputs, or of the run ``outputs`` of them."""
        values = getattr(self, name)
        if values is None:
            return None
        if tuple(values.shape) != self.readings:
            raise RuntimeError(
                f"layer {self.layer_name!r} has {EACH[name]} for {tuple(values.shape)} (row "
                f"blocks, outputs), and on the chip it was put on since, {self.chip.name}, "
                f"{self.readings} readings; call set_{name}(None) to do without, or calibrate anew"
            )
        return values[: len(section.bounds) - 1, outputs or section.outputs]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "input_range"]
        self._save_range(destination, prefix)

    def _save_range(self, destination: Any, prefix: str) -> None:
        metadata, ranges = getattr(destination, "_metadata", None), self.input_ranges
        for name, key in _EACH_KEYS.items():
            if metadata is not None and (values := self.saved_each(name)) is not None:
                metadata[prefix[:-1]][key] = values
                if not self.calibrated:
                    metadata[prefix[:-1]][_KEY] = None
        if ranges is not None and metadata is not None:
            metadata[prefix[:-1]][_KEY] = ranges[0] if len(ranges) == 1 else list(ranges)
        elif self.calibrated and not self.input_range.is_meta and self.input_range.numel() > 1:
            warnings.warn(
                f"the input ranges of {self.layer_name!r}, one for each row block, are spread over "
                "processes and not in this state_dict: keep layer.input_range.full_tensor(), which "
                "every process must call, beside it",
                stacklevel=2,
            )

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing: list,
        unexpected: list,
        errors: list,
    ) -> None:
        if self._refuses_to_load(errors):
            return
        value = state_dict.get(prefix + "input_range")
        rest = {k: v for k, v in state_dict.items() if k != prefix + "input_range"}
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing, unexpected, errors
        )
        if prefix + "input_range" in missing:
            missing.remove(prefix + "input_range")
        self._load_range(value, local_metadata, errors)
        if value is None and not local_metadata and self.takes_range:
            warn_of_lost_ranges(self.calibrated)

    def _refuses_to_load(self, errors: list) -> bool:
        if self.programmed is not None:
            errors.append(
                f"layer {self.layer_name!r} belongs to a programmed chip; load into the model it "
                "came from"
            )
        return self.programmed is not None

    def _load_each(self, local_metadata: dict, errors: list) -> None:
        saved = local_metadata.keys() & {_KEY, *_EACH_KEYS.values()}
        for name, key in _EACH_KEYS.items():
            if saved:  # whoever saved one of them had these others, or none
                try:
                    setattr(self, name, self.checked_each(name, local_metadata.get(key)))
                except ValueError as error:
                    errors.append(str(error))
            values = getattr(self, name)
            if values is not None and values.is_meta and not self.weight.is_meta:
                warnings.warn(
                    f"the {EACH[name]} of {self.layer_name!r} were lost on the meta device, and "
                    "this state_dict carries none: the layer has that of its chip; call "
                    "analogtorch.calibrate for its own",
                    stacklevel=4,
                )
                setattr(self, name, None)

    def _load_range(self, value: Any, local_metadata: dict, errors: list) -> None:
        self._load_each(local_metadata, errors)
        if value is None:
            value = local_metadata.get(_KEY)
            if value is None and _KEY in local_metadata and self.calibrated:
                self.forget_input_range()
        elif isinstance(value, Tensor):
            value = value.flatten().tolist()
        values = value if isinstance(value, list) else [0.0 if value is None else float(value)]
        if all(v > 0 for v in values):
            try:
                self.set_input_range(values)
            except ValueError as error:
                errors.append(str(error))
        elif self.input_range.is_meta and not self.weight.is_meta:
            self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)


def without_converters(metadata: Any) -> Any:
    """The metadata of a ``state_dict`` as that of a digital model has it."""
    return {
        name: {k: v for k, v in own.items() if k not in (_KEY, *_EACH_KEYS.values())}
        for name, own in metadata.items()
    }


def range_text(values: Sequence[float]) -> str:
    """Input ranges to read: ``0.5``, or of several row blocks ``0.5 to 2``."""
    ends = [f"{value:.4g}" for value in (min(values), max(values))]
    return ends[0] if len(values) == 1 else " to ".join(ends)


def bounds_text(bounds: Tensor) -> str:
    """ADC bounds to read: ``5``, or ``0.5 to 9``."""
    if bounds.is_meta:
        return "meta"
    ends = [f"{value:.4g}" for value in (bounds.min().item(), bounds.max().item())]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def warn_of_lost_ranges(calibrated: bool) -> None:
    """Say that a state_dict brought none; ``calibrated``: whether the layer has one that it
    keeps.
    """
    kept = "the layers keep those that they have. To get others, " if calibrated else ""
    warnings.warn(
        "this state_dict carries no input ranges (safetensors and plain dicts drop its metadata): "
        f"{kept}call analogtorch.calibrate, or load a state_dict that was saved by torch.save",
        stacklevel=3,
    )
