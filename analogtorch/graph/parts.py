"""Which part of which parameter a weight of a product is: the same part is the same matrix wherever
it is applied.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from analogtorch.conversion.weights import Storage, Weights, storage

_SUFFIXES = (".weight", ".weight_v", ".weight_orig")
"""What a layer's own name is told without: plain, weight-normalised, pruned."""
_COPIES = frozenset(("to", "_to_copy", "clone", "contiguous"))
"""Operators whose result holds the same weights once more, perhaps in another type."""


@dataclass(frozen=True)
class Part:
    """The part of a parameter that a product applies."""

    name: str
    """For display: that of the layer, with its range if cut."""
    layer: str
    """Full name of the layer, or of the parameter where it is not the layer's ``weight``; empty if
    the part is no range of its outputs."""
    outputs: tuple[int, int] | None
    """The range of the layer's outputs; None: all."""
    key: tuple[Any, ...]


class Parts:
    """The parameters of a model, and what is computed from them in a run."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self._weights = Weights()
        # parameter, and what its places are ahead by
        self._copies: dict[Storage, tuple[str, int]] = {}
        for name, p in parameters.items():
            self._weights.add(name, p)

    def sources(self, *given: Tensor) -> tuple[str, ...]:
        """The parameters that the tensors are computed from."""
        return tuple(
            dict.fromkeys(
                name for t in given for region in self._weights.of(t) for name in region.names
            )
        )

    def derive(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        """The operator ``name`` computes ``made`` from the constants ``given``."""
        for t in made:
            if any(storage(t) == storage(g) for g in given):
                continue  # a view
            self._weights.derive(t, [region for g in given for region in self._weights.of(g)])
            origin = (
                self._origin(given[0])
                if name in _COPIES and given[0].stride() == t.stride()
                else None
            )
            if origin is not None:
                self._copies[storage(t)] = (origin[0], origin[1] - int(t.storage_offset()))

    def whose(self, t: Tensor) -> str | None:
        """The parameter that ``t`` is, or is a part or a copy of."""
        origin = self._origin(t)
        return None if origin is None else origin[0]

    def of(self, weight: Tensor, row_stride: int) -> Part:
        """Name what ``weight``, a constant with at least one source, is a part of.

        ``row_stride``: stride of the dimension that is contracted: it tells a matrix from its
        transpose.
        """
        origin = self._origin(weight)
        if origin is None:
            source = max(self.sources(weight), key=lambda name: self.parameters[name].numel())
            return _whole(source, (source, "computed"))
        source, offset = origin
        full, size = self.parameters[source], weight.numel()
        key, layer = (source, offset, size, row_stride), layer_name(source)
        if size == full.numel():
            return _whole(source, key)
        if (outputs := _outputs(weight, offset, full)) is not None:
            return Part(f"{layer}[{outputs[0]}:{outputs[1]}]", layer, outputs, key)
        return Part(f"{layer}[from {offset}, {'x'.join(map(str, weight.shape))}]", "", None, key)

    def _origin(self, t: Tensor) -> tuple[str, int] | None:
        """The parameter of which ``t`` is a view, or the copy of one, and where in it ``t``
        begins.
        """
        if (copied := self._copies.get(storage(t))) is not None:
            return copied[0], copied[1] + int(t.storage_offset())
        for name in self.sources(t):
            full = self.parameters[name]
            if storage(full) == storage(t):
                return name, int(t.storage_offset() - full.storage_offset())
        return None


def layer_name(parameter_name: str) -> str:
    """Name of the layer whose weight is ``parameter_name``; of the parameter itself if it is not
    called weight.
    """
    name = parameter_name
    if ".parametrizations." in f".{name}":
        module, _, rest = f".{name}".rpartition(".parametrizations.")
        name = f"{module}.{rest.split('.')[0]}".lstrip(".")
    for suffix in _SUFFIXES:
        if f".{name}".endswith(suffix):
            return f".{name}".removesuffix(suffix).lstrip(".") or "(root)"
    return name


def _whole(source: str, key: tuple[Any, ...]) -> Part:
    return Part(layer_name(source), layer_name(source), None, key)


def _outputs(value: Tensor, offset: int, full: Tensor) -> tuple[int, int] | None:
    """The outputs of ``full`` that ``value`` holds, from and to; None if it holds no range of
    them.
    """
    step = full.stride(0)
    if (
        offset % step == 0
        and value.numel() % step == 0
        and value.stride()[-1:] == full.stride()[-1:]
    ):
        return offset // step, (offset + value.numel()) // step
    return None
