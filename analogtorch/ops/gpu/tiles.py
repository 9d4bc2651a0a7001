"""The division of a product's work among the programs of a GPU.

The tiles depend on type and shape. They were chosen by the registers and instructions that the
compiler reports; not measured on a GPU. There is no autotuning: it would make the first steps of
every shape slow. The noise of a weight costs 60 to 70 instructions, which the vectors of a tile
share, so the tiles of noisy products are tall.
"""

from typing import NamedTuple

import torch

from analogtorch.ops.gpu.loading import triton


class Tile(NamedTuple):
    """The tile of a kernel: vectors, outputs and rows at a time, each a power of two from 16."""

    m: int
    n: int
    k: int
    warps: int = 4
    stages: int = 3
    group: int = 8
    """Rows of tiles that share their columns in L2."""

    def arguments(self) -> dict[str, int]:
        """Return the arguments for the launch of a kernel."""
        names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages", "GROUP")
        return dict(zip(names, self, strict=True))


def forward_tile(m: int, dtype: torch.dtype, noisy: bool) -> Tile:
    """Return the tile of the forward kernel; ``m``: vectors, ``noisy``: with weight noise."""
    if dtype == torch.float32:
        return Tile(64, 64, 32) if m > 32 else Tile(16, 64, 32)
    if m <= 64:
        return Tile(16 if m <= 16 else 64, 64, 64)
    return Tile(256, 64, 32, warps=8) if noisy and m > 128 else Tile(128, 128, 64, warps=8)


def input_tile(m: int, dtype: torch.dtype, noisy: bool) -> Tile:
    """Return the tile of the kernel of the input gradient; arguments as in ``forward_tile``."""
    if dtype == torch.float32:
        return Tile(64, 32, 64) if m > 32 else Tile(16, 32, 64)
    if m <= 64:
        return Tile(16 if m <= 16 else 64, 64, 64)
    return Tile(256, 32, 64, warps=8) if noisy and m > 128 else Tile(128, 64, 128, warps=8)


def weight_tile(n: int, dtype: torch.dtype) -> Tile:
    """Return the tile of the kernel of the weight gradient; ``n``: outputs."""
    if dtype == torch.float32:
        return Tile(32, 64, 64)
    return Tile(64, 64, 64) if n <= 512 else Tile(64, 128, 128, warps=8)


def fit(tile: Tile, outputs: int, rows: int) -> Tile:
    """Return a tile that is no larger than the matrix needs."""
    # n: a word of the mask
    n, k = max(32, triton.next_power_of_2(outputs)), max(16, triton.next_power_of_2(rows))
    return tile._replace(n=min(tile.n, n), k=min(tile.k, k))


def shares(m: int, programs: int) -> int:
    """Return a number of shares for 256 programs with at least 512 vectors each."""
    return max(1, min(256 // max(programs, 1), m // 512))
