"""Replacement of modules of a model in place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from analogtorch.nn.adapters import COMPILED


def replace(model: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """Put the modules ``new`` at the positions of those that they replace, under all names.

    ``new`` maps the ``id`` of a module to what replaces it. The children of each module are
    replaced, and what its other attributes hold: the module itself, or a list, tuple or dictionary
    of modules. A forward may use these, and would continue to call what was replaced. So would the
    result of ``torch.compile(layer)``, which is bound to the layer anew.

    Returns:
        The model, or what replaces it.
    """
    parent: Any
    for parent in [*model.modules(), *new.values()]:  # new modules may hold replaced ones
        if isinstance(parent, torch.jit.ScriptModule):
            continue  # nothing in it can be replaced
        compiled = parent._modules.get(COMPILED)
        for name, value in list(vars(parent).items()):
            if isinstance(value, dict):
                for key in [key for key, v in value.items() if id(v) in new]:
                    value[key] = new[id(value[key])]
            elif isinstance(value, list) and any(id(v) in new for v in value):
                value[:] = [new.get(id(v), v) for v in value]
            elif type(value) is tuple and any(id(v) in new for v in value):
                vars(parent)[name] = tuple(new.get(id(v), v) for v in value)
            elif id(value) in new:
                vars(parent)[name] = new[id(value)]
        if parent._modules.get(COMPILED) is not compiled:
            parent._initialize()  # torch's, which it calls after unpickling too
    return new.get(id(model), model)
