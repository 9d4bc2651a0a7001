"""The columns that hold the digits of weights, on the CPU."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.ops.native import loading


def takes(w: Tensor, scale: Tensor) -> bool:
    """Return whether the kernels cut these weights."""
    ours = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (w, scale))
    return ours and w.numel() > 0 and loading.available()


def cut(w: Tensor, scale: Tensor, bounds: Sequence[int], table: Tensor) -> Tensor:
    """Return the columns of weights, (outputs x columns, ...): see ``analogtorch.ops.slices``.

    ``table`` is what each column holds for each integer, (columns, 2 steps + 1) float32.
    """
    columns, entries = table.shape
    found = w.new_empty(len(w) * columns, *w.shape[1:])
    tensors = found, w.contiguous(), scale.contiguous(), table
    loading.call(
        "at_slices",
        *(ctypes.c_void_p(t.data_ptr()) for t in tensors),
        ctypes.c_int64(len(w)),
        loading.array(tuple(bounds)),
        *(ctypes.c_int64(size) for size in (len(bounds) - 1, columns, entries // 2)),
    )
    return found
