"""The converters of an analog layer: the full scales of its DACs, its ADCs and its digital unit.

The ranges are a Parameter and buffers of the layer, so that optimizers, FSDP, ``.to()`` and copies
treat them as other tensors. ``nn/converter_state.py`` stores them in a ``state_dict`` without
additional keys.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.chips.tiling import Section
from analogtorch.nn import converter_state
from analogtorch.nn.converter_state import COLUMN_RANGES, Numbers
from analogtorch.values import checks

Given = float | Sequence[Sequence[float]] | Tensor | None
"""One of ``COLUMN_RANGES`` as the user gives it."""


class ConvertersMixin(nn.Module):
    """The part of an analog layer that holds the ranges of its converters."""

    input_range: nn.Parameter
    """The DAC range, (1,), or that of each row block, (row blocks,); its magnitude counts."""
    adc_ranges: Tensor | None
    """ADC range of each partial sum, (row blocks, outputs), in units of (full-scale input x weight
    scale). It deviates from the chip, which has one ADC range for all. None: the ADC range of the
    chip."""
    output_ranges: Tensor | None
    """Range in which the digital unit of a chip with ``Periphery.output_bits`` rounds its outputs,
    (row blocks, outputs), in the same units; software sets it. None: unknown, and ADC outputs are
    not rounded again."""
    calibrated: bool
    """Whether the DAC range is known; otherwise each input gives its own."""
    layer_name: str
    programmed: Any
    chip: Any
    put_on: Any
    weight: Any
    sections: tuple[Section, ...]
    row_blocks: int

    def _add_converters(self) -> None:
        """Start without known ranges."""
        self.calibrated = False
        # learns from calibration on: until then it takes no part in the forward
        with torch.inference_mode(False):  # it must be able to learn, whatever it was made under
            self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)
        for name in COLUMN_RANGES:
            self.register_buffer(name, None, persistent=False)

    # DAC

    @property
    def takes_range(self) -> bool:
        """Whether the inputs go through a DAC whose range ``calibrate`` finds.

        Light has none: 1 is the illuminance of the chip.
        """
        return not self.chip.light.on

    @property
    def ranged(self) -> bool:
        """Whether it was given ranges, as by ``calibrate``: of its DAC, ADCs or digital unit.

        A layer whose inputs give the DAC range, which ``calibrate`` may choose, is not
        ``calibrated``, and has those of the digital unit.
        """
        of_dac = self.calibrated and self.takes_range
        return of_dac or any(getattr(self, name) is not None for name in COLUMN_RANGES)

    @property
    def unrounded(self) -> bool:
        """Whether ADC outputs leave the tile as they are: no range of ``output_bits`` is known."""
        return self.chip.periphery.output_bits is not None and self.output_ranges is None

    def _fix_range(self) -> None:
        self.calibrated = True  # so that it does not learn
        self.set_input_range(1.0)

    @property
    def input_ranges(self) -> tuple[float, ...] | None:
        """The DAC range, or that of each row block; None if this process does not know it."""
        if not self.calibrated or self.input_range.is_meta or self.range_is_elsewhere:
            return None
        # the forward uses the magnitude
        return tuple(converter_state.local(self.input_range).abs().tolist())

    @property
    def range_is_elsewhere(self) -> bool:
        """Whether another process holds a part of the DAC range, or all of it.

        FSDP shards a range like any other parameter: a range of one number stays with the first
        process.
        """
        return converter_state.local(self.input_range).numel() < self.input_range.numel()

    def dac_range(self) -> Tensor:
        """Return the DAC range with which the layer computes.

        Raises:
            RuntimeError: the ranges are those of other row blocks.
        """
        if (ranges := self.input_range.numel()) not in (1, self.row_blocks):
            raise RuntimeError(
                f"layer {self.layer_name!r} has DAC ranges for {ranges} row blocks, and "
                f"{self.row_blocks} on the chip it was put on since, {self.chip.name}; call "
                "set_input_range, or calibrate anew"
            )
        return self.input_range

    def set_input_range(self, value: float | Sequence[float] | Tensor) -> None:
        """Set the DAC range, in the units of the input; training continues from it.

        Args:
            value: > 0; one number for the layer, or one for the DACs of each row block, as a
                sequence, tensor or array (row blocks,). The groups of a convolution share that of a
                row block. On a GPU, and if row blocks cut a kernel, a layer with several ranges
                computes in plain torch, more slowly. An optimizer that has stepped with another
                number of ranges must be made anew.

        Raises:
            ValueError: a value is not a positive finite number, or their number is neither 1 nor
                that of row blocks.
        """
        self._follow_weight()
        values = self.checked_ranges(value)
        # whatever the default device is
        stored = torch.tensor(values, dtype=self.input_range.dtype, device="cpu")
        with torch.no_grad():
            self._resize_range(stored.shape)
            if len(values) == 1:
                self.input_range.fill_(values[0])
            else:
                self.input_range.copy_(stored)
        self.start_range()

    def start_range(self) -> None:
        """Compute with the DAC range from now on; it learns if the weight does."""
        if not self.calibrated:
            learns = self.weight.requires_grad and self.chip.dac.bits is not None
            self.input_range.requires_grad_(learns)
        self.calibrated = True

    def forget_input_range(self) -> None:
        """Take the DAC range from each input again, as before any calibration."""
        self.calibrated = False
        self.input_range.requires_grad_(False)
        with torch.no_grad():
            self.input_range.zero_()

    def checked_ranges(self, value: float | Sequence[float] | Tensor) -> list[float]:
        """Return the numbers that ``set_input_range`` would set; it raises the same errors."""
        given, kind = _plain(value), self.input_range.dtype
        listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        name, wider = f"DAC range of {self.layer_name!r}", torch.finfo(torch.float64).max
        values = [
            checks.number(name, _plain(v), above=0, what="finite number", largest=wider)
            for v in listed
        ]
        if len(values) not in (1, self.row_blocks):
            blocks = self.row_blocks
            each = f", or one for each of its {blocks} row blocks" if blocks > 1 else ""
            raise ValueError(
                f"{name} must be one number{each}; got {len(values)}: calibrate it anew"
            )
        if len(values) > 1 and not self.takes_range_per_block:
            raise ValueError(
                f"{name} must be one number, because its row blocks cut a kernel and "
                f"{self.chip.name} applies inputs in pulses; got {len(values)}"
            )
        stored = torch.tensor(values, dtype=kind, device="cpu").tolist()
        if bad := [v for v, s in zip(values, stored, strict=True) if not 0 < s < float("inf")]:
            raise ValueError(f"DAC range {bad[0]} of {self.layer_name!r} does not fit in {kind}")
        return values

    @property
    def takes_range_per_block(self) -> bool:
        """Whether each row block may have its own DAC range."""
        return self.chip.pulses == 1 or not any(s.cuts_kernel for s in self.sections)

    def _follow_weight(self) -> None:
        """Make the range anew, or of their type, if other weights were assigned to the layer."""
        if self.input_range.is_meta and not self.weight.is_meta:
            self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)
        elif self.input_range.dtype != self.weight.dtype:
            self.input_range.data = self.input_range.data.to(self.weight.dtype)

    def _resize_range(self, shape: torch.Size) -> None:
        """Resize the range in the same Parameter, which an optimizer may hold."""
        if self.input_range.shape != shape:
            with torch.inference_mode(False):  # it must be able to learn, whatever it was set under
                self.input_range.data = self.input_range.new_empty(shape)
                self.input_range.grad = None

    # ADC and digital unit

    @property
    def adc_shape(self) -> tuple[int, int]:
        """(row blocks, outputs): the ADC outputs of one input vector or position.

        Where the chip slices weights, each column of a weight counts as an output.
        """
        return self.row_blocks, self.sections[-1].adcs.stop

    def set_adc_ranges(self, value: Given) -> None:
        """Set the ADC ranges of the layer, in units of (full-scale input x weight scale).

        They deviate from a chip whose ADC range is fixed, and ``summary`` lists them;
        ``calibrate(adc=)`` finds them. They do not learn, and stay as they are when weights change.

        Args:
            value: > 0; one for all ADCs, or (row blocks, outputs). None: the ADC range of the chip.

        Raises:
            ValueError: a range is not a positive finite number, or the shape is another. Nothing is
                changed.
        """
        self.set_column_ranges("adc_ranges", value)

    def set_output_ranges(self, value: Given) -> None:
        """Set the ranges in which the chip's digital unit rounds its outputs.

        Such a unit is part of ``hermes64``. Software sets its ranges, so they do not deviate from
        the chip: ``calibrate`` finds them. They have no effect on a chip without digital unit
        (``Periphery.output_bits`` None).

        Args:
            value: > 0, in units of (full-scale input x weight scale), after the gain of the column;
                one for all, or (row blocks, outputs). None: ADC outputs are not rounded again.

        Raises:
            ValueError: see ``set_adc_ranges``.
        """
        self.set_column_ranges("output_ranges", value)

    def set_column_ranges(self, name: str, value: Given) -> None:
        """Set the ranges of this ``name``, one of ``COLUMN_RANGES``."""
        setattr(self, name, self.checked_column_ranges(name, value))

    def checked_column_ranges(self, name: str, value: Given) -> Tensor | None:
        """Return the ranges that ``set_column_ranges`` would set, or raise its errors.

        They are on the device of the weight.
        """
        if value is None:
            return None
        what = f"{COLUMN_RANGES[name]} of {self.layer_name!r}"
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        try:
            given = torch.as_tensor(value, dtype=dtype, device="cpu")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} must be numbers, of one shape: {error}") from error
        if given.dim() and tuple(given.shape) != self.adc_shape:
            raise ValueError(
                f"{what} must be one number, or one for each of {self.adc_shape} (row "
                f"blocks, outputs), got shape {tuple(given.shape)}: calibrate them anew"
            )
        if bad := given[~((given > 0) & given.isfinite())].flatten().tolist():
            raise ValueError(f"{what} must be positive finite numbers, got {bad[0]}")
        with torch.inference_mode(False):  # they serve outside too
            return given.expand(self.adc_shape).to(self.weight.device, copy=True).contiguous()

    def saved_column_ranges(self, name: str) -> Numbers:
        """Return one of ``COLUMN_RANGES`` as numbers."""
        values = getattr(self, name)
        if values is None or values.is_meta:
            return None
        first = values.flatten()[0]
        return first.item() if bool((values == first).all()) else values.tolist()

    def column_ranges(self, name: str, section: Section, outputs: slice | None) -> Tensor | None:
        """Return one of ``COLUMN_RANGES`` for a section's ADC outputs, or a run of them."""
        values = getattr(self, name)
        if values is None:
            return None
        if tuple(values.shape) != self.adc_shape:
            raise RuntimeError(
                f"layer {self.layer_name!r} has {COLUMN_RANGES[name]} for {tuple(values.shape)} "
                f"(row blocks, outputs), and {self.adc_shape} on the chip it was put on since, "
                f"{self.chip.name}; call set_{name}(None) to do without, or calibrate anew"
            )
        return values[: section.blocks, outputs or section.adcs]

    # state_dict

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "input_range"]
        converter_state.save(self, destination, prefix)
        converter_state.note(self)

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
        if self.programmed is not None and not (state_dict or local_metadata):
            # what is loaded lies beside the layer, as the matrices of an adapter do
            held = (name for name, p in self._parameters.items() if p is not None)
            missing += [prefix + name for name in held if name != "input_range"]
            return
        if self.refuses_to_load(errors):
            return
        key = prefix + "input_range"
        value = state_dict.get(key)
        rest = {k: v for k, v in state_dict.items() if k != key}
        filled = converter_state.filled(self, state_dict.get(prefix + "weight"), local_metadata)
        lacking = self.takes_range and converter_state.lacks_ranges(
            self, self.ranged, state_dict, prefix, local_metadata
        )
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing, unexpected, errors
        )
        if key in missing:
            missing.remove(key)
        self._load_converters(value, local_metadata, errors)
        if value is None and self.takes_range:
            if lacking:
                converter_state.warn_of_lost_ranges(self.calibrated)
            elif filled:
                converter_state.warn_of_own_ranges()

    def _load_converters(self, value: Any, local_metadata: dict, errors: list) -> None:
        """Set the ranges of a ``state_dict``; ``value`` is its entry ``input_range``."""
        converter_state.load_choices(self, local_metadata)
        converter_state.load_column_ranges(self, local_metadata, errors)
        converter_state.load_input_range(self, value, local_metadata, errors)

    def refuses_to_load(self, errors: list) -> bool:
        """Return whether nothing can be loaded, as on a programmed chip; add why to ``errors``."""
        if self.programmed is not None:
            errors.append(
                f"layer {self.layer_name!r} belongs to a programmed chip; load into the model it "
                "came from"
            )
        return self.programmed is not None


