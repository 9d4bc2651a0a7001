"""Taps that see what layers compute of the positions that are read, and of no others."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.calibration.padding import at_positions, of_layer, read_positions, read_vectors
from analogtorch.nn import AnalogLayer, Tap
from analogtorch.ops import Plan
from analogtorch.ops.operands import Operands


class ReadTaps:
    """Makes taps that leave out the padding of the batch that runs (``read_positions``).

    Vectors of convolutions all count: a kernel sees padding beside what is read. So do the states
    of recurrent layers, which are multiplied step by step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._masks: tuple[Tensor, ...] = ()

    def begin(self, batch: Any) -> None:
        """Note the batch that runs from now on."""
        self._masks = read_positions(self._model, batch).layers

    def tap(
        self,
        layer: AnalogLayer,
        *,
        input: Callable[[Tensor], None] | None = None,
        product: Callable[[Operands, Plan, slice, Tensor], None] | None = None,
    ) -> Tap:
        """Return a tap with these functions, as ``Tap`` has them."""
        if layer.weight.dim() != 2:
            return Tap(input=input, product=product)
        given = torch.Size()

        def note(x: Tensor) -> None:
            nonlocal given
            given = x.shape
            if input is not None:
                input(at_positions(x, of_layer(layer, self._masks)))

        def look(inputs: Operands, plan: Plan, outputs: slice, y: Tensor) -> None:
            assert product is not None
            read = read_vectors(given, of_layer(layer, self._masks))
            vectors = y.numel() // y.shape[-1] if y.numel() else 0
            if read is not None and len(read) == vectors:
                inputs, y = _at(inputs, read), y.flatten(0, -2)[read.to(y.device)]
            product(inputs, plan, outputs, y)

        return Tap(input=note, product=None if product is None else look)


def _at(inputs: Operands, read: Tensor) -> Operands:
    """Return the operands of those vectors of a linear product that are read."""
    read = read.to(inputs.x.device)
    found: dict[str, Tensor] = {"x": inputs.x.flatten(0, -2)[read]}
    if inputs.input_range.dim() == inputs.x.dim():  # of each vector
        found["input_range"] = inputs.input_range.flatten(0, -2)[read]
    if inputs.samples is not None and inputs.samples.numel() == len(read):
        found["samples"] = inputs.samples.flatten()[read]
    if inputs.drops is not None:
        found["drops"] = inputs.drops.flatten(2, -2)[:, :, read]
    return inputs._replace(**found)
