"""The kind of each digital operation, and how many arithmetic operations it takes.

Additions, multiplications, comparisons and elementwise functions (an exponential too) count as one
operation per number. Moving, reshaping and selecting numbers counts as none. A complex number is
two numbers.
"""

import math
from typing import Any

from torch import Tensor

from analogtorch.graph import (
    digital_matrices,
    digital_moves,
    digital_products,
    digital_transforms,
)
from analogtorch.graph.sizes import numbers


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CREATED = frozenset(
    f"{new}{kind}{like}"
    for kind in ("zeros", "ones", "full", "empty")
    for new in ("", "new_")
    for like in ("", "_like")
)
"""Operations whose result depends on the shape of their inputs alone."""

_NORMS = {
    "batch_norm": 8,
    "layer_norm": 8,
    "group_norm": 8,
    "instance_norm": 8,
    "rms_norm": 5,
    "local_response_norm": 6,
}
"""Operations per number of norms that find mean and variance first."""

_FUNCTIONS = {
    name: kind
    for kind, names in {
        "relu": "relu relu6 hardtanh hardsigmoid clamp clamp_min clamp_max threshold",
        "sigmoid": "sigmoid tanh",
        "activation": """
            gelu silu mish elu selu celu leaky_relu prelu hardswish softplus softsign logsigmoid
            log_sigmoid hardshrink softshrink exp log sqrt rsqrt abs erf sin cos
            """,
    }.items()
    for name in names.split()
}
"""Kinds of the functions of each number, as far as the units of chips differ."""
_SOFTMAX = {"softmax": 5, "_softmax": 5, "log_softmax": 6, "_log_softmax": 6}
"""Operations per number: largest, difference, exponential, sum, quotient."""
_ADD = dict.fromkeys(_words("add sub rsub mul div pow square maximum minimum neg"), 1) | {
    "addcmul": 2,
    "addcdiv": 2,
    "lerp": 3,
}
"""Operations per number of sums, products and the like."""
_ALIASES = {
    "absolute": "abs",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "subtract": "sub",
    "negative": "neg",
    "clip": "clamp",
}
_OF_COMPLEX = {
    name: operations
    for operations, names in {
        4: "abs",
        5: "exp log sqrt rsqrt sin cos tanh sigmoid",
        6: "mul square pow prod reciprocal sgn",
        8: "addcmul",
        11: "div",
        13: "addcdiv",
    }.items()
    for name in names.split()
}
"""Operations per complex number, if all numbers that it computes with are complex; of others, one
per real number. Functions count as ``exp`` does, and a power as a product, as of real numbers."""
_POOLS = {
    f"{adaptive}{kind}_pool{n}d{indices}": 0 if adaptive else n
    for adaptive in ("", "adaptive_")
    for kind in ("max", "avg")
    for n in (1, 2, 3)
    for indices in ("", "_with_indices")
}
"""Dimensions of the window. It is 0 if the operator chooses the window, so that each input counts
about once."""
_REDUCTIONS = _words(
    """
    mean sum amax amin max min var std norm linalg_vector_norm argmax
    argmin aminmax all any count_nonzero nansum nanmean prod logsumexp var_mean std_mean median
    nanmedian quantile nanquantile kthvalue topk mode dist mse_loss l1_loss bincount histc
    """
)
"""Operators that count each number that they read."""
_SORTS = _words("sort argsort msort")
_TAPS = {"linear1d": 2, "bilinear2d": 4, "trilinear3d": 8, "bicubic2d": 16}
_INTERPOLATIONS = {f"upsample_{kind}": taps for kind, taps in _TAPS.items()} | {
    f"_upsample_{kind}_aa": _TAPS[kind] for kind in ("bilinear2d", "bicubic2d")
}
"""Numbers that each result is interpolated between: a MAC for each. With anti-aliasing, a smaller
image has as many of each number that it is made of."""
_DISTANCES = {"cdist": "x1", "pairwise_distance": "x1", "pdist": "self"}
"""One argument of each, whose last dimension is summed over: difference, square (or magnitude) and
sum of each number, and a root."""


