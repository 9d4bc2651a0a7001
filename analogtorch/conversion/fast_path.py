"""What torch computes with a layer's weight without calling the layer: not with that of an analog
one.

``nn.TransformerEncoderLayer`` has a fused kernel for the whole layer, ``nn.TransformerEncoder``
makes nested tensors of padded inputs for it, and ``nn.MultiheadAttention`` reads the weight of its
``out_proj``.
"""

from typing import TypeVar

from torch import nn

from analogtorch.nn import AnalogLayer, AnalogMultiheadAttention

Model = TypeVar("Model", bound=nn.Module)

_FLAGS: dict[type[nn.Module], tuple[str, int | bool]] = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}
"""The attribute that lets a module take its fast path, and the value with which it does not. torch
reads it for nothing else. A subclass has it too: a ``forward`` of its own may call torch's."""
_BEFORE = "fast_path_before_analog"
"""Attribute that keeps the value from before."""


def switch_off(model: Model) -> Model:
    """Turn off the fast paths around analog layers: the modules then call them.

    Classes stay the same, and so do results, but for the places that ``src_key_padding_mask``
    hides: nested tensors put zeros there, and without them they are what they are in training.
    """
    for module in model.modules():
        name, off = _flag(module)
        if name in vars(module) and _BEFORE not in vars(module) and _has_analog(module):
            vars(module).update({_BEFORE: vars(module)[name], name: off})
    return model


def restore(model: Model) -> Model:
    """Undo ``switch_off`` in every module that has no analog layer any more."""
    for module in model.modules():
        if _BEFORE in vars(module) and not _has_analog(module):
            vars(module)[_flag(module)[0]] = vars(module).pop(_BEFORE)
    return model


def reader(model: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    """The digital attention whose ``out_proj`` the layer ``name`` is, by its own name: it does not
    call the layer.
    """
    owner, _, child = name.rpartition(".")
    if child != "out_proj":
        return None
    module = model.get_submodule(owner)
    digital = isinstance(module, nn.MultiheadAttention) and not isinstance(
        module, AnalogMultiheadAttention
    )
    return (owner, module) if digital else None


def _flag(module: nn.Module) -> tuple[str, int | bool]:
    return next((flag for kind, flag in _FLAGS.items() if isinstance(module, kind)), ("", False))


def _has_analog(module: nn.Module) -> bool:
    return any(isinstance(m, AnalogLayer) for m in module.modules())
