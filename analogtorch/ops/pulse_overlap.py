"""Inputs that are pulses, times the share of the other rows that are on, as an operator.

It is ``input_drop.overlap`` behind a DAC, exact, in two passes over the inputs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.library import define
from analogtorch.ops.native import pulses


def takes(x: Tensor, input_range: Tensor, bounds: Sequence[float]) -> bool:
    """Return whether ``pulse_overlap`` computes this: float32 on the CPU."""
    return pulses.takes(x, input_range, len(bounds) - 1)


def pulse_overlap(x: Tensor, input_range: Tensor, bounds: Sequence[float], levels: int) -> Tensor:
    """Return ``sign(x) r h(|x| / r)`` of inputs behind the DAC; differentiable once.

    A range that is one for all gets its gradient, straight through the DAC.

    Args:
        x: inputs before the DAC, (vectors, rows), float32.
        input_range: DAC range ``r``, > 0, one for all or one per vector.
        bounds: bounds of the steps of time, from 0 to 1.
        levels: steps of the DAC on each side of zero; 0: it neither clips nor rounds.
    """
    return _forward(x, input_range.flatten(), bounds, levels)


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: Tensor) -> None:
    x, input_range, *ctx.numbers = inputs
    ctx.save_for_backward(outputs, x, input_range)


def _gradient(
    ctx: Any, saved: tuple[Tensor, ...], gradient: Tensor
) -> tuple[Tensor, Tensor | None, None, None]:
    gx, of_range = _backward(gradient, *saved, *ctx.numbers)
    return gx, of_range if ctx.needs_input_grad[1] else None, None, None


def _like(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _like_both(g: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _like(g), g.new_empty(1)


_forward = define(
    "pulse_overlap(Tensor x, Tensor input_range, float[] bounds, int levels) -> Tensor",
    pulses.overlap,
    _like,
    save=_save,
    backward=_gradient,
)
_backward = define(
    "pulse_overlap_backward(Tensor g, Tensor out, Tensor x, Tensor input_range, float[] bounds, "
    "int levels) -> (Tensor, Tensor)",
    pulses.overlap_backward,
    _like_both,
)
