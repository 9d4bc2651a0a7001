"""Calls that use a layer's weight instead of the layer, routed to the layer.

``F.linear(x, self.qkv.weight)`` computes with the weight of an analog layer and bypasses it, also
inside of ``F.multi_head_attention_forward``. If a run shows such a call, the module that makes it
gets another forward, which runs the module's forward under a function mode that gives such calls to
the layer. All else of the module stays: class, Parameters, hooks, pickling and compilation. Calls
with the weight of a digital layer in int8 round their inputs as that layer does.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from analogtorch.conversion.digital_bits import round_input, rounds
from analogtorch.nn import AnalogLayer

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_OPTIONS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
"""Arguments of a convolution behind the bias, and their defaults."""
_ARGUMENTS = ("input", "weight", "bias", *_OPTIONS)
_OF_MATRICES = nn.MultiheadAttention | nn.RNNBase | nn.RNNCellBase
"""Modules whose weights are several matrices, which are linear layers inside of analog ones."""

ATTENTION = F.multi_head_attention_forward
"""The attention of torch."""
attention = FunctionType(
    ATTENTION.__code__,
    {**vars(F), "has_torch_function": lambda tensors: False},
    ATTENTION.__name__,
    ATTENTION.__defaults__,
)
"""The same, but a function mode sees its products: torch hands the whole to one."""


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

    def layers(self) -> Iterator[nn.Module]:
        """Yield the layers that are analog now, or round their inputs."""
        for name in self.names:
            layer = _inside(self.module, name)
            if isinstance(layer, AnalogLayer) or (layer is not None and rounds(layer)):
                yield layer


class Router(TorchFunctionMode):
    """Gives calls with the weight of one of the layers to that layer."""

    def __init__(self, layers: Callable[[], Iterable[nn.Module]]) -> None:
        super().__init__()
        self.layers = layers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is F.linear or func in _CONVOLUTIONS:
            call = {**dict(zip(_ARGUMENTS, args, strict=False)), **given}
            for layer in self.layers():
                if call.get("weight") is layer._parameters.get("weight"):
                    y = self.product(layer, func, call)
                    if y is not None:
                        return y
        if func is ATTENTION:
            with self:
                return attention(*args, **given)
        return func(*args, **given)

    def product(self, layer: nn.Module, func: Any, call: dict[str, Any]) -> Tensor | None:
        """Return what a layer makes of a call with its weight; None: it computes otherwise."""
        if not isinstance(layer, AnalogLayer):
            y: Tensor = func(**{**call, "input": round_input(layer, call["input"])})
            return y
        if computes(layer, func.__name__, call):
            return _product(layer, call["input"], call.get("bias"))
        return None


def can_route(user: nn.Module, layer: nn.Module, name: str, call: Mapping[str, Any]) -> bool:
    """Return whether the guard gives a call in ``user`` with the weight of ``layer`` to the layer.

    Args:
        user: the module that makes the call, whose ``forward`` is free.
        layer: the layer, analog or digital, or the module of several matrices that has the weight.
        name: name of the function or operator, such as ``conv1d``.
        call: its arguments by name.
    """
    return bool(name_in(user, layer)) and computes(layer, name, call)


def name_in(user: nn.Module, layer: nn.Module) -> str | None:
    """Return the name of ``layer`` in the module ``user``; None if that does not hold it."""
    return next((name for name, module in user.named_modules() if module is layer), None)


def _inside(module: nn.Module, name: str) -> nn.Module | None:
    """Return the module called ``name`` in ``module``; None if it was replaced or removed."""
    found: nn.Module | None = module
    for part in name.split("."):
        found = None if found is None else found._modules.get(part)
    return found


def is_free(module: nn.Module) -> bool:
    """Return whether the module's ``forward`` is that of its class, or is routed already."""
    return isinstance(vars(module).get("forward"), Routed | None)


def computes(layer: Any, name: str, call: Mapping[str, Any]) -> bool:
    """Return whether a call computes what the layer's forward does, up to the bias.

    Its arguments are those of ``can_route``.
    """
    if name == "linear":
        return isinstance(layer, nn.Linear | _OF_MATRICES)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.padding_mode != "zeros":
        return False
    dims = len(layer.kernel_size)
    return name == f"conv{dims}d" and all(
        _alike(call.get(option, default), getattr(layer, option), dims)
        for option, default in _OPTIONS.items()
    )


def _alike(given: Any, of_layer: Any, dims: int) -> bool:
    def spread(value: Any) -> Any:
        if isinstance(value, str):
            return value
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * dims if len(values) == 1 else values

    return bool(spread(given) == spread(of_layer))


def _product(layer: Any, x: Tensor, bias: Tensor | None) -> Tensor:
    # the call is meant for no forward of a subclass, nor for hooks
    kind = getattr(layer, "analog_kind", None)
    y = (type(layer) if kind is None else kind).forward(layer, x)
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
    if not is_free(module):
        return False
    routed = vars(module).get("forward") or Routed(module)
    routed.names = (*routed.names, *(name for name in names if name not in routed.names))
    vars(module)["forward"] = routed
    return True


def unroute(module: nn.Module, names: list[str] | None = None) -> None:
    """Undo ``route`` for layers of these ``names``; None: for all but digital ones that round."""
    if isinstance(routed := vars(module).get("forward"), Routed):
        gone = names
        if gone is None:
            kept = [layer for layer in routed.layers() if not isinstance(layer, AnalogLayer)]
            gone = [n for n in routed.names if _inside(module, n) not in kept]
        routed.names = tuple(n for n in routed.names if n not in gone)
        if not routed.names:
            del vars(module)["forward"]


@contextlib.contextmanager
def routed_as_before_on_error(model: nn.Module) -> Iterator[None]:
    """Restore the routes in a model if the context fails or is stopped."""
    before = {m: getattr(vars(m).get("forward"), "names", ()) for m in model.modules()}
    try:
        yield
    except BaseException:
        for module, names in before.items():
            unroute(module)
            if names:
                route(module, list(names))
        raise


def routes(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the layers that modules use by their weights, by the module's name.

    They are analog, or digital and round their inputs. Their names are relative to the module.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(forward := vars(module).get("forward"), Routed):
            used = set(forward.layers())
            found[name] = tuple(n for n in forward.names if _inside(module, n) in used)
    return {name: names for name, names in found.items() if names}


def routed_layers(model: nn.Module) -> list[str]:
    """Return the full names of the analog layers that are used by their weights."""
    full = [f"{name}.{n}".lstrip(".") for name, names in routes(model).items() for n in names]
    return [name for name in full if isinstance(model.get_submodule(name), AnalogLayer)]
