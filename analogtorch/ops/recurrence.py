"""All steps of a recurrent layer at once, on the CPU: what ``mvm`` and ``gates`` do step by step.

Nothing of autograd happens between two steps, and the gradient of the weights is one product of
them all.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from analogtorch.ops.checks import check, known
from analogtorch.ops.library import once
from analogtorch.ops.native import gates, product
from analogtorch.ops.native import recurrence as native
from analogtorch.ops.operands import NAMES, Operands, keep, kept, per_block
from analogtorch.ops.plan import Plan
from analogtorch.ops.transforms import unseen


class Steps(NamedTuple):
    """What runs in the steps of a recurrent layer."""

    mode: str
    """``nn.RNNBase.mode``: ``RNN_TANH``, ``RNN_RELU``, ``GRU`` or ``LSTM``."""
    plan: Plan
    """Of the product of the state."""
    reverse: bool
    """Whether the last step comes first."""
    sizes: tuple[int, ...]
    """The number of samples of each step, which are the first ones; not all the same if sequences
    end before others."""
    by_vector: bool
    """Whether the DAC range of each state is its largest magnitude."""
    samples: Tensor | None
    """``Operands.samples`` of each step, (steps, samples); None: all steps have those of the
    operands."""


def takes(x: Tensor, state: tuple[Tensor, ...], operands: Operands, steps: Steps) -> bool:
    """Return whether ``run`` computes this; else its steps must be computed one by one.

    The operands are those of the first step, which others share but for ``x`` and ``samples``.
    """
    limits, plan = operands.input_range, steps.plan
    return (
        unseen(x, *state, operands.x, operands.w)
        and not (plan.dims or plan.slicing.on)
        and (steps.by_vector or limits.numel() == 1 or per_block(limits))
        and operands.drops is None
        and product.takes(operands, plan)
        and operands.w.dtype == torch.float32
        and gates.takes(x, *state)
    )


def run(
    x: Tensor, state: tuple[Tensor, ...], operands: Operands, steps: Steps
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the outputs of all steps, (vectors, size), and the last state.

    Args:
        x: the products of the input, (vectors, gates * size): those of the samples of each step.
        state: the first state, of tensors (samples, size).
        operands: those of the product of the first step; see ``takes``.
        steps: what runs.
    """
    check(operands, steps.plan, known(steps.plan, operands.x.shape, operands.w.shape))
    c = state[1] if len(state) > 1 else None
    given = x, c, *operands
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given):
        outputs, h, c = _Recurrence.apply(steps, *given)
    else:
        outputs, h, c = native.forward(steps, x, c, operands, False).state
    return outputs, (h,) if c is None else (h, c)


def _is_batched(t: Tensor) -> bool:
    """Return whether a tensor stands for several, as under ``torch.vmap``."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(t) or functorch.is_legacy_batchedtensor(t)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, steps: Steps, x: Tensor, c: Tensor | None, *tensors: Any) -> Any:
        operands = Operands(*tensors)
        found = native.forward(steps, x, c, operands, True)
        ctx.save_for_backward(*found.kept, *keep(operands, found.scale))
        ctx.steps, ctx.count = steps, len(found.kept)
        ctx.set_materialize_grads(False)
        return found.state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        if any(g is not None and _is_batched(g) for g in gradients):
            raise NotImplementedError(
                "analogtorch: a recurrent layer takes one gradient of its outputs at a time: leave "
                "out is_grads_batched=True of torch.autograd.grad, or vectorize=True of "
                "torch.autograd.functional"
            )
        saved = ctx.saved_tensors
        of_steps, operands = native.Kept(*saved[: ctx.count]), kept(saved[ctx.count :])
        needed = dict(zip(NAMES, ctx.needs_input_grad[-len(NAMES) :], strict=True))
        with torch.no_grad():
            found = native.backward(ctx.steps, gradients, of_steps, operands, needed)
        of_operands = [getattr(found, name, None) for name in NAMES]
        sources = *gradients, *saved
        return None, *once("recurrence", (found.inputs, found.c, *of_operands), sources)
