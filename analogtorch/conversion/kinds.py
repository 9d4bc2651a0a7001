"""Which layers can be analog, which are, and why one cannot."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from analogtorch.conversion.exported import exported
from analogtorch.conversion.fast_path import reader
from analogtorch.conversion.multiplied import only_added
from analogtorch.conversion.not_parameters import packed, unplaceable, why_no_parameter
from analogtorch.conversion.subclass import analog_class, refuses
from analogtorch.nn import (
    AnalogComposite,
    AnalogConv2d,
    AnalogLayer,
    AnalogMatrix,
    AnalogSensorConv2d,
)
from analogtorch.nn.adapters import is_part_of_adapter
from analogtorch.nn.composite import MatrixNames
from analogtorch.nn.kinds import kind_of
from analogtorch.nn.reborn import ADDED, forward_is_plain

_REFUSED = {
    nn.Bilinear: "multiplies two inputs; a tile multiplies an input by stored weights",
    AnalogMatrix: "it is a part of a layer",
    parametrize.ParametrizationList: "belongs to a parametrized layer",
}
"""Modules with weights that ``convert`` never makes analog, and why."""

_OWN = frozenset(("weight", "bias", "input_range", "weight_orig", "weight_g", "weight_v"))
"""Parameters that an analog layer has, pruned and weight-normalised ones too."""

_DISTRIBUTED = {
    "DistributedDataParallel": "is wrapped by {}: give its .module, and convert and calibrate that "
    "before it is wrapped, because only what learns by then is averaged over the processes",
    "FSDPModule": "is sharded by fully_shard: convert and calibrate the model before that; to "
    "program it, load its full state_dict into a model that is not sharded, with the _metadata of "
    "the first process's model.state_dict(), which has the DAC ranges",
}
"""Classes of torch.distributed that own the Parameters of a model, and what to do instead."""

_SHARD_OTHERWISE = (
    "a process has flat parts of its weights; use torch.distributed.fsdp.fully_shard instead, "
    "which keeps them matrices"
)
"""What to do where FSDP2 works."""


def analog_layers(model: nn.Module) -> Iterator[tuple[str, AnalogLayer]]:
    """Return the analog layers of ``model`` with their full names, each shared layer once.

    Matrices of recurrent layers and attention are among them.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_module("analog_layers", model)
    return ((name, m) for name, m in model.named_modules() if isinstance(m, AnalogLayer))


def some_layers(model: nn.Module, caller: str) -> dict[str, AnalogLayer]:
    """Return the analog layers of a model by name.

    Raises:
        ValueError: there is none.
    """
    if layers := dict(analog_layers(model)):
        return layers
    remedy = "call analogtorch.convert(model, chip) first"
    raise ValueError(f"{caller}: the model has no analog layer; {exported(model) or remedy}")


def makers(model: nn.Module) -> set[nn.Module]:
    """Return the modules that hold the Parameters of parametrized analog layers.

    Their numbers are the weights on the chip, in another form.
    """
    layers = [layer for _, layer in analog_layers(model) if parametrize.is_parametrized(layer)]
    return {m for layer in layers for m in layer.get_submodule("parametrizations").modules()}


