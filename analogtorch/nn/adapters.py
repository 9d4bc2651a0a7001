"""What wraps analog layers: low-rank adapters, and what a chip cannot merge; the names inside.

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

BASE = "base_layer"
"""The name under which an adapter holds the layer that it adapts."""
COMPILED = "_orig_mod"
"""The name under which ``torch.compile(module)`` holds the module."""
_PEFT = ("base_model", "model")
"""The names under which a ``peft.PeftModel`` holds the model."""


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


def plain_name(name: str) -> str:
    """Return the name that a layer has without torch.compile and adapters around it and its model.

    It keys the layer's noise, so that the same net has the same devices.
    """
    parts = [part for part in name.split(".") if part not in (COMPILED, BASE)]
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


def refuse_rewriting(model: nn.Module) -> None:
    """Make adapters around programmed layers of ``model`` raise where they change the weights.

    ``merge`` and ``unmerge`` do, and some in ``update_layer``: they would write the weights that
    the cells were programmed to, with which nothing computes.
    """
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            _refuse(module, BASE, module._modules.get(BASE))


def _refuse(module: nn.Module, name: str, held: nn.Module | None) -> None:
    if name != BASE or held is None:
        return
    programmed = [m for m in held.modules() if getattr(m, "programmed", None) is not None]
    for method in ("merge", "unmerge") if programmed else ():
        if callable(getattr(module, method, None)):
            vars(module)[method] = _Refused(method, str(programmed[0].layer_name))
    if programmed and callable(getattr(module, "update_layer", None)):
        vars(module)["update_layer"] = functools.partial(_update, module, programmed[0])


@functools.cache
def watch_wrapping() -> None:
    """Refuse the same in every adapter that is put around a programmed layer from now on.

    torch calls the hook whenever a module becomes part of another one.
    """
    register_module_module_registration_hook(_refuse)
