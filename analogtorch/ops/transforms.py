"""What the operators cannot be differentiated by, refused instead of answered with zeros."""

import torch
from torch.autograd import forward_ad

_REFUSED = {torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp}


def refuse_transforms(layer: str) -> None:
    """Raise where forward-mode AD or a gradient of ``torch.func`` is under way.

    Raises:
        NotImplementedError: the operators have reverse-mode gradients only, through ``backward`` and
            ``torch.autograd.grad``.
    """
    if torch.compiler.is_compiling():
        return
    interpreter = torch._C._functorch.peek_interpreter_stack()
    if forward_ad._current_level >= 0 or (interpreter is not None and interpreter.key() in _REFUSED):
        raise NotImplementedError(
            f"analog layer {layer!r}: forward-mode AD and torch.func.grad/jvp are not supported; "
            "use backward() or torch.autograd.grad, or analogtorch.to_digital(model)"
        )
