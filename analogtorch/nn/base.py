"""What every analog layer does: quantise the input, run the row blocks, read them through the ADC, add the bias."""

import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section, sections
from analogtorch.devices import Spread
from analogtorch.nn.drawn import drawn, each_sample, keys_by_sample, needs_torch
from analogtorch.nn.learning import expect
from analogtorch.nn.ranges import EACH, RangedLayer, bounds_text, range_text
from analogtorch.ops import (
    Noise,
    Operands,
    Plan,
    block_scales,
    draw_keys,
    flops,
    number_samples,
    product,
    refuse_transforms,
    stream,
)

OWN = frozenset(
    {
        "_chip",
        "calibrated",
        "chip",
        "digital_class",
        "has_run",
        "input_range",
        "layer_name",
        "noise_fraction",
        "noise_in_torch",
        "noise_time",
        "output_bounds",
        "output_ranges",
        "output_runs",
        "placed_shape",
        "plans",
        "programmed",
        "run_plans",
        "sections",
        "sequence_first",
        "streams",
        "vectors_read",
    }
)
"""What ``convert`` and ``hold`` add to a layer's attributes."""
_COUNTING = threading.Lock()
"""Held while a layer counts; not a layer's own, which could not be copied."""


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
    adc_gains: tuple[Tensor, ...] | None = None
    """Per section: gain of the ADC that reads each column, (row blocks, outputs), > 0; None: 1. ``gains`` has it."""
    offset: Tensor | None = None
    """Added digitally to each output beside the bias, (outputs,): see ``analogtorch.correct_columns``."""
    negatives: tuple[Tensor, ...] | None = None
    """Per section: the part of ``weights`` that the negative polarity holds, >= 0; None: it is not read by itself."""

    def map(self, fn: Callable[[Tensor], Tensor]) -> "Programmed":
        """The same with ``fn`` applied to every tensor."""
        weights, scales, gains = (tuple(map(fn, part)) for part in (self.weights, self.scales, self.gains))
        adc_gains = None if self.adc_gains is None else tuple(map(fn, self.adc_gains))
        offset = None if self.offset is None else fn(self.offset)
        negatives = None if self.negatives is None else tuple(map(fn, self.negatives))
        return Programmed(weights, scales, gains, fn(self.keys), adc_gains, offset, negatives)