def _plain(value: Any) -> Any:
    """Return a tensor or an array as numbers of Python, and anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def remove_converters(layer: nn.Module) -> None:
    """Remove the ranges from a layer that becomes digital."""
    del layer._parameters["input_range"]
    for name in COLUMN_RANGES:
        del layer._buffers[name]
        layer._non_persistent_buffers_set.discard(name)


def dac_text(layer: ConvertersMixin) -> str | None:
    """Return a calibrated layer's DAC ranges as text, or where they are; None: it has none."""
    if not layer.calibrated:
        return None
    if (ranges := layer.input_ranges) is not None:
        return dac_ranges_text(ranges)
    return "meta" if layer.input_range.is_meta else "in another process"


def dac_ranges_text(values: Sequence[float]) -> str:
    """Return DAC ranges as text: ``0.5``, or for several row blocks ``0.5 to 2``."""
    ends = [f"{value:.4g}" for value in (min(values), max(values))]
    return ends[0] if len(values) == 1 else " to ".join(ends)


def adc_ranges_text(bounds: Tensor) -> str:
    """Return ADC ranges as text: ``5``, or ``0.5 to 9``."""
    if bounds.is_meta:
        return "meta"
    ends = [f"{value:.4g}" for value in (bounds.min().item(), bounds.max().item())]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
