"""Quantisation to int8 of the layers that stay digital, computed with rounded floats.

It is what an integer unit computes, up to the rounding of sums: weights symmetric with one scale
per output, inputs symmetric with a scale of their own for each vector (for each sample of a
convolution), both of 8 bits. Sums, biases and all that multiplies no weight stay floats.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from types import CodeType
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
from analogtorch.conversion.route import route_rounding
from analogtorch.values.warned import warn

LEVELS = 127
"""Levels of int8 on each side of zero."""
_MARK = "_analogtorch_int8"
"""Attribute of what a layer has rounded."""
_RAN = "_analogtorch_int8_ran"
"""Attribute of a layer that has rounded an input."""
_SHOWN = 5
"""Most layers that the warning lists; the others are counted."""


@torch.no_grad()
def quantise_digital(model: nn.Module) -> nn.Module:
    """Quantise the layers that ``convert`` could make analog and left digital to int8, in place.

    Their weights are rounded once, with one scale per output; their inputs are rounded in each
    call, with one scale per vector, or per sample of a convolution. Neither needs data. That holds
    where the code of a module around them calls ``F.linear`` or ``F.conv1d`` to ``3d`` with their
    weights, too; the first run warns of layers whose inputs it did not round. States of a recurrent
    layer and masks of attention stay floats, and so do the inputs of the ``out_proj`` of an
    attention and those of a module with analog matrices beside digital ones. Weights that an analog
    layer shares stay as they are, and so do embeddings, unless a digital layer shares their weight.
    Call it after ``convert`` and before ``calibrate``. ``at.save`` keeps which layers are
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
    _route(model)
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
    _route(model)


def watch_rounding(model: nn.Module) -> Callable[[], str | None]:
    """Return a function that returns the layer of this copy of a model that rounds inputs now."""
    running: list[str] = []
    for name, module in model.named_modules():
        for key in _hooks(module):
            hook = module._forward_pre_hooks[key]
            module._forward_pre_hooks[key] = functools.partial(_watched, running, name, hook)
    return lambda: running[-1] if running else None


def _route(model: nn.Module) -> None:
    """Let modules whose code names weights round the inputs of layers inside them too.

    Which calls it makes shows in a run only. Other modules are left as they are: a function mode
    costs time, and torch's own attention has no fast path under one. What is not found so, the
    first run names.
    """
    for module in model.modules():
        inside = module.named_modules() if _names_weights(type(module)) else ()
        names = [n for n, m in inside if n and "weight" in m._parameters and _hooks(m)]
        route_rounding(module, names, _round_input)
    _name_silent(model)


def _names_weights(kind: type[nn.Module]) -> bool:
    """Return whether ``forward``, or a method that it names, names a ``weight``."""
    seen, waiting = set[str](), ["forward"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for base in kind.__mro__:
            code = getattr(inspect.unwrap(vars(base).get(name, base)), "__code__", None)
            if code is not None and not base.__module__.startswith("torch."):
                waiting += _names(code)
    return "weight" in seen


def _names(code: CodeType) -> Iterator[str]:
    """Yield the attributes and globals that a function names, functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _round_weight(weight: Tensor, outputs: tuple[int, ...]) -> None:
    weight.copy_(rounded(weight, tuple(d for d in range(weight.dim()) if d not in outputs)))


def _by_output(module: nn.Module, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a view of the weight, and the dimensions that count its outputs."""
    if matrices_of(module) is not None:
        return weight, (0,)
    if getattr(module, "transposed", False):  # (inputs, outputs of a group, ...)
        return weight.unflatten(0, (int(module.groups), -1)), (0, 2)  # type: ignore[arg-type]
    return weight, (1,) if type(module).__name__ == "Conv1D" else (0,)


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


def _name_silent(model: nn.Module) -> None:
    """Warn after the next call of ``model`` of layers that should round inputs and have not."""
    for key in [k for k, hook in model._forward_hooks.items() if isinstance(hook, FirstRun)]:
        del model._forward_hooks[key]
    rounding = [module for module in model.modules() if _hooks(module)]
    for module in rounding:
        vars(module).pop(_RAN, None)
    if rounding:
        model.register_forward_hook(FirstRun())


class FirstRun:
    """The hook, which removes itself; copies of the model share it, so that one of them warns."""

    def __init__(self) -> None:
        self.named: set[str] = set()

    def __deepcopy__(self, memo: Any) -> "FirstRun":
        return self

    def __call__(self, model: nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for key in [k for k, hook in model._forward_hooks.items() if hook is self]:
            del model._forward_hooks[key]
        layers = {name: module for name, module in model.named_modules() if _hooks(module)}
        silent = [name or "(root)" for name, m in layers.items() if not hasattr(m, _RAN)]
        if self.named.issuperset(silent):
            return
        self.named.update(silent)
        more = f" and {len(silent) - _SHOWN} more" if len(silent) > _SHOWN else ""
        warn(
            f"{len(silent)} of {len(layers)} digital layers in int8 have rounded no input: "
            f"{', '.join(map(repr, silent[:_SHOWN]))}{more}. Either this input does not reach "
            "them, or the model computes with their weights without calling them, and with inputs "
            "that are not rounded: call the layers, or F.linear with their weights in the forward "
            "of a module around them"
        )


def _round_input(layer: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` as the hook of a layer rounds it; as it is if that has rounded it."""
    if hasattr(x, _MARK):
        return x
    for key in _hooks(layer):
        hook: Any = layer._forward_pre_hooks[key]
        (x,), _ = hook(layer, (x,), {})
    return x


def _watched(
    running: list[str], name: str, hook: Callable[..., Any], module: nn.Module, *given: Any
) -> Any:
    """Call a hook of the layer ``name``, which is the last of ``running`` meanwhile."""
    running.append(name)
    try:
        return hook(module, *given)
    finally:
        running.pop()


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
    if not torch.compiler.is_compiling():
        setattr(module, _RAN, True)
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
            if not torch.compiler.is_compiling():
                setattr(done[-1][1], _MARK, True)
            return done[-1][1]
        return value

    return (
        (*map(changed, args[:count]), *args[count:]),
        {name: changed(v) if name in names else v for name, v in kwargs.items()},
    )
