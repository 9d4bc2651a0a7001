"""The pieces that the kernels of a product share: tiles, row blocks, converters, masks, noise."""

import triton
import triton.language as tl

from analogtorch.ops import constants
from analogtorch.ops.gpu.kernels.draws import normal_of, random_bits

_LEAST_BOUND = tl.constexpr(constants.LEAST_BOUND)
_LEAST_SCALE = tl.constexpr(constants.LEAST_SCALE)


@triton.jit
def program_tile(rows, columns, GROUP: tl.constexpr):
    """Return the tile of this program: ``GROUP`` rows of tiles share L2."""
    first = tl.program_id(0) // (GROUP * columns) * GROUP
    height = tl.minimum(rows - first, GROUP)
    index = tl.program_id(0) % (GROUP * columns)
    return first + index % height, index // height


@triton.jit
def row_block(bounds, b, size, K):
    """Return the first and last row of row block ``b``.

    They are in ``bounds``; if that is None, all blocks but the last have ``size`` rows.
    """
    if bounds is None:
        start = b * size
        stop = tl.minimum(start + size, K)
    else:
        start = tl.load(bounds + b)
        stop = tl.load(bounds + b + 1)
    return start, stop


@triton.jit
def ranges_of(r, m, M, PER_VECTOR: tl.constexpr):
    """Return the input ranges of the vectors ``m``, or the range of all of them: a column."""
    if PER_VECTOR:
        unit = tl.load(r + m, mask=m < M, other=1.0)[:, None]
    else:
        unit = tl.load(r + tl.zeros([1, 1], tl.int32))
    return unit


@triton.jit
def dac(unit, STEPS: tl.constexpr):
    """Return the factors that turn inputs into codes, and codes into inputs."""
    unit = tl.maximum(unit, _LEAST_BOUND, propagate_nan=tl.PropagateNan.ALL)
    return tl.div_rn(STEPS * 1.0, unit), tl.div_rn(unit, STEPS * 1.0)


@triton.jit
def to_codes(x, up, STEPS: tl.constexpr):
    """Return ``x * up`` clipped to ``STEPS`` and rounded, half to even; NaN stays NaN.

    Adding 1.5 * 2^23 leaves no bits for a fraction. The clip stands between the product and that
    sum, which the compiler would otherwise fuse into one rounding: another result near a half.
    """
    codes = tl.clamp(x * up, -STEPS * 1.0, STEPS * 1.0, propagate_nan=tl.PropagateNan.ALL)
    return (codes + 12582912.0) - 12582912.0


@triton.jit
def in_steps(p, limit, STEPS: tl.constexpr):
    """Return ``p`` clipped to ``limit`` and rounded to ``STEPS`` on each side of zero."""
    limit = tl.maximum(limit, _LEAST_BOUND, propagate_nan=tl.PropagateNan.ALL)
    # two divisions that round to the last bit would gain nothing: the order of the sum changes more
    return to_codes(p, STEPS / limit, STEPS) * (limit * (1.0 / STEPS))


@triton.jit
def holds_codes(dtype: tl.constexpr, STEPS: tl.constexpr):
    """Return whether ``dtype`` holds all codes of a converter and gains by it.

    With float32 nothing is lost either way.
    """
    return (STEPS > 0) and (
        (dtype == tl.bfloat16 and STEPS <= 255) or (dtype == tl.float16 and STEPS <= 2047)
    )


@triton.jit
def mask_row_bytes(N):
    """Return the bytes of a row of the mask: see ops/mask.py."""
    return (N + 31) // 32 * 4


@triton.jit
def saturated(mask_rows, n, inside):
    """Return which partial sums saturated, from the starts of mask rows and the numbers in them."""
    return ((tl.load(mask_rows + n // 8, mask=inside, other=0).to(tl.int32) >> n % 8) & 1) != 0


@triton.jit
def with_weight_noise(w, scale, words, columns, weight_noise, SPREAD: tl.constexpr):
    """Return ``w`` (outputs, rows) with the noise of its positions, in float32."""
    sigma = (scale * weight_noise)[:, None]
    if SPREAD is not None:  # see Spread: (4 coefficients, base, step, pieces, dip, rate)
        inverse = tl.div_rn(1.0, tl.maximum(scale, _LEAST_SCALE))
        t = tl.minimum(tl.abs(w * inverse[:, None]), 1.0) * SPREAD[6]
        i = tl.minimum(tl.floor(t), SPREAD[6] - 1.0)
        f = t - i
        p = tl.maximum(((SPREAD[3] * f + SPREAD[2]) * f + SPREAD[1]) * f + SPREAD[0], 0.0)
        u = tl.maximum(p - SPREAD[8] * f, 0.0)
        sigma = sigma * tl.sqrt(
            tl.maximum(SPREAD[4] + i * SPREAD[5] + p * p - SPREAD[7] * u * u, 0.0)
        )
    return w + sigma * normal_of(random_bits(words[:, None], columns.to(tl.uint32)[None, :]))
