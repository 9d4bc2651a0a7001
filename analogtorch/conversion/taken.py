"""Analog layers that something else has replaced after ``convert``, or whose weights it has.

Tools that swap every ``nn.Linear`` do that, such as quantisation-aware training of torchao: its
filter asks for ``isinstance(module, nn.Linear)``, which an analog layer is, and its layer keeps the
weight and computes digitally. torch does not announce that a child is replaced. So this module
remembers the weights of analog layers, as objects; a digital module that holds one later has
replaced the layer, unless it was in a model when that was converted: models may share a weight.
Other tools, such as ``quantize_`` of torchao, replace the weight alone.
"""

from weakref import WeakSet

from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from analogtorch.conversion.kinds import analog_layers, makers
from analogtorch.conversion.not_parameters import unplaceable
from analogtorch.nn import AnalogComposite, AnalogLayer

_PLACED = WeakTensorKeyDictionary()
"""Weights of analog layers. A copy of a model has none: a replaced layer is not noticed there."""
_LEFT: WeakSet[nn.Module] = WeakSet()
"""Modules that were digital in a model after its first conversion."""

_FILTER = "give them a filter that leaves out isinstance(module, analogtorch.nn.AnalogLayer)"


def remember(model: nn.Module, first: bool) -> None:
    """Remember the weights of all analog layers, and which modules ``convert`` left digital.

    ``first`` is whether nothing in the model was analog before: else a tool may have been there.
    """
    if first:
        _LEFT.update(m for m in model.modules() if not isinstance(m, AnalogLayer))
    for _, layer in analog_layers(model):
        if isinstance(weight := layer._parameters.get("weight"), nn.Parameter):
            _PLACED[weight] = True


def forget(model: nn.Module) -> None:
    """Forget the weights of the model, which may be digital from now on."""
    for p in model.parameters():
        _PLACED.pop(p, None)


def taken(model: nn.Module) -> dict[str, str]:
    """Return the modules that have replaced an analog layer, with the reason, by name."""
    held = {id(layer._parameters.get("weight")) for _, layer in analog_layers(model)}
    made = makers(model)
    return {
        name: f"was an analog layer until a {type(module).__name__} took its place"
        for name, module in model.named_modules()
        if not isinstance(module, AnalogLayer | AnalogComposite | nn.Embedding)
        if module not in made and module not in _LEFT
        if any(
            p in _PLACED and id(p) not in held for p in module._parameters.values() if p is not None
        )
    }


def refuse_taken(model: nn.Module, caller: str) -> None:
    """Raise ValueError if a layer, or its weight, was replaced after ``convert``."""
    for name, why in taken(model).items():
        raise ValueError(
            f"{caller}: {name!r} {why}, which computes digitally. Tools that swap every nn.Linear "
            f"do that: {_FILTER}. If it is to be digital, call "
            f"analogtorch.to_digital(model) and analogtorch.convert(model, chip, exclude={name!r})"
        )
    for name, layer in analog_layers(model):
        if (reason := unplaceable("weight", layer.weight)) is not None:
            raise ValueError(
                f"{caller}: {name!r} is analog, but {reason}. Tools that quantise every "
                f"nn.Linear do that: {_FILTER}, and convert the model anew"
            )
