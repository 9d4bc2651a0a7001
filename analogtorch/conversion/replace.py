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
    done: dict[int, tuple[Any, Any]] = {}
    for parent in [*model.modules(), *new.values()]:  # new modules may hold replaced ones
        if isinstance(parent, torch.jit.ScriptModule):
            continue  # nothing in it can be replaced
        compiled = parent._modules.get(COMPILED)
        _renew(vars(parent), new, done)
        if parent._modules.get(COMPILED) is not compiled:
            parent._initialize()  # torch's, which it calls after unpickling too
    return new.get(id(model), model)


def _renew(
    attributes: dict[str, Any], new: Mapping[int, nn.Module], done: dict[int, tuple[Any, Any]]
) -> None:
    """Replace modules in the attributes of a module, and in what these hold.

    ``done`` has, by ``id``, each dictionary, list and tuple that was looked at, and what stands for
    it: they may hold themselves, or each other many times.
    """
    waiting: list[Any] = [attributes]

    def renewed(item: Any) -> Any:
        if id(item) in new:
            return new[id(item)]
        if not isinstance(item, dict | list | tuple):
            return item
        if id(item) not in done:
            done[id(item)] = item, item
            if type(item) is tuple:
                items = tuple(map(renewed, item))
                if not all(map(operator.is_, items, item)):
                    done[id(item)] = item, items
            elif not isinstance(item, tuple):
                waiting.append(item)
        return done[id(item)][1]

    while waiting:
        held = waiting.pop()
        for key, item in list(held.items() if isinstance(held, dict) else enumerate(held)):
            if (found := renewed(item)) is not item:
                held[key] = found
