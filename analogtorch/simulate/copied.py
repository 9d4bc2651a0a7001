"""Copies of models for programmed chips."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from analogtorch.conversion import analog_layers
from analogtorch.conversion.detached import deep_copy
from analogtorch.conversion.restored import switched
from analogtorch.nn import AnalogComposite, AnalogLayer
from analogtorch.values.thread_lock import ThreadLock

_SHARING = ThreadLock()
"""Held while a memory becomes one of copy on write, which torch leaves to one thread."""


def copied(model: nn.Module, shared: dict[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a model, for evaluation, of which nothing learns.

    Args:
        model: the model.
        shared: by ``id``, what the copy has in place of an object; None: nothing.
    """
    return _copied(model, shared or {}).requires_grad_(False)


def _copied(model: nn.Module, shared: dict[int, Any]) -> nn.Module:
    memo = dict(shared)
    for _, layer in analog_layers(model):  # descriptions, which nothing changes
        memo |= {id(x): x for x in (layer.chip, layer.sections, layer.executions)}
    for module in model.modules():
        # a module has a dozen empty dictionaries of hooks, which deepcopy takes longer to copy than
        # all the rest
        empty = (x for x in vars(module).values() if type(x) in (dict, OrderedDict) and not x)
        memo |= {id(x): type(x)() for x in empty}
    return switched(deep_copy(model, memo))


def view_of(model: nn.Module) -> nn.Module:
    """Return a copy that takes no memory for targets, until written, nor for earlier devices.

    A digital module that shares a weight with an analog layer has a weight of its own in the copy:
    the cells stay what they were programmed to when it learns. What learns beside the cells of the
    model, such as adapters, learns in the copy too.
    """
    layers = [layer for _, layer in analog_layers(model)]
    shared: dict[int, Any] = {id(x.weight): _copied_on_write(x.weight) for x in layers}
    targets = {id(target): target for target in shared.values()}
    shared |= {id(x.programmed): x.programmed for x in layers if x.programmed is not None}
    view = _copied(model, shared)
    own: dict[int, nn.Parameter] = {}
    for module in view.modules():
        if not isinstance(module, AnalogLayer | AnalogComposite):
            for name, p in module._parameters.items():
                if id(p) in targets:
                    if id(p) not in own:  # a whole copy: threads that read it must not make one
                        copy_of = targets[id(p)].detach().clone()
                        own[id(p)] = nn.Parameter(copy_of, requires_grad=False)
                    module._parameters[name] = own[id(p)]
    hooks = view._load_state_dict_pre_hooks.values()
    if _refuse_to_load not in (getattr(each, "hook", None) for each in hooks):
        view.register_load_state_dict_pre_hook(_refuse_to_load)
    return view


def _refuse_to_load(
    view: nn.Module,
    state_dict: Mapping[str, Any],
    prefix: str,
    metadata: dict,
    strict: bool,
    missing: list,
    unexpected: list,
    errors: list,
) -> None:
    """Raise RuntimeError if a ``state_dict`` is for layers on a chip, before anything is loaded.

    The layers would refuse it one by one, after digital modules have taken theirs.
    """
    given = {key.rpartition(".")[0] for key in state_dict}
    given |= set(getattr(state_dict, "_metadata", ()))
    for name, layer in analog_layers(view):
        owner = layer.parameter_name((prefix + name).rstrip(".")).rpartition(".")[0]
        if owner in given and layer.refuses_to_load(errors):
            raise RuntimeError(f"load_state_dict: {errors[-1]}")


def _copied_on_write(weight: Tensor) -> nn.Parameter:
    """Return a copy that shares the memory of ``weight`` until either is written."""
    with torch.inference_mode(False), _SHARING:  # it serves outside too
        try:
            copy_of = torch._lazy_clone(weight.detach())
        except (AttributeError, RuntimeError):  # another torch; memory of processes or of a file
            copy_of = weight.detach().clone()
        return nn.Parameter(copy_of, requires_grad=False)
