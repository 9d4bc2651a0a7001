"""Normals and keys of the noise generator, on the CPU."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from analogtorch.ops.native import loading


def normal(key: int, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Return normals at ``rows`` and ``count`` columns from ``first``: float32 (R, count).

    ``rows`` and ``first`` are int64, (R,).
    """
    # whatever the default device is
    out = torch.empty(len(rows), count, dtype=torch.float32, device="cpu")
    sizes = ctypes.c_int64(len(rows)), ctypes.c_int64(count)
    positions = ctypes.c_int64(key), _pointer(rows), _pointer(first)
    loading.call("at_normal", _pointer(out), *positions, *sizes)
    return out


def keys(seed: int, streams: Sequence[int]) -> Tensor:
    """Return ``fold`` of the seed with each stream: int64."""
    out = torch.empty(len(streams), dtype=torch.int64, device="cpu")
    folded = loading.array(tuple(streams)), ctypes.c_int64(len(streams))
    loading.call("at_keys", _pointer(out), ctypes.c_int64(seed), *folded)
    return out


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
