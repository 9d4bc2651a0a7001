"""The tensors that a module holds: registered, as attributes, or in lists and dictionaries."""

from collections import deque
from collections.abc import Iterable, Iterator, Set
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has, such as hooks."""
_MOST = 10_000
"""Parts of an attribute that are looked at: larger ones are tables, such as a vocabulary."""


def registered(model: nn.Module) -> frozenset[int]:
    """Return the ``id`` of the modules, Parameters and buffers that torch knows of a model."""
    return frozenset(map(id, chain(model.modules(), model.parameters(), model.buffers())))


def plain_tensors(module: nn.Module, registered: Set[int]) -> dict[str, Tensor]:
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


def _inside(name: str, value: Any, registered: Set[int]) -> Iterator[tuple[str, Any]]:
    """Yield what is in an attribute, by name."""
    seen, left, waiting = set[int](), _MOST, deque([(name, value)])
    while waiting:
        name, value = waiting.popleft()
        if id(value) in registered or isinstance(value, torch.jit.ScriptModule):
            continue
        if isinstance(value, nn.Module):
            parts = chain(value.named_parameters(), value.named_buffers())
            yield from ((f"{name}.{own}", t) for own, t in parts if id(t) not in registered)
        elif not isinstance(value, list | tuple | dict):
            yield name, value
        elif id(value) not in seen and (size := _base(value).__len__(value)) <= left:
            seen.add(id(value))
            left -= size
            waiting.extend((f"{name}.{key}", part) for key, part in _parts(value))


def _base(value: Any) -> Any:
    """Return the type of Python whose methods find the parts: those of a subclass may raise.

    Irreducible representations of e3nn are tuples without a length, for example.
    """
    return next(kind for kind in (list, tuple, dict) if isinstance(value, kind))


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the parts of a list, a tuple or a dictionary by name or number."""
    if not isinstance(value, dict):
        return enumerate(_base(value).__iter__(value))
    if all(isinstance(key, str | int) for key in dict.keys(value)):
        return dict.items(value)
    return enumerate(dict.values(value))  # a tensor as a key is no name
