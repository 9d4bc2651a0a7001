"""The arithmetic operations of products that no tile computes.

A multiply-accumulate (MAC) counts as two operations, one of complex numbers as eight. A product
without a sum, such as ``outer``, counts as one operation per number, and as six per complex one.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_SUMS = {
    "linear": "input",
    "matmul": "self",
    "linalg_matmul": "self",
    "mm": "self",
    "bmm": "self",
    "mv": "self",
    "dot": "self",
    "vdot": "self",
    "inner": "self",
    "cov": "self",
    "corrcoef": "self",
    "addmm": "mat1",
    "baddbmm": "batch1",
    "addmv": "mat",
    "_grouped_mm": "self",
    "_int_mm": "self",
    "_scaled_mm": "self",
    "_weight_int4pack_mm": "self",
    "_weight_int8pack_mm": "self",
}
"""Operators of which each output is a sum over the last dimension of one argument, by its name."""


_WITHOUT_SUM = ("outer", "ger", "kron")


def operations(name: str, arguments: Mapping[str, Any], output: Any) -> int | None:
    """Return the arithmetic operations of a product of activations; None if it is no product."""
    work = _operations(name, arguments, output)
    if work is None or not (isinstance(output, Tensor) and output.is_complex()):
        return work
    return work * (6 if name in _WITHOUT_SUM else 4)


def _operations(name: str, arguments: Mapping[str, Any], output: Any) -> int | None:
    if (count := _COUNTS.get(name)) is not None:
        return count(arguments, output)
    if weights := _packed(name, arguments):
        return _quantised(name, weights, arguments, output)
    if name in _SUMS:
        first = arguments[_SUMS[name]]
        return 2 * output.numel() * (first.shape[-1] if first.dim() else 1)
    if name.startswith("conv") and "weight" in arguments:
        return _convolution(name, arguments, output)
    return None


def _packed(name: str, a: Mapping[str, Any]) -> list[Tensor]:
    """Return the matrices of a quantised operator; an embedding looks up rows of one."""
    packed = [w for w in a.values() if isinstance(w, torch.ScriptObject) and hasattr(w, "unpack")]
    return [] if name.startswith("embedding") else [w.unpack()[0] for w in packed]


def _quantised(name: str, weights: list[Tensor], a: Mapping[str, Any], output: Any) -> int:
    """Count a linear layer, a convolution, or the two matrices of a recurrent cell."""
    x = next(t for t in a.values() if isinstance(t, Tensor))
    if name.startswith("conv_transpose"):
        return 2 * x.numel() * math.prod(weights[0].shape[1:])
    if name.startswith("conv"):
        return 2 * output.numel() * math.prod(weights[0].shape[1:])
    return 2 * x.shape[:-1].numel() * sum(w.numel() for w in weights)


def _recurrent(gates: int, a: Mapping[str, Any], output: Any) -> int:
    """Count the matrices of quantised recurrent layers; their gates are left out."""
    x, hx = a["data"] if "batch_sizes" in a else a["input"], a["hx"]
    hidden, directions = (hx if isinstance(hx, Tensor) else hx[0]).shape[-1], 1 + a["bidirectional"]
    inputs = x.shape[-1] + (a["num_layers"] - 1) * directions * hidden
    rows = directions * (inputs + a["num_layers"] * hidden)
    return 2 * x.shape[:-1].numel() * gates * hidden * rows


def _convolution(name: str, a: Mapping[str, Any], output: Tensor) -> int:
    """Count the taps of each output, or of a transposed convolution those of each input."""
    weight, transposed = a["weight"], a.get("transposed", name.startswith("conv_transpose"))
    # its weight is (inputs, outputs of a group, ...)
    counted = a["input"] if transposed else output
    return 2 * counted.numel() * math.prod(weight.shape[1:])


def _deformable(a: Mapping[str, Any], output: Tensor) -> int:
    """Count the products, and each tap as it is sampled between four numbers, and masked."""
    taps = math.prod(a["weight"].shape[2:])
    sampled = output[:, 0].numel() * a["input"].shape[1] * taps
    return _convolution("", a, output) + sampled * (8 + bool(a["use_mask"]))


def _tensordot(a: Mapping[str, Any], output: Tensor) -> int:
    return 2 * output.numel() * math.prod(a["self"].shape[d] for d in a["dims_self"])


def _vecdot(a: Mapping[str, Any], output: Tensor) -> int:
    return 2 * _pairs(a["x"], a["y"])


def _cosine(a: Mapping[str, Any], output: Tensor) -> int:
    """Count the products of the pairs, and the norms of the vectors."""
    x1, x2 = a["x1"], a["x2"]
    return 2 * (_pairs(x1, x2) + x1.numel() + x2.numel())


def _pairs(x: Tensor, y: Tensor) -> int:
    """Return the number of pairs of numbers; tensors of other dimensions are broadcast."""
    return math.prod(torch.broadcast_shapes(x.shape, y.shape))


def _chain(factors: Sequence[Tensor]) -> int:
    """Count a product of matrices in the cheapest order, which torch takes too."""
    first, last = factors[0], factors[-1]
    sizes = [1 if first.dim() == 1 else first.shape[0], *(t.shape[0] for t in factors[1:])]
    sizes.append(1 if last.dim() == 1 else last.shape[-1])
    least = {(i, i + 1): 0 for i in range(len(factors))}
    for length in range(2, len(factors) + 1):
        for i in range(len(factors) - length + 1):
            j = i + length
            least[i, j] = min(
                least[i, k] + least[k, j] + sizes[i] * sizes[k] * sizes[j] for k in range(i + 1, j)
            )
    return 2 * least[0, len(factors)]


def _einsum(a: Mapping[str, Any], output: Tensor) -> int:
    """Count pair after pair: along the path that torch was given, or from left to right."""
    given, arrow, result = a["equation"].replace(" ", "").partition("->")
    pairs = zip(given.split(","), a["tensors"], strict=True)
    named = [(_indices(term, t.dim()), t.shape) for term, t in pairs]
    sizes: dict[str, int] = {}
    for names, shape in named:
        for index, size in zip(names, shape, strict=True):
            if size != 1 or index not in sizes:  # a size of 1 is broadcast
                sizes[index] = size
    if not arrow:
        result = "..." + "".join(i for i in sizes if given.count(i) == 1)
    kept = {i for i in sizes if (i[0] if i[0] != "." else "...") in result}
    terms, path, work = [set(names) for names, _ in named], list(a.get("path") or ()), 0

    def size_of(indices: set[str]) -> int:
        return math.prod(sizes[i] for i in indices)

    while terms:
        i, j = sorted(path[:2]) if path else (0, 1)
        factors = [terms.pop(n) for n in (j, i) if n < len(terms)]
        for n, factor in enumerate(factors):  # what only one factor has is summed first
            rest = kept.union(*terms, *factors[:n], *factors[n + 1 :])
            work += 0 if factor <= rest else size_of(factor)
            factors[n] = factor & rest
        if len(factors) == 1:
            return work
        every = set.union(*factors)
        left = every & kept.union(*terms)
        work += (1 if left == every else 2) * size_of(every)
        terms.insert(len(terms) if path else 0, left)
        path = path[2:]
    return work


def _indices(term: str, dims: int) -> list[str]:
    """Return a name for each dimension of a factor; those of an ellipsis count from the right."""
    before, dots, after = term.partition("...")
    more = dims - len(before) - len(after) if dots else 0
    return [*before, *(f".{n}" for n in reversed(range(more))), *after]


_COUNTS: dict[str, Callable[[Mapping[str, Any], Tensor], int]] = {
    "einsum": _einsum,
    "tensordot": _tensordot,
    "deform_conv2d": _deformable,
    "linalg_vecdot": _vecdot,
    "cosine_similarity": _cosine,
    "linalg_multi_dot": lambda a, output: _chain(a["tensors"]),
    "chain_matmul": lambda a, output: _chain(a["matrices"]),
    "addbmm": lambda a, output: 2 * a["batch1"].numel() * a["batch2"].shape[-1],
    "bilinear": lambda a, output: 2 * output.numel() * math.prod(a["weight"].shape[1:]),
    "conv_tbc": lambda a, output: 2 * output.numel() * math.prod(a["weight"].shape[:-1]),
    "quantized_lstm": functools.partial(_recurrent, 4),
    "quantized_gru": functools.partial(_recurrent, 3),
    "addr": lambda a, output: 2 * output.numel(),
    **dict.fromkeys(_WITHOUT_SUM, lambda a, output: output.numel()),
}
"""Operators of other sums."""
