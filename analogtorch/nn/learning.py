"""A warning at the first training step: an optimizer made before ``convert`` does not know the
input ranges.
"""

import functools
import warnings
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

_SHOWN = 3
"""Layers that the warning lists; the others are counted."""
_PENDING: "WeakSet[Any]" = WeakSet()
"""Analog layers that no optimizer has trained yet."""
_WARNED: "WeakSet[Optimizer]" = WeakSet()


def expect(layer: nn.Module) -> None:
    """See to it that whoever trains the weight of the analog ``layer`` is warned if its range does
    not learn.
    """
    _register()
    _PENDING.add(layer)


@functools.cache
def _register() -> None:
    register_optimizer_step_post_hook(_look)


def _look(optimizer: Optimizer, *_: Any) -> None:
    """After a step: the layers whose weight it changed are done with; of some of them the range
    should have, too.
    """
    if torch.compiler.is_compiling():
        return
    layers = list(_PENDING)
    learning = [
        layer
        for layer in layers
        if layer.input_range.requires_grad and layer.input_range.grad is not None
    ]
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
        warnings.warn(
            f"this {type(optimizer).__name__} trains the weights of analog layers but not their "
            f"input ranges, which do not learn unless another optimizer has them: {named}{more}. "
            "Make the optimizer after analogtorch.convert, from model.parameters() or "
            "analogtorch.hwa.parameter_groups(model, weight_decay=...); or freeze the ranges with "
            "layer.input_range.requires_grad_(False)",
            stacklevel=3,
        )
