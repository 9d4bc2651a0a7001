"""What every analog layer does: quantise the input, run the row blocks, read them through the ADC,
add the bias.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section
from analogtorch.nn.converters import bounds_text, range_text, remove_converters
from analogtorch.nn.drawn import drawn, each_sample, keys_by_sample
from analogtorch.nn.learning import expect
from analogtorch.nn.placed import PlacedLayer
from analogtorch.nn.programmed import CountingLayer
from analogtorch.nn.reborn import OWN, cut, reborn
from analogtorch.ops import (
    Operands,
    Plan,
    block_scales,
    draw_keys,
    flops,
    number_samples,
    product,
    refuse_transforms,
)


class AnalogLayer(PlacedLayer, CountingLayer):
    """Mixin of the analog layers; the other base is the digital layer, whose Parameters stay the
    layer's own.

    ``train()`` injects the chip's training noise; ``eval()`` computes with quantised inputs and
    outputs and no noise; a layer of a programmed chip (``analogtorch.program``) computes with what
    the chip holds.
    """

    layer_name: str
    digital_class: type[nn.Module]
    observer: Callable[[Operands, Plan, slice, Tensor], None] | None = None
    """Called with each product while a calibration looks: tensors, plan, the outputs that it is of,
    result."""
    on_input: Callable[[Tensor], None] | None = None
    """Called with each input, before padding, while a calibration looks."""
    weight: Any
    bias: Any
    channel_dim: ClassVar[int]
    """Dimension of the output that counts the layer's outputs, from the end."""
    digital: ClassVar[type[nn.Module]]
    """The digital layer of the same kind."""
    on_request: ClassVar[bool] = False
    """Whether ``convert`` makes it only where it is asked to."""

    def __init__(self, *args: Any, chip: Chip, name: str = "", **kwargs: Any) -> None:
        if not isinstance(chip, Chip):
            raise TypeError(
                f"chip must be a Chip such as analogtorch.chips.hermes64(), got {chip!r}"
            )
        super().__init__(*args, **kwargs)
        self._attach(chip, name, self.digital)

    @classmethod
    def from_digital(cls, layer: nn.Module, chip: Chip, name: str) -> "AnalogLayer":
        """An analog layer in place of ``layer``: the same Parameter objects, buffers, hooks and
        attributes.

        Args:
            layer: the digital layer; it shares everything with the result and should not be used
                beside it.
            chip: the chip that the layer is to run on.
            name: full name of the layer in its model; it keys the layer's noise.
        """
        new = reborn(layer, cls, name)
        new._attach(chip, name, type(layer))
        return new

    def _attach(self, chip: Chip, name: str, digital_class: type[nn.Module]) -> None:
        flops.register()
        self.digital_class = digital_class
        self.layer_name = name
        self.programmed = None
        self.chip = chip
        self._add_converters()
        expect(self)

    def to_digital(self) -> nn.Module:
        """The digital layer that ``from_digital`` was given, with the Parameters as they are
        now.
        """
        old = reborn(self, self.digital_class, self.layer_name)
        for name in OWN:
            old.__dict__.pop(name, None)
        remove_converters(old)
        return old

    # what a kind of layer defines

    @classmethod
    def weight_names(cls, layer: nn.Module) -> tuple[str, ...]:
        """Parameters of the digital ``layer`` that would go on the chip."""
        return ("weight",)

    @classmethod
    def refuses(cls, layer: nn.Module) -> str | None:
        """Why the digital ``layer`` cannot become this, for a reason of its kind's own; None if it
        can.
        """
        return None

    def _read_bias(self) -> Tensor | None:
        """What is added to the sums of the readings."""
        return self.bias

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The digital layer's own product."""
        raise NotImplementedError

    def _padded(self, x: Tensor) -> Tensor:
        """The input with the padding that the product does not add by itself."""
        return x

    def _absmax(self, x: Tensor) -> Tensor:
        """Largest magnitude of each input vector (linear) or sample (convolution), broadcastable to
        the input.
        """
        raise NotImplementedError

    def _vectors(self, x: Tensor) -> int:
        """How many input vectors (linear) or samples (convolution) ``x`` has.

        Raises:
            ValueError: ``x`` has not the shape that the layer takes.
        """
        raise NotImplementedError

    # the forward pass

    def matrix_name(self, name: str) -> str:
        """What a mapping calls the weight of the layer, which the model calls ``name``."""
        return name

    def parameter_name(self, name: str) -> str:
        """Full name of the weight of the layer, which the model calls ``name``."""
        return f"{name}.weight".lstrip(".")

    @property
    def output_noise(self) -> float:
        """Noise of its ADC outputs now, of its chip's range."""
        return self.plans[self.programmed is not None, self.training][0].output_noise

    def draw(self, x: Tensor, order: Tensor | None = None) -> Tensor | None:
        """Keys of the noise of one forward, where there is any to draw: (streams,), or (samples,
        streams).

        The latter where every sample meets weights of its own. Then the first dimension of ``x``,
        and of every input that is multiplied under these keys, counts the samples; ``order`` says
        which of the batch each is, if sorted.
        """
        self._refuse_training()
        plans = self.plans[self.programmed is not None, self.training]
        noisy = plans[0].noisy or (self.training and self.noise_in_torch)
        if not noisy or self.programmed is not None:
            return None
        keys = draw_keys(x, self.streams)
        by_sample = self.chip.training.per_sample and (
            self.noise_in_torch or plans[0].weight_noise > 0
        )
        return keys_by_sample(keys, x, order) if by_sample else keys

    @property
    def exact(self) -> bool:
        """Whether it computes what the digital layer computes: no converter, no noise, no
        programmed chip.
        """
        plans = self.plans[False, self.training]
        plain = len(plans) == 1 and plans[0].exact and not (self.training and self.noise_in_torch)
        return plain and self.programmed is None and self.observer is None

    def _admit(self, x: Tensor) -> tuple[int, bool]:
        """How many vectors or samples ``x`` has, and whether autocast chooses the type of the
        product.

        Raises:
            RuntimeError: the layer is a programmed chip's, and in training; or its weight has got
                another shape.
            NotImplementedError: under a transform that the operators do not support.
            ValueError, TypeError: ``x`` has another shape or type than the layer takes.
        """
        self._refuse_training()
        if self.weight.shape != self.placed_shape:
            raise RuntimeError(
                f"layer {self.layer_name!r} was converted with a weight of {self.placed_shape}, "
                f"which has got the shape {tuple(self.weight.shape)} since; call "
                "analogtorch.to_digital(model), then convert again"
            )
        plan = self.plans[self.programmed is not None, self.training][0]
        refuse_transforms(self.layer_name, plan.noisy or (self.training and self.noise_in_torch))
        vectors = self._vectors(x)
        if self.on_input is not None:
            self.on_input(x)
        if self.programmed is not None and not torch.compiler.is_compiling():
            self.has_run = True
        return vectors, self._autocasts(x)

    def _autocasts(self, x: Tensor) -> bool:
        autocast = _autocasts(x, self.weight)
        if not autocast and x.dtype != self.weight.dtype:
            raise TypeError(
                f"layer {self.layer_name!r} has {self.weight.dtype} weights and got a {x.dtype} "
                "input: convert one of them with .to(dtype), or run under torch.autocast"
            )
        return autocast

    def analog_forward(
        self,
        x: Tensor,
        keys: Tensor | None = None,
        samples: Tensor | None = None,
        outputs: slice | None = None,
    ) -> Tensor:
        """``forward`` of every analog layer.

        Args:
            x: as the digital layer takes it.
            keys: of the noise, from ``draw``; None: drawn anew.
            samples: numbers of the vectors in the output noise; None: counted on.
            outputs: one of ``output_runs``, to read these columns only, as they are when all are
                read; None: all.
        """
        vectors, autocast = self._admit(x)
        if self.exact:
            return self._digital(x, cut(self.weight, outputs), cut(self.bias, outputs))
        mode = self.programmed is not None, self.training
        plans = (
            self.plans[mode]
            if outputs is None
            else self.run_plans[*mode, outputs.start, outputs.stop]
        )
        keys, samples = self._drawn(x, vectors, keys, samples)
        input_range = self.input_range if self.calibrated else self._absmax(x.detach())
        x, dtype = (
            self._padded(x),
            torch.get_autocast_dtype(x.device.type) if autocast else self.weight.dtype,
        )

        def product(
            x: Tensor, input_range: Tensor, keys: Tensor | None, samples: Tensor | None
        ) -> Tensor:
            inputs = (x, input_range)
            parts = [
                self._section(i, *inputs, plan, keys, samples, dtype, outputs)
                for i, plan in enumerate(plans)
            ]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.channel_dim)

        if keys is not None and keys.dim() == 2:
            return each_sample(product, x, input_range, keys, samples)
        return product(x, input_range, keys, samples)

    def _drawn(
        self, x: Tensor, vectors: int, keys: Tensor | None, samples: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Keys of the noise and numbers of the vectors, those given or else new ones where there is
        noise.
        """
        plan = self.plans[self.programmed is not None, self.training][0]
        if self.programmed is None and (plan.noisy or (self.training and self.noise_in_torch)):
            keys = self.draw(x) if keys is None else keys
            if plan.output_noise > 0 and samples is None:
                batched = x.shape[0] if x.dim() > 1 else 1
                samples = number_samples(x, vectors, vectors // max(batched, 1))
        if self.programmed is not None and plan.noisy and samples is None:
            samples = torch.arange(vectors, device=x.device) + self.count_on(vectors)
        return keys, samples

    def _section(
        self,
        index: int,
        x: Tensor,
        input_range: Tensor,
        plan: Plan,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None = None,
    ) -> Tensor:
        """The part of the output that a section computes, in ``dtype`` (autocast's, or the
        weight's).
        """
        section, held, bias = self.sections[index], self.programmed, self._read_bias()
        if held is not None and held.offset is not None:
            bias = held.offset if bias is None else bias + held.offset
        if len(self.sections) > 1:
            x, bias = x[:, section.channels], None if bias is None else bias[section.outputs]
        bias = None if bias is None else cut(bias, outputs).to(dtype)
        if held is not None:
            weight = cut(held.weights[index], outputs).to(dtype)
            noise = {"output_keys": held.keys, "samples": samples}
            noise |= {
                "scale": cut(held.scales[index], outputs, 1),
                "gain": cut(held.gains[index], outputs, 1),
            }
            if held.negatives is not None:
                noise["negatives"] = cut(held.negatives[index], outputs).to(dtype)
        else:
            weight, noise = self._simulated(section, keys, samples, dtype, outputs)
        noise |= self._limits(plan, index, outputs)
        operands = Operands(x, input_range, weight, bias, **noise)
        y = product(operands, plan)
        if self.observer is not None:
            self.observer(operands, plan, outputs or section.outputs, y)
        return y

    def _limits(self, plan: Plan, index: int, outputs: slice | None) -> dict[str, Tensor | None]:
        """The full scales that the layer has of its own, by their names in ``mvm``."""
        section, held = self.sections[index], self.programmed
        limits: dict[str, Tensor | None] = {}
        if plan.steps:
            limits["output_bounds"] = self.column_ranges("output_bounds", section, outputs)
        if plan.unit_bits:
            limits["output_ranges"] = self.column_ranges("output_ranges", section, outputs)
        if held is not None and held.adc_gains is not None and plan.steps:
            # an ADC whose gain is g clips and rounds what comes in at 1 / g of its nominal range
            bounds, gains = limits["output_bounds"], cut(held.adc_gains[index], outputs, 1)
            limits["output_bounds"] = (plan.output_bound if bounds is None else bounds) / gains
        return limits

    def _simulated(
        self,
        section: Section,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Weight of a product of a layer that is not programmed, and what noise it takes."""
        weight = section.weight(self.as_matrix(self.weight))
        known: dict[str, Tensor] = {}
        noise: dict[str, Tensor | None] = {}
        if keys is not None:
            noise = {"output_keys": keys[1:], "samples": samples}
            if self.noise_in_torch:
                weight, known = self.drawn(weight, section, keys[0])
            else:
                noise["key"] = keys[0]
        if outputs is not None and not known and (shared := section.shared_columns(self.chip)):
            # of the block as it is placed: the whole
            known = {"scale": block_scales(weight.to(dtype), section.bounds, shared)}
        return cut(weight, outputs).to(dtype), noise | {
            name: cut(t, outputs, 1) for name, t in known.items()
        }

    def drawn(
        self, weight: Tensor, section: Section, key: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``weight`` (of the section) with the noise of a training step that no kernel draws: see
        ``nn.drawn``.
        """
        return drawn(weight, section, self.chip, key, self.noise_fraction, self.noise_time)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.programmed is not None:
            self.programmed = self.programmed.map(fn)
        return self

    def extra_repr(self) -> str:
        """The digital layer's, then chip, input range and, where they are not the chip's, ADC
        bounds.
        """
        value = "absmax"
        if self.calibrated:
            ranges, unknown = (
                self.input_ranges,
                "meta" if self.input_range.is_meta else "in another process",
            )
            value = unknown if ranges is None else range_text(ranges)
        bounds = (
            "" if self.output_bounds is None else f", ADC bounds={bounds_text(self.output_bounds)}"
        )
        return f"{super().extra_repr()}, chip={self.chip.name}, range={value}{bounds}"


def _autocasts(x: Tensor, weight: Tensor) -> bool:
    """Whether autocast chooses the type of the product: never for double precision, as for torch's
    own layers.
    """
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return False
    return torch.float64 not in (x.dtype, weight.dtype)
