"""The analog matrix-vector multiply (MVM) as one operator: converters, noise, row blocks and their
gradients.

``reference.py`` defines it. On the CPU in float32, ``native`` computes it in one pass; on a GPU,
linear layers run in ``gpu``. Everything else, such as a plan of several phases, and every machine
without a compiler or Triton, takes the reference.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops import native, reference
from analogtorch.ops.library import define
from analogtorch.ops.mask import MASK, mask_shape
from analogtorch.ops.operands import (
    LEARNS,
    NAMES,
    ROLES,
    Gradients,
    Kind,
    Operands,
    Outputs,
    keep,
    kept,
    kept_schema,
    of_kind,
    schema,
)
from analogtorch.ops.physics import wide
from analogtorch.ops.plan import Plan, plan_of


def mvm(x: Tensor, input_range: Tensor, w: Tensor, plan: Plan, **operands: Tensor | None) -> Tensor:
    """The readings of all row blocks, summed: see ``analogtorch.ops.reference`` for the formulas.

    A convolution is computed place by place from patches that are gathered into cache (CPU) or as
    one convolution per row block (reference); its input is never unfolded in memory.

    Args:
        x: this and all other tensors: as the fields of ``analogtorch.ops.Operands`` say.
        input_range: full scale of the DAC.
        w: the weights.
        plan: everything that is no tensor.
        operands: the optional fields of ``Operands``, by name.

    Returns:
        (*, outputs), or (N, outputs, *places). Empty for an empty batch. NaN where an input of the
        vector is.

    Raises:
        TypeError: ``x`` or ``w`` is not floating point, or a name is none of ``Operands``.
        ValueError: shapes that do not fit ``plan`` or each other, or a missing key.

    Example:
        >>> plan = Plan(bounds=(0, 64), input_bits=8, output_bits=8, output_bound=12.0)
        >>> y = mvm(torch.randn(4, 64), torch.tensor([3.0]), torch.randn(10, 64), plan)
    """
    return product(Operands(x, input_range, w, **operands), plan)


def product(operands: Operands, plan: Plan) -> Tensor:
    """``mvm`` of a record of its operands."""
    learns = torch.is_grad_enabled() and any(
        getattr(operands, name).requires_grad for name in _TAUGHT
    )
    return _mvm(*operands, plan.ints, plan.floats, learns)[0]


_TAUGHT = [NAMES[i] for i in LEARNS if ROLES[NAMES[i]].kept]
"""The operands whose gradients need what a forward pass finds."""


class _Expected(NamedTuple):
    """What follows from a plan and the shapes of ``x`` and ``w``."""

    y: tuple[int, ...]
    mask: tuple[int, ...]
    adcs: tuple[int, int]
    """(blocks, outputs)."""
    vectors: int
    """Of a convolution, samples."""


def _expected(plan: Plan, x: torch.Size, w: torch.Size) -> _Expected:
    if len(w) != plan.dims + 2 or w[1:].numel() != plan.bounds[-1]:
        raise ValueError(
            f"mvm: w must be (outputs, channels / groups, *kernel) with {plan.bounds[-1]} rows and "
            f"{plan.dims} spatial dimensions, as the plan says; got shape {tuple(w)}"
        )
    if w[0] % plan.groups:
        raise ValueError(
            f"mvm: {plan.groups} groups need a multiple of that many outputs, got w of {tuple(w)}"
        )
    channels = (x[1] if len(x) == plan.dims + 2 else -1) if plan.dims else x[-1] if len(x) else -1
    if channels != w[1] * plan.groups:
        form = "(N, {}, *places)" if plan.dims else "(*, {})"
        raise ValueError(f"mvm: x must be {form.format(w[1] * plan.groups)}, got shape {tuple(x)}")
    if plan.columns and (plan.columns[0] != 0 or plan.columns[-1] != w[0]):
        raise ValueError(
            f"mvm: plan.columns must run from 0 to the {w[0]} outputs of w, got {plan.columns}"
        )
    for block in range(plan.blocks):
        plan.span(block, w[1:])  # raises for rows that are no block
    y = output_shape(x, w, plan)
    vectors = x[0] if plan.dims else math.prod(x[:-1])  # Size.numel() would fix a traced batch size
    return _Expected(y, mask_shape(y, plan.blocks, plan.dims), (plan.blocks, w[0]), vectors)


_known = lru_cache(maxsize=4096)(_expected)


def _check(operands: Operands, plan: Plan, expected: _Expected) -> None:
    """Of every call, traced ones and those of the raw operator too: the kernels read memory as
    these shapes say.
    """
    x, input_range, w, bias = operands[:4]
    key, output_keys, samples, negatives = (
        operands.key,
        operands.output_keys,
        operands.samples,
        operands.negatives,
    )
    if not (x.is_floating_point() and w.is_floating_point()):
        raise TypeError(f"mvm: x and w must be floating point, got {x.dtype} and {w.dtype}")
    _check_range(input_range, x, expected.vectors, plan)
    if negatives is not None:
        _check_negatives(negatives, w, plan)
    if bias is not None and (bias.shape != w.shape[:1] or bias.dtype != w.dtype):
        raise ValueError(
            f"mvm: bias must be {(w.shape[0],)} of w's type, {w.dtype}; got {tuple(bias.shape)} of "
            f"{bias.dtype}"
        )
    for name in _KEYS:
        t = getattr(operands, name)
        if t is not None and (t.dtype != torch.int64 or t.device != x.device):
            raise TypeError(f"mvm: {name} must be int64 on {x.device}, got {t.dtype} on {t.device}")
    for name in _ADCS:
        given = getattr(operands, name)
        if given is not None and given.device != x.device:
            raise TypeError(f"mvm: {name} must be on {x.device}, as x is, got {given.device}")
        kinds = (len(ADC_ERRORS),) if ROLES[name].kind is Kind.ADC_ERROR else ()
        if given is not None and given.shape != (*kinds, *expected.adcs):
            raise ValueError(
                f"mvm: {name} must be {(*kinds, *expected.adcs)}, got shape {tuple(given.shape)}"
            )
    if plan.weight_noise > 0 and key is None:
        raise ValueError(
            "mvm: weight_noise > 0 needs key, such as fold(seed_tensor(1), stream('layer'))"
        )
    if key is not None and key.numel() != 1:
        raise ValueError(f"mvm: key must be one number, of shape (), got shape {tuple(key.shape)}")
    keyed = output_keys is not None and output_keys.dim() == 1 and len(output_keys) >= plan.blocks
    if plan.output_noise > 0 and not keyed:
        raise ValueError(
            f"mvm: output_noise > 0 needs output_keys, one for each of the {plan.blocks} row blocks"
        )
    if samples is not None and samples.numel() != expected.vectors:
        raise ValueError(
            f"mvm: samples must have {expected.vectors} elements, one per vector, got "
            f"{samples.numel()}"
        )


_KEYS, _ADCS = of_kind(Kind.KEY), of_kind(Kind.ADC, Kind.ADC_ERROR)


def _check_negatives(negatives: Tensor, w: Tensor, plan: Plan) -> None:
    if plan.phases != 4:
        raise ValueError(
            f"mvm: negatives are read in a plan of 4 phases only, got one of {plan.phases}; leave "
            "them out"
        )
    if negatives.shape != w.shape or negatives.dtype != w.dtype or negatives.device != w.device:
        raise ValueError(
            f"mvm: negatives must be as w, {w.dtype} {tuple(w.shape)} on {w.device}; got "
            f"{negatives.dtype} {tuple(negatives.shape)} on {negatives.device}"
        )


def _check_range(input_range: Tensor, x: Tensor, vectors: int, plan: Plan) -> None:
    shape = tuple(input_range.shape)
    if reference.per_block(input_range):
        if shape != (plan.blocks,):
            raise ValueError(
                f"mvm: input_range must be (1,), one for each of the {plan.blocks} row blocks, or "
                f"one per vector with the dimensions of x, {tuple(x.shape)}; got shape {shape}"
            )
        return
    if input_range.numel() not in (1, vectors):
        raise ValueError(f"mvm: input_range must have 1 or {vectors} elements, got {shape}")
    if input_range.requires_grad and input_range.numel() != 1:
        raise ValueError(f"mvm: an input_range per vector cannot learn, got {shape}")


def _parsed(arguments: tuple[Any, ...]) -> tuple[Operands, Plan, bool]:
    """The tensors, the plan and ``learns`` of a call of the operator."""
    *tensors, ints, floats, learns = arguments
    return Operands(*tensors), plan_of(tuple(ints), tuple(floats)), learns


def _compute(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, plan, learns = _parsed(arguments)
    _check(inputs, plan, _known(plan, inputs.x.shape, inputs.w.shape))
    y, own, mask, saturated = _kernels(inputs, plan).forward(inputs, plan, learns)
    if inputs.scale is not None:
        own = inputs.scale.new_empty(0)  # an operator may not return what it was given
    return y, own, mask, saturated


def _plain(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, plan, learns = _parsed(arguments)
    if plan.noisy:
        raise NotImplementedError(
            "analogtorch: noise has no form in operators of torch or ONNX. Export a model in "
            "evaluation mode, by model.eval(); of a programmed chip, one that was programmed with "
            "output_noise=0"
        )
    return tuple(reference.forward(inputs, plan, learns))  # type: ignore[return-value]


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, plan, learns = _parsed(arguments)
    x, w, scale = inputs.x, inputs.w, inputs.scale
    expected = _expected(plan, x.shape, w.shape)
    _check(inputs, plan, expected)
    y = x.new_empty(expected.y, dtype=w.dtype)
    own = w.new_empty(
        (plan.blocks, w.shape[0]) if scale is None else (0,),
        dtype=wide(w.dtype) if scale is None else scale.dtype,
    )
    kept = learns and plan.saturates
    mask = y.new_empty(expected.mask if kept else (0,), dtype=MASK)
    return y, own, mask, y.new_empty(plan.blocks, dtype=torch.uint8)


def output_shape(x: torch.Size, w: torch.Size, plan: Plan) -> tuple[int, ...]:
    """Shape of the product of an ``x`` and a ``w`` of these shapes."""
    if not plan.dims:
        return (*x[:-1], w[0])
    sizes = zip(x[2:], w[2:], plan.stride, plan.padding, plan.dilation, strict=True)
    return (
        x[0],
        w[0],
        *(
            (size + 2 * pad - gap * (taps - 1) - 1) // step + 1
            for size, taps, step, pad, gap in sizes
        ),
    )


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
    _check_backward(operands, outputs, plan, needs)
    gradients: Gradients = _kernels(operands, plan).backward(g, operands, outputs, plan, needs)
    # an operator must return a tensor: an empty one stands for a gradient that nobody asked for
    return tuple(g.new_empty(0) if t is None else t for t in gradients)


def _fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
    g, (x, input_range, w, *_), *_, needs = _parsed_backward(arguments)
    shapes = zip((x, input_range, w, g.new_empty(w.shape[0])), needs, strict=True)
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) if needed else g.new_empty(0)
        for t, needed in shapes
    )


def _check_backward(
    operands: Operands, outputs: Outputs, plan: Plan, needs: Sequence[bool]
) -> None:
    """As ``_check``: what the operator of the gradients reads. Autograd always passes this: it must
    be quick.
    """
    x, gain, key = operands.x, operands.gain, operands.key
    g, scale, mask, saturated = outputs
    y, words, each, vectors = _known(plan, x.shape, operands.w.shape)
    _check_range(operands.input_range, x, vectors, plan)
    fits = g.shape == y and scale.shape == each and saturated.shape == each[:1] and len(needs) == 4
    fits = (
        fits and (mask.shape == words or mask.numel() == 0) and (gain is None or gain.shape == each)
    )
    there = g.device == mask.device == saturated.device == x.device and g.is_floating_point()
    if not (fits and there and mask.dtype == saturated.dtype == MASK):
        given = ", ".join(
            f"{t.dtype} {tuple(t.shape)} on {t.device}" for t in (g, scale, mask, saturated)
        )
        raise ValueError(
            f"mvm_backward: g {y}, scale and gain {each}, mask {words} or empty and saturated "
            f"{each[:1]}, both {MASK}, must be on {x.device}, and needs four booleans; got {given} "
            f"and {needs}"
        )
    keyed = plan.weight_noise == 0 if key is None else key.numel() == 1 and key.dtype == torch.int64
    if not keyed:
        raise ValueError(f"mvm_backward: key must be one int64, as in mvm; got {key}")


def _kernels(operands: Operands, plan: Plan) -> ModuleType:
    """The module that computes this product: ``forward``, ``backward``."""
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
    _, own, mask, saturated = output
    ctx.mark_non_differentiable(own, mask, saturated)
    ctx.set_materialize_grads(False)  # else every backward would fill zeros as large as the mask
    scale = own if operands.scale is None else operands.scale
    ctx.save_for_backward(*keep(operands, scale), mask, saturated)
    ctx.numbers = ints, floats


def _backward(ctx, g: Tensor, *_):
    found: list[Tensor | None] = [None] * (len(NAMES) + 3)
    if g is None:
        return tuple(found)
    needs = [ctx.needs_input_grad[1 + i] for i in LEARNS]
    gradients = _mvm_backward(g.contiguous(), *ctx.saved_tensors, *ctx.numbers, needs)
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
