"""Weights behind the resistance of their columns, on the CPU."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.ops.native import loading


def takes(weight: Tensor) -> bool:
    """Return whether the kernels compute the drop of these weights."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and loading.available()


def column_drop(
    weight: Tensor, scale: Tensor, bounds: Sequence[int], numbers: Sequence[float]
) -> Tensor:
    """Return the weights behind the wires: see ``analogtorch.ops.column_drop``."""
    return _call("at_column_drop", (weight.contiguous(),), scale, bounds, numbers)


def column_drop_backward(
    gradient: Tensor, weight: Tensor, scale: Tensor, bounds: Sequence[int], numbers: Sequence[float]
) -> Tensor:
    """Return the gradient of the weights from that of the weights behind the wires."""
    operands = gradient.contiguous(), weight.contiguous()
    return _call("at_column_drop_backward", operands, scale, bounds, numbers)


def _call(
    name: str,
    operands: tuple[Tensor, ...],
    scale: Tensor,
    bounds: Sequence[int],
    numbers: Sequence[float],
) -> Tensor:
    outputs, rows = operands[0].shape
    found = torch.empty(outputs, rows, dtype=torch.float32, device="cpu")
    scale = scale.float().contiguous()
    of_line = [ctypes.c_float(number) for number in numbers]
    for block, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        pointers = [ctypes.c_void_p(t.data_ptr() + 4 * a) for t in (found, *operands)]
        pointers.append(ctypes.c_void_p(scale.data_ptr() + 4 * block * outputs))
        sizes = [ctypes.c_int64(size) for size in (outputs, rows, b - a)]
        if loading.call(name, *pointers, *sizes, *of_line):
            raise MemoryError(
                f"analogtorch: no memory for the IR drop of {outputs} x {rows} weights"
            )
    return found
