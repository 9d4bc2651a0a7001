"""Tensors with a shape, a type and a device, but without numbers, for runs that need no more.

torch has ``FakeTensor`` for that, but making one imports a compiler, which takes longer than
tracing most models.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from analogtorch.conversion.weights import bind, operator_name, tensors
from analogtorch.graph import recurrent

_META = torch.device("meta")
_BY_ZEROS = frozenset(("istft",))
"""Operators that take seconds on the meta device, and less on the CPU with zeros."""


class StandIn(Tensor):
    """A tensor on the meta device that stands for one on another device.

    Operators compute shapes and types alone.
    """

    bare: Tensor
    """The tensor itself, on the meta device."""
    stood_for: torch.device

    @staticmethod
    def __new__(cls, bare: Tensor, device: torch.device) -> "StandIn":
        """Return a stand-in that shares its storage with ``bare``."""
        made: StandIn = Tensor._make_subclass(
            cls, bare, False, dispatch_device=True, device_for_backend_keys=device
        )
        made.bare, made.stood_for = bare, device
        return made

    @classmethod
    def of(cls, t: Tensor) -> "StandIn":
        """Return a stand-in for ``t``; one on the meta device counts as being on the CPU."""
        bare = torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=_META)
        made = cls(bare, torch.device("cpu") if t.is_meta else t.device)
        made._is_param = isinstance(t, nn.Parameter)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Device of the tensor that it stands for."""
        return self.stood_for

    def __repr__(self) -> str:  # type: ignore[override]
        return f"StandIn({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})[0]


def run(func: Any, args: Any, kwargs: Any) -> tuple[Any, dict[int, StandIn]]:
    """Compute shapes and types of an operator's result.

    The second result maps the ``id`` of tensors with numbers to what stood for them.

    Raises:
        RuntimeError: the operator depends on numbers.
    """
    if func is torch.ops.prim.device.default:
        return args[0].stood_for, {}
    made = {id(t): StandIn.of(t) for t in tensors((args, kwargs)) if not isinstance(t, StandIn)}
    given = [t if isinstance(t, StandIn) else made[id(t)] for t in tensors((args, kwargs))]
    asked = [d for d in bind(func, args, kwargs).values() if isinstance(d, torch.device)]
    device = asked[0] if asked else max(given, key=lambda t: t.dim() > 0).stood_for
    back = {id(t.bare): t for t in given}  # x.add_(y) returns x

    def bare(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.bare if isinstance(value, StandIn) else made[id(value)].bare
        return _META if isinstance(value, torch.device) else value

    def dressed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return back[id(value)] if id(value) in back else StandIn(value, device)

    args, kwargs = tree_map(bare, (args, kwargs))
    return tree_map(dressed, _computed(func, args, kwargs)), made


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the result of an operator on the meta device."""
    name = operator_name(func)
    # torch would compute it time step by time step
    if name in recurrent.NAMES and not name.endswith("_cell"):
        return _recurrent(bind(func, args, kwargs))
    # torch computes it in bfloat16 only
    if name == "_grouped_mm" and args[0].dim() == 2 and args[1].dim() == 3:
        return args[0].new_empty(args[0].shape[0], args[1].shape[2])
    if name in _BY_ZEROS:
        args, kwargs = tree_map(_zeros, (args, kwargs))
        return tree_map(lambda t: t.to(_META), func(*args, **kwargs))
    return func(*args, **kwargs)


def _zeros(value: Any) -> Any:
    return (
        torch.zeros(value.shape, dtype=value.dtype, device="cpu")
        if isinstance(value, Tensor)
        else value
    )


def _recurrent(a: dict[str, Any]) -> tuple[Tensor, ...]:
    x, hx = a["data"] if "batch_sizes" in a else a["input"], tensors(a["hx"])
    outputs = hx[0].shape[-1] * (2 if a["bidirectional"] else 1)
    return x.new_empty((*x.shape[:-1], outputs)), *map(torch.empty_like, hx)
