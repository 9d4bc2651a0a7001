"""What ``torch.utils.flop_counter`` counts for the operators: the products, as of the digital layer.

Converters, noise and the sums of row blocks are not counted, as torch counts no activation or rounding either.
"""

import functools
import math
from typing import Any

import torch


@functools.cache
def register() -> None:
    """Tell torch the formulas: not at import, as that imports Triton. A counter made before has none of them."""
    from torch.utils.flop_counter import register_flop_formula

    register_flop_formula(torch.ops.analogtorch.mvm)(_forward)
    register_flop_formula(torch.ops.analogtorch.mvm_backward)(_backward)


def _forward(x: Any, input_range: Any, w: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * math.prod(out_shape[0]) * math.prod(w[1:]))


def _backward(g: Any, x: Any, input_range: Any, w: Any, *rest: Any, **_: Any) -> int:
    to_input, _, to_weight, _ = rest[-1]  # whose gradients are needed
    return int(2 * math.prod(g) * math.prod(w[1:])) * (to_input + to_weight)
