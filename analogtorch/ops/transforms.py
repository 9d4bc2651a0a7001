"""Refusal of transforms that the operators do not support, which would give other numbers."""

import torch
from torch.autograd import forward_ad

_KIND = torch._C._functorch.TransformType
_REFUSED = {_KIND.Grad, _KIND.Jvp}


def refuse_transforms(layer: str, noisy: bool) -> None:
    """Raise under forward-mode AD, gradients of ``torch.func``, or ``vmap`` over noise.

    Args:
        layer: name of the layer.
        noisy: whether its forward draws noise.

    Raises:
        NotImplementedError: the operators have reverse-mode gradients only, through ``backward``
            and ``torch.autograd.grad``; and under ``vmap`` all instances would count the same
            samples in the noise.
    """
    if torch.compiler.is_compiling():
        return
    interpreter = torch._C._functorch.peek_interpreter_stack()
    refused = interpreter is not None and interpreter.key() in _REFUSED
    if forward_ad._current_level >= 0 or refused:
        raise NotImplementedError(
            f"analog layer {layer!r}: forward-mode AD and torch.func.grad/jvp are not supported; "
            "use backward() or torch.autograd.grad, or analogtorch.to_digital(model)"
        )
    if noisy and interpreter is not None and interpreter.key() == _KIND.Vmap:
        raise NotImplementedError(
            f"analog layer {layer!r}: noise under torch.vmap is not supported; give it one batch "
            "that holds all instances, or call eval() on a model that is not programmed"
        )
