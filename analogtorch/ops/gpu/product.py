"""The analog product on a GPU: the kernels' forward and backward, and the products they take."""

from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops.gpu import loading
from analogtorch.ops.gpu.linear import linear, linear_backward
from analogtorch.ops.mask import MASK
from analogtorch.ops.operands import Gradients, Operands, Outputs, per_block
from analogtorch.ops.physics import block_scales
from analogtorch.ops.plan import Plan, needs_reference

if loading.triton is not None:
    from analogtorch.ops.gpu.kernels import KNOWN_ERRORS

_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def takes(inputs: Operands, plan: Plan) -> bool:
    """Return whether the kernels compute this product: a linear layer on a GPU, in at most 32 bits.

    They take neither one input range per row block nor IR drop by the inputs, and nothing that
    ``needs_reference``.
    """
    types = inputs.x.dtype in _TYPES and inputs.w.dtype in _TYPES
    return (
        not plan.dims
        and not needs_reference(inputs, plan)
        and inputs.drops is None
        and (inputs.adc_errors is None or _knows_errors())
        and types
        and not per_block(inputs.input_range)
        and loading.available(inputs.x, inputs.input_range, inputs.w)
    )


def forward(inputs: Operands, plan: Plan, learns: bool) -> Outputs:
    """Compute ``reference.forward``."""
    x, w = inputs.x, inputs.w
    scale = block_scales(w, plan.bounds, plan.columns) if inputs.scale is None else inputs.scale
    y, mask = linear(_flat(inputs)._replace(scale=scale), plan, learns)
    shape = (*x.shape[:-1], w.shape[0])
    mask = x.new_empty(0, dtype=MASK) if mask is None else mask
    # the kernels of the backward read the mask directly: asking whether an output saturated would
    # stop the GPU
    return Outputs(y.view(shape), scale, mask, mask.new_empty(plan.blocks))


def backward(
    g: Tensor, inputs: Operands, outputs: Outputs, plan: Plan, needs: Sequence[bool]
) -> Gradients:
    """Compute ``reference.backward``."""
    flat, operands, input_range = g.reshape(-1, g.shape[-1]), _flat(inputs), inputs.input_range
    mask = outputs.mask if outputs.mask.numel() else None
    wanted = (needs[0], needs[1], needs[2])
    operands = operands._replace(scale=outputs.scale)
    gx, g_range, gw = linear_backward(flat, operands, plan, mask, wanted)
    if g_range is not None:
        g_range = g_range * operands.input_range.sign()
        g_range = g_range.view(input_range.shape).to(input_range.dtype)
    gx = None if gx is None else gx.view(inputs.x.shape)
    return gx, g_range, gw, flat.sum(0) if needs[3] else None


def _flat(inputs: Operands) -> Operands:
    """Return the operands with one dimension of vectors, and the magnitude of their ranges."""
    x = inputs.x.reshape(-1, inputs.x.shape[-1])
    return inputs._replace(x=x, input_range=inputs.input_range.abs().flatten())


def _knows_errors() -> bool:
    """Return whether the kernels compute all errors of the chips' ADCs."""
    return {error.kind for error in ADC_ERRORS} == set(KNOWN_ERRORS)
