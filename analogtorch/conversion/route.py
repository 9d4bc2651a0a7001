"""Calls that use a layer's weight instead of the layer, routed to the layer.

``F.linear(x, self.qkv.weight)`` computes with the weight of an analog layer and bypasses it. If a
run shows such a call, the module that makes it gets another forward, which runs the module's
forward under a function mode that gives such calls to the layer. All else of the module stays:
class, Parameters, hooks, pickling and compilation.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from analogtorch.nn import AnalogLayer

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class Routed:
    """The forward of a module that computes with the weights of layers inside it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.names: tuple[str, ...] = ()
        """Names of the layers, relative to the module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Router(self.layers):
            return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def __code__(self) -> CodeType:
        """Code of the module's forward, which torch.export asks for."""
        return type(self.module).forward.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        """Signature of the module's forward, for callers that pass arguments by name."""
        return inspect.signature(type(self.module).forward.__get__(self.module))

    def layers(self) -> Iterator[AnalogLayer]:
        """Yield the layers that are analog now."""
        for name in self.names:
            layer = self.module.get_submodule(name)
            if isinstance(layer, AnalogLayer):
                yield layer


class Router(TorchFunctionMode):
    """Gives calls with the weight of one of the layers to that layer."""

    def __init__(self, layers: Callable[[], Iterable[AnalogLayer]]) -> None:
        super().__init__()
        self.layers = layers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is F.linear or func in _CONVOLUTIONS:
            weight = args[1] if len(args) > 1 else given.get("weight")
            for layer in self.layers():
                of_layer = weight is layer._parameters.get("weight")
                if of_layer and _is_product_of(layer, func, args, given):
                    x = args[0] if args else given["input"]
                    return _product(layer, x, args[2] if len(args) > 2 else given.get("bias"))
        return func(*args, **given)


def _is_product_of(layer: Any, func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether the call computes what the layer's forward does, up to the bias."""
    if func is F.linear:
        return isinstance(layer, nn.Linear)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.padding_mode != "zeros":
        return False
    if func is not _CONVOLUTIONS[len(layer.kernel_size) - 1]:
        return False
    names = ("stride", "padding", "dilation", "groups")
    call = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    call |= dict(zip(names, args[3:], strict=False))
    call |= {name: kwargs[name] for name in names if name in kwargs}
    return all(_alike(call[name], getattr(layer, name), len(layer.kernel_size)) for name in names)


def _alike(given: Any, of_layer: Any, dims: int) -> bool:
    def spread(value: Any) -> Any:
        if isinstance(value, int):
            return (value,) * dims
        return value if isinstance(value, str) else tuple(value)

    return bool(spread(given) == spread(of_layer))


def _product(layer: Any, x: Tensor, bias: Tensor | None) -> Tensor:
    # a subclass has a forward that the call is not meant for
    kind = getattr(layer, "analog_kind", None)
    y = layer(x) if kind is None else kind.forward(layer, x)
    if bias is layer.bias:
        return y
    shape = (-1, *[1] * (-1 - layer.channel_dim))
    for change in (None if layer.bias is None else -layer.bias, bias):
        y = y if change is None else y + change.to(y.dtype).view(shape)
    return y


def route(module: nn.Module, names: list[str]) -> bool:
    """Route calls in ``module``'s forward with the weights of its layers ``names`` to these layers.

    Returns:
        Whether it is possible; it is not if the module's ``forward`` is an attribute already.
    """
    present = vars(module).get("forward")
    if present is not None and not isinstance(present, Routed):
        return False
    routed = present or Routed(module)
    routed.names = (*routed.names, *(name for name in names if name not in routed.names))
    vars(module)["forward"] = routed
    return True


def unroute(module: nn.Module) -> None:
    """Undo ``route``."""
    if isinstance(vars(module).get("forward"), Routed):
        del vars(module)["forward"]


def routes(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the analog layers that modules use by their weights, by the module's name.

    Names of layers are relative to the module.
    """
    found = {
        name: tuple(n for n in forward.names if isinstance(m.get_submodule(n), AnalogLayer))
        for name, m in model.named_modules()
        if isinstance(forward := vars(m).get("forward"), Routed)
    }
    return {name: names for name, names in found.items() if names}


def routed_layers(model: nn.Module) -> list[str]:
    """Return the full names of the layers that are used by their weights."""
    return [
        f"{name}.{inner}".lstrip(".") for name, names in routes(model).items() for inner in names
    ]
