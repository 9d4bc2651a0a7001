"""FLOPs of the operators for ``torch.utils.flop_counter``: their products, as in a digital layer.

Converters, noise and the sums of row blocks do not count, as activations and rounding do not count
in torch.
"""

import math
from typing import Any

import torch

from analogtorch.values.thread_lock import ThreadLock

_LOCK = ThreadLock()


def register() -> None:
    """Register the formulas with torch; counters that were made before do not have them.

    This does not happen at import, as it imports Triton. Threads may convert models at the same
    time: torch refuses a formula that it has already.
    """
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    with _LOCK:
        ours = torch.ops.analogtorch
        for operator, formula in (
            (ours.mvm, _forward),
            (ours.mvm_backward, _backward),
            (ours.expand, _expand),
            (ours.expand_backward, _expand),
        ):
            if operator not in flop_registry:
                register_flop_formula(operator)(formula)


def _forward(x: Any, input_range: Any, w: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * math.prod(out_shape[0]) * math.prod(w[1:]))


def _expand(x: Any, size: int, seed: int, *_: Any, **__: Any) -> int:
    return int(2 * math.prod(x) * size)


def _backward(g: Any, x: Any, input_range: Any, w: Any, *rest: Any, **_: Any) -> int:
    to_input, _, to_weight, *_ = rest[-1]  # the gradients that are needed
    return int(2 * math.prod(g) * math.prod(w[1:])) * (to_input + to_weight)
