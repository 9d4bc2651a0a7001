"""The classes that the file of a chip may name."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import TypeVar

from analogtorch.values import checks

Kind = TypeVar("Kind", bound=type)

_KINDS: dict[str, type] = {}


def register(kind: Kind) -> Kind:
    """Let files of chips hold a device, a unit cell, a curve or another part of a chip.

    A file names the class, and lists its fields: numbers, texts, None, tuples, and what is
    registered itself. Use it as a decorator above ``@dataclass(frozen=True, kw_only=True)``. A
    module that registers must be imported before files that name its classes are loaded. A class
    that is defined again, by the same module under the same name, replaces its predecessor.

    Returns:
        The class.

    Raises:
        TypeError: it is no frozen dataclass, or has fields that cannot be given to it.
        ValueError: another class of that name is registered.

    Example:
        >>> @at.devices.register
        ... @dataclass(frozen=True, kw_only=True)
        ... class Flat:
        ...     value: float
        ...     def __call__(self, r):
        ...         return torch.full_like(r, self.value)
    """
    if not (isinstance(kind, type) and is_dataclass(kind) and _is_frozen(kind)):
        raise TypeError(
            "register: give a class made by @dataclass(frozen=True, kw_only=True), got "
            f"{checks.shown(kind)}"
        )
    if derived := [field.name for field in fields(kind) if not field.init]:
        raise TypeError(
            f"register: {kind.__name__} has fields that cannot be given to it, {derived}; make "
            "them properties"
        )
    known = _KINDS.get(kind.__name__)
    if known is not None and _address(known) != _address(kind):
        raise ValueError(
            f"register: {kind.__name__!r} is the name of {'.'.join(_address(known))} in files; "
            "give your class another name"
        )
    _KINDS[kind.__name__] = kind
    return kind


def registered() -> Mapping[str, type]:
    """Return the classes that files may name, by their names."""
    return MappingProxyType(_KINDS)


def _is_frozen(kind: type) -> bool:
    return bool(getattr(kind, "__dataclass_params__").frozen)  # noqa: B009 - no type knows it


def _address(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__
