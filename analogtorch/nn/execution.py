"""Executions: how an analog layer computes its product.

``AnalogLayer.execution`` chooses one. An execution belongs to a chip and to the shape of a layer;
it is immutable and holds no tensors, so that copies of a layer share it. One that the steps of a
recurrent layer share is an exception, and ends with the forward (``Execution.sharing``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section
from analogtorch.nn.drawn import each_sample
from analogtorch.nn.kept import cell_weights
from analogtorch.nn.polarities import negatives
from analogtorch.nn.reborn import cut
from analogtorch.ops import Operands, Plan, block_scales, product
from analogtorch.ops.input_drop import drops
from analogtorch.ops.physics import wide

if TYPE_CHECKING:
    from analogtorch.nn.base import AnalogLayer


@dataclass(frozen=True, kw_only=True, eq=False)
class Execution:
    """The product of a layer with the converters of a chip and exact weights.

    Subclasses use other weights.
    """

    chip: Chip
    sections: tuple[Section, ...]
    """Parts of the layer whose products are separate."""
    plans: tuple[Plan, ...]
    """Plan of each section."""
    run_plans: Mapping[tuple[int, int], tuple[Plan, ...]]
    """Plans of each run of outputs that may be computed alone, by its first output and its end."""
    negatives: bool = False
    """Whether products of exact weights need ``Operands.negatives``: four phases read the two
    polarities of each cell separately, and both conduct."""
    shared: dict[tuple[Any, ...], dict[str, Any]] | None = None
    """What ``weights`` returned, by section, type and run; None: each forward asks again."""

    def sharing(self) -> Self:
        """Return this execution with weights that are made once, for all forwards that use it.

        The forwards must have the same keys, and the layer the same weights in all of them.
        """
        return replace(self, shared={})

    @property
    def noisy(self) -> bool:
        """Whether a forward draws noise, or numbers its vectors for noise."""
        return False

    @property
    def alike(self) -> bool:
        """Whether products with the same keys differ in input and numbers of the vectors alone."""
        return len(self.sections) == 1

    def __deepcopy__(self, memo: Any) -> "Execution":
        return self

    def __call__(
        self,
        layer: "AnalogLayer",
        x: Tensor,
        vectors: int,
        keys: Tensor | None = None,
        samples: Tensor | None = None,
        outputs: slice | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the output of ``layer``.

        Args:
            layer: the layer, for its weights and converters.
            x: the input of the layer, of a shape that it takes.
            vectors: number of input vectors (linear) or samples (convolution) of ``x``.
            keys: keys of the noise, from ``draw``; None: new ones.
            samples: numbers of the vectors in the output noise; None: the next ones.
            outputs: run of outputs that is computed alone; None: all.
            options: options of the forward of this kind of layer.
        """
        if self.noisy:
            batch = layer._batch(x)
            keys = self.draw(x, batch) if keys is None else keys
            samples = self.number(layer, x, vectors, batch) if samples is None else samples
        return layer._analog_product(self, x, keys, samples, outputs, **options)

    def draw(self, like: Tensor, batch: int, order: Tensor | None = None) -> Tensor | None:
        """Return the noise keys of one forward, (streams,) or (samples, streams), if any.

        There is one row per sample if every sample has its own weights.

        Args:
            like: a tensor on the device of the layer.
            batch: number of samples of the forward.
            order: index in the batch of each sample, int64; None: they are in order.
        """
        return None

    def number(self, layer: "AnalogLayer", like: Tensor, vectors: int, batch: int) -> Tensor | None:
        """Return the numbers of the next vectors in the output noise, if any: ``Operands.samples``.

        Args:
            layer: the layer, which counts them on a programmed chip.
            like: a tensor on the device of the layer.
            vectors: number of vectors of all samples.
            batch: number of samples of the forward.
        """
        return None

    def plans_of(self, outputs: slice | None) -> tuple[Plan, ...]:
        """Return the plans of a run of outputs, or of all."""
        return self.plans if outputs is None else self.run_plans[outputs.start, outputs.stop]

    def product(
        self,
        layer: "AnalogLayer",
        x: Tensor,
        input_range: Tensor,
        dtype: torch.dtype,
        keys: Tensor | None,
        samples: Tensor | None,
        outputs: slice | None,
    ) -> Tensor:
        """Return the products of all sections.

        Args:
            layer: the layer, for its weights and converters.
            x: the input, with all padding that the plans do not add.
            input_range: the DAC range.
            dtype: type of the product.
            keys: keys of the noise, from ``draw``.
            samples: numbers of the vectors, from ``number``.
            outputs: run of outputs that is computed alone; None: all.
        """
        plans = self.plans_of(outputs)

        def multiply(
            x: Tensor, input_range: Tensor, keys: Tensor | None, samples: Tensor | None
        ) -> Tensor:
            parts = []
            for i, plan in enumerate(plans):
                given = x, input_range, plan, keys, samples, dtype, outputs
                operands = self.operands(i, layer, *given)
                parts.append(self._section(i, layer, operands, plan, dtype, outputs))
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=layer.channel_dim)

        if keys is not None and keys.dim() == 2:
            return each_sample(multiply, x, input_range, keys, samples)
        return multiply(x, input_range, keys, samples)

    def _section(
        self,
        index: int,
        layer: "AnalogLayer",
        operands: Operands,
        plan: Plan,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> Tensor:
        y = product(operands, plan)
        y = y if y.dtype == dtype else y.to(dtype)
        for tap in layer.taps:
            if tap.product is not None:
                tap.product(operands, plan, outputs or self.sections[index].outputs, y)
        return y

    def operands(
        self,
        index: int,
        layer: "AnalogLayer",
        x: Tensor,
        input_range: Tensor,
        plan: Plan,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None = None,
    ) -> Operands:
        """Return the operands of the product of a section; see ``product``."""
        section, bias = self.sections[index], self.bias(layer)
        if len(self.sections) > 1:
            x, bias = x[:, section.channels], None if bias is None else bias[section.outputs]
        run, kind = section.adcs_of(outputs), dtype
        if plan.slicing.on:  # digits are shifted and added in single precision at least
            kind = wide(dtype)
        given = self._weights_once(layer, index, keys, samples, kind, run)
        given |= self.converters(layer, index, plan, run)
        bias = None if bias is None else cut(bias, outputs).to(kind)
        drop = given.pop("drop", None)
        operands = Operands(x, input_range, bias=bias, **given)
        if drop is not None:
            operands = operands._replace(drops=drops(operands, plan, drop))
        return self.corrected(layer, index, operands, outputs)

    def _weights_once(
        self,
        layer: "AnalogLayer",
        index: int,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> dict[str, Any]:
        """Return what ``weights`` does; if forwards share it, as the first of them made it."""
        if self.shared is None:
            return self.weights(layer, index, keys, samples, dtype, outputs)
        run = None if outputs is None else (outputs.start, outputs.stop)
        if (index, dtype, run) not in self.shared:
            found = self.weights(layer, index, keys, samples, dtype, outputs)
            self.shared[index, dtype, run] = found
        found = dict(self.shared[index, dtype, run])
        return found | ({"samples": samples} if "samples" in found else {})

    def corrected(
        self, layer: "AnalogLayer", index: int, operands: Operands, outputs: slice | None
    ) -> Operands:
        """Return the operands of a section with the gains and offsets that depend on the inputs.

        Args:
            layer: the layer, for its exact weights.
            index: index of the section.
            operands: those of the product.
            outputs: run of outputs that is computed alone; None: all.
        """
        return operands

    def bias(self, layer: "AnalogLayer") -> Tensor | None:
        """Return the bias that is added digitally to the summed ADC outputs."""
        return layer.analog_bias()

    def weights(
        self,
        layer: "AnalogLayer",
        index: int,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> dict[str, Any]:
        """Return the operands of a section's weights and of the noise, by name.

        ``drop`` among them is no operand: an ``InputDrop``, where IR drop depends on the inputs.

        Args:
            layer: the layer, for its weights.
            index: index of the section.
            keys: (streams,), from ``draw``.
            samples: numbers of the vectors, from ``number``.
            dtype: type of the product.
            outputs: run of the section's ADC outputs; None: all.
        """
        section = self.sections[index]
        weight = cell_weights(self, index, layer)
        return self._run_of(weight, section, dtype, outputs)

    def _run_of(
        self, weight: Tensor, section: Section, dtype: torch.dtype, outputs: slice | None
    ) -> dict[str, Any]:
        """Return a run of the outputs of ``weight``, with the scales of the whole blocks."""
        found = {"w": cut(weight, outputs).to(dtype)}
        if self.negatives or (outputs is not None and section.columns):
            scale = block_scales(weight.to(dtype), section.bounds, section.columns)
            found["scale"] = cut(scale, outputs, 1)
            if self.negatives:
                minus = negatives(weight, scale, section.bounds, self.chip.cell)
                found["negatives"] = cut(minus, outputs).to(dtype)
        return found

    def converters(
        self, layer: "AnalogLayer", index: int, plan: Plan, outputs: slice | None
    ) -> dict[str, Tensor | None]:
        """Return the operands of a section's ADCs and digital unit, by name.

        ``outputs`` is a run of its ADC outputs; None: all.
        """
        section = self.sections[index]
        found: dict[str, Tensor | None] = {}
        if plan.steps:
            found["adc_ranges"] = layer.column_ranges("adc_ranges", section, outputs)
        if plan.unit_bits:
            found["output_ranges"] = layer.column_ranges("output_ranges", section, outputs)
        return found


class Quantised(Execution):
    """Quantised inputs and outputs and no noise: the evaluation of an unprogrammed model."""


class Exact(Execution):
    """The product of the digital layer: no converter, no noise."""

    alike = False  # it has no operands

    def __call__(
        self,
        layer: "AnalogLayer",
        x: Tensor,
        vectors: int,
        keys: Tensor | None = None,
        samples: Tensor | None = None,
        outputs: slice | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the output of ``layer``; digitally, unless a tap observes products."""
        if any(tap.product is not None for tap in layer.taps):
            return super().__call__(layer, x, vectors, keys, samples, outputs, **options)
        return layer._digital_product(x, outputs, **options)
