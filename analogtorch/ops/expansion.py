"""Weight expansion: the random matrix M of a chip's ``Expansion``, and products with it.

    W x = (W pinv(M)) (M x),   pinv(M) = transpose of M, as M (rows, inputs) has M^T M = 1

Cells hold ``W M^T``, each row of which is ``M w`` of a row ``w`` of W: weights and inputs are
expanded by the same operator. Lengths stay, ``|M x| = |x|``, so that the sum over n rows has
weights and inputs that are smaller by sqrt(inputs / n) each. In units of full scale they stay as
large as before, if both are normal, and the number of devices that a partial sum averages over
grows: errors of devices and of DACs shrink by sqrt(inputs / n) relative to the sum, and those of
ADCs by inputs / n within one row block. Outliers of weights or inputs are spread over all rows,
which gains more.

M is a walk of Kac (Proc. 3rd Berkeley Symp. 3, 171 (1956)) over the orthogonal matrices: a few
times, the rows are paired at random, and each pair is rotated by a random angle. This takes
additions, multiplications and divisions in double precision alone, which give the same bits on
every machine; the order of sums in a QR decomposition, and with it the last bits, would depend on
the library and the number of threads.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from analogtorch.chips import Expansion
from analogtorch.ops.generator import Noise, fold, random_bits, seed_tensor, stream
from analogtorch.ops.library import define, untraced
from analogtorch.ops.mvm import mvm
from analogtorch.ops.physics import wide
from analogtorch.ops.plan import Plan

_EXTRA = 8
"""Rounds after those in which every row could have met every other, ``log2(rows)``. With 8 the
fourth moment of the entries is that of normal ones within a few percent."""
_HALF_ANGLE = 0.25, 0.58
"""Tangents of half the smallest and the largest angle of a rotation: 28 and 60 degrees, of both
signs. Smaller and larger ones hardly mix the two rows."""
_AT_A_TIME = 1 << 16
"""Numbers of M that are rotated together, in some passes, which then stay in cache."""


def expanded(x: Tensor, expansion: Expansion) -> Tensor:
    """Return ``M x`` for each vector (*, inputs) of ``x``: (*, rows), of its type.

    The CPU kernels compute it with the same bits for any split of the vectors into batches and any
    number of threads. Without expansion it is ``x``.
    """
    if not expansion.on:
        return x
    return _expand(x, expansion.rows(x.shape[-1]), expansion.seed)


def expansion_matrix(expansion: Expansion, inputs: int) -> Tensor:
    """Return ``M`` for this many inputs, (rows, inputs) in double precision.

    Example:
        >>> m = expansion_matrix(analogtorch.chips.Expansion(factor=1.5), 8)
        >>> m.shape, bool(torch.allclose(m.T @ m, torch.eye(8, dtype=m.dtype)))
        (torch.Size([12, 8]), True)
    """
    return _orthonormal(expansion.rows(inputs), inputs, expansion.seed).clone()


@functools.lru_cache(maxsize=8)
@untraced
def _orthonormal(rows: int, inputs: int, seed: int) -> Tensor:
    """Return random orthonormal columns, (rows, inputs), float64 on the CPU."""
    half, rounds = rows // 2, math.ceil(math.log2(max(rows, 2))) + _EXTRA
    key = fold(seed_tensor(seed, torch.device("cpu")), stream(Noise.EXPANSION, rows, inputs))
    number = torch.arange(2 * rounds, device="cpu")
    bits = random_bits(key, number, torch.zeros_like(number), rows)
    orders = bits[:rounds].argsort(dim=1, stable=True)
    # cosine and sine of the angle whose half has the tangent t: functions of torch for them differ
    # in their last bits from machine to machine
    draw = bits[rounds:, :half].double() * 2.0**-31
    t = draw.sign() * _HALF_ANGLE[0] + draw * (_HALF_ANGLE[1] - _HALF_ANGLE[0])
    length = 1 + t * t
    cosines, sines = ((1 - t * t) / length).unsqueeze(2), (2 * t / length).unsqueeze(2)
    found = torch.eye(rows, inputs, dtype=torch.float64, device="cpu")
    step = max(1, _AT_A_TIME // rows)
    for first in range(0, inputs, step):
        part = found[:, first : first + step].clone()
        for order, c, s in zip(orders, cosines, sines, strict=True):
            one, other = order[:half], order[half : 2 * half]
            a, b = part[one], part[other]
            part[one], part[other] = c * a - s * b, s * a + c * b
        found[:, first : first + step] = part
    return found


@functools.lru_cache(maxsize=64)
@untraced
def _matrix(rows: int, inputs: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _orthonormal(rows, inputs, seed).to(device, dtype)


def _compute(x: Tensor, rows: int, seed: int) -> Tensor:
    kind = wide(x.dtype)
    m = _matrix(rows, x.shape[-1], seed, kind, x.device)
    # torch's product of a vector depends on how many others are computed with it
    plan = Plan(bounds=(0, x.shape[-1]))
    return mvm(x.to(kind), m.new_ones(1), m, plan, scale=m.new_ones(1, rows)).to(x.dtype)


def _compute_backward(g: Tensor, inputs: int, seed: int) -> Tensor:
    kind = wide(g.dtype)
    return (g.to(kind) @ _matrix(g.shape[-1], inputs, seed, kind, g.device)).to(g.dtype)


def _fake(x: Tensor, size: int, seed: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], size)


def _plain(x: Tensor, rows: int, seed: int) -> Tensor:
    kind = wide(x.dtype)
    return (x.to(kind) @ _matrix(rows, x.shape[-1], seed, kind, x.device).T).to(x.dtype)


def _save(ctx: Any, arguments: Any, output: Tensor) -> None:
    x, _, seed = arguments
    ctx.numbers = x.shape[-1], seed


def _backward(ctx: Any, saved: Any, g: Tensor) -> tuple[Tensor, None, None]:
    return _expand_backward(g.contiguous(), *ctx.numbers), None, None


_expand_backward = define(
    "expand_backward(Tensor g, int inputs, int seed) -> Tensor", _compute_backward, _fake
)
_expand = define(
    "expand(Tensor x, int rows, int seed) -> Tensor",
    _compute,
    _fake,
    save=_save,
    backward=_backward,
    plain=_plain,
)
