"""Triton, which compiles the kernels, or why it is missing."""

from functools import cache

import torch
from torch import Tensor

from analogtorch.values.warned import warn

try:
    import triton
except ImportError:  # a CPU build of torch brings no Triton
    triton = None


def available(*tensors: Tensor) -> bool:
    """Return whether the kernels exist and all tensors are on a GPU.

    Without Triton it warns once in a process.
    """
    if not all(t.is_cuda for t in tensors):
        return False
    if triton is None:
        _warn()
    return triton is not None


@cache
def _warn() -> None:
    warn(
        "analogtorch: the GPU kernels do not run, so analog layers run on plain torch, several "
        "times slower. " + status(),
        RuntimeWarning,
    )


def status() -> str:
    """Return one line: the Triton that compiles the kernels, or why there is none and a remedy."""
    if triton is None:
        return (
            "GPU kernels: none, there is no Triton, which comes with the CUDA builds of torch; "
            "pip install triton"
        )
    return f"GPU kernels: Triton {triton.__version__}" + (
        "" if torch.cuda.is_available() else ", no GPU here"
    )
