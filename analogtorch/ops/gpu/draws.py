"""Normals of the noise generator, on a GPU."""

import torch
from torch import Tensor

from analogtorch.ops.gpu.loading import triton

if triton is not None:
    from analogtorch.ops.gpu.kernels import normal_kernel


def normal(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Return ``ops.normal`` of int64 tensors on a GPU: float32 (R, count)."""
    out = torch.empty(rows.shape[0], count, device=rows.device, dtype=torch.float32)
    launch(out, key, rows, first, raw=False)
    return out


def launch(
    out: Tensor, key: Tensor, rows: Tensor, first: Tensor, *, raw: bool, block: int = 1024
) -> None:
    """Fill ``out`` (R, count) with normals, or with their bits as float64."""
    n_rows, count = out.shape
    if out.numel():
        grid = (n_rows, triton.cdiv(count, block))
        with torch.cuda.device_of(out):
            normal_kernel[grid](
                out, key, rows.contiguous(), first.contiguous(), n_rows, count, raw, BLOCK=block
            )
