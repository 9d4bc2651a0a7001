"""The operators of a run that multiply activations by weights, each with its matrix on a tile.

A transposed convolution is the product of each input position with all kernel taps (``cols`` =
outputs x taps), whose results are added digitally where they overlap. A batched product (``bmm``)
is block-diagonal, like a grouped convolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from analogtorch.conversion.weights import operands

_GEOMETRY = ("stride", "dilation", "padding")


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix, and how often one operator applies it."""

    weight: Tensor
    activation: Tensor | None
    """The tensor that is multiplied. None: the result of an earlier step of the same operator (a
    recurrent or projection matrix)."""
    shape: tuple[int, ...]
    """Shape ``(outputs of all groups, inputs of one group, *kernel)``."""
    vectors: int
    row_stride: int
    """Stride of the weight's contracted dimension; 0 for convolutions, which have one orientation
    only."""
    groups: int = 1
    overlap: int = 0
    """Digital additions after the product."""
    one_hot: bool = False
    """Whether the vectors are one-hot."""


def find(name: str, a: dict[str, Any], out: Any, is_weight: Any) -> Product | None:
    """Return the product that an operator computes; None if it multiplies no weights.

    Args:
        name: name of the operator, without overload.
        a: its arguments by name.
        out: its result.
        is_weight: a function of a tensor that returns whether it is computed from parameters alone.
    """
    if name.startswith(("linear", "conv")) and "weight" not in a:
        return None  # a quantised operator, whose weight is no tensor
    if name == "linear":
        return _linear(a, is_weight)
    if name.startswith("conv_transpose"):
        return _transposed(out, a, is_weight)
    if name in ("conv1d", "conv2d", "conv3d"):
        return _convolution(out, a["input"], a["weight"], a["groups"], is_weight)
    if name in ("convolution", "_convolution"):
        if a["transposed"]:
            return _transposed(out, a, is_weight)
        return _convolution(out, a["input"], a["weight"], a["groups"], is_weight)
    if name == "einsum":
        return _einsum(out, a, is_weight)
    if name == "tensordot":
        return _tensordot(out, a, is_weight)
    if (pair := operands(name, a)) is not None:
        return _matmul(out, *pair, is_weight)
    return None


def lookup(a: dict[str, Any]) -> Product:
    """Return an ``embedding`` whose rows lie on tiles as a product with one-hot vectors."""
    tokens, dimensions = a["weight"].shape
    return Product(
        weight=a["weight"],
        activation=a["indices"],
        shape=(dimensions, tokens),
        vectors=a["indices"].numel(),
        row_stride=a["weight"].stride(0),
        one_hot=True,
    )


def _linear(a: dict[str, Any], is_weight: Any) -> Product | None:
    if not is_weight(a["weight"]) or is_weight(a["input"]):
        return None
    weight, x = a["weight"], a["input"]
    shape = tuple(weight.shape) if weight.dim() == 2 else (1, weight.shape[0])
    return Product(
        weight=a["weight"],
        activation=a["input"],
        shape=shape,
        vectors=x.numel() // max(1, shape[1]),
        row_stride=weight.stride(-1),
    )


def _convolution(out: Tensor, x: Tensor, w: Tensor, groups: int, is_weight: Any) -> Product | None:
    if not is_weight(w) or is_weight(x):
        return None
    shape = tuple(w.shape)
    vectors = out.numel() // max(1, shape[0])
    return Product(
        weight=w, activation=x, shape=shape, vectors=vectors, row_stride=0, groups=groups
    )


