"""The ways in which an analog layer computes its product.

``AnalogLayer.execution`` chooses one of them. An execution belongs to a chip and to the shape of a
layer; it is immutable and holds no tensors, so that copies of a layer share it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analogtorch.chips import Chip
from analogtorch.chips.tiling import Section
from analogtorch.nn.drawn import each_sample
from analogtorch.nn.reborn import cut
from analogtorch.ops import Operands, Plan, block_scales, product

if TYPE_CHECKING:
    from analogtorch.nn.base import AnalogLayer


@dataclass(frozen=True, kw_only=True, eq=False)
class Execution:
    """How a layer computes its product on a chip: with the converters of the chip and the weights
    as they are, unless a subclass has others.
    """

    chip: Chip
    sections: tuple[Section, ...]
    """Parts of the layer that are products of their own."""
    plans: tuple[Plan, ...]
    """Of each section."""
    run_plans: Mapping[tuple[int, int], tuple[Plan, ...]]
    """Of each run of outputs that may be asked for alone, by its first output and its end."""

    @property
    def noisy(self) -> bool:
        """Whether a forward draws noise, or numbers its vectors for noise."""
        return False

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
        """The output of ``layer``.

        Args:
            layer: whose weights and converters these are.
            x: its input, of a shape that it takes.
            vectors: how many input vectors (linear) or samples (convolution) ``x`` has.
            keys: of the noise, from ``draw``; None: drawn anew.
            samples: numbers of the vectors in the output noise; None: counted on.
            outputs: run of outputs that is computed alone; None: all.
            options: of a call of this kind of layer.
        """
        if self.noisy:
            batch = layer._batch(x)
            keys = self.draw(x, batch) if keys is None else keys
            samples = self.number(layer, x, vectors, batch) if samples is None else samples
        return layer._analog_product(self, x, keys, samples, outputs, **options)

    def draw(self, like: Tensor, batch: int, order: Tensor | None = None) -> Tensor | None:
        """Keys of the noise of one forward: (streams,), or (samples, streams) where every sample
        has weights of its own; None where none is drawn.

        Args:
            like: on the device of the layer.
            batch: samples of the forward.
            order: which sample of the batch each is, int64; None: they lie in order.
        """
        return None

    def number(self, layer: "AnalogLayer", like: Tensor, vectors: int, batch: int) -> Tensor | None:
        """Numbers of the next vectors in the output noise, (vectors,) int64; None where there is
        none.

        Args:
            layer: that counts them, on a programmed chip.
            like: on the device of the layer.
            vectors: how many, of all samples.
            batch: samples of the forward.
        """
        return None

    def plans_of(self, outputs: slice | None) -> tuple[Plan, ...]:
        """The plans of a run of outputs, or of all."""
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
        """The products of all sections.

        Args:
            layer: whose weights and converters these are.
            x: the input, with all padding that the plans do not add.
            input_range: of the DACs.
            dtype: of the product.
            keys: as ``draw`` gives them.
            samples: as ``number`` gives them.
            outputs: run of outputs that is computed alone; None: all.
        """
        plans = self.plans_of(outputs)

        def multiply(
            x: Tensor, input_range: Tensor, keys: Tensor | None, samples: Tensor | None
        ) -> Tensor:
            parts = [
                self._section(i, layer, x, input_range, plan, keys, samples, dtype, outputs)
                for i, plan in enumerate(plans)
            ]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=layer.channel_dim)

        if keys is not None and keys.dim() == 2:
            return each_sample(multiply, x, input_range, keys, samples)
        return multiply(x, input_range, keys, samples)

    def _section(
        self,
        index: int,
        layer: "AnalogLayer",
        x: Tensor,
        input_range: Tensor,
        plan: Plan,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> Tensor:
        section, bias = self.sections[index], self.bias(layer)
        if len(self.sections) > 1:
            x, bias = x[:, section.channels], None if bias is None else bias[section.outputs]
        given = self.weights(layer, index, keys, samples, dtype, outputs)
        given |= self.converters(layer, index, plan, outputs)
        bias = None if bias is None else cut(bias, outputs).to(dtype)
        operands = Operands(x, input_range, bias=bias, **given)
        y = product(operands, plan)
        for tap in layer.taps:
            if tap.product is not None:
                tap.product(operands, plan, outputs or section.outputs, y)
        return y

    def bias(self, layer: "AnalogLayer") -> Tensor | None:
        """What is added digitally to the summed ADC outputs."""
        return layer._analog_bias()

    def weights(
        self,
        layer: "AnalogLayer",
        index: int,
        keys: Tensor | None,
        samples: Tensor | None,
        dtype: torch.dtype,
        outputs: slice | None,
    ) -> dict[str, Any]:
        """Operands of a section's weights and of the noise, by name.

        Args:
            layer: whose weights these are.
            index: of the section.
            keys: (streams,), as ``draw`` gives them.
            samples: as ``number`` gives them.
            dtype: of the product.
            outputs: run of the section's outputs; None: all.
        """
        section = self.sections[index]
        weight = section.weight(layer.as_matrix(layer.weight))
        return self._run_of(weight, section, dtype, outputs)

    def _run_of(
        self, weight: Tensor, section: Section, dtype: torch.dtype, outputs: slice | None
    ) -> dict[str, Any]:
        """A run of the outputs of ``weight``, with the scales of the blocks as they are placed: of
        all outputs.
        """
        found = {"w": cut(weight, outputs).to(dtype)}
        if outputs is not None and section.columns:
            scale = block_scales(weight.to(dtype), section.bounds, section.columns)
            found["scale"] = cut(scale, outputs, 1)
        return found

    def converters(
        self, layer: "AnalogLayer", index: int, plan: Plan, outputs: slice | None
    ) -> dict[str, Tensor | None]:
        """Operands of a section's ADCs and digital unit, by name."""
        section = self.sections[index]
        found: dict[str, Tensor | None] = {}
        if plan.steps:
            found["output_bounds"] = layer.column_ranges("output_bounds", section, outputs)
        if plan.unit_bits:
            found["output_ranges"] = layer.column_ranges("output_ranges", section, outputs)
        return found


class Quantised(Execution):
    """With quantised inputs and outputs and without noise: the evaluation of a model that is not
    programmed.
    """


class Exact(Execution):
    """What the digital layer computes: no converter, no noise."""

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
        """As of every execution; by the digital operator, unless a tap looks at products."""
        if any(tap.product is not None for tap in layer.taps):
            return super().__call__(layer, x, vectors, keys, samples, outputs, **options)
        return layer._digital_product(x, outputs, **options)
