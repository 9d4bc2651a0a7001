"""A warning at the first training step if the optimizer does not hold the DAC ranges.

An optimizer that is made before ``convert`` does not know them.
"""

import functools
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from analogtorch.values.warned import warn

_SHOWN = 3
"""Layers that the warning lists; it counts the others."""
_PENDING: "WeakSet[Any]" = WeakSet()
"""Analog layers that no optimizer has trained yet."""
_WARNED: "WeakSet[Optimizer]" = WeakSet()
"""Optimizers that no more warnings are given of."""


def expect(layer: nn.Module) -> None:
    """Warn at the first step that trains the weight of the analog ``layer`` but not its range."""
    _register()
    _PENDING.add(layer)


def leave(optimizer: Optimizer) -> None:
    """Give no warning of an optimizer that leaves DAC ranges on purpose."""
    _WARNED.add(optimizer)


@functools.cache
def _register() -> None:
    register_optimizer_step_post_hook(_look)


def _look(optimizer: Optimizer, *_: Any) -> None:
    """Look after a step at the layers whose weight it changed; warn if a range did not learn."""
    if torch.compiler.is_compiling():
        return
    layers = list(_PENDING)
    pairs = ((layer, layer.input_range) for layer in layers)
    learning = [layer for layer, r in pairs if r.requires_grad and r.grad is not None]
    if not learning:
        return
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    left = []
    for layer in learning:
        has_range = id(layer.input_range) in known
        if has_range or id(layer.weight) in known:
            _PENDING.discard(layer)
            left += [] if has_range else [layer.layer_name or "(root)"]
    if left and optimizer not in _WARNED:
        _WARNED.add(optimizer)
        named = ", ".join(map(repr, sorted(left)[:_SHOWN]))
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        warn(
            f"this {type(optimizer).__name__} trains the weights of analog layers but not their "
            f"DAC ranges, which do not learn unless another optimizer has them: {named}{more}. "
            "Make the optimizer after analogtorch.convert, from model.parameters() or "
            "analogtorch.hwa.parameter_groups(model, weight_decay=...); or freeze the ranges with "
            "layer.input_range.requires_grad_(False)"
        )
