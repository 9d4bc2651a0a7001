"""Weights with the noise of a training step, made once for many products.

``mvm`` draws the same noise in each product that gets the key.
"""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from analogtorch.ops import reference
from analogtorch.ops.native import loading
from analogtorch.ops.native.call import set_noise
from analogtorch.ops.native.structures import WeightNoise
from analogtorch.ops.plan import Plan


def noisy_weight(
    w: Tensor,
    scale: Tensor,
    key: Tensor,
    plan: Plan,
    spread: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the weights that ``mvm`` multiplies by, of ``w``'s shape and type, without gradient.

    Args:
        w: (outputs, channels / groups, *kernel).
        scale: weight at full conductance, (blocks, outputs).
        key: () int64.
        plan: the plan of the product; without ``weight_noise`` the result is ``w``.
        spread: the deviation of a weight, as ``physics.weight_sigma`` takes it, of cells whose
            curve kernels do not know; None: that of the plan.

    Raises:
        ValueError: the weights or their scale do not fit the plan.
    """
    w = w.detach()
    rows, full = w.shape[1:].numel(), (plan.blocks, len(w))
    # the kernel trusts these shapes when it reads memory
    if rows != plan.bounds[-1] or scale.shape != full:
        raise ValueError(
            f"noisy_weight: the plan has {plan.bounds[-1]} rows and scales of shape {full}; got "
            f"{rows} rows and scales of shape {tuple(scale.shape)}"
        )
    ours = w.device.type == "cpu" and w.dtype == scale.dtype == torch.float32 and w.numel() > 0
    if not (ours and spread is None and plan.weight_noise > 0 and loading.available()):
        return reference.noisy_weight(w, scale, key, plan, spread)
    w, scale, key, noise = w.contiguous(), scale.contiguous(), key.contiguous(), WeightNoise()
    out, outputs = torch.empty_like(w), len(w)
    set_noise(noise, plan)
    noise.key = key.data_ptr()
    loading.call(
        "at_noisy_weight",
        *(ctypes.c_void_p(t.data_ptr()) for t in (out, w, scale)),
        ctypes.byref(noise),
        ctypes.c_int64(outputs),
        ctypes.c_int64(outputs // plan.groups),
        loading.array(plan.bounds),
        ctypes.c_int64(plan.blocks),
    )
    return out
