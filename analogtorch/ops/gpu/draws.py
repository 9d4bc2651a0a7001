"""Normals of the noise generator, on a GPU."""

import torch
from torch import Tensor

from analogtorch.ops.gpu.loading import triton

if triton is not None:
    from analogtorch.ops.gpu.kernels import normal_kernel


def normal(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """As ``ops.normal``: float32 (R, count), for int64 tensors on a GPU."""
    out = torch.empty(rows.shape[0], count, device=rows.device, dtype=torch.float32)
    launch(out, key, rows, first, raw=False)
    return out


def launch(
    out: Tensor, key: Tensor, rows: Tensor, first: Tensor, *, raw: bool, block: int = 1024
) -> None:
    """Fill ``out`` (R, count): normals, or, as float64, the bits they are made of."""
    n_rows, count = out.shape
    if out.numel():
        grid = (n_rows, triton.cdiv(count, block))
        with torch.cuda.device_of(out):
            normal_kernel[grid](
                out, key, rows.contiguous(), first.contiguous(), n_rows, count, raw, BLOCK=block
            )
