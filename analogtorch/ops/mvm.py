"""The analog matrix-vector multiply (MVM) as one operator: converters, noise, blocks, gradients.

``reference.py`` defines it. On the CPU, ``native`` computes it in one pass; on a GPU, linear layers
run in ``gpu``. Everything else, such as a plan of several phases, and every machine without a
compiler or Triton, uses the reference.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.ops import native, reference
from analogtorch.ops.checks import check, check_backward, expect, known
from analogtorch.ops.input_drop import drops_gradient
from analogtorch.ops.library import define
from analogtorch.ops.mask import MASK
from analogtorch.ops.operands import (
    LEARNS,
    NAMES,
    Gradients,
    Operands,
    Outputs,
    keep,
    kept,
    kept_schema,
    schema,
)
from analogtorch.ops.physics import wide
from analogtorch.ops.plan import Plan, plan_of
from analogtorch.ops.slices import sliced
from analogtorch.ops.transforms import unseen


def mvm(x: Tensor, input_range: Tensor, w: Tensor, plan: Plan, **operands: Tensor | None) -> Tensor:
    """Return the ADC outputs of all row blocks, summed: see ``analogtorch.ops.reference``.

    A convolution is computed position by position from patches that are gathered into cache (CPU)
    or as one convolution per row block (reference); its input is never unfolded in memory.

    Args:
        x: the input; this and all other tensors are described by the fields of
            ``analogtorch.ops.Operands``.
        input_range: full scale of the DAC.
        w: the weights.
        plan: everything except the tensors.
        operands: the optional fields of ``Operands``, by name.

    Returns:
        (*, outputs), or (N, outputs, *sizes). Empty for an empty batch. NaN where an input of the
        vector is NaN.

    Raises:
        TypeError: ``x`` or ``w`` is not floating point, or a name is none of ``Operands``.
        ValueError: the shapes do not fit ``plan`` or each other, or a key is missing.

    Example:
        >>> plan = Plan(bounds=(0, 64), input_bits=8, output_bits=8, adc_range=12.0)
        >>> y = mvm(torch.randn(4, 64), torch.tensor([3.0]), torch.randn(10, 64), plan)
    """
    return product(Operands(x, input_range, w, **operands), plan)


def product(operands: Operands, plan: Plan) -> Tensor:
    """Return ``mvm`` of a record of its operands."""
    if plan.slicing.on:
        return sliced(operands, plan, _product, _differentiated)
    return _product(operands, plan)[0]


def _product(operands: Operands, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return ``product`` of a plan without slices, and the weight scales."""
    if _unwatched(operands):
        check(operands, plan, known(plan, operands.x.shape, operands.w.shape))
        y, scale, *_ = _kernels(operands, plan).forward(operands, plan, False)
        return y, scale if operands.scale is None else operands.scale
    given = (getattr(operands, name) for name in _LEARNING)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    y, scale, *_ = _mvm(*operands, plan.ints, plan.floats, learns)
    return y, scale if operands.scale is None else operands.scale


def _unwatched(operands: Operands) -> bool:
    """Return whether the operator may be left out, which takes a third of a small product's time.

    Nothing wants its gradient, and no compiler, tracer, mode or profiler looks for it.
    """
    return (
        unseen(operands.x, operands.w)
        and not torch.is_grad_enabled()
        and not torch.autograd._profiler_enabled()
    )


def _differentiated(
    g: Tensor, operands: Operands, plan: Plan, needs: list[bool]
) -> tuple[Tensor, ...]:
    """Return the gradients of the first operands that are needed, as if no output were clipped."""
    needs = [*needs, *[False] * (len(LEARNS) - len(needs))]
    assert operands.scale is not None
    mask = g.new_empty(0, dtype=MASK), g.new_zeros(plan.blocks, dtype=MASK)
    kept = keep(operands, operands.scale)
    return _mvm_backward(g.contiguous(), *kept, *mask, plan.ints, plan.floats, needs)


_LEARNING = [NAMES[i] for i in LEARNS if NAMES[i] != "bias"]
"""The operands whose gradients need results of the forward pass."""


def _parsed(arguments: tuple[Any, ...]) -> tuple[Operands, Plan, bool]:
    """Return the tensors, the plan and ``learns`` of a call of the operator."""
    *tensors, ints, floats, learns = arguments
    return Operands(*tensors), plan_of(tuple(ints), tuple(floats)), learns