def _transposed(out: Tensor, a: dict[str, Any], is_weight: Any) -> Product | None:
    x, w, groups = a["input"], a["weight"], a["groups"]
    if not is_weight(w) or is_weight(x):
        return None
    inputs, outputs, *kernel = w.shape
    cols = outputs * groups * math.prod(kernel)
    vectors = x.numel() // max(1, inputs)
    return Product(
        weight=w,
        activation=x,
        shape=(cols, inputs // groups),
        vectors=vectors,
        row_stride=0,
        groups=groups,
        overlap=_overlap(out, x, kernel, a) * (2 if out.is_complex() else 1),
    )


def _overlap(out: Tensor, x: Tensor, kernel: Sequence[int], a: dict[str, Any]) -> int:
    """Return the additions where results overlap, without those that padding cuts off."""
    results, there = 1, 1
    for which, taps in enumerate(kernel):
        positions, outputs = (t.shape[which - len(kernel)] for t in (x, out))
        step, dilation, padding = (_of(a[name], which) for name in _GEOMETRY)
        count, reached = 0, np.zeros(outputs, bool)
        for first in range(-padding, taps * dilation - padding, dilation):
            found = range(first, first + positions * step, step)
            inside = found[max(0, -(first // step)) : max(0, -((first - outputs) // step))]
            count += len(inside)
            reached[inside.start : inside.stop : step] = True
        results, there = results * count, there * int(reached.sum())
    return out.shape[: -len(kernel)].numel() * (results - there)


def _of(given: int | Sequence[int], which: int) -> int:
    """Return what an operator was given for a dimension; one number may be for all of them."""
    given = [given] if isinstance(given, int) else given
    return given[which] if len(given) > 1 else given[0]


def _matmul(out: Tensor, left: Tensor, right: Tensor, is_weight: Any) -> Product | None:
    if is_weight(left) == is_weight(right):
        return None
    w, x = (left, right) if is_weight(left) else (right, left)
    contracted = -1 if is_weight(left) or w.dim() == 1 else -2
    rows, groups = w.shape[contracted], math.prod(w.shape[:-2])
    cols = w.numel() // max(1, rows * groups)
    return Product(
        weight=w,
        activation=x,
        shape=(cols * groups, rows),
        vectors=out.numel() // max(1, cols * groups) if out.dim() else 1,
        row_stride=w.stride(contracted),
        groups=groups,
    )


def _tensordot(out: Tensor, a: dict[str, Any], is_weight: Any) -> Product | None:
    left, right = a["self"], a["other"]
    if is_weight(left) == is_weight(right):
        return None
    w, x, dims = (right, left, "dims_other") if is_weight(right) else (left, right, "dims_self")
    contracted = sorted(d % w.dim() for d in a[dims])
    rows = math.prod(w.shape[d] for d in contracted)
    if not contracted or rows == 0:
        return None
    cols = w.numel() // rows
    return Product(
        weight=w,
        activation=x,
        shape=(cols, rows),
        vectors=out.numel() // max(1, cols),
        row_stride=w.stride(contracted[-1]),
    )


def _einsum(out: Tensor, a: dict[str, Any], is_weight: Any) -> Product | None:
    equation, factors = a["equation"].replace(" ", ""), a["tensors"]
    if len(factors) != 2 or is_weight(factors[0]) == is_weight(factors[1]):
        return None
    w, x = factors if is_weight(factors[0]) else reversed(factors)
    left, _, kept = equation.partition("->")
    terms = left.split(",")
    letters = terms[0 if w is factors[0] else 1]
    other = terms[1 if w is factors[0] else 0]
    if "." in letters or len(set(letters)) != len(letters):
        return None
    if "->" not in equation:
        kept = "".join(c for c in left if c.isalpha() and left.count(c) == 1)
    size = dict(zip(letters, w.shape, strict=True))
    contracted = [c for c in letters if c not in kept]
    groups = math.prod(size[c] for c in letters if c in kept and c in other)
    rows = math.prod(size[c] for c in contracted)
    if not contracted or rows == 0:
        return None
    cols = w.numel() // (rows * groups)
    return Product(
        weight=w,
        activation=x,
        shape=(cols * groups, rows),
        vectors=out.numel() // max(1, cols * groups),
        row_stride=w.stride(letters.index(contracted[-1])),
        groups=groups,
    )
