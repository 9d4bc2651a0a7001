"""A module with another class and the same contents: digital to analog, and back."""

import copy
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from analogtorch.values.warned import warn

ADDED = frozenset({
    "_chip", "_given_chip", "adc_ranges", "calibrated", "chip", "digital_class", "excess",
    "executions", "has_run", "input_range", "layer_name", "noise_fraction", "output_ranges",
    "output_runs", "placed_geometry", "placed_shape", "programmed", "sections", "sequence_first",
    "taps", "target", "target_version", "vectors_read",
})  # fmt: skip
"""Attributes that ``convert`` and ``hold`` add to a layer."""


def reborn(module: nn.Module, kind: Any) -> Any:
    """Return an instance of ``kind`` that shares all attributes of ``module``, hooks included.

    Where the module was compiled by itself, the new one is not: see ``warn_uncompiled``.
    """
    new = kind.__new__(kind)
    new.__dict__.update(module.__dict__)
    new.__dict__.pop("_compiled_call_impl", None)  # it would still call the old module
    if forward_is_plain(module):
        new.__dict__.pop("forward", None)  # bound to the old module
    # these gain or lose entries
    new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
    new._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    hooks = module._load_state_dict_pre_hooks
    if any(getattr(hook, "with_module", False) for hook in hooks.values()):
        # each module has its own: the old one stays in use where the new one is a trial
        new._load_state_dict_pre_hooks = OrderedDict((k, copy.copy(h)) for k, h in hooks.items())
        for hook in new._load_state_dict_pre_hooks.values():
            if getattr(hook, "with_module", False):
                hook.module = weakref.ref(new)
    return new


def warn_uncompiled(reborn: Mapping[str, nn.Module]) -> None:
    """Warn of modules that were compiled by themselves, once others stand in their place.

    Args:
        reborn: the modules by their names in the model.
    """
    for name, module in reborn.items():
        if vars(module).get("_compiled_call_impl") is not None:
            warn(
                f"{name or '(root)'!r} was compiled by itself and is not any more: call its "
                ".compile() again"
            )


def forward_is_plain(module: nn.Module) -> bool:
    """Return whether the module computes by the forward of its class.

    accelerate stores it as an attribute of the module, which still counts.
    """
    forward = vars(module).get("forward")
    return forward is None or getattr(forward, "__func__", None) is type(module).forward


def cut(t: Any, outputs: slice | None, dim: int = 0) -> Any:
    """Return the part of a tensor for the run ``outputs``; dimension ``dim`` counts the outputs."""
    if t is None or outputs is None:
        return t
    return t.narrow(dim, outputs.start, outputs.stop - outputs.start)
