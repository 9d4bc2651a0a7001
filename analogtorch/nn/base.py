"""The analog layer: the Parameters of a digital layer, converters, and an execution."""

import contextlib
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from analogtorch.chips import Chip
from analogtorch.nn.adapters import watch_wrapping
from analogtorch.nn.converters import adc_ranges_text, dac_text, remove_converters
from analogtorch.nn.execution import Exact, Execution
from analogtorch.nn.learning import expect
from analogtorch.nn.placed import PlacedMixin
from analogtorch.nn.programmed import ProgrammedMixin
from analogtorch.nn.reborn import ADDED, cut, reborn
from analogtorch.nn.samples import SamplesFirst
from analogtorch.nn.tap import Tap
from analogtorch.ops import Plan, flops, refuse_transforms, vector_numbers
from analogtorch.ops.expansion import expanded
from analogtorch.ops.transforms import untransformed
from analogtorch.values import checks

_SOME = 65_536
"""Inputs, about, of which a median is taken."""


class AnalogLayer(SamplesFirst, PlacedMixin, ProgrammedMixin):
    """Mixin of the analog layers; the other base is the digital layer, which keeps its Parameters.

    ``train()`` injects the chip's training noise. ``eval()`` computes with quantised inputs and
    outputs and no noise. A layer of a programmed chip (``analogtorch.program``) computes with the
    programmed conductances.
    """

    layer_name: str
    digital_class: type[nn.Module]
    taps: tuple[Tap, ...] = ()
    """Taps that observe or change the layer's computation: see ``analogtorch.nn.tapped``."""
    steps_first: bool = False
    """Whether what it multiplies is (steps, samples, inputs) where that has three dimensions, by
    which taps match masks to it; else samples come first."""
    weight: Any
    bias: Any
    channel_dim: ClassVar[int]
    """Dimension of the output that counts the layer's outputs, from the end."""
    on_request: ClassVar[bool] = False
    """Whether ``convert`` converts this kind only if asked."""

    def __init__(self, *args: Any, chip: Chip, name: str = "", **kwargs: Any) -> None:
        checks.instance("chip", chip, Chip, "analogtorch.chips.hermes64()")
        super().__init__(*args, **kwargs)
        self._attach(chip, name, self.digital)

    @classmethod
    def from_digital(cls, layer: nn.Module, chip: Chip, name: str) -> "AnalogLayer":
        """Return an analog layer in place of the digital ``layer``.

        It has the same Parameter objects, buffers, hooks and attributes.

        Args:
            layer: the digital layer; it shares everything with the result and should not be used
                afterwards.
            chip: the chip of the layer.
            name: full name of the layer in its model; it keys the layer's noise.
        """
        new = reborn(layer, cls)
        new._attach(chip, name, type(layer))
        return new

    def _attach(self, chip: Chip, name: str, digital_class: type[nn.Module]) -> None:
        flops.register()
        watch_wrapping()
        self.digital_class = digital_class
        self.layer_name = name
        self.programmed = None
        self._add_converters()
        self.chip = chip
        expect(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, and whether the weight is another than that of the cells."""
        return {**vars(self), "was_parted": self.parted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        was_parted = state.pop("was_parted", False)
        super().__setstate__(state)
        self.count_changes_anew(was_parted)
        expect(self)  # a copy has not been trained yet

    def to_digital(self) -> nn.Module:
        """Return the digital layer of ``from_digital``, with the current Parameters."""
        old = reborn(self, self.digital_class)
        for name in ADDED:
            old.__dict__.pop(name, None)
        remove_converters(old)
        return old

    # what a kind of layer defines

    @classmethod
    def weight_names(cls, layer: nn.Module) -> tuple[str, ...]:
        """Return the Parameters of the digital ``layer`` that would go on the chip."""
        return ("weight",)

    @classmethod
    def refuses(cls, layer: nn.Module) -> str | None:
        """Return why the digital ``layer`` cannot become this kind; None if it can."""
        return None

    def analog_bias(self) -> Tensor | None:
        """Return the bias that is added to the summed ADC outputs, (outputs,), if any.

        It is that of the layer, without the offset of a correction such as ``correct_columns``.
        """
        return self.bias

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the product of the digital layer."""
        raise NotImplementedError

    def _padded(self, x: Tensor, plan: Plan) -> Tensor:
        """Return ``x`` with the padding that a product of this plan does not add."""
        return x

    def _batch(self, x: Tensor) -> int:
        """Return the number of samples of ``x``."""
        return x.shape[0] if x.dim() > 1 else 1

    def _absmax(self, x: Tensor) -> Tensor:
        """Return the largest magnitude of each input vector (linear) or sample (convolution).

        It broadcasts to the input.
        """
        raise NotImplementedError

    def _vectors(self, x: Tensor) -> int:
        """Return the number of input vectors (linear) or samples (convolution) of ``x``.

        Raises:
            ValueError: the shape of ``x`` does not fit the layer.
        """
        raise NotImplementedError

    # the forward pass

    def matrix_name(self, name: str) -> str:
        """Return the name of the weight in a mapping; ``name`` is that of the layer."""
        return name

    def parameter_name(self, name: str) -> str:
        """Return the full name of the weight in the model; ``name`` is that of the layer."""
        return f"{name}.weight".lstrip(".")

    @property
    def execution(self) -> Execution:
        """The execution that the layer computes with now.

        Raises:
            RuntimeError: the layer belongs to a programmed chip and is in training mode.
        """
        for tap in reversed(self.taps):
            if tap.execution is not None:
                return tap.execution
        if self.programmed is None:
            return self.executions.training if self.training else self.executions.evaluation
        if self.training:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, which cannot train: call "
                ".eval() on it, in which adapters around it learn as well, or train the model that "
                "it was programmed from and program that again"
            )
        return self.executions.programmed

    def draw(self, x: Tensor, order: Tensor | None = None) -> Tensor | None:
        """Return the noise keys of one forward, (streams,) or (samples, streams), if any.

        There is one row per sample if every sample has its own weights. Then the first dimension of
        ``x``, and of every input that is multiplied with these keys, counts the samples; ``order``
        is the index in the batch of each, if they are sorted.
        """
        return self.execution.draw(x, self._batch(x), order)

    def number(self, like: Tensor, vectors: int, batch: int) -> Tensor | None:
        """Return the numbers of the next ``vectors`` in the output noise, (vectors,) int64.

        The vectors of a sample are consecutive. None without output noise.
        """
        numbers = self.execution.number(self, like, vectors, batch)
        return None if numbers is None else vector_numbers(numbers, vectors)

    def analog_forward(
        self,
        x: Tensor,
        keys: Tensor | None = None,
        samples: Tensor | None = None,
        outputs: slice | None = None,
        execution: Execution | None = None,
        **options: Any,
    ) -> Tensor:
        """Compute the output of the layer: the ``forward`` of every analog layer.

        Args:
            x: the input of the digital layer.
            keys: keys of the noise, from ``draw``; None: new ones.
            samples: numbers of the vectors in the output noise, from ``number``; None: the next
                ones.
            outputs: one of ``output_runs``: only these outputs are computed, with the same values;
                None: all.
            execution: the execution of the layer, or that with weights which forwards share; None:
                that of the layer.
            options: options of the forward of this kind of layer.
        """
        execution = self.execution if execution is None else execution
        if not self.taps:
            vectors = self._admit(x, execution)
            return execution(self, x, vectors, keys, samples, outputs, **options)
        with contextlib.ExitStack() as running:
            for tap in self.taps:
                if tap.running is not None:
                    running.enter_context(tap.running())
            vectors = self._admit(x, execution)
            for tap in self.taps:
                if tap.input is not None:
                    tap.input(x)
            return execution(self, x, vectors, keys, samples, outputs, **options)

    def _admit(self, x: Tensor, execution: Execution) -> int:
        """Return the number of vectors or samples of ``x``.

        Raises:
            RuntimeError: the shape of the weight has changed, or the weight of a programmed layer
                was replaced or changed.
            NotImplementedError: the call is under a transform that the operators do not support.
            ValueError, TypeError: the shape, type or device of ``x`` does not fit the layer, or it
                is negative light.
        """
        refuse_transforms(self.layer_name, execution.noisy, any(tap.looks for tap in self.taps))
        self.check_dense(x, exact=isinstance(execution, Exact))
        self.refuse_parted()
        weight = self.weight
        if weight.shape != self.placed_shape:
            raise RuntimeError(
                f"layer {self.layer_name!r} was converted with a weight of {self.placed_shape}, "
                f"and its shape has changed to {tuple(weight.shape)} since; call "
                "analogtorch.to_digital(model), then convert again"
            )
        vectors = self._vectors(x)
        self._check_type(x)
        if self.chip.light.on and not torch.compiler.is_compiling():
            self._check_light(x)
        if not self.has_run and not torch.compiler.is_compiling():
            self.has_run = all(tap.execution is None for tap in self.taps)
            if self.has_run and self.programmed is not None:
                self.excess = self._excess(x)
        return vectors

    def check_dense(self, x: Any, *, exact: bool = False) -> None:
        """Raise TypeError unless ``x`` is a dense tensor, or of another layout where it is exact.

        Args:
            x: the input.
            exact: whether the digital layer computes, which takes sparse and jagged tensors.
        """
        if isinstance(x, Tensor):
            strided = x.layout is torch.strided  # as some nested tensors are
            if (strided and not x.is_nested) or (exact and not strided):
                return
        name = f"layer {self.layer_name!r}"
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{name} takes a tensor, got {checks.shown(x)}; pass torch.as_tensor(x), of the "
                "type and on the device of its weight"
            )
        if x.is_nested:
            raise TypeError(
                f"{name} takes no nested tensors; pass a padded one, "
                "torch.nested.to_padded_tensor(x, 0.0)"
            )
        raise TypeError(f"{name} takes dense tensors, got layout {x.layout}; pass x.to_dense()")

    def _excess(self, x: Tensor) -> float:
        """Return the median magnitude of inputs but 0 over the DAC range, if it is fixed; else 0.

        Of many inputs it is that of some.
        """
        plain = type(x) is Tensor and x.is_floating_point() and not x.is_meta
        plain = plain and untransformed() and not torch.jit.is_tracing()
        if not (plain and self.calibrated and self.chip.dac.bits):
            return 0.0
        with torch.no_grad(), _disable_current_modes():
            step = x.numel() // _SOME | 1  # odd, so that sizes that are even have no part in it
            some = x.reshape(-1)[::step].abs().float()
            some = some[some > 0]
            return (some.median() / self.input_range.max()).item() if len(some) else 0.0

    def _check_light(self, x: Tensor) -> None:
        if x.is_meta or not x.numel():
            return
        (low, high), (full, *_) = x.detach().aminmax(), self.input_ranges or (math.inf,)
        if low < 0:
            raise ValueError(
                f"layer {self.layer_name!r} takes light, which is never negative, got {low:.3g}; "
                "give it images from 0 to 1, and normalise later"
            )
        if high > full:
            raise ValueError(
                f"layer {self.layer_name!r} takes light up to {full:.3g}, which is "
                f"{self.chip.light.illuminance:g} lux, got {high:.3g}; give it images from 0 to "
                f"1, or call set_input_range({high:.3g}) on it"
            )

    def _digital_product(self, x: Tensor, outputs: slice | None) -> Tensor:
        """Return the output of the digital layer."""
        return self._digital(x, cut(self.weight, outputs), cut(self.bias, outputs))

    def _analog_product(
        self,
        execution: Execution,
        x: Tensor,
        keys: Tensor | None,
        samples: Tensor | None,
        outputs: slice | None,
    ) -> Tensor:
        """Return the output of ``execution``; the arguments are those of ``analog_forward``."""
        x = expanded(x, execution.chip.expansion)
        input_range = self.dac_range() if self.calibrated else self._absmax(x.detach())
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if self._autocasts(x) else self.weight.dtype
        x = self._padded(x, execution.plans[0])
        return execution.product(self, x, input_range, dtype, keys, samples, outputs)

    def _check_type(self, x: Tensor) -> None:
        weight = self.weight  # a parametrized one is computed at each access
        if x.device != weight.device:
            raise TypeError(
                f"layer {self.layer_name!r} is on {weight.device} and got an input on {x.device}: "
                "move one of them with .to(device)"
            )
        if x.dtype != weight.dtype and not self._autocasts(x):
            raise TypeError(
                f"layer {self.layer_name!r} has {weight.dtype} weights and got a {x.dtype} "
                "input: convert one of them with .to(dtype), or run under torch.autocast"
            )

    def _autocasts(self, x: Tensor) -> bool:
        """Return whether autocast chooses the type of the product.

        It never does for double precision, as for torch's layers.
        """
        kind = x.device.type
        if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return False
        return torch.float64 not in (x.dtype, self.weight.dtype)

    def extra_repr(self) -> str:
        """Return the digital layer's text, chip, DAC range and any calibrated ADC ranges."""
        value = dac_text(self) or "absmax"
        text = f"{super().extra_repr()}, chip={self.chip.name}, range={value}"
        if self.adc_ranges is not None:
            text += f", ADC ranges={adc_ranges_text(self.adc_ranges)}"
        return text