def count(name: str, arguments: dict[str, Any], output: Any) -> tuple[str, int, int]:
    """Return kind, output numbers and arithmetic operations of one traced operation.

    Args:
        name: name of the operator, such as ``"relu"``.
        arguments: its arguments by name, with (fake) tensors.
        output: its result, a (fake) tensor or a sequence of them.
    """
    name = _ALIASES.get(name, name)
    read = max((numbers(a) for a in arguments.values()), default=0)
    kind, out, work = _of_real(name, arguments, output, read)
    if name in _OF_COMPLEX and all(map(_is_complex, _operands(arguments))):
        work = _OF_COMPLEX[name] * max(out, read) // 2
    return kind, out, work


def _of_real(name: str, arguments: dict[str, Any], output: Any, read: int) -> tuple[str, int, int]:
    """Return what ``count`` does; pointwise operators count each number as a real one."""
    out = numbers(output)
    if (work := digital_products.operations(name, arguments, output)) is not None:
        return "matmul", out, work
    if (work := digital_transforms.operations(name, arguments, output)) is not None:
        return "fft", out, work
    if (work := digital_matrices.operations(name, arguments, output)) is not None:
        return "other", out, work
    if (work := digital_moves.added(name, arguments, output)) is not None:
        return "add", out, work
    if name == "batch_norm" and not _finds_statistics(arguments):
        return "batch_norm", out, 2 * out  # a scale and a shift
    if name in _NORMS:
        return "norm", out, _NORMS[name] * out
    if name in _SOFTMAX:
        return "activation", out, _SOFTMAX[name] * out
    if name in _FUNCTIONS:
        return _FUNCTIONS[name], out, out
    if name in _ADD:
        return "add", out, _ADD[name] * out
    if name == "glu":
        return "sigmoid", out, 2 * out  # of one half, times the other
    if name in _POOLS:
        pooled = numbers(_first(output))
        return "pool", pooled, max(read, pooled * _window(name, arguments))
    if name in _REDUCTIONS:
        return "pool", out, read
    if name in _SORTS:
        rows = arguments["self"].shape[arguments.get("dim", 0)] if arguments["self"].dim() else 1
        return "other", out, round(read * math.log2(max(2, rows)))
    if name in _INTERPOLATIONS:
        return "other", out, 2 * _INTERPOLATIONS[name] * max(out, read if "_aa" in name else 0)
    if name.startswith("grid_sampler"):
        return "other", out, 2 * out * _sampled(arguments)
    if name == "embedding_bag":
        out = numbers(_first(output))  # beside it torch returns lists for its gradient
        rows = arguments["indices"].numel() * arguments["weight"].shape[-1]
        return "embedding", out, rows * (1 if arguments["per_sample_weights"] is None else 2)
    if name.startswith("embedding"):
        return "embedding", out, 0
    if name == "scaled_dot_product_attention":
        factors = (arguments["query"], arguments["key"], arguments["value"])
        return "attention", out, _attention(*factors)
    if name in _DISTANCES:
        return "other", out, out * (3 * arguments[_DISTANCES[name]].shape[-1] + 1)
    return "other", out, out


def _operands(arguments: dict[str, Any]) -> list[Any]:
    factors = ("self", "other", "tensor1", "tensor2")
    return [value for name, value in arguments.items() if name in factors]


def _is_complex(value: Any) -> bool:
    return value.is_complex() if isinstance(value, Tensor) else isinstance(value, complex)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    scores = query.shape[:-1].numel() * key.shape[-2]
    return scores * (2 * query.shape[-1] + 2 * value.shape[-1] + 1 + _SOFTMAX["softmax"])


def _sampled(arguments: dict[str, Any]) -> int:
    """Return how many numbers each result of ``grid_sample`` is interpolated between."""
    dims = arguments["grid"].shape[-1]
    return {0: 2**dims, 1: 1, 2: 4**dims}[arguments["interpolation_mode"]]


def _finds_statistics(arguments: dict[str, Any]) -> bool:
    """Return whether a batch norm finds the mean and the variance of its inputs."""
    return bool(arguments.get("training")) or arguments.get("running_mean") is None


def _window(name: str, arguments: dict[str, Any]) -> int:
    dims = _POOLS[name]
    if dims == 0:
        return 0
    size = arguments["kernel_size"]
    if isinstance(size, int):
        return size**dims
    return math.prod(size) ** (dims if len(size) == 1 else 1)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) else value
