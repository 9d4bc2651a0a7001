"""The tensors that a module holds: registered, as attributes, or in lists and dictionaries."""

from collections.abc import Iterator, Set
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has, such as hooks."""
_DEPTH = 4
"""Depth to which lists, tuples and dictionaries are looked through, as they may hold themselves."""
_LONGEST = 10_000
"""Length from which on they hold other things, such as the words of a vocabulary."""


def registered(model: nn.Module) -> frozenset[int]:
    """Return the ``id`` of the modules, Parameters and buffers that torch knows of a model."""
    return frozenset(map(id, chain(model.modules(), model.parameters(), model.buffers())))


def held(module: nn.Module, registered: Set[int]) -> dict[str, Tensor]:
    """Return the plain tensors that a module holds, by name.

    Those in a list are called by its name and their index, such as ``filters.0``, and those of a
    module in it that torch does not know ``layers.0.weight``.

    Args:
        module: the module.
        registered: what ``registered`` gave for the model. What a list holds of it is left out.
    """
    if isinstance(module, torch.jit.ScriptModule):  # it returns new ones each time
        return {}
    own = {name: value for name, value in vars(module).items() if name not in _OF_TORCH}
    inside = (part for name, value in own.items() for part in _inside(name, value, registered))
    found = {**dict(inside), **own, **module._buffers, **module._parameters}
    return {
        name: t
        for name, t in found.items()
        if type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided and not t.is_nested
    }


def _inside(
    name: str, value: Any, registered: Set[int], depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Yield what is in an attribute, by name."""
    if id(value) in registered or isinstance(value, torch.jit.ScriptModule):
        return
    if isinstance(value, nn.Module):
        for own, t in chain(value.named_parameters(), value.named_buffers()):
            yield from _inside(f"{name}.{own}", t, registered)
    elif isinstance(value, list | tuple | dict):
        if depth < _DEPTH and len(value) < _LONGEST:
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in parts:
                yield from _inside(f"{name}.{key}", part, registered, depth + 1)
    else:
        yield name, value
