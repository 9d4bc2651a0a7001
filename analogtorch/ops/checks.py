"""Checks of the operands of an analog product, and the shapes that follow from them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops.mask import MASK, mask_shape
from analogtorch.ops.operands import ROLES, Kind, Operands, Outputs, of_kind, per_block
from analogtorch.ops.plan import Plan


class Expected(NamedTuple):
    """The shapes that follow from a plan and the shapes of ``x`` and ``w``."""

    y: tuple[int, ...]
    mask: tuple[int, ...]
    adcs: tuple[int, int]
    """(blocks, outputs)."""
    vectors: int
    """Vectors, or samples of a convolution."""


def expect(plan: Plan, x: torch.Size, w: torch.Size) -> Expected:
    """Return what follows from these shapes; raise ValueError if they do not fit the plan."""
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
        form = "(N, {}, *sizes)" if plan.dims else "(*, {})"
        raise ValueError(f"mvm: x must be {form.format(w[1] * plan.groups)}, got shape {tuple(x)}")
    if plan.columns and (plan.columns[0] != 0 or plan.columns[-1] != w[0]):
        raise ValueError(
            f"mvm: plan.columns must run from 0 to the {w[0]} outputs of w, got {plan.columns}"
        )
    for block in range(plan.blocks):
        plan.span(block, w[1:])  # raises for rows that are no block
    y = output_shape(x, w, plan)
    vectors = x[0] if plan.dims else math.prod(x[:-1])  # Size.numel() would fix a traced batch size
    return Expected(y, mask_shape(y, plan.blocks, plan.dims), (plan.blocks, w[0]), vectors)


known = lru_cache(maxsize=4096)(expect)


def check(operands: Operands, plan: Plan, expected: Expected) -> None:
    """Raise an error unless a product of these operands can be computed.

    Every call is checked, also traced ones and those of the raw operator: the kernels trust these
    shapes when they read memory.
    """
    x, w, bias = operands.x, operands.w, operands.bias
    if not (x.is_floating_point() and w.is_floating_point()):
        raise TypeError(f"mvm: x and w must be floating point, got {x.dtype} and {w.dtype}")
    _check_range(operands.input_range, x, expected.vectors, plan)
    if operands.negatives is not None:
        _check_negatives(operands.negatives, w, plan)
    if plan.read_noise > 0 or operands.read_variances is not None:
        _check_variances(operands.read_variances, w, plan)
    if operands.drops is not None and operands.drops.shape != (
        shape := (plan.phases, plan.blocks, *expected.y)
    ):
        raise ValueError(f"mvm: drops must be {shape}, got shape {tuple(operands.drops.shape)}")
    if bias is not None and (bias.shape != w.shape[:1] or bias.dtype != w.dtype):
        raise ValueError(
            f"mvm: bias must be {(w.shape[0],)} of w's type, {w.dtype}; got {tuple(bias.shape)} of "
            f"{bias.dtype}"
        )
    for name in _ADCS:
        if (given := getattr(operands, name)) is not None:
            _check_adcs(name, given, x, expected)
    if operands.adc_inl is not None:
        _check_inl(operands.adc_inl, x, plan, expected)
    if operands.dac_inl is not None:
        _check_dac_inl(operands.dac_inl, x, plan)
    if operands.curvatures is not None:
        _check_curvatures(operands.curvatures, w, plan)
    _check_keys(operands, plan, expected)


_KEYS, _ADCS = of_kind(Kind.KEY), of_kind(Kind.ADC, Kind.ADC_ERROR)


def _check_adcs(name: str, given: Tensor, x: Tensor, expected: Expected) -> None:
    if given.device != x.device:
        raise TypeError(f"mvm: {name} must be on {x.device}, as x is, got {given.device}")
    kinds = (len(ADC_ERRORS),) if ROLES[name].kind is Kind.ADC_ERROR else ()
    if given.shape != (*kinds, *expected.adcs):
        raise ValueError(
            f"mvm: {name} must be {(*kinds, *expected.adcs)}, got shape {tuple(given.shape)}"
        )


def _check_inl(inl: Tensor, x: Tensor, plan: Plan, expected: Expected) -> None:
    shape = (*expected.adcs, 2 * plan.steps)
    fits = inl.shape in (shape, (1, 1, shape[2])) and plan.steps > 0
    if not (fits and inl.is_floating_point() and inl.device == x.device):
        raise ValueError(
            f"mvm: adc_inl must be floating point {shape}, or {(1, 1, shape[2])} for all ADCs, on "
            f"{x.device}, in a plan with an ADC; got {inl.dtype} {tuple(inl.shape)} on {inl.device}"
        )


def _check_dac_inl(inl: Tensor, x: Tensor, plan: Plan) -> None:
    codes = 2**plan.input_bits - 1
    fits = inl.shape == (codes,) and plan.input_bits > 0
    if not (fits and inl.is_floating_point() and inl.device == x.device):
        raise ValueError(
            f"mvm: dac_inl must be floating point {(codes,)}, one for each code, on {x.device}, in "
            f"a plan with a DAC; got {inl.dtype} {tuple(inl.shape)} on {inl.device}"
        )


def _check_curvatures(curvatures: Tensor, w: Tensor, plan: Plan) -> None:
    same = curvatures.dtype == w.dtype and curvatures.device == w.device
    if curvatures.shape != (2, *w.shape) or not same or plan.phases == 4:
        raise ValueError(
            f"mvm: curvatures must be {w.dtype} {(2, *w.shape)} on {w.device}, in a plan of fewer "
            f"than 4 phases; got {curvatures.dtype} {tuple(curvatures.shape)} on "
            f"{curvatures.device}, and {plan.phases} phases"
        )


def _check_keys(operands: Operands, plan: Plan, expected: Expected) -> None:
    key, output_keys, samples = operands.key, operands.output_keys, operands.samples
    device = operands.x.device
    for name in _KEYS:
        t = getattr(operands, name)
        if t is not None and (t.dtype != torch.int64 or t.device != device):
            raise TypeError(f"mvm: {name} must be int64 on {device}, got {t.dtype} on {t.device}")
    if plan.weight_noise > 0 and key is None:
        raise ValueError(
            "mvm: weight_noise > 0 needs key, such as fold(seed_tensor(1), stream('layer'))"
        )
    if key is not None and key.numel() != 1:
        raise ValueError(f"mvm: key must be one number, of shape (), got shape {tuple(key.shape)}")
    given = () if output_keys is None else output_keys.shape
    if plan.noisy_sums and not (len(given) == 1 and given[0] >= plan.blocks):
        name = next(
            n for n in ("output_noise", "read_noise", "jitter", "shot") if getattr(plan, n) > 0
        )
        raise ValueError(
            f"mvm: {name} > 0 needs output_keys, one for each of the {plan.blocks} row blocks"
        )
    if samples is not None and samples.numel() not in (1, expected.vectors):
        raise ValueError(
            f"mvm: samples must have {expected.vectors} elements, one per vector, or 1, the number "
            f"of the first; got {samples.numel()}"
        )


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


def _check_variances(variances: Tensor | None, w: Tensor, plan: Plan) -> None:
    shape, dtype = (2 if plan.phases == 4 else 1, *w.shape), torch.bfloat16
    if variances is None:
        raise ValueError(
            f"mvm: read_noise > 0 needs read_variances, the variance of each weight: {shape}"
        )
    if variances.shape != shape or variances.dtype != dtype or variances.device != w.device:
        raise ValueError(
            f"mvm: read_variances must be {dtype} {shape} on {w.device}; got {variances.dtype} "
            f"{tuple(variances.shape)} on {variances.device}"
        )


def _check_range(input_range: Tensor, x: Tensor, vectors: int, plan: Plan) -> None:
    shape = tuple(input_range.shape)
    if per_block(input_range):
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


def check_backward(operands: Operands, outputs: Outputs, plan: Plan, needs: Sequence[bool]) -> None:
    """Raise an error unless the gradients can be computed: it must be quick."""
    x, gain, key = operands.x, operands.gain, operands.key
    g, scale, mask, saturated = outputs
    y, words, each, vectors = known(plan, x.shape, operands.w.shape)
    _check_range(operands.input_range, x, vectors, plan)
    fits = g.shape == y and scale.shape == each and saturated.shape == each[:1] and len(needs) == 5
    fits = fits and (mask.shape == words or mask.numel() == 0)
    fits = fits and (gain is None or gain.shape == each)
    there = g.device == mask.device == saturated.device == x.device and g.is_floating_point()
    if not (fits and there and mask.dtype == saturated.dtype == MASK):
        given = ", ".join(
            f"{t.dtype} {tuple(t.shape)} on {t.device}" for t in (g, scale, mask, saturated)
        )
        raise ValueError(
            f"mvm_backward: g {y}, scale and gain {each}, mask {words} or empty and saturated "
            f"{each[:1]}, both {MASK}, must be on {x.device}, and needs five booleans; got {given} "
            f"and {needs}"
        )
    keyed = plan.weight_noise == 0 if key is None else key.numel() == 1 and key.dtype == torch.int64
    if not keyed:
        raise ValueError(f"mvm_backward: key must be one int64, as in mvm; got {key}")


def output_shape(x: torch.Size, w: torch.Size, plan: Plan) -> tuple[int, ...]:
    """Return the shape of the product of an ``x`` and a ``w`` of these shapes."""
    if not plan.dims:
        return (*x[:-1], w[0])
    sizes = []
    geometry = zip(x[2:], w[2:], plan.stride, plan.padding, plan.dilation, strict=True)
    for size, taps, step, pad, gap in geometry:
        sizes.append((size + 2 * pad - gap * (taps - 1) - 1) // step + 1)
    return (x[0], w[0], *sizes)
