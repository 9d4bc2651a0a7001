"""Weights behind the resistance of their columns, on the CPU."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.native import loading


def takes(weight: Tensor) -> bool:
    """Return whether the kernels compute the drop of these weights."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and loading.available()


def column_drop(
    weight: Tensor,
    scale: Tensor | None,
    bounds: Sequence[int],
    columns: Sequence[int],
    numbers: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``analogtorch.ops.column_drop``; its scale is empty if ``scale`` is given."""
    weight, blocks = weight.contiguous(), len(bounds) - 1
    left, sums = torch.empty_like(weight), weight.new_empty(2, blocks, len(weight))
    full = sums.new_empty(sums.shape[1:]) if scale is None else scale.float().contiguous()
    count = ctypes.c_int64(max(len(columns) - 1, 0))
    shared = ctypes.c_int64(scale is None), *_blocks(weight, bounds), _array(columns), count
    _call("at_column_drop", (left, sums, full, weight), shared, numbers)
    return left, full if scale is None else full.new_empty(0), sums


def column_drop_backward(
    gradient: Tensor, weight: Tensor, scale: Tensor, bounds: Sequence[int], numbers: Sequence[float]
) -> Tensor:
    """Return the gradient of the weights from that of the weights behind the wires."""
    weight, found = weight.contiguous(), torch.empty_like(gradient.contiguous())
    tensors = found, gradient.contiguous(), weight, scale.float().contiguous()
    _call("at_column_drop_backward", tensors, _blocks(weight, bounds), numbers)
    return found


def _array(numbers: Sequence[int]) -> Any:
    return loading.array(tuple(numbers))


def _blocks(weight: Tensor, bounds: Sequence[int]) -> tuple[Any, ...]:
    return ctypes.c_int64(len(weight)), _array(bounds), ctypes.c_int64(len(bounds) - 1)


def _call(
    name: str, tensors: Sequence[Tensor], sizes: Sequence[Any], numbers: Sequence[float]
) -> None:
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
    if loading.call(name, *pointers, *sizes, *map(ctypes.c_float, numbers)):
        outputs, rows = tensors[0].shape
        raise MemoryError(f"analogtorch: no memory for the IR drop of {outputs} x {rows} weights")
