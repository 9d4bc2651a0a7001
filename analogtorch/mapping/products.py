"""Which traced operators multiply activations by weights, and the matrix that each one stands for on a tile.

A transposed convolution is the product of each input place with all kernel taps (``cols`` = outputs x taps), whose
results are added where they overlap, digitally. A batched product (``bmm``) is block-diagonal, like a grouped
convolution.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix and how often one operator applies it."""

    weight: fx.Node
    activation: fx.Node | None
    """None: the result of an earlier step of the same operator (a recurrent or projection matrix)."""
    shape: tuple[int, ...]
    """``(outputs of all groups, inputs of one group, *kernel)``."""
    vectors: int
    row_stride: int
    """Stride of the weight's contracted dimension; 0 for convolutions, which have one orientation only."""
    groups: int = 1
    overlap: int = 0
    """Digital additions after it."""


def bind(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operator by name, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {f"arg{i}": a for i, a in enumerate(node.args)} | dict(node.kwargs)
    bound = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    bound |= {a.name: given for a, given in zip(schema.arguments, node.args, strict=False)}
    return bound | dict(node.kwargs)


def value(node: Any) -> Any:
    """The (fake) tensor that a node stands for; other things as they are."""
    return node.meta.get("val") if isinstance(node, fx.Node) else node


def find(name: str, node: fx.Node, is_weight: Any) -> Product | None:
    """The product that ``node``, an operator called ``name``, computes; None if it multiplies no weights.

    Args:
        name: of the operator, without overload.
        node: of the traced graph.
        is_weight: function of a node: whether it is computed from parameters alone.
    """
    a = bind(node)
    if name == "linear":
        return _linear(node, a, is_weight)
    if name.startswith("conv_transpose"):
        return _transposed(node, a["input"], a["weight"], a["groups"], is_weight)
    if name in ("conv1d", "conv2d", "conv3d"):
        return _convolution(node, a["input"], a["weight"], a["groups"], is_weight)
    if name in ("convolution", "_convolution"):
        made = _transposed if a["transposed"] else _convolution
        return made(node, a["input"], a["weight"], a["groups"], is_weight)
    if name == "einsum":
        return _einsum(node, a, is_weight)
    if (pair := operands(name, a)) is not None:
        return _matmul(node, *pair, is_weight)
    return None


def lookup(node: fx.Node) -> Product:
    """The product that an ``embedding`` is where its rows lie on tiles: of each token's one-hot vector."""
    a = bind(node)
    tokens, dimensions = value(a["weight"]).shape
    return Product(
        weight=a["weight"],
        activation=a["indices"],
        shape=(dimensions, tokens),
        vectors=value(a["indices"]).numel(),
        row_stride=value(a["weight"]).stride(0),
    )


_PAIRS = {
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
}


def operands(name: str, arguments: dict[str, Any]) -> tuple[fx.Node, fx.Node] | None:
    """The two factors of a matrix product of any kind; None if ``name`` is none."""
    names = _PAIRS.get(name)
    return None if names is None else (arguments[names[0]], arguments[names[1]])


def _linear(node: fx.Node, a: dict[str, Any], is_weight: Any) -> Product | None:
    if not is_weight(a["weight"]) or is_weight(a["input"]):
        return None
    weight, x = value(a["weight"]), value(a["input"])
    shape = tuple(weight.shape) if weight.dim() == 2 else (1, weight.shape[0])
    return Product(
        weight=a["weight"],
        activation=a["input"],
        shape=shape,
        vectors=x.numel() // max(1, shape[1]),
        row_stride=weight.stride(-1),
    )


def _convolution(node: fx.Node, x: fx.Node, w: fx.Node, groups: int, is_weight: Any) -> Product | None:
    if not is_weight(w) or is_weight(x):
        return None
    shape = tuple(value(w).shape)
    vectors = value(node).numel() // max(1, shape[0])
    return Product(weight=w, activation=x, shape=shape, vectors=vectors, row_stride=0, groups=groups)


def _transposed(node: fx.Node, x: fx.Node, w: fx.Node, groups: int, is_weight: Any) -> Product | None:
    if not is_weight(w) or is_weight(x):
        return None
    inputs, outputs, *kernel = value(w).shape
    cols = outputs * groups * math.prod(kernel)
    vectors = value(x).numel() // max(1, inputs)
    return Product(
        weight=w,
        activation=x,
        shape=(cols, inputs // groups),
        vectors=vectors,
        row_stride=0,
        groups=groups,
        overlap=max(0, vectors * cols - value(node).numel()),
    )


def _matmul(node: fx.Node, left: fx.Node, right: fx.Node, is_weight: Any) -> Product | None:
    if is_weight(left) == is_weight(right):
        return None
    w, x = (left, right) if is_weight(left) else (right, left)
    weight = value(w)
    contracted = -1 if is_weight(left) or weight.dim() == 1 else -2
    rows, groups = weight.shape[contracted], math.prod(weight.shape[:-2])
    cols = weight.numel() // max(1, rows * groups)
    return Product(
        weight=w,
        activation=x,
        shape=(cols * groups, rows),
        vectors=value(node).numel() // max(1, cols * groups) if value(node).dim() else 1,
        row_stride=weight.stride(contracted),
        groups=groups,
    )


def _einsum(node: fx.Node, a: dict[str, Any], is_weight: Any) -> Product | None:
    equation, nodes = a["equation"].replace(" ", ""), a["tensors"]
    if len(nodes) != 2 or is_weight(nodes[0]) == is_weight(nodes[1]):
        return None
    w, x = nodes if is_weight(nodes[0]) else reversed(nodes)
    left, _, out = equation.partition("->")
    terms = left.split(",")
    letters = terms[0 if w is nodes[0] else 1]
    other = terms[1 if w is nodes[0] else 0]
    if "." in letters or len(set(letters)) != len(letters):
        return None
    if "->" not in equation:
        out = "".join(c for c in left if c.isalpha() and left.count(c) == 1)
    weight: Tensor = value(w)
    size = dict(zip(letters, weight.shape, strict=True))
    contracted = [c for c in letters if c not in out]
    groups = math.prod(size[c] for c in letters if c in out and c in other)
    rows = math.prod(size[c] for c in contracted)
    if not contracted or rows == 0:
        return None
    cols = weight.numel() // (rows * groups)
    return Product(
        weight=w,
        activation=x,
        shape=(cols * groups, rows),
        vectors=value(node).numel() // max(1, cols * groups),
        row_stride=weight.stride(letters.index(contracted[-1])),
        groups=groups,
    )
