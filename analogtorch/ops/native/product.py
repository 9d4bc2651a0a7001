"""The analog product on the CPU: the kernels' forward and backward, and the products they take."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops.mask import MASK, mask_shape
from analogtorch.ops.native import loading, structures
from analogtorch.ops.native.call import Call
from analogtorch.ops.operands import Gradients, Kind, Operands, Outputs, of_kind, per_block
from analogtorch.ops.plan import Plan, needs_reference

_OURS = {(kind, True) for kind in (torch.float32, torch.bfloat16, torch.float16)}


def takes(inputs: Operands, plan: Plan) -> bool:
    """Return whether the kernels compute this product: on the CPU, not double precision, not empty.

    They do not take input ranges of row blocks that cut a kernel, as a channel then has several;
    nor anything that ``needs_reference``. Half precision is computed in float32 throughout and
    rounded at the end.
    """
    kinds = {(t.dtype, t.is_cpu) for i in _FLOATS if (t := inputs[i]) is not None}
    return (
        kinds <= _OURS
        and (not per_block(inputs.input_range) or _whole(inputs.w, plan))
        and not needs_reference(inputs, plan)
        and (inputs.adc_errors is None or KNOWS_ERRORS)
        and inputs.x.numel() > 0
        and inputs.w.numel() > 0
        and loading.available()
    )


def _whole(w: Tensor, plan: Plan) -> bool:
    """Return whether no row block cuts a kernel."""
    taps = w.shape[2:].numel()
    return all(bound % taps == 0 for bound in plan.bounds)


_FLOATS = tuple(map(Operands._fields.index, of_kind(Kind.VALUE, Kind.ADC, Kind.ADC_ERROR)))
"""Indices of the operands that are floating point."""
KNOWS_ERRORS = tuple(error.kind for error in ADC_ERRORS) == structures.ADC_ERRORS
"""Whether the kernels compute all errors of the chips' ADCs."""


def _single(inputs: Operands) -> Operands:
    """Return the operands in float32."""
    if {t.dtype for i in _FLOATS if (t := inputs[i]) is not None} == {torch.float32}:
        return inputs
    return Operands._make(
        [t.float() if t is not None and i in _FLOATS else t for i, t in enumerate(inputs)]
    )


def forward(inputs: Operands, plan: Plan, learns: bool) -> Outputs:
    """Compute ``reference.forward``."""
    dtype, inputs = inputs.w.dtype, _single(inputs)
    call = Call(inputs, plan)
    x, w, output = inputs.x, inputs.w, call.form.output
    y = x.new_empty(output)
    scale = inputs.scale
    scale = w.new_empty(plan.blocks, w.shape[0]) if scale is None else scale.contiguous()
    kept = learns and plan.saturates
    mask = x.new_empty(mask_shape(output, plan.blocks, plan.dims) if kept else (0,), dtype=MASK)
    saturated = x.new_empty(plan.blocks, dtype=torch.uint8)
    call.point(scale=scale, y=y, saturated=saturated, mask=mask if mask.numel() else None)
    call.matrix.find_scale = inputs.scale is None
    call.run("at_convolution" if plan.dims else "at_linear")
    return Outputs(y if y.dtype == dtype else y.to(dtype), scale, mask, saturated)


def backward(
    g: Tensor, inputs: Operands, outputs: Outputs, plan: Plan, needs: Sequence[bool]
) -> Gradients:
    """Compute ``reference.backward``."""
    needs_x, needs_range, needs_w, needs_bias = needs
    given, inputs = inputs, _single(inputs)
    x, w, call = inputs.x, inputs.w, Call(inputs, plan)
    gx = x.new_empty(x.shape) if needs_x or needs_range else None
    gw = w.new_empty(w.shape) if needs_w else None
    g_bias = w.new_empty(w.shape[0]) if needs_bias else None
    mask = outputs.mask if outputs.mask.numel() else None
    saturated = outputs.saturated if mask is not None else torch.zeros_like(outputs.saturated)
    call.point(scale=outputs.scale.float(), saturated=saturated, mask=mask)
    call.point(g=g.float(), gx=gx, gw=gw, g_bias=g_bias)
    split = _splits(x, w, plan)
    each = plan.blocks if plan.dims and per_block(inputs.input_range) else 1
    sums = torch.zeros(call.form.sums * split * each, dtype=torch.float64, device="cpu")
    call.point(g_range=sums)
    if plan.dims:
        call.run("at_convolution_backward", ctypes.c_int64(split))
    else:
        call.run("at_linear_backward")
    g_range = range_gradient(sums, given.input_range, plan, call) if needs_range else None
    gx = gx.to(given.x.dtype) if gx is not None and needs_x else None
    gw = None if gw is None else gw.to(given.w.dtype)
    return gx, g_range, gw, None if g_bias is None else g_bias.to(g.dtype)


def _splits(x: Tensor, w: Tensor, plan: Plan) -> int:
    """Return the parts of a convolution's channels: enough for every thread with few samples."""
    if not plan.dims:
        return 1
    return max(1, min(w.shape[1], -(-2 * torch.get_num_threads() // (x.shape[0] * plan.groups))))


def range_gradient(sums: Tensor, input_range: Tensor, plan: Plan, call: Call) -> Tensor:
    """Return the gradient of the input range from the sums of the kernel."""
    if plan.blocks == 1 or not per_block(input_range):
        total = sums.sum()
    elif plan.dims:
        total = sums.view(-1, plan.blocks).sum(0)
    else:  # a panel of rows lies in one block
        total = torch.stack([part.sum() for part in sums.split(call.form.panels)])
    return input_range.sign() * total.to(input_range.dtype)
