"""Standard normals at given positions, by the fastest kernel; ``ops/generator.py`` defines them."""

import torch
from torch import Tensor

from analogtorch.ops import native
from analogtorch.ops.generator import normal_reference
from analogtorch.ops.library import define
from analogtorch.ops.native import loading

_AT_A_TIME = 2**18
"""Normals that plain torch computes together, in a dozen passes, which then stay in cache and need
little memory."""


def normal(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Return standard normals, float32 (R, count), at the positions of ``random_bits``.

    Raises:
        TypeError: a tensor is not int64, or not on the device of ``rows``.
        ValueError: a shape or the count is wrong.
    """
    return _normal(key, rows, first, count)


def _check(key: Tensor, rows: Tensor, first: Tensor, count: int) -> None:
    for name, t in (("key", key), ("rows", rows), ("first", first)):
        if t.dtype != torch.int64 or t.device != rows.device:
            raise TypeError(
                f"normal: {name} must be int64 on {rows.device}, got {t.dtype} on {t.device}"
            )
    if key.numel() != 1 or rows.dim() != 1 or first.shape != rows.shape or count < 0:
        raise ValueError(
            "normal: key must be one number, rows and first (R,), count at least 0; "
            f"got {tuple(key.shape)}, {tuple(rows.shape)}, {tuple(first.shape)} and {count}"
        )


def _compute(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    _check(key, rows, first, count)
    if rows.device.type == "cpu" and loading.available():
        return native.normal(int(key), rows.contiguous(), first.contiguous(), count)
    if rows.is_cuda:
        # not at import: Triton takes longer to import than everything here
        from analogtorch.ops import gpu

        if gpu.available(key, rows, first):
            return gpu.normal(key, rows, first, count)
    step = max(_AT_A_TIME // max(count, 1), 1)
    if len(rows) <= step:
        return normal_reference(key, rows, first, count)
    out = torch.empty(len(rows), count, device=rows.device, dtype=torch.float32)
    for i in range(0, len(rows), step):
        out[i : i + step] = normal_reference(key, rows[i : i + step], first[i : i + step], count)
    return out


def _fake(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    _check(key, rows, first, count)
    return torch.empty(rows.shape[0], count, device=rows.device, dtype=torch.float32)


_normal = define(
    "normal(Tensor key, Tensor rows, Tensor first, int count) -> Tensor", _compute, _fake
)
