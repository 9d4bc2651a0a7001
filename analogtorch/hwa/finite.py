"""Gradients that no step can take."""

from torch import nn
from torch.nn.utils import get_total_norm

from analogtorch.values.listed import listed

REMEDY = (
    "a smaller recipe.learning_rate may help, or requires_grad_(False) for a Parameter whose "
    "gradient some inputs make infinite"
)
"""What helps where a loss or gradients are not finite."""
_NAMED = 3
"""Most Parameters that are named."""


def broken_gradients(model: nn.Module, where: str) -> str:
    """Return which gradients of a model are NaN or infinite; empty: none is.

    Args:
        model: the model, whose Parameters are named.
        where: the step, and its batch, in words.
    """
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    if get_total_norm(grads.values()).isfinite():
        return ""
    # the norm of finite numbers may be infinite
    names = [name for name, grad in grads.items() if not grad.isfinite().all()]
    shown = listed(map(repr, names), _NAMED)
    return f"gradients were NaN or infinite {where}: of {shown}" if names else ""


def refuse_broken(caller: str, model: nn.Module, step: int) -> None:
    """Raise ValueError if a gradient of a model is NaN or infinite, before an optimizer takes it.

    Args:
        caller: the class of the message.
        model: the model.
        step: number of the optimizer's step, from 0.
    """
    if broken := broken_gradients(model, f"at step {step}"):
        raise ValueError(
            f"{caller}: {broken}; the model is as it was before this step. Batches may hold NaN or "
            f"infinite values, or {REMEDY}"
        )
