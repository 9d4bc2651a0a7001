"""The Triton kernels, compiled for sm_80 and sm_90 and compared in Triton's interpreter.

They are not measured on a GPU.
"""

from analogtorch.ops.gpu.kernels.draws import normal_kernel
from analogtorch.ops.gpu.kernels.forward import KNOWN_ERRORS, forward_kernel
from analogtorch.ops.gpu.kernels.gradients import input_gradient_kernel, weight_gradient_kernel

__all__ = [
    "KNOWN_ERRORS",
    "forward_kernel",
    "input_gradient_kernel",
    "normal_kernel",
    "weight_gradient_kernel",
]
