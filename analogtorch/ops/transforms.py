"""Transforms of torch that would give other numbers, and what looks at each operator."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

_KIND = torch._C._functorch.TransformType
_REFUSED = {_KIND.Grad, _KIND.Jvp}


def refuse_transforms(layer: str, noisy: bool, observed: bool = False) -> None:
    """Raise under forward-mode AD, gradients of ``torch.func``, or ``vmap`` over noise or a tap.

    Args:
        layer: name of the layer.
        noisy: whether its forward draws noise.
        observed: whether a tap looks at its numbers.

    Raises:
        NotImplementedError: the operators have reverse-mode gradients only, through ``backward``
            and ``torch.autograd.grad``; and under ``vmap`` all instances would count the same
            samples in the noise, and a tap sees one instance, without its numbers.
    """
    if torch.compiler.is_compiling():
        return
    # the innermost is the last, and each of them sees the layer
    kinds = {level.key() for level in torch._C._functorch.get_interpreter_stack() or ()}
    if forward_ad._current_level >= 0 or kinds & _REFUSED:
        raise NotImplementedError(
            f"analog layer {layer!r}: forward-mode AD and torch.func.grad/jvp are not supported; "
            "use backward() or torch.autograd.grad, or analogtorch.to_digital(model)"
        )
    if observed and _KIND.Vmap in kinds:
        raise NotImplementedError(
            f"analog layer {layer!r}: under torch.vmap a tap, as of calibrate, correct_columns and "
            "adapt, cannot look at its inputs; give it one batch that holds all instances, or "
            f"leave it digital with convert(..., exclude={layer!r})"
        )
    if noisy and _KIND.Vmap in kinds:
        raise NotImplementedError(
            f"analog layer {layer!r}: noise under torch.vmap is not supported; give it one batch "
            "that holds all instances, or call eval() on a model that is not programmed"
        )


def untransformed() -> bool:
    """Return whether no transform of ``torch.func`` is at work, or one that a compiler knows."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None


_PLAIN = (Tensor, torch.nn.Parameter)


def unseen(*tensors: Tensor) -> bool:
    """Return whether nothing looks for operators that compute with these tensors on the CPU.

    That is no compiler, tracer, mode, transform or kind of tensor.
    """
    return not (
        torch.compiler.is_compiling()
        or not all(type(t) in _PLAIN and t.is_cpu for t in tensors)
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    )
