"""Rounding to int8 of the inputs of layers that stay digital, by hooks of the layers."""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from analogtorch.nn.kinds import kinds

LEVELS = 127
"""Levels of int8 on each side of zero."""
_ROUNDED = "_analogtorch_int8"
"""Attribute of what a layer has rounded."""


def quantised(model: nn.Module) -> list[str]:
    """Return the names of the layers whose inputs ``quantise_digital`` rounds."""
    return [name for name, module in model.named_modules() if _hooks(module)]


def watch_rounding(model: nn.Module) -> Callable[[], str | None]:
    """Return a function that returns the layer of this copy of a model that rounds inputs now."""
    running: list[str] = []
    for name, module in model.named_modules():
        for key in _hooks(module):
            hook = module._forward_pre_hooks[key]
            module._forward_pre_hooks[key] = functools.partial(_watched, running, name, hook)
    return lambda: running[-1] if running else None


def _watched(
    running: list[str], name: str, hook: Callable[..., Any], module: nn.Module, *given: Any
) -> Any:
    """Call a hook of the layer ``name``, which is the last of ``running`` meanwhile."""
    running.append(name)
    try:
        return hook(module, *given)
    finally:
        running.pop()


def rounded(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return ``x`` on the levels of int8, with one scale for all numbers along ``dims``."""
    scale = x.abs().amax(dims, keepdim=True) / LEVELS
    return torch.where(scale > 0, (x / scale).round() * scale, x)


def _hooks(module: nn.Module) -> list[int]:
    """Return the keys of the hooks that round the inputs of a module."""
    return [
        key
        for key, hook in module._forward_pre_hooks.items()
        if isinstance(hook, functools.partial) and hook.func in (_round_inputs, _watched)
    ]


def rounds(module: nn.Module) -> bool:
    """Return whether a layer rounds its inputs."""
    return bool(_hooks(module))


def round_input(layer: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` as the layer rounds it; as it is, if the layer has rounded it already."""
    for key in () if hasattr(x, _ROUNDED) else _hooks(layer):
        hook: Any = layer._forward_pre_hooks[key]
        (x,), _ = hook(layer, (x,), {})
    return x


def keep_inputs_of(module: nn.Module) -> bool:
    """Let a layer round its inputs no more, and return whether it did."""
    found = _hooks(module)
    for key in found:
        del module._forward_pre_hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)
    return bool(found)


def round_inputs_of(module: nn.Module) -> None:
    """Let a layer round its inputs from now on."""
    if _hooks(module):
        return
    count = 3 if isinstance(module, nn.MultiheadAttention) else 1
    digital = next(kind.digital for kind in kinds() if isinstance(module, kind.digital))
    names = {
        name for each in (module.forward, digital.forward) for name in _parameters(each)[:count]
    }
    hook = functools.partial(_round_inputs, count, names)
    module.register_forward_pre_hook(hook, with_kwargs=True)


def _parameters(forward: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(forward).parameters if name != "self"]


def _round_inputs(
    count: int,
    names: Collection[str],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Round the activations: the first ``count`` arguments, or those with ``names``.

    Gradients pass as if they were not rounded (straight through).
    A tensor that is given twice is rounded once, and stays one: attention whose query is its key
    computes both in one product.
    """
    weight: Any = module._parameters.get("weight")
    spatial = weight.dim() - 2 if hasattr(module, "transposed") else 0
    dims = tuple(range(-1 - spatial, 0))

    done: list[tuple[Any, Any]] = []

    def changed(value: Any) -> Any:
        if isinstance(value, PackedSequence):
            return value._replace(data=changed(value.data))
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > spatial:
            for given, result in done:
                if given is value:
                    return result
            result = rounded(value.detach(), dims)
            if torch.is_grad_enabled() and value.requires_grad:
                result = result + (value - value.detach())  # rounding has no gradient of its own
            if not torch.compiler.is_compiling():  # which cannot follow it
                setattr(result, _ROUNDED, True)
            done.append((value, result))
            return result
        return value

    return (
        (*map(changed, args[:count]), *args[count:]),
        {name: changed(v) if name in names else v for name, v in kwargs.items()},
    )