class AnalogLayer(RangedLayer):
    """Mixin of the analog layers; the other base is the digital layer, whose Parameters stay the layer's own.

    ``train()`` injects the chip's training noise; ``eval()`` computes with quantised inputs and outputs and no noise;
    a layer of a programmed chip (``analogtorch.program``) computes with what the chip holds.
    """

    _chip: Chip
    layer_name: str
    calibrated: bool
    programmed: Programmed | None
    has_run: bool = False
    """Of a programmed layer: whether it has multiplied anything, compiled calls aside."""
    vectors_read: Tensor
    """Of a programmed layer: how many input vectors (linear) or samples (convolution) it has multiplied, (1,) int64.
    It counts them for the output noise, so that every multiply has its own and batches of any size see the same."""
    sections: tuple[Section, ...]
    placed_shape: tuple[int, ...]
    """Shape of the weight that ``sections`` are of."""
    digital_class: type[nn.Module]
    plans: dict[tuple[bool, bool], tuple[Plan, ...]]
    """Per section, by (programmed, training)."""
    output_runs: tuple[slice, ...] = ()
    """Runs of its outputs that a layer of one section may be asked for alone."""
    run_plans: dict[tuple[bool, bool, int, int], tuple[Plan, ...]]
    """That of each run, by (programmed, training, first output, end)."""
    noise_in_torch: bool
    """Whether training draws its weights in plain torch: for a cell, or an option of noise, that no kernel knows."""
    noise_fraction: float = 1.0
    """How much of the chip's training noise there is, in [0, 1]: see ``analogtorch.hwa.training_noise_``."""
    noise_time: float | None
    """Of the devices in training, s: ``TrainingNoise.time``, parsed here because torch.compile cannot trace that."""
    streams: tuple[int, ...]
    """Of the noise: that of the weights, then that of each row block's readings."""
    input_range: nn.Parameter
    """The DAC's full scale, (1,), or of each row block, (row blocks,); its magnitude counts."""
    observer: Callable[[Operands, Plan, slice, Tensor], None] | None = None
    """Called with each product while a calibration looks: tensors, plan, the outputs that it is of, result."""
    on_input: Callable[[Tensor], None] | None = None
    """Called with each input, before padding, while a calibration looks."""
    weight: Any
    bias: Any
    channel_dim: ClassVar[int]
    """Dimension of the output that counts the layer's outputs, from the end."""
    digital: ClassVar[type[nn.Module]]
    """The digital layer of the same kind."""
    takes_range: ClassVar[bool] = True
    """Whether its inputs go through a DAC whose full scale ``calibrate`` finds."""
    on_request: ClassVar[bool] = False
    """Whether ``convert`` makes it only where it is asked to."""

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
        new = reborn(layer, cls, name)
        new._attach(chip, name, type(layer))
        return new

    def _attach(self, chip: Chip, name: str, digital_class: type[nn.Module]) -> None:
        flops.register()
        self.digital_class = digital_class
        self.layer_name = name
        self.calibrated = False
        self.programmed = None
        self.chip = chip
        # learns from calibration on: until then it takes no part in the forward
        with torch.inference_mode(False):  # it must be able to learn, whatever it was made under
            self.input_range = nn.Parameter(self.weight.new_zeros(1), requires_grad=False)
        for each in EACH:
            self.register_buffer(each, None, persistent=False)
        expect(self)

    @property
    def chip(self) -> Chip:
        """The chip that the layer runs on; another may be assigned."""
        return self._chip

    @chip.setter
    def chip(self, chip: Chip) -> None:
        if self.programmed is not None:
            raise RuntimeError(f"layer {self.layer_name!r} belongs to a programmed chip, which cannot become another")
        self._chip, self.placed_shape = chip, tuple(self.weight.shape)
        self.sections = sections(self.matrix_shape, getattr(self, "groups", 1), chip)
        # hashed here, because torch.compile cannot trace a hash
        blocks = self.row_blocks
        name = self.layer_name
        self.streams = (stream(Noise.TRAINING, name), *(stream(Noise.OUTPUT, name, i) for i in range(blocks)))
        self.noise_in_torch, self.noise_time = needs_torch(chip, self.noise_fraction), chip.training.seconds
        self.plans = {
            (held, training): tuple(self._plan(section, held, training) for section in self.sections)
            for held, training in ((False, False), (False, True), (True, False))
        }
        self.run_plans = {
            (*key, run.start, run.stop): (replace(plan, columns=(), first_output=plan.first_output + run.start),)
            for key, (plan, *_) in self.plans.items()
            for run in self.output_runs
        }

    @property
    def row_blocks(self) -> int:  # type: ignore[override]
        """Row blocks of the matrix: readings that are summed for each output."""
        return max(len(section.bounds) for section in self.sections) - 1

    def _plan(self, section: Section, held: bool, training: bool) -> Plan:
        chip, noise, fraction = self.chip, self.chip.training, self.noise_fraction
        spread = Spread() if noise.weight == "gaussian" else chip.cell.spread
        geometry: dict[str, Any] = self._geometry()
        noisy_weight = training and noise.weight != "none" and spread is not None and not self.noise_in_torch
        return Plan(
            bounds=section.bounds,
            columns=section.shared_columns(chip),
            groups=section.groups,
            input_bits=chip.input_bits or 0,
            output_steps=chip.output_steps,
            unit_bits=chip.unit_bits,
            phases=chip.phases,
            output_bound=chip.output_bound,
            output_noise=chip.output_noise if held else fraction * chip.output_noise * (training and noise.output),
            weight_noise=fraction * noise.strength if noisy_weight else 0.0,
            spread=spread if noisy_weight and spread is not None else Spread(),
            first_output=section.outputs.start,
            total_outputs=self.sections[-1].outputs.stop,
            first_row=section.first_row,
            **geometry,
        )

    def to_digital(self) -> nn.Module:
        """The digital layer that ``from_digital`` was given, with the Parameters as they are now."""
        old = reborn(self, self.digital_class, self.layer_name)
        for name in OWN:
            old.__dict__.pop(name, None)
        del old._parameters["input_range"]
        for each in EACH:
            del old._buffers[each]
            old._non_persistent_buffers_set.discard(each)
        return old

    def hold(self, programmed: Programmed) -> None:
        """Become the layer as a programmed chip holds it."""
        self.programmed = programmed
        # a buffer, so that torch.export and torch.compile carry on the count
        with torch.inference_mode(False):  # it must be able to count outside too
            count = torch.zeros(1, dtype=torch.int64, device=programmed.keys.device)
        self.register_buffer("vectors_read", count, persistent=False)

    def count_on(self, vectors: int) -> Tensor:
        """Count so many vectors of a programmed layer; the number of the first in the output noise, (1,) int64.

        Threads that share a layer never get the same numbers; which of them gets which depends on who comes first.
        """
        if torch.compiler.is_compiling():  # which cannot trace a lock
            return self._counted_on(vectors)
        with _COUNTING:
            return self._counted_on(vectors)

    def _counted_on(self, vectors: int) -> Tensor:
        first = self.vectors_read.clone()
        self.vectors_read.add_(vectors)
        return first

    # what a kind of layer defines

    @classmethod
    def weight_names(cls, layer: nn.Module) -> tuple[str, ...]:
        """Parameters of the digital ``layer`` that would go on the chip."""
        return ("weight",)

    @classmethod
    def refuses(cls, layer: nn.Module) -> str | None:
        """Why the digital ``layer`` cannot become this, for a reason of its kind's own; None if it can."""
        return None

    def as_matrix(self, weight: Tensor) -> Tensor:
        """A weight of the layer's shape as the chip holds it: (outputs, inputs of one group, *kernel)."""
        return weight

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape of the matrix: (outputs, inputs of one group, *kernel)."""
        return tuple(self.as_matrix(self.weight.detach().to("meta")).shape)

    def _read_bias(self) -> Tensor | None:
        """What is added to the sums of the readings."""
        return self.bias

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The digital layer's own product."""
        raise NotImplementedError

    def _padded(self, x: Tensor) -> Tensor:
        """The input with the padding that the product does not add by itself."""
        return x

    def _geometry(self) -> dict[str, tuple[int, ...]]:
        """Stride, padding and dilation of the product, by name."""
        return {}

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
        """Keys of the noise of one forward, where there is any to draw: (streams,), or (samples, streams).

        The latter where every sample meets weights of its own. Then the first dimension of ``x``, and of every input
        that is multiplied under these keys, counts the samples; ``order`` says which of the batch each is, if sorted.
        """
        self._refuse_training()
        plans = self.plans[self.programmed is not None, self.training]
        noisy = plans[0].noisy or (self.training and self.noise_in_torch)
        if not noisy or self.programmed is not None:
            return None
        keys = draw_keys(x, self.streams)
        by_sample = self.chip.training.per_sample and (self.noise_in_torch or plans[0].weight_noise > 0)
        return keys_by_sample(keys, x, order) if by_sample else keys

    @property
    def exact(self) -> bool:
        """Whether it computes what the digital layer computes: no converter, no noise, no programmed chip."""
        plans = self.plans[False, self.training]
        plain = len(plans) == 1 and plans[0].exact and not (self.training and self.noise_in_torch)
        return plain and self.programmed is None and self.observer is None

    def _admit(self, x: Tensor) -> tuple[int, bool]:
        """How many vectors or samples ``x`` has, and whether autocast chooses the type of the product.

        Raises:
            RuntimeError: the layer is a programmed chip's, and in training; or its weight has got another shape.
            NotImplementedError: under a transform that the operators do not support.
            ValueError, TypeError: ``x`` has another shape or type than the layer takes.
        """
        self._refuse_training()
        if self.weight.shape != self.placed_shape:
            raise RuntimeError(
                f"layer {self.layer_name!r} was converted with a weight of {self.placed_shape}, which has got the "
                f"shape {tuple(self.weight.shape)} since; call analogtorch.to_digital(model), then convert again"
            )
        plan = self.plans[self.programmed is not None, self.training][0]
        refuse_transforms(self.layer_name, plan.noisy or (self.training and self.noise_in_torch))
        vectors = self._vectors(x)
        if self.on_input is not None:
            self.on_input(x)
        if self.programmed is not None and not torch.compiler.is_compiling():
            self.has_run = True
        return vectors, self._autocasts(x)

    def _refuse_training(self) -> None:
        if self.programmed is not None and self.training:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, which cannot train: call .eval() on it, or "
                "train the model that it was programmed from and program that again"
            )

    def _autocasts(self, x: Tensor) -> bool:
        autocast = _autocasts(x, self.weight)
        if not autocast and x.dtype != self.weight.dtype:
            raise TypeError(
                f"layer {self.layer_name!r} has {self.weight.dtype} weights and got a {x.dtype} input: convert one of "
                "them with .to(dtype), or run under torch.autocast"
            )
        return autocast

    def analog_forward(
        self, x: Tensor, keys: Tensor | None = None, samples: Tensor | None = None, outputs: slice | None = None
    ) -> Tensor:
        """``forward`` of every analog layer.

        Args:
            x: as the digital layer takes it.
            keys: of the noise, from ``draw``; None: drawn anew.
            samples: numbers of the vectors in the output noise; None: counted on.
            outputs: one of ``output_runs``, to read these columns only, as they are when all are read; None: all.
        """
        vectors, autocast = self._admit(x)
        if self.exact:
            return self._digital(x, cut(self.weight, outputs), cut(self.bias, outputs))
        mode = self.programmed is not None, self.training
        plans = self.plans[mode] if outputs is None else self.run_plans[*mode, outputs.start, outputs.stop]
        keys, samples = self._drawn(x, vectors, keys, samples)
        input_range = self.input_range if self.calibrated else self._absmax(x.detach())
        x, dtype = self._padded(x), torch.get_autocast_dtype(x.device.type) if autocast else self.weight.dtype

        def product(x: Tensor, input_range: Tensor, keys: Tensor | None, samples: Tensor | None) -> Tensor:
            inputs = (x, input_range)
            parts = [self._section(i, *inputs, plan, keys, samples, dtype, outputs) for i, plan in enumerate(plans)]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.channel_dim)

        if keys is not None and keys.dim() == 2:
            return each_sample(product, x, input_range, keys, samples)
        return product(x, input_range, keys, samples)

    def _drawn(
        self, x: Tensor, vectors: int, keys: Tensor | None, samples: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Keys of the noise and numbers of the vectors, those given or else new ones where there is noise."""
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
        """The part of the output that a section computes, in ``dtype`` (autocast's, or the weight's)."""
        section, held, bias = self.sections[index], self.programmed, self._read_bias()
        if held is not None and held.offset is not None:
            bias = held.offset if bias is None else bias + held.offset
        if len(self.sections) > 1:
            x, bias = x[:, section.channels], None if bias is None else bias[section.outputs]
        bias = None if bias is None else cut(bias, outputs).to(dtype)
        if held is not None:
            weight = cut(held.weights[index], outputs).to(dtype)
            noise = {"output_keys": held.keys, "samples": samples}
            noise |= {"scale": cut(held.scales[index], outputs, 1), "gain": cut(held.gains[index], outputs, 1)}
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
            limits["output_bounds"] = self._each_of("output_bounds", section, outputs)
        if plan.unit_bits:
            limits["output_ranges"] = self._each_of("output_ranges", section, outputs)
        if held is not None and held.adc_gains is not None and plan.steps:
            # an ADC whose gain is g clips and rounds what comes in at 1 / g of its nominal range
            bounds, gains = limits["output_bounds"], cut(held.adc_gains[index], outputs, 1)
            limits["output_bounds"] = (plan.output_bound if bounds is None else bounds) / gains
        return limits

    def _simulated(
        self, section: Section, keys: Tensor | None, samples: Tensor | None, dtype: torch.dtype, outputs: slice | None
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
        return cut(weight, outputs).to(dtype), noise | {name: cut(t, outputs, 1) for name, t in known.items()}

    def drawn(self, weight: Tensor, section: Section, key: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``weight`` (of the section) with the noise of a training step that no kernel draws: see ``nn.drawn``."""
        return drawn(weight, section, self.chip, key, self.noise_fraction, self.noise_time)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        if self.programmed is not None:
            self.programmed = self.programmed.map(fn)
        return self

    def extra_repr(self) -> str:
        """The digital layer's, then chip, input range and, where they are not the chip's, ADC bounds."""
        value = "absmax"
        if self.calibrated:
            ranges, unknown = self.input_ranges, "meta" if self.input_range.is_meta else "in another process"
            value = unknown if ranges is None else range_text(ranges)
        bounds = "" if self.output_bounds is None else f", ADC bounds={bounds_text(self.output_bounds)}"
        return f"{super().extra_repr()}, chip={self.chip.name}, range={value}{bounds}"


def reborn(module: nn.Module, kind: Any, name: str) -> Any:
    """An instance of ``kind`` that is ``module`` in everything else: it shares all its attributes, hooks included.

    ``name``: of the module in its model.
    """
    new = kind.__new__(kind)
    new.__dict__.update(module.__dict__)
    if new.__dict__.pop("_compiled_call_impl", None) is not None:  # it would go on calling the module that was
        warnings.warn(
            f"{name or '(root)'!r} was compiled by itself and is not any more: call its .compile() again",
            stacklevel=4,
        )
    if forward_is_plain(module):
        new.__dict__.pop("forward", None)  # bound to the module that was
    # what gains or loses an entry
    new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
    new._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for hook in new._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
    return new


def forward_is_plain(module: nn.Module) -> bool:
    """Whether the module computes by the forward of its class, which accelerate leaves as an attribute of its own."""
    own = vars(module).get("forward")
    return own is None or getattr(own, "__func__", None) is type(module).forward


def cut(t: Any, outputs: slice | None, dim: int = 0) -> Any:
    """The part of a tensor that belongs to the run ``outputs``; ``dim`` counts the outputs."""
    if t is None or outputs is None:
        return t
    return t.narrow(dim, outputs.start, outputs.stop - outputs.start)


def _autocasts(x: Tensor, weight: Tensor) -> bool:
    """Whether autocast chooses the type of the product: never for double precision, as for torch's own layers."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return False
    return torch.float64 not in (x.dtype, weight.dtype)
