"""Analog classes for subclasses of layers, which keep what a subclass adds, such as padding.

The analog class of ``Conv2dSame`` inherits from it and from ``AnalogConv2d``, in this order.
Methods and attributes stay, ``super().forward(x)`` in its forward is the analog forward, and
``F.conv2d(x, self.weight, ...)`` is routed there. A layer whose forward does anything else with the
weight cannot be analog; a trial on the meta device finds that out.
"""

import contextlib
import copy
import functools
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from analogtorch.chips import ideal
from analogtorch.conversion.route import Router
from analogtorch.nn.tap import Tap, tapped
from analogtorch.nn.traced import Proxy, whole
from analogtorch.ops.scope import random_kept

_FORWARDS = ("forward", "_conv_forward")
_LOOKED_AT = frozenset(
    {"dtype", "device", "shape", "size", "requires_grad", "is_meta", "numel", "dim", "ndim"}
)
"""What a forward may ask of its weight without computing with it."""
_TRIED = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers of which an example input is known."""
_MADE: dict[Any, Any] = {}
"""Classes by kind and digital class: layers of one digital class have one analog class."""


def analog_class(kind: Any, digital: type[nn.Module]) -> Any:
    """Return the analog class for layers of class ``digital``.

    ``digital`` is ``kind.digital`` or a subclass of it.
    """
    if not _added(kind, digital):
        return kind
    if (kind, digital) not in _MADE:
        space: dict[str, Any] = {
            "__module__": digital.__module__,
            "__doc__": digital.__doc__,
            "__reduce_ex__": _reduce,
        }
        space |= {"analog_kind": kind, "analog_of": digital}
        if overrides(kind, digital):
            space["forward"] = _routed(digital.forward)
        _MADE[kind, digital] = type(f"Analog{digital.__name__}", (digital, kind), space)
    return _MADE[kind, digital]


def _routed(digital_forward: Any) -> Any:
    @functools.wraps(digital_forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(given, Proxy) for given in (*args, *kwargs.values())):
            return whole(self, *args, **kwargs)
        with Router(lambda: (self,)):
            return digital_forward(self, *args, **kwargs)

    return forward


def _added(kind: Any, digital: type[nn.Module]) -> set[str]:
    """Return the names that the classes between ``digital`` and ``kind.digital`` define.

    Names with two underscores at both ends, such as ``__init__``, do not count.
    """
    between = [c for c in digital.__mro__ if c not in kind.digital.__mro__]
    return {
        name
        for c in between
        for name in vars(c)
        if not (name.startswith("__") and name.endswith("__"))
    }


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """Reduce the layer for copies and pickles: no import finds its class by name."""
    return _new, (type(self).analog_kind, type(self).analog_of), self.__getstate__()


def _new(kind: Any, digital: type[nn.Module]) -> Any:
    made = analog_class(kind, digital)
    return made.__new__(made)


def overrides(kind: Any, digital: type[nn.Module]) -> str | None:
    """Return the method in which ``digital`` differs from ``kind.digital``, or None."""
    return next(
        (m for m in _FORWARDS if getattr(digital, m, None) is not getattr(kind.digital, m, None)),
        None,
    )


def refuses(kind: Any, module: nn.Module) -> str | None:
    """Return why ``module``, a subclass of ``kind.digital``, cannot be analog; None if it can."""
    name = type(module).__name__
    method = overrides(kind, type(module))
    if taken := sorted(_added(kind, type(module)) & (set(dir(kind)) - set(dir(kind.digital)))):
        return f"{name} has its own {taken[0]!r}, a name that analog layers use"
    if method is None:
        return None
    if not isinstance(module, _TRIED):
        return f"{name} overrides {method}"
    layer = analog_class(kind, type(module)).from_digital(_on_meta(module), ideal(), "")
    for training in (False, True):
        layer.train(training)  # its own may return nothing
        trial = _Trial(layer)
        tap = Tap(running=trial.multiplying)
        try:
            with random_kept(), torch.no_grad(), tapped({layer: tap}), trial:
                layer.forward(_example(module))
        except Exception as error:  # whatever its code raises
            what = str(error).partition("\n")[0]
            return (
                f"{name} overrides {method}, which fails for an input alone on the meta device: "
                f"{what}"
            )
        if trial.other:
            return f"{name} overrides {method}, which uses the weight in {trial.other}"
        if not trial.products:
            return f"{name} overrides {method}, which does not multiply by the weight"
    return None


class _Trial(TorchFunctionMode):
    """Sees what a forward does with the weight."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.products, self.other = layer.weight, 0, ""
        self.inside = False

    @contextlib.contextmanager
    def multiplying(self) -> Iterator[None]:
        """Surround each analog product of the layer."""
        self.inside, self.products = True, self.products + 1
        try:
            yield
        finally:
            self.inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside and any(t is self.weight for t in tree_leaves((args, kwargs))):
            name = getattr(func, "__name__", str(func))
            name = func.__self__.__name__ if name == "__get__" else name
            self.other = self.other or ("" if name in _LOOKED_AT else name)
        return func(*args, **(kwargs or {}))


def _on_meta(module: nn.Module) -> Any:
    """Return the module without hooks and numbers, with lists and such of its own.

    It shares everything else.
    """

    def bare(t: Any) -> Any:
        if isinstance(t, nn.Parameter):
            return nn.Parameter(t.detach().to("meta"), t.requires_grad)
        if isinstance(t, Tensor):
            return t.detach().to("meta")
        # a trial may fill these
        return copy.copy(t) if isinstance(t, list | dict | set | deque) else t

    new = type(module).__new__(type(module))
    new.__dict__.update(
        {key: type(v)() if key.endswith("_hooks") else bare(v) for key, v in vars(module).items()}
    )
    new.__dict__.pop("_compiled_call_impl", None)  # it calls the module itself
    for group in ("_parameters", "_buffers"):
        new.__dict__[group] = {key: bare(t) for key, t in vars(module)[group].items()}
    new.__dict__["_modules"] = {
        key: None if m is None else _on_meta(m) for key, m in module._modules.items()
    }
    return new


def _example(module: Any) -> Tensor:
    if isinstance(module, nn.Linear):
        shape = [module.in_features]
    else:
        shape = [module.in_channels]
        kernels = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        shape += [2 * (d * (k - 1) + 1) + s for k, s, d in kernels]
    return torch.empty(2, *shape, dtype=module.weight.dtype, device="meta")
