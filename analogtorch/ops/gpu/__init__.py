"""The GPU kernels, in Triton: the definitions of ``ops/generator.py`` and the analog product, for
tensors on CUDA.

Triton comes with the CUDA builds of torch. Where it is missing, ``available`` is False and torch
computes the same. Positions key the noise, never the program: block sizes do not change a number of
it.
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
