"""The GPU kernels, in Triton: the noise generator and the analog product for tensors on CUDA.

Triton comes with the CUDA builds of torch. If it is missing, ``available`` is False and torch
computes the same. The noise is keyed by position, never by program: block sizes do not change it.
"""

from analogtorch.ops.gpu.draws import launch, normal
from analogtorch.ops.gpu.linear import linear, linear_backward
from analogtorch.ops.gpu.loading import available, status
from analogtorch.ops.gpu.product import backward, forward, takes
from analogtorch.ops.gpu.tiles import Tile

__all__ = [
    "Tile",
    "available",
    "backward",
    "forward",
    "launch",
    "linear",
    "linear_backward",
    "normal",
    "status",
    "takes",
]
