"""What wraps analog layers: adapters, and those that a chip cannot take; the names inside.

An adapter, such as those of peft, is a module that holds a layer as ``base_layer`` and small
matrices beside it, whose product it adds to the layer's output; it makes these in ``update_layer``,
where some initialise them from the layer's weight and subtract their product from it. Nothing here
imports peft.
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.optim.swa_utils import AveragedModel

from analogtorch.nn.traced import Proxy
from analogtorch.values.warned import warn

BASE = "base_layer"
"""The name under which an adapter holds the layer that it adapts."""
_SAVED = "original_module"
"""The name under which peft holds a layer that trains as a copy, by ``modules_to_save``."""
COMPILED = "_orig_mod"
"""The name under which ``torch.compile(module)`` holds the module."""
_BESIDE = frozenset({"peft.tuners.hira.layer", "peft.tuners.peanut.layer"})
"""Modules of adapters that call the layer, and multiply by a weight of their own making as well."""
_PEFT = ("base_model", "model")
"""The names under which a ``peft.PeftModel`` holds the model."""


_FABRIC = ("_original_module", "_forward_module")
"""The names under which Lightning Fabric holds a model, and what it calls in its place, such as
``DistributedDataParallel`` around it."""
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
"""What wraps a whole model, holds it as ``module`` and passes all on to it."""


def _is_of_fabric(model: nn.Module) -> bool:
    return model._modules.keys() == set(_FABRIC)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside what ``torch.compile`` and Fabric return and torch's wrappers."""
    inner = model.module if isinstance(model, _WRAPPERS) else model._modules.get(COMPILED)
    if _is_of_fabric(model):
        inner = model.get_submodule(_FABRIC[0])
    return model if inner is None else unwrapped(inner)


def rewrapped(model: nn.Module, inner: nn.Module) -> nn.Module:
    """Return a wrapped model with another module inside; compilation is left out."""
    compiled = model._modules.get(COMPILED)
    if compiled is not None:
        return rewrapped(compiled, inner)
    if _is_of_fabric(model):
        for name in _FABRIC:
            setattr(model, name, rewrapped(model.get_submodule(name), inner))
        return model
    if not isinstance(model, _WRAPPERS):
        return inner
    wrapper: Any = model
    wrapper.module = rewrapped(wrapper.module, inner)
    return model


def is_part_of_adapter(model: nn.Module, name: str) -> bool:
    """Return whether the module ``name`` of ``model`` belongs to an adapter.

    The layer that an adapter holds, and what is inside of it, does not belong to the adapter.
    """
    module: Any = model
    for part in name.split(".") if name else ():
        if BASE in module._modules and part != BASE:
            return True
        module = module._modules[part]
    return False


def plain_name(model: nn.Module, name: str) -> str:
    """Return the name that a module of ``model`` has without what wraps it and the model.

    That is torch.compile, torch's wrappers and adapters. The name keys a layer's noise, so that the
    same net has the same devices.
    """
    module: Any = model
    parts = []
    for part in name.split(".") if name else ():
        wrapped = part == "module" and isinstance(module, _WRAPPERS)
        if not wrapped and part not in (COMPILED, BASE):
            parts.append(part)
        module = module._modules[part]
    if parts[: len(_PEFT)] == list(_PEFT):
        parts = parts[len(_PEFT) :]
    return ".".join(parts)


class _Refused:
    """What stands for a method of an adapter that would change the weight of a programmed layer."""

    def __init__(self, method: str, layer: str) -> None:
        self.method, self.layer = method, layer

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            f"{self.method}: the adapter is around layer {self.layer!r} of a programmed chip, and "
            "cannot change its cells. Leave it beside the chip, where it computes digitally; or "
            f"{self.method} it in the model that was programmed, and program that anew"
        )


