"""Which values of a traced model are weights: computed from parameters alone, and which part of which parameter."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

_SUFFIXES = (".weight", ".weight_v", ".weight_orig")
"""What a layer's own name is told without: plain, weight-normalised, pruned."""


@dataclass(frozen=True)
class Constant:
    """A value that does not depend on the model's input."""

    value: Any
    """On the meta device: views of a parameter keep its storage, so that their place in it can be read off. None where
    no parameter is involved."""
    sources: tuple[str, ...] = ()
    """Parameters that it is computed from."""

    def at(self, index: int) -> "Constant":
        """Element of a tuple of constants."""
        return Constant(None if self.value is None else self.value[index], self.sources)


def parameter(name: str, like: Tensor) -> Constant:
    """The constant of a parameter that has the shape of ``like``."""
    return Constant(torch.empty(like.shape, dtype=like.dtype, device="meta"), (name,))


def evaluate(node: fx.Node, constants: dict[fx.Node, Constant]) -> Constant:
    """The constant of ``node``, all of whose inputs are ``constants``; recomputed to keep views views."""
    inputs = [constants[n] for n in node.all_input_nodes]
    sources = tuple(dict.fromkeys(s for c in inputs for s in c.sources))
    if not sources:
        return Constant(None)
    if node.target is operator.getitem:
        return constants[node.args[0]].at(node.args[1])  # type: ignore[index, arg-type]
    fallback = node.meta.get("val")
    if any(c.value is None for c in inputs) or not callable(node.target):
        return Constant(fallback, sources)
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: constants[n].value)
    try:
        return Constant(node.target(*args, **kwargs), sources)
    except (RuntimeError, NotImplementedError, TypeError):
        return Constant(fallback, sources)


@dataclass(frozen=True)
class Part:
    """The part of a parameter that a product applies: the same part is the same matrix wherever it is applied."""

    name: str
    """Full name of the layer, of the parameter where it is not the layer's ``weight``, with its range if cut."""
    key: tuple[Any, ...]


def part(weight: Constant, whole: dict[str, Constant], row_stride: int) -> Part:
    """Name what ``weight`` is a part of.

    Args:
        weight: a constant with at least one source.
        whole: the constant of each parameter.
        row_stride: stride of the dimension that is contracted: it tells a matrix from its transpose.
    """
    source = max(weight.sources, key=lambda name: whole[name].value.numel())
    full = whole[source].value
    if not _is_view(weight.value, full):
        return Part(layer_name(source), (source, "computed"))
    size, offset = weight.value.numel(), weight.value.storage_offset()
    name = layer_name(source) + (_range(weight.value, full) if size != full.numel() else "")
    return Part(name, (source, offset, size, row_stride))


def layer_name(parameter_name: str) -> str:
    """Name of the layer whose weight is ``parameter_name``; of the parameter itself if it is not called weight."""
    name = parameter_name
    if ".parametrizations." in f".{name}":
        module, _, rest = f".{name}".rpartition(".parametrizations.")
        name = f"{module}.{rest.split('.')[0]}".lstrip(".")
    for suffix in _SUFFIXES:
        if f".{name}".endswith(suffix):
            return f".{name}".removesuffix(suffix).lstrip(".") or "(root)"
    return name


def _range(value: Tensor, full: Tensor) -> str:
    step, offset = full.stride(0), value.storage_offset()
    if offset % step == 0 and value.numel() % step == 0 and value.stride()[-1:] == full.stride()[-1:]:
        return f"[{offset // step}:{(offset + value.numel()) // step}]"
    return f"[from {offset}, {'x'.join(map(str, value.shape))}]"


def _is_view(value: Any, full: Tensor) -> bool:
    return (
        isinstance(value, Tensor) and value.is_meta and value.untyped_storage()._cdata == full.untyped_storage()._cdata
    )