def _compute(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, plan, learns = _parsed(arguments)
    check(inputs, plan, known(plan, inputs.x.shape, inputs.w.shape))
    y, found, mask, saturated = _kernels(inputs, plan).forward(inputs, plan, learns)
    if inputs.scale is not None:
        found = inputs.scale.new_empty(0)  # an operator may not return its arguments
    return y, found, mask, saturated


def _plain(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, plan, learns = _parsed(arguments)
    if plan.noisy:
        raise NotImplementedError(
            "analogtorch: noise has no form in operators of torch or ONNX. Export a model in "
            "evaluation mode, by model.eval(); of a programmed chip, one of "
            "chip.without('output_noise', 'mvm_read_noise', 'dac_jitter', 'shot_noise')"
        )
    return tuple(reference.forward(inputs, plan, learns))  # type: ignore[return-value]


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, plan, learns = _parsed(arguments)
    x, w, scale = inputs.x, inputs.w, inputs.scale
    expected = expect(plan, x.shape, w.shape)
    check(inputs, plan, expected)
    y = x.new_empty(expected.y, dtype=w.dtype)
    if scale is None:
        found = w.new_empty((plan.blocks, w.shape[0]), dtype=wide(w.dtype))
    else:
        found = w.new_empty((0,), dtype=scale.dtype)
    kept = learns and plan.saturates
    mask = y.new_empty(expected.mask if kept else (0,), dtype=MASK)
    return y, found, mask, y.new_empty(plan.blocks, dtype=torch.uint8)


class _Backward(NamedTuple):
    """The arguments of the operator of the gradients."""

    g: Tensor
    operands: Operands
    mask: Tensor
    saturated: Tensor
    plan: Plan
    needs: Sequence[bool]


def _parsed_backward(arguments: Sequence[Any]) -> _Backward:
    g, *tensors, mask, saturated, ints, floats, needs = arguments
    return _Backward(g, kept(tensors), mask, saturated, plan_of(tuple(ints), tuple(floats)), needs)


def _compute_backward(*arguments: Any) -> tuple[Tensor, ...]:
    g, operands, mask, saturated, plan, needs = _parsed_backward(arguments)
    assert operands.scale is not None
    outputs = Outputs(g, operands.scale, mask, saturated)
    check_backward(operands, outputs, plan, needs)
    found: Gradients = _kernels(operands, plan).backward(g, operands, outputs, plan, needs[:-1])
    gradients: list[Tensor | None] = [*found, None]
    if needs[-1]:
        gradients[-1] = drops_gradient(g, mask, saturated, operands.gain, plan)
    # an operator must return a tensor: an empty one stands for a gradient that nobody asked for
    return tuple(g.new_empty(0) if t is None else t for t in gradients)


def _fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
    g, (x, input_range, w, *_), *_, plan, needs = _parsed_backward(arguments)
    bias, dropped = g.new_empty(w.shape[0]), g.new_empty(plan.phases, plan.blocks, *g.shape)
    shapes = zip((x, input_range, w, bias, dropped), needs, strict=True)
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) if needed else g.new_empty(0)
        for t, needed in shapes
    )


def _kernels(operands: Operands, plan: Plan) -> ModuleType:
    """Return the module that computes this product, with ``forward`` and ``backward``."""
    if native.takes(operands, plan):
        return native
    if operands.x.is_cuda:
        # not at import: Triton takes longer to import than everything here
        from analogtorch.ops import gpu

        if gpu.takes(operands, plan):
            return gpu
    return reference


def _save(ctx, arguments, output) -> None:
    operands, (ints, floats, _) = Operands(*arguments[: len(NAMES)]), arguments[len(NAMES) :]
    _, found, mask, saturated = output
    ctx.mark_non_differentiable(found, mask, saturated)
    ctx.set_materialize_grads(False)  # else every backward would fill zeros as large as the mask
    scale = found if operands.scale is None else operands.scale
    ctx.save_for_backward(*keep(operands, scale), mask, saturated)
    ctx.numbers = ints, floats


def _backward(ctx, saved, g: Tensor, *_):
    found: list[Tensor | None] = [None] * (len(NAMES) + 3)
    if g is None:
        return tuple(found)
    needs = [ctx.needs_input_grad[1 + i] for i in LEARNS]
    gradients = _mvm_backward(g.contiguous(), *saved, *ctx.numbers, needs)
    for i, needed, gradient in zip(LEARNS, needs, gradients, strict=True):
        found[i] = gradient if needed else None
    return tuple(found)


_PLAN = "int[] ints, float[] floats"
_GRADIENTS = ", ".join(["Tensor"] * len(LEARNS))
_mvm_backward = define(
    f"mvm_backward(Tensor g, {kept_schema()}, Tensor mask, Tensor saturated, {_PLAN}, bool[] "
    f"needs) -> ({_GRADIENTS})",
    _compute_backward,
    _fake_backward,
)
_mvm = define(
    f"mvm({schema()}, {_PLAN}, bool learns) -> (Tensor, Tensor, Tensor, Tensor)",
    _compute,
    _fake,
    save=_save,
    backward=_backward,
    plain=_plain,
)
