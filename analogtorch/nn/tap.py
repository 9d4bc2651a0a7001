"""Taps: observe a layer while it computes, or replace its execution for a while.

Calibration, guard, sensitivity and tests use them. Several taps may be open on one layer. Digital
modules have torch's hooks for this, which ``hooked`` adds and removes in the same way.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from analogtorch.ops import Operands, Plan

if TYPE_CHECKING:
    from analogtorch.nn.base import AnalogLayer
    from analogtorch.nn.execution import Execution


@dataclass(frozen=True, kw_only=True, eq=False)
class Tap:
    """Functions that are called while a layer computes; each is optional."""

    running: Callable[[], AbstractContextManager[None]] | None = None
    """Makes the context in which each forward of the layer runs."""
    input: Callable[[Tensor], None] | None = None
    """Called with each input, before padding, once it has been checked."""
    product: Callable[[Operands, Plan, slice, Tensor], None] | None = None
    """Called with each analog product: its operands, its plan, the outputs of the layer that it
    computes, and the result. An embedding has no product: it reads single rows."""
    execution: "Execution | None" = None
    """Execution that replaces that of the layer; the last tap with one decides."""

    @property
    def looks(self) -> bool:
        """Whether it is given the numbers that the layer computes with."""
        return self.input is not None or self.product is not None


@contextlib.contextmanager
def tapped(taps: "Mapping[AnalogLayer, Tap]") -> Iterator[None]:
    """Add these taps to layers inside the ``with``; they are always removed afterwards.

    Args:
        taps: the tap of each layer. Taps that a layer has already stay: all are called, in the
            order in which they were added.

    Example:
        >>> layer, sums = at.nn.AnalogLinear(64, 10, chip=at.chips.hermes64()), []
        >>> with at.nn.tapped({layer: at.nn.Tap(product=lambda *seen: sums.append(seen[-1]))}):
        ...     _ = layer(torch.randn(2, 64))
        >>> sums[0].shape
        torch.Size([2, 10])
    """
    try:
        for layer, tap in taps.items():
            layer.taps = (*layer.taps, tap)
        yield
    finally:
        for layer, tap in taps.items():
            _remove(layer, tap)


def _remove(layer: "AnalogLayer", tap: Tap) -> None:
    left = list(layer.taps)
    for number in reversed(range(len(left))):
        if left[number] is tap:
            del left[number]
            break
    if left:
        layer.taps = tuple(left)
    else:
        vars(layer).pop("taps", None)


@contextlib.contextmanager
def hooked(
    modules: Iterable[nn.Module],
    *,
    before: Callable[[Any, tuple[Any, ...]], None] | None = None,
    after: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
) -> Iterator[None]:
    """Call functions before and after each call of digital modules, inside the ``with``.

    Args:
        modules: the modules.
        before: ``before(module, inputs)``.
        after: ``after(module, inputs, output)``.
    """
    with contextlib.ExitStack() as hooks:
        for module in modules:
            if before is not None:
                hooks.callback(module.register_forward_pre_hook(before).remove)
            if after is not None:
                hooks.callback(module.register_forward_hook(after).remove)
        yield
