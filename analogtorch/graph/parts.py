"""The parts of parameters that products apply; the same part is always the same matrix."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from analogtorch.conversion.weights import Storage, Weights, storage
from analogtorch.graph.parameters import NamedParameter

_COPIES = frozenset(("to", "_to_copy", "clone", "contiguous"))
"""Operators whose result holds the same weights again, perhaps in another type."""


@dataclass(frozen=True)
class Part:
    """The part of a parameter that a product applies."""

    name: str
    """Name for display: that of the layer, with the range of outputs if the part has not all of
    them."""
    layer: str
    """Full name of the layer, or of the parameter if that is not the layer's ``weight``; empty if
    the part is no range of its outputs."""
    outputs: tuple[int, int] | None
    """The range of the layer's outputs; None: all of them."""
    key: tuple[Any, ...]


class Parts:
    """The parameters of a model, and what a run computes from them."""

    def __init__(self, parameters: Mapping[str, NamedParameter]) -> None:
        self.parameters = {name: held.parameter for name, held in parameters.items()}
        self._weights = Weights()
        # parameter, and the offset of a copy's elements in it
        self._copies: dict[Storage, tuple[str, int]] = {}
        for name, p in self.parameters.items():
            self._weights.add(name, p)

    def sources(self, *given: Tensor) -> tuple[str, ...]:
        """Return the parameters that the tensors are computed from."""
        regions = (region for t in given for region in self._weights.of(t))
        return tuple(dict.fromkeys(name for region in regions for name in region.names))

    def derive(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        """Remember that the operator ``name`` computes ``made`` from the constants ``given``."""
        for t in made:
            if any(storage(t) == storage(g) for g in given):
                continue  # a view
            self._weights.derive(t, [region for g in given for region in self._weights.of(g)])
            copied = name in _COPIES and given[0].stride() == t.stride()
            origin = self._origin(given[0]) if copied else None
            if origin is not None:
                self._copies[storage(t)] = (origin[0], origin[1] - int(t.storage_offset()))

    def whose(self, t: Tensor) -> str | None:
        """Return the parameter that ``t`` is, or is a part or a copy of."""
        origin = self._origin(t)
        return None if origin is None else origin[0]

    def of(self, weight: Tensor, row_stride: int, owner: Callable[[str], NamedParameter]) -> Part:
        """Return the part that ``weight``, a constant with at least one source, is.

        ``row_stride`` is the stride of the contracted dimension, which separates a matrix from its
        transpose. ``owner`` returns a parameter under the name of the layer that applies it.
        """
        origin = self._origin(weight)
        if origin is None:
            source = max(self.sources(weight), key=lambda name: self.parameters[name].numel())
            return _whole(owner(source), "computed")
        source, offset = origin
        full, size = self.parameters[source], weight.numel()
        own = owner(source)
        key, layer = (own.name, offset, size, row_stride), own.layer
        if size == full.numel():
            return _whole(own, *key[1:])
        if (outputs := _outputs(weight, offset, full)) is not None:
            return Part(f"{layer}[{outputs[0]}:{outputs[1]}]", layer, outputs, key)
        return Part(f"{layer}[from {offset}, {'x'.join(map(str, weight.shape))}]", "", None, key)

    def _origin(self, t: Tensor) -> tuple[str, int] | None:
        """Return the parameter that ``t`` is a view of, or copied from, and its offset in there."""
        if (copied := self._copies.get(storage(t))) is not None:
            return copied[0], copied[1] + int(t.storage_offset())
        for name in self.sources(t):
            full = self.parameters[name]
            if storage(full) == storage(t):
                return name, int(t.storage_offset() - full.storage_offset())
        return None


def _whole(own: NamedParameter, *key: Any) -> Part:
    return Part(own.layer, own.layer, None, (own.name, *key))


def _outputs(value: Tensor, offset: int, full: Tensor) -> tuple[int, int] | None:
    """Return the range of the outputs of ``full`` that ``value`` holds; None if it is no range."""
    step = full.stride(0)
    whole_rows = offset % step == 0 and value.numel() % step == 0
    if whole_rows and value.stride()[-1:] == full.stride()[-1:]:
        return offset // step, (offset + value.numel()) // step
    return None