def left_digital(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the matrices that stayed digital in modules that are analog otherwise.

    Each comes with the name that its layer would have.
    """
    for name, module in model.named_modules():
        for matrix in module.all_matrices() if isinstance(module, AnalogComposite) else ():
            weight = module._parameters.get(matrix.weight)
            if matrix.child not in module._modules and weight is not None:
                yield f"{name}.{matrix.child}".lstrip("."), weight


def added(model: nn.Module) -> Iterator[tuple[str, AnalogLayer, nn.Parameter]]:
    """Yield the Parameters that analog layers have beside those of their kind, which are digital.

    A subclass adds them, or other code. Each comes with its full name and its layer.
    """
    for name, layer in analog_layers(model):
        for own, p in layer._parameters.items():
            if p is not None and own not in _OWN:
                yield f"{name}.{own}".lstrip("."), layer, p


def is_analog(module: Any) -> bool:
    """Return whether ``convert`` made the module; a part of such a module does not count."""
    return isinstance(module, AnalogLayer | AnalogComposite) and not isinstance(
        module, AnalogMatrix
    )


def check_module(caller: str, model: Any) -> None:
    """Raise TypeError if the model given to ``caller`` is no module."""
    if not isinstance(model, nn.Module):
        hint = ""
        if hasattr(model, "yield_map"):
            hint = "; a programmed chip is a model at a time: physical.at('1 day')"
        elif isinstance(getattr(model, "model", None), nn.Module):
            hint = "; pass its .model"
        elif isinstance(model, type) and issubclass(model, nn.Module):
            hint = f" {model.__name__} itself; call it: {model.__name__}(...)"
        raise TypeError(
            f"{caller}: model must be a torch.nn.Module, got {type(model).__name__}{hint}"
        )


def refuse_distributed(model: nn.Module, caller: str) -> None:
    """Raise ValueError if a part of the model is distributed; ``caller`` copies or changes it."""
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if (why := _DISTRIBUTED.get(kind.__name__)) is not None:
                what = f"{name!r}" if name else "the model"
                raise ValueError(f"{caller}: {what} {why.format(kind.__name__)}")
    refuse_flat(model, caller, "convert and calibrate the model before that")


def refuse_flat(model: nn.Module, caller: str, remedy: str = _SHARD_OTHERWISE) -> None:
    """Raise ValueError if ``FullyShardedDataParallel`` keeps flat parts of the weights.

    It is seen from inside as well, where Lightning has the model: torch marks the Parameters, those
    too of which a process has nothing.
    """
    if any(getattr(p, "_fsdp_flattened", False) for p in model.parameters()):
        raise ValueError(f"{caller}: the model is sharded by FullyShardedDataParallel: {remedy}")


def refuse_changed(model: nn.Module, caller: str, biases: bool = True) -> None:
    """Raise an error if a weight of an analog layer is no plain Parameter.

    ``biases`` is False if a bias may be another tensor, unless it is parametrized.

    Raises:
        ValueError: a layer is parametrized, pruned or weight-normalised, or has a plain tensor.
        RuntimeError: the module of a matrix is.
    """
    for module in model.modules():
        if isinstance(module, AnalogComposite):
            module.refuse_changed(biases)
    fields = ("weight", "bias") if biases else ("weight",)
    for name, layer in analog_layers(model):
        own = (field for field in fields if hasattr(layer, field))
        computed = [field for field in own if field not in layer._parameters]
        if parametrize.is_parametrized(layer):
            computed += layer.get_submodule("parametrizations")._modules
        if computed:
            raise ValueError(
                f"{caller}: layer {name!r}: {why_no_parameter(model, layer, computed[0])}"
            )


def refuse_programmed(model: nn.Module, caller: str) -> None:
    """Raise ValueError if ``caller`` was given a programmed chip.

    It takes the model that was programmed instead.
    """
    for name, layer in analog_layers(model):
        if layer.programmed is not None:
            raise ValueError(
                f"{caller}: layer {name!r} belongs to a programmed chip; use the model that was "
                "programmed"
            )


def refuse_scripted(model: nn.Module, caller: str) -> None:
    """Raise ValueError if a part of the model with Parameters is scripted or traced.

    Nothing in it can be replaced, and a copy of it does not learn.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and any(True for _ in module.parameters()):
            raise ValueError(
                f"{caller}: {name or 'the model'!r} is a ScriptModule, in which no layer can be "
                "replaced; give the module that it was scripted or traced from, with its state_dict"
            )


def refuse_unloaded(model: nn.Module, caller: str) -> None:
    """Raise ValueError if a weight is on the meta device, which has no numbers."""
    for name, layer in analog_layers(model):
        if layer.weight.is_meta:
            hook = getattr(layer, "_hf_hook", None)
            remedy = "load weights first"
            if hook is not None:
                remedy = f"{_accelerate(hook)} offloads its weights. {_UNHOOK}"
            raise ValueError(f"{caller}: layer {name!r} is on the meta device; {remedy}")


def refuse_meta(model: nn.Module, caller: str, whose: str = "") -> None:
    """Raise ValueError if a Parameter of a digital model is on the meta device.

    The message says ``whose`` it is, such as ``" of the teacher"``.
    """
    if unloaded := [name for name, p in model.named_parameters() if p.is_meta]:
        raise ValueError(
            f"{caller}: {unloaded[0]!r}{whose} is on the meta device; load weights first"
        )


def lazy_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers that have no weights yet, because the model never ran."""
    return [
        name
        for name, module in model.named_modules()
        if any(is_lazy(p) for p in module._parameters.values())
    ]


def refuse_lazy(model: nn.Module, caller: str) -> None:
    """Raise ValueError if a layer has no weights yet, as lazy ones have before they run."""
    if lazy := lazy_layers(model):
        raise ValueError(
            f"{caller}: layer {lazy[0]!r} is lazy and has no weights yet; run the model once "
            "first, then call analogtorch.convert"
        )


def reason(model: nn.Module, name: str, module: nn.Module, embeddings: bool = False) -> str | None:
    """Return why ``module``, called ``name`` in ``model``, cannot become analog; None if it can.

    ``embeddings`` is True if ``convert`` was asked for embeddings.
    """
    if is_part_of_adapter(model, name):
        return "part of an adapter, which the digital side computes; merge it to put it on the chip"
    if refused := [why for layer, why in _REFUSED.items() if isinstance(module, layer)]:
        return refused[0]
    if packed(module):
        return (
            "quantised, with no Parameter as its weight: convert the model before it is quantised"
        )
    kind = kind_of(module)
    if kind is None:
        own, name = type(module), type(module).__name__
        if getattr(nn, name, own) is not own:  # such as the Linear of torch_geometric
            name = f"{own.__module__}.{name}"
        return f"no analog layer for {name}{_own_matrix(module)}"
    if kind.on_request and not embeddings:
        return "digital unless convert(..., embeddings=True) takes it"
    if (attention := reader(model, name)) and (why := reason(model, *attention)):
        user = attention[0] or "(root)"
        return f"{user!r} reads its weight without calling it, and stays digital: {why}"
    if parametrize.is_parametrized(module):
        computed = next(iter(module.get_submodule("parametrizations")._modules))
        return why_no_parameter(model, module, computed)
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "lazy: run the model once first"
    for method in ("forward", "_conv_forward", "__call__"):
        plain = method == "forward" and forward_is_plain(module)
        replaced = method in vars(module) and not plain
        called = type(module).__call__ is not kind.digital.__call__
        if replaced or (method == "__call__" and called):
            return _override(module, method)
    for name in kind.weight_names(module):
        p = module._parameters.get(name)
        if why := why_no_parameter(model, module, name) if p is None else unplaceable(name, p):
            return why
    for matrix in matrices_of(module) or ():
        if matrix.bias is not None and matrix.bias not in module._parameters:
            return why_no_parameter(model, module, matrix.bias)
    if why := kind.refuses(module):
        return why
    names = ADDED.union(dir(kind)).difference(dir(kind.digital))
    attributes = vars(module).keys() | module._buffers.keys() | module._parameters.keys()
    if taken := sorted(names & attributes):
        return f"it has its own {taken[0]!r}, a name that analog layers use"
    return refuses(kind, module)


def _own_matrix(module: nn.Module) -> str:
    """Return a hint if a module without an analog form has a matrix as a Parameter."""
    for name, p in module._parameters.items():
        if name in only_added(module):
            continue
        if p is not None and not is_lazy(p) and p.dim() in (2, 3) and min(p.shape) > 1:
            size = " x ".join(map(str, p.shape[-2:]))
            several = f"a matrix of {size}"
            if p.dim() == 3:
                several = f"{p.shape[0]} matrices of {size} in one Parameter"
            return f", whose {name} is {several}, not a layer"
    return ""


def _override(module: nn.Module, method: str) -> str:
    """Return why a module that replaces ``method`` cannot become analog."""
    hook = getattr(module, "_hf_hook", None)  # of accelerate, for offloading and device maps
    if method != "forward" or hook is None:
        return f"{type(module).__name__} overrides {method}"
    return f"{_accelerate(hook)} replaces its forward. {_UNHOOK}"


_UNHOOK = (
    "Call accelerate.hooks.remove_hook_from_module(model, recurse=True), and dispatch the model "
    "again afterwards; to offload it, pass state_dict=dict(model.named_parameters()) to "
    "accelerate, or it does not find the DAC ranges"
)


def _accelerate(hook: Any) -> str:
    return f"the accelerate hook {type(hook).__name__}"


def matrices_of(module: Any) -> list[MatrixNames] | None:
    """Return the matrices of a recurrent layer or attention, digital or analog.

    The result is None for a layer with one weight.
    """
    kind = type(module) if isinstance(module, AnalogComposite) else kind_of(module)
    if kind is None or not issubclass(kind, AnalogComposite):
        return None
    return list(kind.all_matrices(module))


def analog_type(module: nn.Module, chip: Any) -> Any:
    """Return the class of the analog layer that ``module`` would become on ``chip``.

    It is the kind, or that for a sensor, or a subclass of it and the class of ``module``; see
    ``kind_of``. Chips of the matrices of one module, by name, are no sensor.
    """
    kind = kind_of(module)
    if kind is AnalogConv2d and chip.light.on:
        kind = AnalogSensorConv2d
    return analog_class(kind, type(module))
