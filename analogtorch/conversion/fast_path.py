"""The fast paths on which torch uses a layer's weight without calling the layer.

An analog layer must not be on one, nor one that rounds its inputs to int8 as it is called.
``nn.TransformerEncoderLayer`` has a fused kernel for the whole layer, ``nn.TransformerEncoder``
makes nested tensors of padded inputs for it, and ``nn.MultiheadAttention`` reads the weight of its
``out_proj``.
"""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

from torch import nn

from analogtorch.conversion.digital_bits import rounds
from analogtorch.nn import AnalogLayer, AnalogMultiheadAttention
from analogtorch.nn.adapters import BASE

Model = TypeVar("Model", bound=nn.Module)

_FLAGS: dict[type[nn.Module], tuple[str, int | bool]] = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}
"""Attribute that enables a module's fast path, and the value that disables it.

torch uses it for nothing else. A subclass has it too: its ``forward`` may call torch's.
"""
_BEFORE = "fast_path_before_analog"
"""Attribute that keeps the earlier value."""


def switch_off(model: Model) -> Model:
    """Disable the fast paths around such layers, so that modules call them.

    Classes stay the same, and so do results, except at the positions that ``src_key_padding_mask``
    hides: nested tensors put zeros there, and without them the outputs are those of training mode.
    """
    for module in model.modules():
        name, off = _flag(module)
        if name in vars(module) and _BEFORE not in vars(module) and _must_call(module):
            vars(module).update({_BEFORE: vars(module)[name], name: off})
    return model


def restore(model: Model) -> Model:
    """Undo ``switch_off`` in every module without such a layer."""
    for module in model.modules():
        if _BEFORE in vars(module) and not _must_call(module):
            vars(module)[_flag(module)[0]] = vars(module).pop(_BEFORE)
    return model


@contextlib.contextmanager
def without(model: nn.Module) -> Iterator[None]:
    """Disable all fast paths of a digital model inside the context.

    What it computes can be compared then with what a converted one does, its hidden positions too.
    """
    found = [(vars(m), *_flag(m)) for m in model.modules() if _flag(m)[0] in vars(m)]
    before = [attributes[name] for attributes, name, _ in found]
    try:
        for attributes, name, off in found:
            attributes[name] = off
        yield
    finally:
        for (attributes, name, _), value in zip(found, before, strict=True):
            attributes[name] = value


def reader(model: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    """Return the digital attention that uses the layer ``name`` as ``out_proj``, and its name.

    Such an attention reads the weight without calling the layer. None: there is no such attention.
    """
    found = attention_of(model, name)
    return None if found and isinstance(found[1], AnalogMultiheadAttention) else found


def attention_of(model: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    """Return the attention, digital or analog, that has the layer ``name`` as ``out_proj``.

    Its name comes first. The layer may be in an adapter. None: there is no such attention.
    """
    owner, _, child = name.removesuffix(f".{BASE}").rpartition(".")
    if child != "out_proj":
        return None
    module = model.get_submodule(owner)
    return (owner, module) if isinstance(module, nn.MultiheadAttention) else None


def _flag(module: nn.Module) -> tuple[str, int | bool]:
    return next((flag for kind, flag in _FLAGS.items() if isinstance(module, kind)), ("", False))


def _must_call(module: nn.Module) -> bool:
    """Return whether a module has a layer that is analog or rounds its inputs."""
    return any(isinstance(m, AnalogLayer) or rounds(m) for m in module.modules())
