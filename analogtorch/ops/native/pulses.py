"""Inputs times the share of the other rows that are on during their pulse, on the CPU."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.ops.native import loading

_MOST_STEPS = 8  # of pulses.c


def takes(x: Tensor, input_range: Tensor, steps: int) -> bool:
    """Return whether the kernels compute these pulses, (vectors, rows)."""
    return (
        x.device.type == "cpu"
        and x.dtype == input_range.dtype == torch.float32
        and x.numel() > 0
        and steps <= _MOST_STEPS
        and loading.available()
    )


def overlap(x: Tensor, input_range: Tensor, bounds: Sequence[float], levels: int) -> Tensor:
    """Return the pulses: see ``analogtorch.ops.pulse_overlap``."""
    out = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    _call("at_pulses", (out,), (x, input_range), bounds, levels)
    return out


def overlap_backward(
    g: Tensor,
    out: Tensor,
    x: Tensor,
    input_range: Tensor,
    bounds: Sequence[float],
    levels: int,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the inputs and of the range."""
    gx = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    of_range = torch.empty(len(x), dtype=torch.float64, device="cpu")
    _call("at_pulses_backward", (gx, of_range), (g, out, x, input_range), bounds, levels)
    return gx, of_range.sum().float().view(1)


def _call(
    name: str,
    found: tuple[Tensor, ...],
    operands: tuple[Tensor, ...],
    bounds: Sequence[float],
    levels: int,
) -> None:
    given = [t.contiguous() for t in operands]
    (vectors, rows), limits = given[-2].shape, given[-1]
    steps = (ctypes.c_float * len(bounds))(*bounds)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (*found, *given)]
    sizes = vectors, rows, int(limits.numel() > 1), len(bounds) - 1
    loading.call(
        name, *pointers, steps, *(ctypes.c_int64(n) for n in sizes), ctypes.c_float(levels)
    )
