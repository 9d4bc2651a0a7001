"""The analog layer: the Parameters of a digital layer, converters, and an execution."""

import contextlib
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section
from analogtorch.nn.converters import bounds_text, range_text, remove_converters
from analogtorch.nn.execution import Execution
from analogtorch.nn.learning import expect
from analogtorch.nn.placed import PlacedMixin
from analogtorch.nn.programmed import ProgrammedMixin
from analogtorch.nn.reborn import OWN, cut, reborn
from analogtorch.nn.tap import Tap
from analogtorch.ops import flops, refuse_transforms


class AnalogLayer(PlacedMixin, ProgrammedMixin):
    """Mixin of the analog layers; the other base is the digital layer, whose Parameters stay the
    layer's own.

    ``train()`` injects the chip's training noise; ``eval()`` computes with quantised inputs and
    outputs and no noise; a layer of a programmed chip (``analogtorch.program``) computes with what
    the chip holds.
    """

    layer_name: str
    digital_class: type[nn.Module]
    taps: tuple[Tap, ...] = ()
    """What looks at the layer while it computes, or changes how: see ``analogtorch.nn.tapped``."""
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

    def _analog_bias(self) -> Tensor | None:
        """What is added to the summed ADC outputs."""
        return self.bias

    def _digital(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The digital layer's own product."""
        raise NotImplementedError

    def _padded(self, x: Tensor, placed: tuple[Section, ...]) -> Tensor:
        """The input with the padding that the product of these sections does not add by itself."""
        return x

    def _batch(self, x: Tensor) -> int:
        """How many samples ``x`` has."""
        return x.shape[0] if x.dim() > 1 else 1

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
    def execution(self) -> Execution:
        """How the layer computes now; every forward asks here.

        Raises:
            RuntimeError: the layer is a programmed chip's, and in training.
        """
        for tap in reversed(self.taps):
            if tap.execution is not None:
                return tap.execution
        if self.programmed is None:
            return self.executions.training if self.training else self.executions.evaluation
        if self.training:
            raise RuntimeError(
                f"layer {self.layer_name!r} belongs to a programmed chip, which cannot train: call "
                ".eval() on it, or train the model that it was programmed from and program that "
                "again"
            )
        return self.executions.programmed

    def draw(self, x: Tensor, order: Tensor | None = None) -> Tensor | None:
        """Keys of the noise of one forward, where there is any to draw: (streams,), or (samples,
        streams).

        The latter where every sample meets weights of its own. Then the first dimension of ``x``,
        and of every input that is multiplied under these keys, counts the samples; ``order`` says
        which of the batch each is, if sorted.
        """
        return self.execution.draw(x, self._batch(x), order)

    def number(self, like: Tensor, vectors: int, batch: int) -> Tensor | None:
        """Numbers of the next ``vectors`` in the output noise, (vectors,) int64, those of a sample
        one after the other; None where there is none.
        """
        return self.execution.number(self, like, vectors, batch)

    def analog_forward(
        self,
        x: Tensor,
        keys: Tensor | None = None,
        samples: Tensor | None = None,
        outputs: slice | None = None,
        **options: Any,
    ) -> Tensor:
        """``forward`` of every analog layer.

        Args:
            x: as the digital layer takes it.
            keys: of the noise, from ``draw``; None: drawn anew.
            samples: numbers of the vectors in the output noise, from ``number``; None: counted on.
            outputs: one of ``output_runs``, to compute these outputs only, as they are when all are
                computed; None: all.
            options: of a call of this kind of layer.
        """
        execution = self.execution
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
        """How many vectors or samples ``x`` has.

        Raises:
            RuntimeError: the shape of the weight has changed.
            NotImplementedError: under a transform that the operators do not support.
            ValueError, TypeError: ``x`` has another shape or type than the layer takes.
        """
        if self.weight.shape != self.placed_shape:
            raise RuntimeError(
                f"layer {self.layer_name!r} was converted with a weight of {self.placed_shape}, "
                f"and its shape has changed to {tuple(self.weight.shape)} since; call "
                "analogtorch.to_digital(model), then convert again"
            )
        refuse_transforms(self.layer_name, execution.noisy)
        vectors = self._vectors(x)
        self._check_type(x)
        by_itself = all(tap.execution is None for tap in self.taps)
        if by_itself and not torch.compiler.is_compiling() and not self.has_run:
            self.has_run = True
        return vectors

    def _digital_product(self, x: Tensor, outputs: slice | None) -> Tensor:
        """What the digital layer computes."""
        return self._digital(x, cut(self.weight, outputs), cut(self.bias, outputs))

    def _analog_product(
        self,
        execution: Execution,
        x: Tensor,
        keys: Tensor | None,
        samples: Tensor | None,
        outputs: slice | None,
    ) -> Tensor:
        """What ``execution`` makes of ``x``; the other arguments as for ``analog_forward``."""
        input_range = self.input_range if self.calibrated else self._absmax(x.detach())
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if self._autocasts(x) else self.weight.dtype
        x = self._padded(x, execution.sections)
        return execution.product(self, x, input_range, dtype, keys, samples, outputs)

    def _check_type(self, x: Tensor) -> None:
        if x.dtype != self.weight.dtype and not self._autocasts(x):
            raise TypeError(
                f"layer {self.layer_name!r} has {self.weight.dtype} weights and got a {x.dtype} "
                "input: convert one of them with .to(dtype), or run under torch.autocast"
            )

    def _autocasts(self, x: Tensor) -> bool:
        """Whether autocast chooses the type of the product: never for double precision, as for
        torch's own layers.
        """
        kind = x.device.type
        if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return False
        return torch.float64 not in (x.dtype, self.weight.dtype)

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
