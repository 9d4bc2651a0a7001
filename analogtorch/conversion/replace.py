"""Replacement of modules of a model in place."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from analogtorch.nn.adapters import COMPILED


def replace(model: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """Put the modules ``new`` at the positions of those that they replace, under all names.

    ``new`` maps the ``id`` of a module to what replaces it. The children of each module are
    replaced, and what its other attributes hold: the module itself, or lists, tuples and
    dictionaries of modules, to any depth. A forward may use these, and would continue to call what
    was replaced. So would the result of ``torch.compile(layer)``, which is bound to the layer anew.

    Returns:
        The model, or what replaces it.
    """
    parent: Any
    seen = set[int]()
    for parent in [*model.modules(), *new.values()]:  # new modules may hold replaced ones
        if isinstance(parent, torch.jit.ScriptModule):
            continue  # nothing in it can be replaced
        compiled = parent._modules.get(COMPILED)
        _renewed(vars(parent), new, seen)
        if parent._modules.get(COMPILED) is not compiled:
            parent._initialize()  # torch's, which it calls after unpickling too
    return new.get(id(model), model)


def _renewed(held: Any, new: Mapping[int, nn.Module], seen: set[int]) -> Any:
    """Return what stands for ``held``; lists and dictionaries are changed in place.

    ``seen`` has the ``id`` of those that are done or being done, as they may hold themselves.
    """
    if id(held) in new:
        return new[id(held)]
    if type(held) is tuple:
        items = tuple(_renewed(item, new, seen) for item in held)
        return held if all(map(operator.is_, items, held)) else items
    if not isinstance(held, dict | list) or id(held) in seen:
        return held
    seen.add(id(held))
    for key, item in list(held.items() if isinstance(held, dict) else enumerate(held)):
        if (renewed := _renewed(item, new, seen)) is not item:
            held[key] = renewed
    return held
