"""Warnings at the first training step: ranges that do not learn, and layers without noise.

An optimizer that is made before ``convert`` does not know the DAC ranges.
``DistributedDataParallel`` around a model that is calibrated later does not average their gradients
over the processes. A model that ``from_pretrained`` and the like return is in evaluation mode, and
trains there without noise.
"""

import functools
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from analogtorch.values.listed import listed
from analogtorch.values.thread_lock import ThreadLock
from analogtorch.values.warned import warn

_SHOWN = 3
"""Layers that the warning lists; it counts the others."""
_PENDING: "WeakSet[Any]" = WeakSet()
"""Analog layers that no optimizer has trained yet."""
_CHANGING = ThreadLock()
"""Held while ``_PENDING`` changes or is listed: other threads may copy models meanwhile."""
_WARNED: "WeakSet[Optimizer]" = WeakSet()
"""Optimizers that no more warnings about ranges are given of."""
_INNER: "WeakSet[Optimizer]" = WeakSet()
"""Optimizers that others step."""
_NOISY: "WeakSet[Any]" = WeakSet()
"""Analog layers that are trained with noise in evaluation mode, too."""
_AVERAGED: "WeakKeyDictionary[nn.Module, WeakSet[Any]]" = WeakKeyDictionary()
"""The analog layers whose ranges learnt already when a model was distributed."""


def expect(layer: nn.Module) -> None:
    """Warn at the next step that trains the weight of the analog ``layer``, if it misses something.

    Its DAC range does not learn, or the layer has no noise.
    """
    _register()
    _NOISY.discard(layer)
    with _CHANGING:
        _PENDING.add(layer)


def leave(optimizer: Optimizer) -> None:
    """Give no warning of an optimizer that leaves DAC ranges on purpose."""
    _WARNED.add(optimizer)


def noisy_in_evaluation(layer: nn.Module) -> None:
    """Give no warning that the analog ``layer`` is in evaluation mode: its trainer adds noise."""
    _NOISY.add(layer)


@functools.cache
def _register() -> None:
    register_optimizer_step_pre_hook(_leave_inner)
    register_optimizer_step_post_hook(_look)
    register_module_module_registration_hook(_distribute)


def _distribute(module: nn.Module, _: str, inside: nn.Module | None) -> None:
    """Note which ranges learn when ``DistributedDataParallel`` gets its model.

    It averages the gradients of what learns then, and of nothing that does so later.
    """
    if not isinstance(module, DistributedDataParallel) or inside is None:
        return
    if torch.distributed.get_world_size(module.process_group) > 1:
        layers = set(inside.modules())
        with _CHANGING:
            learning = [x for x in _PENDING if x in layers and x.input_range.requires_grad]
        _AVERAGED[module] = WeakSet(learning)


def _leave_inner(optimizer: Optimizer, *_: Any) -> None:
    """Leave out what an optimizer steps inside: it has a share of the Parameters.

    ``ZeroRedundancyOptimizer`` holds it as ``optim``; the outer one, which has all, is looked at.
    """
    if isinstance(inner := getattr(optimizer, "optim", None), Optimizer):
        _INNER.add(inner)


def _look(optimizer: Optimizer, *_: Any) -> None:
    """Look after a step at the layers whose weight it changed, and warn of what they miss."""
    if torch.compiler.is_compiling() or optimizer in _INNER:
        return
    with _CHANGING:  # a programmed layer has the noise of its chip; adapters learn beside it
        _PENDING.difference_update([x for x in _PENDING if x.programmed is not None])
        layers = list(_PENDING)
    pairs = ((layer, layer.input_range) for layer in layers)
    learning = [layer for layer, r in pairs if r.requires_grad and r.grad is not None]
    if not learning:
        return
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = [x for x in learning if id(x.input_range) in known or id(x.weight) in known]
    with _CHANGING:
        _PENDING.difference_update(trained)
    this = f"this {type(optimizer).__name__} trains"
    if exact := [x for x in trained if id(x.weight) in known and _without_noise(x)]:
        warn(
            f"{this} analog layers in evaluation mode, without the chip's noise: {_named(exact)}. "
            "Call model.train() before the loop; or, to train without noise, "
            "analogtorch.hwa.training_noise_(model, 0)"
        )
    if apart := _not_averaged([x for x in trained if id(x.input_range) in known]):
        warn(
            "DistributedDataParallel was made before the DAC ranges of these analog layers learnt, "
            "and does not average their gradients: the ranges of the processes drift apart: "
            f"{_named(apart)}. Make it anew after analogtorch.calibrate, from its own .module"
        )
    left = [x for x in trained if id(x.input_range) not in known]
    if left and optimizer not in _WARNED:
        _WARNED.add(optimizer)
        warn(
            f"{this} the weights of analog layers but not their "
            f"DAC ranges, which do not learn unless another optimizer has them: {_named(left)}. "
            "Make the optimizer after analogtorch.convert, from model.parameters() or "
            "analogtorch.hwa.parameter_groups(model, weight_decay=...); or freeze the ranges with "
            "layer.input_range.requires_grad_(False)"
        )


def _not_averaged(layers: list[Any]) -> list[Any]:
    """Return the layers whose ranges learn in each of several processes by its own gradients."""
    distributed = list(_AVERAGED.items())
    inside = {module for parallel, _ in distributed for module in parallel.modules()}
    averaged = {layer for _, learning in distributed for layer in learning}
    return [layer for layer in layers if layer in inside and layer not in averaged]


def _without_noise(layer: Any) -> bool:
    """Return whether a layer that could have training noise has none in its mode."""
    noise = layer.chip.training
    wanted = layer.noise_fraction > 0 and (noise.weight != "none" or noise.drop_connect > 0)
    return wanted and not layer.training and layer not in _NOISY


def _named(layers: list[Any]) -> str:
    names = sorted(layer.layer_name or "(root)" for layer in layers)
    return listed(map(repr, names), _SHOWN)
