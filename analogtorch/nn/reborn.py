"""A module that becomes one of another class, and all that is its stays: from digital to analog,
and back.
"""

import warnings
import weakref
from typing import Any

from torch import nn

OWN = frozenset(
    {
        "_chip",
        "calibrated",
        "chip",
        "digital_class",
        "executions",
        "has_run",
        "input_range",
        "layer_name",
        "noise_fraction",
        "output_bounds",
        "output_ranges",
        "output_runs",
        "placed_shape",
        "programmed",
        "sections",
        "sequence_first",
        "taps",
        "vectors_read",
    }
)
"""What ``convert`` and ``hold`` add to a layer's attributes."""


def reborn(module: nn.Module, kind: Any, name: str) -> Any:
    """An instance of ``kind`` that is ``module`` in everything else: it shares all its attributes,
    hooks included.

    ``name``: of the module in its model.
    """
    new = kind.__new__(kind)
    new.__dict__.update(module.__dict__)
    # it would go on calling the module that was
    if new.__dict__.pop("_compiled_call_impl", None) is not None:
        warnings.warn(
            f"{name or '(root)'!r} was compiled by itself and is not any more: call its .compile() "
            "again",
            stacklevel=4,
        )
    if forward_is_plain(module):
        new.__dict__.pop("forward", None)  # bound to the module that was
    # what gains or loses an entry
    new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
    new._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    for hook in new._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
    return new


def forward_is_plain(module: nn.Module) -> bool:
    """Whether the module computes by the forward of its class, which accelerate leaves as an
    attribute of its own.
    """
    own = vars(module).get("forward")
    return own is None or getattr(own, "__func__", None) is type(module).forward


def cut(t: Any, outputs: slice | None, dim: int = 0) -> Any:
    """The part of a tensor that belongs to the run ``outputs``; ``dim`` counts the outputs."""
    if t is None or outputs is None:
        return t
    return t.narrow(dim, outputs.start, outputs.stop - outputs.start)
