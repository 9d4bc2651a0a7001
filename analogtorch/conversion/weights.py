"""The tensors of a run that are weights, views of them, or computed from them alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

Storage = StorageWeakRef | int

_OPERANDS = {
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
    "linear": ("input", "weight"),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), ("input", "weight")
    ),
}
"""Operators that are products with a sum, with the names of their two factors."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value
class Region:
    """The bytes of its storage that a weight covers, and the names under which it is known."""

    weight: Tensor
    names: list[str]

    def overlaps(self, other: Tensor) -> bool:
        """Return whether ``other``, of the same storage, may share bytes with the weight."""
        (start, stop), (first, last) = _bytes(self.weight), _bytes(other)
        # an empty tensor shares its storage with no other
        return (start < last and first < stop) or start == stop


class Weights:
    """Weights by name, and the tensors that are computed from them."""

    def __init__(self) -> None:
        self._regions: dict[Storage, list[Region]] = {}
        self._derived: dict[Storage, list[Region]] = {}

    def add(self, name: str, weight: Tensor) -> None:
        """Add ``weight`` under one more name."""
        known = self._regions.setdefault(storage(weight), [])
        for region in known:
            if _bytes(region.weight) == _bytes(weight):
                region.names.append(name)
                return
        known.append(Region(weight, [name]))

    def of(self, t: Tensor) -> list[Region]:
        """Return the weights that ``t`` is a part of or is computed from."""
        key = storage(t)
        if key in self._derived:
            return self._derived[key]
        return [region for region in self._regions.get(key, ()) if region.overlaps(t)]

    def derive(self, result: Any, regions: Iterable[Region]) -> None:
        """Remember that the tensors in ``result`` are computed from ``regions`` alone."""
        regions = dict.fromkeys(regions)
        for t in tensors(result):
            if (key := storage(t)) not in self._regions:
                known = self._derived.setdefault(key, [])
                known += [region for region in regions if region not in known]


def storage(t: Tensor) -> Storage:
    """Return a hashable key that all views of one storage share, and no later storage."""
    try:
        return StorageWeakRef(t.untyped_storage())
    except (NotImplementedError, RuntimeError):  # a tensor without storage, such as a sparse one
        return -id(t)


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def bind(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of an operator by name, with defaults."""
    arguments = func._schema.arguments
    bound = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return bound | {a.name: given for a, given in zip(arguments, args, strict=False)} | dict(kwargs)


def accessed(func: Any, args: Any, kwargs: Any, *, written: bool = False) -> list[Tensor]:
    """Return the tensors that an operator only reads, or those that it writes.

    ``w.clamp_(-1, 1)`` reads none.
    """
    aliases = {a.name: a.alias_info for a in func._schema.arguments if a.alias_info is not None}
    writes = {name for name, alias in aliases.items() if alias.is_write}
    bound = bind(func, args, kwargs)
    return tensors([value for name, value in bound.items() if (name in writes) is written])


def operator_name(func: Any) -> str:
    """Return the name of an operator without namespace, overload and in-place underscore."""
    name = str(func._schema.name).split("::")[-1]
    return name.removesuffix("_") if name.endswith("_") and not name.startswith("_") else name


def is_product(name: str) -> bool:
    """Return whether an operator is a product with a sum."""
    return name in _OPERANDS


def operands(name: str, arguments: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Return the two factors of a product with a sum; None if ``name`` is none.

    Quantised operators of the same name have no tensor as their weight.
    """
    left, right = _OPERANDS.get(name, ("", ""))
    return (arguments[left], arguments[right]) if {left, right} <= arguments.keys() else None


def _bytes(t: Tensor) -> tuple[int, int]:
    """Return the first byte of its storage that a tensor may touch, and the one past the last."""
    start = t.storage_offset()
    span = 0
    if t.numel():
        span = 1 + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
    return int(start) * t.element_size(), int(start + span) * t.element_size()
