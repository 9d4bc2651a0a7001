"""Quantisation to int8 of the layers that stay digital, computed with rounded floats.

It is what an integer unit computes, up to the rounding of sums: weights symmetric with one scale
per output, inputs symmetric with a scale of their own for each vector (for each sample of a
convolution), both of 8 bits. Sums, biases and all that multiplies no weight stay floats.
"""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from analogtorch.conversion.fast_path import attention_of
from analogtorch.conversion.kinds import (
    analog_layers,
    check_module,
    is_analog,
    kind_of,
    left_digital,
    matrices_of,
    reason,
    refuse_programmed,
)

LEVELS = 127
"""Levels of int8 on each side of zero."""


@torch.no_grad()
def quantise_digital(model: nn.Module) -> nn.Module:
    """Quantise the layers that ``convert`` could make analog and left digital to int8, in place.

    Their weights are rounded once, with one scale per output; their inputs are rounded in each
    call, with one scale per vector, or per sample of a convolution. Neither needs data. States of a
    recurrent layer and masks of attention stay floats, and so do the inputs of the ``out_proj`` of
    an attention and those of a module with analog matrices beside digital ones. Weights that an
    analog layer shares stay as they are, and so do embeddings, unless a digital layer shares their
    weight. Call it after ``convert`` and before ``calibrate``. ``at.save`` keeps which layers are
    quantised.

    Args:
        model: a converted or a digital model. Its digital weights change; nothing restores them.

    Returns:
        The model.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: the model is a programmed chip.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
        >>> model = at.quantise_digital(at.convert(model, at.chips.hermes64(), exclude="1"))
    """
    check_module("quantise_digital", model)
    refuse_programmed(model, "quantise_digital")
    shared = {id(layer.weight) for _, layer in analog_layers(model)}
    for name, module in list(model.named_modules()):
        if is_analog(module) or reason(model, name, module) is not None:
            continue
        for weight in kind_of(module).weight_names(module):
            p = module._parameters[weight]
            if isinstance(p, Tensor) and id(p) not in shared:
                _round_weight(*_by_output(module, p))
        if attention_of(model, name) is None:
            _round_inputs_of(module)
    for _, weight in left_digital(model):
        if id(weight) not in shared:
            _round_weight(weight, (0,))
    return model


def quantised(model: nn.Module) -> list[str]:
    """Return the names of the layers whose inputs ``quantise_digital`` rounds."""
    return [name for name, module in model.named_modules() if _hooks(module)]


def quantise_inputs(model: nn.Module, names: Collection[str]) -> None:
    """Let the layers with these names round their inputs, and no others.

    Raises:
        AttributeError: the model has no module of such a name.
    """
    chosen = {model.get_submodule(name) for name in names}
    for module in model.modules():
        if module not in chosen:
            for key in _hooks(module):
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
    for module in chosen:
        _round_inputs_of(module)


def watch_rounding(model: nn.Module) -> Callable[[], str | None]:
    """Return a function that returns the layer of this copy of a model that rounds inputs now."""
    running: list[str] = []

    def watched(name: str, hook: Callable[..., Any], module: nn.Module, *given: Any) -> Any:
        running.append(name)
        try:
            return hook(module, *given)
        finally:
            running.pop()

    for name, module in model.named_modules():
        for key in _hooks(module):
            hook = module._forward_pre_hooks[key]
            module._forward_pre_hooks[key] = functools.partial(watched, name, hook)
    return lambda: running[-1] if running else None


def rounded(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return ``x`` on the levels of int8, with one scale for all numbers along ``dims``."""
    scale = x.abs().amax(dims, keepdim=True) / LEVELS
    return torch.where(scale > 0, (x / scale).round() * scale, x)


def _round_weight(weight: Tensor, outputs: tuple[int, ...]) -> None:
    weight.copy_(rounded(weight, tuple(d for d in range(weight.dim()) if d not in outputs)))


def _by_output(module: nn.Module, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a view of the weight, and the dimensions that count its outputs."""
    if matrices_of(module) is not None:
        return weight, (0,)
    if getattr(module, "transposed", False):  # (inputs, outputs of a group, ...)
        return weight.unflatten(0, (int(module.groups), -1)), (0, 2)  # type: ignore[arg-type]
    return weight, (1,) if type(module).__name__ == "Conv1D" else (0,)


def _hooks(module: nn.Module) -> list[int]:
    """Return the keys of the hooks that round the inputs of a module."""
    return [
        key
        for key, hook in module._forward_pre_hooks.items()
        if isinstance(hook, functools.partial) and hook.func is _round_inputs
    ]


def _round_inputs_of(module: nn.Module) -> None:
    if _hooks(module):
        return
    count = 3 if isinstance(module, nn.MultiheadAttention) else 1
    forwards = (module.forward, kind_of(module).digital.forward)
    names = {name for each in forwards for name in _parameters(each)[:count]}
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
            done.append((value, rounded(value, dims)))
            return done[-1][1]
        return value

    return (
        (*map(changed, args[:count]), *args[count:]),
        {name: changed(v) if name in names else v for name, v in kwargs.items()},
    )
