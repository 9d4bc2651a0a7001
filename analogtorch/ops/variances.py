"""Variances of the weights of a training step, by a table.

Any curve is one pass over the weights, where torch's functions take a dozen with as many results in
memory.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.library import define
from analogtorch.ops.native import loading
from analogtorch.ops.physics import block_scales, over_rows, relative, wide


def read_variances(
    w: Tensor, bounds: Sequence[int], columns: Sequence[int], table: Sequence[float]
) -> Tensor:
    """Return ``Operands.read_variances`` of weights that the cells hold exactly.

    It has no gradient.

    Args:
        w: (outputs, ...); its other dimensions, flattened, are the rows.
        bounds: see ``physics.block_scales``.
        columns: see ``physics.block_scales``.
        table: variances of equally spaced weights from -1 to 1, in units of the weight scale
            squared; at least two, between which they are interpolated in straight lines.

    Returns:
        (1, *shape of ``w``), in bfloat16.
    """
    return _read_variances(w, bounds, columns, table)


def _compute(
    w: Tensor, bounds: Sequence[int], columns: Sequence[int], table: Sequence[float]
) -> Tensor:
    w = w.detach().to(wide(w.dtype)).contiguous()  # the result is, whatever computes it
    native = w.device.type == "cpu" and w.dtype == torch.float32 and w.numel() > 0
    if not (native and loading.available()):
        return _by_torch(w, bounds, columns, table).bfloat16().unsqueeze(0)
    out, blocks = w.new_empty((1, *w.shape), dtype=torch.bfloat16), len(bounds) - 1
    scale = w.new_empty(blocks, w.shape[0])
    loading.call(
        "at_variances",
        *(ctypes.c_void_p(t.data_ptr()) for t in (out, scale, w)),
        ctypes.c_int64(w.shape[0]),
        loading.array(tuple(bounds)),
        ctypes.c_int64(blocks),
        loading.array(tuple(columns)),
        ctypes.c_int64(max(len(columns) - 1, 0)),
        _floats(tuple(table)),
        ctypes.c_int64(len(table) - 1),
    )
    return out


@lru_cache(maxsize=256)
def _floats(numbers: tuple[float, ...]) -> Any:
    return (ctypes.c_float * len(numbers))(*numbers)


def _by_torch(
    w: Tensor, bounds: Sequence[int], columns: Sequence[int], table: Sequence[float]
) -> Tensor:
    full = over_rows(block_scales(w, bounds, columns), bounds).view(w.shape)
    half, last = (len(table) - 1) / 2, len(table) - 2
    t = (relative(w, full).nan_to_num(0.0).clamp(-1, 1) + 1) * half
    i = t.floor().clamp_max(last).long()
    values = w.new_tensor(table)
    return torch.lerp(values[i], values[i + 1], t - i)


def _fake(
    w: Tensor, bounds: Sequence[int], columns: Sequence[int], table: Sequence[float]
) -> Tensor:
    return w.new_empty((1, *w.shape), dtype=torch.bfloat16)


_read_variances = define(
    "read_variances(Tensor w, int[] bounds, int[] columns, float[] table) -> Tensor",
    _compute,
    _fake,
)
