"""What every analog layer does: quantise the input, run the row blocks, read them through the ADC, add the bias."""

import dataclasses
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from analogtorch.chips import Chip
from analogtorch.ops import (
    Geometry,
    Noise,
    block_absmax,
    dac,
    draw_seed,
    fold,
    noisy_weight,
    over_rows,
    product,
    refuse_transforms,
    stream,
)
from analogtorch.tiling import Section, sections

_RANGE_KEY = "analogtorch.input_range"
OWN = frozenset(
    {
        "calibrated",
        "chip",
        "digital_class",
        "input_range",
        "layer_name",
        "output_streams",
        "programmed",
        "sections",
        "training_stream",
        "vectors_read",
    }
)
"""What ``from_digital`` and ``hold`` add to a layer's attributes."""


@dataclass(frozen=True)
class Programmed:
    """What a programmed chip holds of one layer, at one time: see ``analogtorch.program``."""

    weights: tuple[Tensor, ...]
    """Per section: the weights that its conductances stand for, in the section's shape."""
    scales: tuple[Tensor, ...]
    """Per section: weight at full conductance, (row blocks, outputs)."""
    gains: tuple[Tensor, ...]
    """Per section: digital correction of each block's readings, (row blocks, outputs)."""
    keys: Tensor
    """Keys of the output noise, (row blocks,) int64."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Programmed":
        """The same with ``fn`` applied to every tensor."""
        weights, scales, gains = (tuple(map(fn, part)) for part in (self.weights, self.scales, self.gains))
        return Programmed(weights, scales, gains, fn(self.keys))


class AnalogLayer(nn.Module):
    """Mixin of the analog layers; the other base is the digital layer, whose Parameters stay the layer's own.

    ``train()`` injects the chip's training noise; ``eval()`` computes with quantised inputs and outputs and no noise;
    a layer of a programmed chip (``analogtorch.program``) computes with what the chip holds.
    """

    chip: Chip
    layer_name: str
    calibrated: bool
    programmed: Programmed | None
    vectors_read: Tensor
    """Of a programmed layer: how many input vectors (linear) or samples (convolution) it has multiplied, (1,) int64.
    It counts them for the output noise, so that every multiply has its own and batches of any size see the same."""
    sections: tuple[Section, ...]
    digital_class: type[nn.Module]
    training_stream: int
    output_streams: tuple[int, ...]
    input_range: nn.Parameter
    weight: Any
    bias: Any
    channel_dim: ClassVar[int]
    """Dimension of the output that counts the layer's outputs, from the end."""
    digital: ClassVar[type[nn.Module]]
    """The digital layer of the same kind."""

    def __init__(self, *args: Any, chip: Chip, name: str = "", **kwargs: Any) -> None:
        if not isinstance(chip, Chip):
            raise TypeError(f"chip must be a Chip such as analogtorch.chips.hermes64(), got {chip!r}")
        super().__init__(*args, **kwargs)
        self._attach(chip, name, self.digital)

    @classmethod
    def from_digital(cls, layer: nn.Module, chip: Chip, name: str) -> "AnalogLayer":
        """An analog layer in place of ``layer``: the same Parameter objects, buffers, hooks and attributes.

        Args:
            layer: the digital layer; it shares everything with the result and should not be used beside it.
            chip: the chip that the layer is to run on.
            name: full name of the layer in its model; it keys the layer's noise.
        """
        new = _reborn(layer, cls)
        new._attach(chip, name, type(layer))
        return new

    def _attach(self, chip: Chip, name: str, digital_class: type[nn.Module]) -> None:
        self.digital_class = digital_class
        self.chip = chip
        self.layer_name = name
        self.calibrated = False
        self.programmed = None
        self.sections = sections(tuple(self.weight.shape), getattr(self, "groups", 1), chip)
        # hashed here, because torch.compile cannot trace a hash
        self.training_stream = stream(Noise.TRAINING, name)
        blocks = max(len(section.row_blocks) for section in self.sections)
        self.output_streams = tuple(stream(Noise.OUTPUT, name, i) for i in range(blocks))
        # learns from calibration on: until then it takes no part in the forward
        self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)

    def to_digital(self) -> nn.Module:
        """The digital layer that ``from_digital`` was given, with the Parameters as they are now."""
        old = _reborn(self, self.digital_class)
        for name in OWN:
            old.__dict__.pop(name, None)
        del old._parameters["input_range"]
        return old

    def hold(self, programmed: Programmed) -> None:
        """Become the layer as a programmed chip holds it."""
        self.programmed = programmed
        # a buffer, so that torch.export and torch.compile carry on the count
        self.register_buffer("vectors_read", torch.zeros_like(programmed.keys[:1]), persistent=False)

    # what a kind of layer defines

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The digital layer's own product."""
        raise NotImplementedError

    def _geometry(self, x: Tensor) -> tuple[Tensor, Geometry]:
        """The input as the row blocks see it, padded if need be, and how they run over it."""
        raise NotImplementedError

    def _absmax(self, x: Tensor) -> Tensor:
        """Largest magnitude of each input vector (linear) or sample (convolution), broadcastable to the input."""
        raise NotImplementedError

    def _vectors(self, x: Tensor) -> int:
        """How many input vectors (linear) or samples (convolution) ``x`` has.

        Raises:
            ValueError: ``x`` has not the shape that the layer takes.
        """
        raise NotImplementedError

    # the forward pass

    def analog_forward(self, x: Tensor) -> Tensor:
        """``forward`` of every analog layer; ``x`` as the digital layer takes it."""
        if self.programmed is not None and self.training:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, which cannot train: call .eval() on it, or "
                "train the model that it was programmed from and program that again"
            )
        refuse_transforms(self.layer_name)
        samples = torch.arange(self._vectors(x), device=x.device)
        bound = self._bound(x)
        x = dac(x, bound, self.chip.input_bits)
        seed = self._seed(x)
        if self.programmed is not None and self._output_noise() > 0:
            samples = samples + self.vectors_read
            self.vectors_read.add_(len(samples))
        reads = self.chip.output_bits is not None or self.programmed is not None or self._output_noise() > 0
        if not reads and len(self.sections) == 1:
            return self._digital(x, self._section_weight(0, seed)[0], self.bias)
        x, geometry = self._geometry(x)
        parts = [self._section(x, geometry, bound.detach(), i, seed, samples) for i in range(len(self.sections))]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.channel_dim)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * (-1 - self.channel_dim)).to(y.dtype)

    def _section(
        self, x: Tensor, geometry: Geometry, unit: Tensor, index: int, seed: Tensor | None, samples: Tensor
    ) -> Tensor:
        section, chip, noise = self.sections[index], self.chip, self._output_noise()
        weight, scales = self._section_weight(index, seed)
        if torch.is_autocast_enabled(x.device.type):  # as autocast does for the digital product
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        if len(self.sections) > 1:
            x = x[:, section.channels]
        return product(
            x,
            weight,
            unit,
            scales,
            spans=section.row_blocks,
            geometry=dataclasses.replace(geometry, groups=section.groups),
            bits=chip.output_bits,
            bound=chip.output_bound,
            noise=noise,
            keys=self._output_keys(seed) if noise > 0 else None,
            samples=samples,
            first_output=section.outputs.start,
            total_outputs=self.weight.shape[0],
            gain=None if self.programmed is None else self.programmed.gains[index],
        )

    def _section_weight(self, index: int, seed: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weight that a section computes with, and what full conductance stands for (see ``block_scales``)."""
        if self.programmed is not None:
            return self.programmed.weights[index], self.programmed.scales[index]
        section, noise = self.sections[index], self.chip.training
        weight = section.weight(self.weight)
        scales = block_scales(weight, section, self.chip)
        if not self.training or noise.weight == "none":
            return weight, scales
        assert seed is not None
        key, sigma = fold(seed, self.training_stream), None
        if noise.weight == "programming":
            with torch.no_grad():
                full = over_rows(scales, section.bounds).view(section.shape)
                safe = full.clamp_min(torch.finfo(full.dtype).tiny)
                sigma = self.chip.cell.programming_sigma((weight / safe).clamp(-1, 1))
        positions = section.positions(weight.device)
        return noisy_weight(weight, scales, noise.strength, key, *positions, section.bounds, sigma), scales

    def _seed(self, x: Tensor) -> Tensor | None:
        noise = self.chip.training
        drawn = self.training and (noise.weight != "none" or self._output_noise() > 0)
        return draw_seed(x) if drawn else None

    def _output_keys(self, seed: Tensor | None) -> Tensor:
        if self.programmed is not None:
            return self.programmed.keys
        assert seed is not None
        return fold(seed, torch.tensor(self.output_streams, device=seed.device))

    def _output_noise(self) -> float:
        on = self.programmed is not None or (self.training and self.chip.training.output)
        return self.chip.output_noise if on else 0.0

    def _bound(self, x: Tensor) -> Tensor:
        if not self.calibrated:
            return self._absmax(x.detach())
        return self.input_range.abs().to(x.dtype)

    # the range travels with the state_dict, beside the keys of the digital layer

    def set_input_range(self, value: float) -> None:
        """Fix the DAC's full scale at ``value`` > 0, in the units of the input; training goes on from there.

        Raises:
            ValueError: ``value`` is not a positive finite number.
        """
        if not (value > 0 and value < float("inf")):
            raise ValueError(f"input range of {self.layer_name!r} must be a positive finite number, got {value}")
        if self.input_range.is_meta and not self.weight.is_meta:  # weights were assigned to a layer made on meta
            self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)
        stored = torch.tensor(value, dtype=self.input_range.dtype).item()
        if not (stored > 0 and stored < float("inf")):
            raise ValueError(f"input range {value} of {self.layer_name!r} does not fit in {self.input_range.dtype}")
        with torch.no_grad():
            self.input_range.fill_(value)
        if not self.calibrated:
            self.input_range.requires_grad_(self.weight.requires_grad and self.chip.input_bits is not None)
        self.calibrated = True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "input_range"]
        metadata = getattr(destination, "_metadata", None)
        if self.calibrated and metadata is not None and not self.input_range.is_meta:
            metadata[prefix[:-1]][_RANGE_KEY] = float(self.input_range.detach().abs())  # the forward uses the magnitude

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
        if self.programmed is not None:
            errors.append(f"layer {self.layer_name!r} belongs to a programmed chip; load into the model it came from")
            return
        value = state_dict.get(prefix + "input_range")
        rest = {k: v for k, v in state_dict.items() if k != prefix + "input_range"}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing, unexpected, errors)
        if prefix + "input_range" in missing:
            missing.remove(prefix + "input_range")
        if value is None:
            value = local_metadata.get(_RANGE_KEY)
        if value is not None and float(value) > 0:
            self.set_input_range(float(value))
        elif self.input_range.is_meta and not self.weight.is_meta:
            self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)
        elif not self.calibrated and not local_metadata:
            warnings.warn(
                "this state_dict carries no input ranges (safetensors and plain dicts drop its metadata): "
                "call analogtorch.calibrate, or load a state_dict that was saved by torch.save",
                stacklevel=2,
            )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.programmed is not None:
            self.programmed = self.programmed.map(fn)
        return self

    def extra_repr(self) -> str:
        """The digital layer's, then chip and input range."""
        known = self.calibrated and not self.input_range.is_meta
        value = f"{self.input_range.item():.4g}" if known else ("meta" if self.calibrated else "absmax")
        return f"{super().extra_repr()}, chip={self.chip.name}, range={value}"


def _reborn(module: nn.Module, kind: Any) -> Any:
    """An instance of ``kind`` that is ``module`` in everything else: it shares all its attributes, hooks included."""
    new = kind.__new__(kind)
    new.__dict__.update(module.__dict__)
    new._parameters = dict(module._parameters)  # the only one that gains or loses an entry
    for hook in new._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
    return new


def block_scales(weight: Tensor, section: Section, chip: Chip) -> Tensor:
    """Weight that full conductance stands for, per row block and output: (row blocks, outputs). Without gradient."""
    columns = block_absmax(weight, section.bounds)
    if chip.weight_scale == "column":
        return columns
    return torch.cat([columns[:, c].amax(1, keepdim=True).expand(-1, c.stop - c.start) for c in section.col_blocks], 1)
