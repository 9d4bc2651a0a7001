"""Calls that name a layer's weight instead of the layer, brought back to the layer.

``F.linear(x, self.qkv.weight)`` computes with the weight of an analog layer behind its back. Where
such a call is seen while the model runs, the module that makes it gets a forward that runs its own
one under a function mode, which gives such calls to the layer. The module stays what it is
otherwise: class, Parameters, hooks, pickling and compilation included.
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
        """Of the layers, relative to the module."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Router(self.layers):
            return type(self.module).forward(self.module, *args, **kwargs)

    @property
    def __code__(self) -> CodeType:
        """Of the module's own forward: torch.export asks for it."""
        return type(self.module).forward.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        """Of the module's own forward: whoever passes arguments by name asks for it."""
        return inspect.signature(type(self.module).forward.__get__(self.module))

    def layers(self) -> Iterator[AnalogLayer]:
        """Those of the layers that are analog now."""
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
                if weight is layer._parameters.get("weight") and _is_product_of(
                    layer, func, args, given
                ):
                    x = args[0] if args else given["input"]
                    return _product(layer, x, args[2] if len(args) > 2 else given.get("bias"))
        return func(*args, **given)


def _is_product_of(layer: Any, func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the call computes what the layer's forward does, up to the bias."""
    if func is F.linear:
        return isinstance(layer, nn.Linear)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.padding_mode != "zeros":
        return False
    if func is not _CONVOLUTIONS[len(layer.kernel_size) - 1]:
        return False
    names = ("stride", "padding", "dilation", "groups")
    call = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | dict(
        zip(names, args[3:], strict=False)
    )
    call |= {name: kwargs[name] for name in names if name in kwargs}
    return all(_alike(call[name], getattr(layer, name), len(layer.kernel_size)) for name in names)


def _alike(given: Any, own: Any, dims: int) -> bool:
    def spread(value: Any) -> Any:
        return (
            (value,) * dims
            if isinstance(value, int)
            else value
            if isinstance(value, str)
            else tuple(value)
        )

    return bool(spread(given) == spread(own))


def _product(layer: Any, x: Tensor, bias: Tensor | None) -> Tensor:
    # of a subclass, whose own forward the call is not meant for
    own = getattr(layer, "analog_kind", None)
    y = layer(x) if own is None else own.forward(layer, x)
    if bias is layer.bias:
        return y
    shape = (-1, *[1] * (-1 - layer.channel_dim))
    for change in (None if layer.bias is None else -layer.bias, bias):
        y = y if change is None else y + change.to(y.dtype).view(shape)
    return y


def route(module: nn.Module, names: list[str]) -> bool:
    """Bring calls in ``module``'s forward that name the weights of its layers ``names`` to these
    layers.

    Returns:
        Whether it could be done: not for a module whose ``forward`` is an attribute of its own
        already.
    """
    own = vars(module).get("forward")
    if own is not None and not isinstance(own, Routed):
        return False
    routed = own or Routed(module)
    routed.names = (*routed.names, *(name for name in names if name not in routed.names))
    vars(module)["forward"] = routed
    return True


def unroute(module: nn.Module) -> None:
    """Undo ``route``."""
    if isinstance(vars(module).get("forward"), Routed):
        del vars(module)["forward"]


def routes(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The analog layers that modules reach by their weights: relative names by the module's."""
    found = {
        name: tuple(n for n in forward.names if isinstance(m.get_submodule(n), AnalogLayer))
        for name, m in model.named_modules()
        if isinstance(forward := vars(m).get("forward"), Routed)
    }
    return {name: names for name, names in found.items() if names}


def routed_layers(model: nn.Module) -> list[str]:
    """Full names of the layers that are reached by their weights."""
    return [
        f"{name}.{inner}".lstrip(".") for name, names in routes(model).items() for inner in names
    ]
