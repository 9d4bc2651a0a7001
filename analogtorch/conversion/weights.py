"""Which tensors of a run are weights: the weights themselves, views of them, and what is computed
from them alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

Storage = StorageWeakRef | int


@dataclass(frozen=True)
class Region:
    """The bytes of its storage that a weight covers, and the names of those that hold it."""

    weight: Tensor
    names: list[str]

    def meets(self, other: Tensor) -> bool:
        """Whether ``other``, of the same storage, may share bytes with the weight."""
        (start, stop), (first, last) = _bytes(self.weight), _bytes(other)
        # an empty one has its storage to itself
        return (start < last and first < stop) or start == stop


class Weights:
    """Weights by name, and the tensors that are made of them."""

    def __init__(self) -> None:
        self._regions: dict[Storage, list[Region]] = {}
        self._derived: dict[Storage, list[Region]] = {}

    def add(self, name: str, weight: Tensor) -> None:
        """Make ``weight`` known by one more name."""
        known = self._regions.setdefault(storage(weight), [])
        for region in known:
            if _bytes(region.weight) == _bytes(weight):
                region.names.append(name)
                return
        known.append(Region(weight, [name]))

    def of(self, t: Tensor) -> list[Region]:
        """The weights that ``t`` is a part of or is made of."""
        key = storage(t)
        if key in self._derived:
            return self._derived[key]
        return [region for region in self._regions.get(key, ()) if region.meets(t)]

    def derive(self, result: Any, regions: Iterable[Region]) -> None:
        """Remember that the tensors in ``result`` are made of the weights ``regions`` alone."""
        for t in tensors(result):
            if (key := storage(t)) not in self._regions:
                known = self._derived.setdefault(key, [])
                known += [region for region in regions if region not in known]


def storage(t: Tensor) -> Storage:
    """What views of one storage have in common, on any device, and no later storage; hashable."""
    try:
        return StorageWeakRef(t.untyped_storage())
    except (NotImplementedError, RuntimeError):  # a tensor without storage, such as a sparse one
        return -id(t)


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def bind(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of an operator by name, defaults included."""
    arguments = func._schema.arguments
    bound = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return bound | {a.name: given for a, given in zip(arguments, args, strict=False)} | dict(kwargs)


def accessed(func: Any, args: Any, kwargs: Any, *, written: bool = False) -> list[Tensor]:
    """The tensors that an operator only reads, or else those that it writes: ``w.clamp_(-1, 1)``
    reads none.
    """
    writes = {
        a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write
    }
    return tensors(
        [value for name, value in bind(func, args, kwargs).items() if (name in writes) is written]
    )


def operator_name(func: Any) -> str:
    """The name of an operator without namespace, overload and the underscore of its form in
    place.
    """
    name = str(func._schema.name).split("::")[-1]
    return name.removesuffix("_") if name.endswith("_") and not name.startswith("_") else name


def _bytes(t: Tensor) -> tuple[int, int]:
    """First and past-the-last byte of its storage that a tensor may touch."""
    start = t.storage_offset()
    span = (
        0
        if t.numel() == 0
        else 1 + sum((n - 1) * step for n, step in zip(t.shape, t.stride(), strict=True))
    )
    return int(start) * t.element_size(), int(start + span) * t.element_size()