def _merge(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call ``merge`` of an adapter, and warn if the layer's calibration was of other weights."""
    inside = [m for m in module._modules[BASE].modules() if getattr(m, "ranged", False)]
    before = [p.detach().clone() for m in inside for p in m.parameters()]
    result = type(module).merge(module, *args, **kwargs)
    after = (p for m in inside for p in m.parameters())
    if not all(map(torch.equal, before, after)):
        warn(
            "merge: the adapter is now in the weights of an analog layer, and the ranges that "
            "calibration chose are of the weights of before: they may clip its outputs. Call "
            "analogtorch.calibrate(model, batches) again before programming the model"
        )
    return result


def _update(module: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Call ``update_layer`` of an adapter around ``layer``, which must leave the layer's weight."""
    weight = layer.weight.detach()
    before = weight.clone()
    result = type(module).update_layer(module, *args, **kwargs)
    if torch.equal(layer.weight, before):
        return result
    layer.weight.data = weight.copy_(before)
    raise RuntimeError(
        "update_layer: the initialisation of this adapter changes the weight of layer "
        f"{str(layer.layer_name)!r} of a programmed chip, and cannot change its cells. Take one "
        "that leaves the weight, as peft.LoraConfig(init_lora_weights=True) does and 'pissa', "
        "'olora' and 'corda' do not; or put the adapter around the model that was programmed, and "
        "program that anew"
    )


class _FirstForward:
    """The hook after the forwards of an adapter, until one has called the layer that it adapts.

    Adapters such as HRA and SHiRA of peft make a new weight from that of the layer and multiply by
    it themselves, so that nothing of the layer would be on the chip; HiRA and PEANuT do so beside
    the layer, whose weights the digital side would need as well. Open taps belong to a caller that
    sees what runs, such as ``guard``. The hook can be copied and pickled.
    """

    gone_after_one = True
    """It changes no output and removes itself: ``options_digest`` leaves it out."""

    def __call__(self, adapter: nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or isinstance(output, Proxy):
            return
        layer: Any = adapter._modules[BASE]
        if not hasattr(layer, "has_run") or layer.taps:  # digital again, or observed
            return
        beside = type(adapter).__module__ in _BESIDE
        if beside or not layer.has_run:
            what = (
                "multiplies, beside the layer, by a weight made from the layer's, which would all "
                "be digital too. Take an adapter that leaves the weight alone"
                if beside
                else "does not call the layer: it multiplies by a weight of its own making, and "
                "nothing of the layer would be on the chip. Take an adapter that computes beside "
                "the layer"
            )
            raise RuntimeError(
                f"the {type(adapter).__name__} around layer {str(layer.layer_name)!r} {what}, such "
                "as that of peft.LoraConfig; or train this one on the digital model, merge it, and "
                "convert that"
            )
        unwatch_adapter(adapter)


def unwatch_adapter(adapter: nn.Module) -> None:
    """Undo what ``watch_adapters`` does to the forward of an adapter."""
    hooks = adapter._forward_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, _FirstForward)]:
        del hooks[key]


def watch_adapters(model: nn.Module) -> None:
    """Make adapters in ``model`` that a chip cannot take raise an error, and merging ones warn.

    Around programmed layers, ``merge`` and ``unmerge`` change the weights, and some adapters do in
    ``update_layer``: they would write the weights that the cells were programmed to, with which
    nothing computes. Around any analog layer, a forward that multiplies by a weight made from that
    of the layer is digital.
    """
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            _watch(module, BASE, module._modules.get(BASE))


def _watch(module: nn.Module, name: str, held: Any) -> None:
    if name not in (BASE, _SAVED) or held is None:
        return
    programmed = [m for m in held.modules() if getattr(m, "programmed", None) is not None]
    if name == _SAVED:
        if programmed and type(module).__module__.startswith("peft."):
            raise RuntimeError(
                f"modules_to_save: layer {str(programmed[0].layer_name)!r} is of a programmed "
                "chip, whose cells cannot learn; leave it out, and name it in target_modules, "
                "which puts an adapter beside it. This view of the chip is changed in part: take "
                "another by at(...)"
            )
        return
    adapts = callable(getattr(module, "update_layer", None))
    if adapts and hasattr(held, "has_run"):
        unwatch_adapter(module)
        module.register_forward_hook(_FirstForward())
        held.has_run = False
    for method in ("merge", "unmerge") if programmed else ():
        if callable(getattr(module, method, None)):
            vars(module)[method] = _Refused(method, str(programmed[0].layer_name))
    analog = any(hasattr(m, "programmed") for m in held.modules())
    if analog and not programmed and callable(getattr(module, "merge", None)):
        vars(module)["merge"] = functools.partial(_merge, module)
    if programmed and adapts:
        vars(module)["update_layer"] = functools.partial(_update, module, programmed[0])


@functools.cache
def watch_wrapping() -> None:
    """Do the same for every adapter that is put around an analog layer from now on.

    torch calls the hook whenever a module becomes part of another one.
    """
    register_module_module_registration_hook(_watch)
