"""The kernels. Not measured on a GPU: compiled for sm_80 and sm_90, and compared in Triton's
interpreter.
"""

import triton
import triton.language as tl

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops import constants

# the only globals that a kernel may read
_GOLDEN = tl.constexpr(constants.GOLDEN)
_MIX64_1, _MIX64_2 = tl.constexpr(constants.MIX64_1), tl.constexpr(constants.MIX64_2)
_MIX32_1, _MIX32_2 = tl.constexpr(constants.MIX32_1), tl.constexpr(constants.MIX32_2)
_LOG_OFFSET, _SLOPE, _OFFSET = map(
    tl.constexpr, (constants.LOG_OFFSET, constants.SLOPE, constants.OFFSET)
)
_INVERSE, _DEGREE = tl.constexpr(constants.INVERSE), tl.constexpr(len(constants.INVERSE) - 1)
_LEAST_BOUND, _LEAST_SCALE = (
    tl.constexpr(constants.LEAST_BOUND),
    tl.constexpr(constants.LEAST_SCALE),
)

_ERRORS = {error.kind: tl.constexpr(i) for i, error in enumerate(ADC_ERRORS)}
_ADC_GAIN, _ADC_OFFSET = _ERRORS["gain"], _ERRORS["offset"]
KNOWN_ERRORS = ("gain", "offset")
"""Kinds of ADC errors that the kernels compute."""


@triton.jit
def _mix64(x):
    x = (x ^ (x >> 30)) * _MIX64_1
    x = (x ^ (x >> 27)) * _MIX64_2
    return x ^ (x >> 31)


@triton.jit
def _fold(key, word):
    return _mix64(_mix64(key + word * _GOLDEN) + key)


@triton.jit
def _random_bits(word, column):
    """32 random bits from a row's 64-bit word (uint64) and columns (uint32), as uint32."""
    a = (word & 0xFFFFFFFF).to(tl.uint32)
    b = (word >> 32).to(tl.uint32)
    x = column * (b | 1) + a
    x = (x ^ (x >> 16)) * _MIX32_1
    x = (x ^ (x >> 15) ^ b) * _MIX32_2
    return x ^ (x >> 15)


@triton.jit
def _normal_of(bits):
    twice_tail = ((bits & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10
    t = tl.sqrt(-tl.log(twice_tail) + _LOG_OFFSET) * _SLOPE + _OFFSET
    z = t * 0.0 + _INVERSE[_DEGREE]
    for i in tl.static_range(_DEGREE):
        z = z * t + _INVERSE[_DEGREE - 1 - i]
    return tl.where(bits >> 31 == 1, -z, z)


@triton.jit
def normal_kernel(out, key, rows, first, n_rows, count, raw: tl.constexpr, BLOCK: tl.constexpr):
    """Row ``program_id(0)``, columns from ``program_id(1) * BLOCK``; ``raw``: the bits instead of
    the normals.
    """
    r = tl.program_id(0)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = _fold(tl.load(key).to(tl.uint64), tl.load(rows + r).to(tl.uint64))
    bits = _random_bits(word, (tl.load(first + r) + j).to(tl.uint32))
    where = out + r.to(tl.int64) * count + j
    if raw:
        tl.store(where, bits.to(tl.int32, bitcast=True).to(tl.float64), mask=j < count)
    else:
        tl.store(where, _normal_of(bits), mask=j < count)


@triton.jit
def _tile(rows, columns, GROUP: tl.constexpr):
    """Tile of this program: ``GROUP`` rows of tiles side by side, so that neighbours in time share
    L2.
    """
    first = tl.program_id(0) // (GROUP * columns) * GROUP
    height = tl.minimum(rows - first, GROUP)
    place = tl.program_id(0) % (GROUP * columns)
    return first + place % height, place // height


@triton.jit
def _block(bounds, b, size, K):
    """First and last row of row block ``b``: from ``bounds``, or, where that is None, all ``size``
    but the last.
    """
    if bounds is None:
        start = b * size
        stop = tl.minimum(start + size, K)
    else:
        start = tl.load(bounds + b)
        stop = tl.load(bounds + b + 1)
    return start, stop


@triton.jit
def _unit(r, m, M, PER_VECTOR: tl.constexpr):
    """Input ranges of the vectors ``m``, or the range of all of them: a column."""
    unit = (
        tl.load(r + m, mask=m < M, other=1.0)[:, None]
        if PER_VECTOR
        else tl.load(r + tl.zeros([1, 1], tl.int32))
    )
    return unit


@triton.jit
def _codes(x, up, STEPS: tl.constexpr):
    """``x * up`` clipped to ``STEPS`` and rounded, half to even; NaN stays NaN.

    Adding 1.5 * 2^23 leaves no bits for a fraction. The clip stands between the product and that
    sum, which the compiler would otherwise fuse into one rounding: another result near a half.
    """
    codes = tl.clamp(x * up, -STEPS * 1.0, STEPS * 1.0, propagate_nan=tl.PropagateNan.ALL)
    return (codes + 12582912.0) - 12582912.0


@triton.jit
def _in_steps(p, limit, STEPS: tl.constexpr):
    """``p`` clipped to ``limit`` and rounded to ``STEPS`` on each side of zero."""
    limit = tl.maximum(limit, _LEAST_BOUND, propagate_nan=tl.PropagateNan.ALL)
    # two divisions that round to the last bit would gain nothing: the order of the sum changes more
    return _codes(p, STEPS / limit, STEPS) * (limit * (1.0 / STEPS))


@triton.jit
def _exact(dtype: tl.constexpr, STEPS: tl.constexpr):
    """Whether ``dtype`` holds all codes of a converter, and is worth it: float32 loses nothing
    either way.
    """
    return (STEPS > 0) and (
        (dtype == tl.bfloat16 and STEPS <= 255) or (dtype == tl.float16 and STEPS <= 2047)
    )


@triton.jit
def _mask_row(N):
    """Bytes of a row of the mask: see ops/mask.py."""
    return (N + 31) // 32 * 4


@triton.jit
def _lost(mask_rows, n, inside):
    """Which partial sums saturated, from where their rows begin and their numbers in the row."""
    return ((tl.load(mask_rows + n // 8, mask=inside, other=0).to(tl.int32) >> n % 8) & 1) != 0


@triton.jit
def _words(key, positions):
    return _fold(tl.load(key).to(tl.uint64), positions.to(tl.int64).to(tl.uint64))


@triton.jit
def _noisy(w, scale, words, columns, weight_noise, SPREAD: tl.constexpr):
    """``w`` (outputs, rows) with the noise of its positions, in float32."""
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
    return w + sigma * _normal_of(_random_bits(words[:, None], columns.to(tl.uint32)[None, :]))


@triton.jit(do_not_specialize=["M", "first_output", "first_row"])
def forward_kernel(
    y,
    mask,
    x,
    input_range,
    w,
    scale,
    gain,
    bias,
    key,
    output_keys,
    samples,
    output_bounds,
    output_ranges,
    adc_errors,
    bounds,
    M,
    N,
    K,
    blocks,
    block_size,
    first_output,
    first_row,
    output_bound,
    output_noise,
    weight_noise,
    SPREAD: tl.constexpr,
    INPUT_STEPS: tl.constexpr,
    OUTPUT_STEPS: tl.constexpr,
    UNIT_STEPS: tl.constexpr,
    PER_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of ``y``. What is None is absent: ``key`` the weight noise, ``output_keys`` the output
    noise.
    """
    dtype: tl.constexpr = w.dtype.element_ty
    CODES: tl.constexpr = _exact(dtype, INPUT_STEPS)
    tile_m, tile_n = _tile(tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < M, n < N
    inside = in_m[:, None] & in_n[None, :]
    x_rows = x + m.to(tl.int64)[:, None] * K
    w_rows = w + n.to(tl.int64)[:, None] * K
    unit = _unit(input_range, m, M, PER_VECTOR)
    if INPUT_STEPS > 0:
        up = tl.div_rn(
            INPUT_STEPS * 1.0, tl.maximum(unit, _LEAST_BOUND, propagate_nan=tl.PropagateNan.ALL)
        )
        down = tl.div_rn(
            tl.maximum(unit, _LEAST_BOUND, propagate_nan=tl.PropagateNan.ALL), INPUT_STEPS * 1.0
        )
    if key is not None:
        words = _words(key, first_output + n)
    if output_keys is not None:
        vectors = m.to(tl.int64) if samples is None else tl.load(samples + m, mask=in_m, other=0)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for b in range(blocks):
        start, stop = _block(bounds, b, block_size, K)
        column_scale = tl.load(scale + b * N + n, mask=in_n, other=0.0)
        p = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for first in range(start, stop, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            in_k = (k < stop)[None, :]
            xq = tl.load(x_rows + k[None, :], mask=in_m[:, None] & in_k, other=0.0)
            wn = tl.load(w_rows + k[None, :], mask=in_n[:, None] & in_k, other=0.0)
            if INPUT_STEPS > 0:
                xq = _codes(xq.to(tl.float32), up, INPUT_STEPS)
                if not CODES:
                    xq = xq * down
            if key is not None:
                wn = _noisy(
                    wn.to(tl.float32), column_scale, words, first_row + k, weight_noise, SPREAD
                )
            p = tl.dot(xq.to(dtype), tl.trans(wn.to(dtype)), p, input_precision="ieee")
        if CODES:
            p = p * down
        full = unit * column_scale[None, :]
        if output_keys is not None:
            z = _normal_of(
                _random_bits(
                    _words(output_keys + b, vectors)[:, None],
                    (first_output + n).to(tl.uint32)[None, :],
                )
            )
            p = p + full * output_noise * z
        if OUTPUT_STEPS > 0 or adc_errors is not None:
            adc_gain = tl.full([BLOCK_N], 1.0, tl.float32)
            if adc_errors is not None:
                errors = adc_errors + b * N + n
                adc_gain = tl.load(errors + _ADC_GAIN * blocks * N, mask=in_n, other=1.0)
            if output_bounds is not None:
                limit = tl.load(output_bounds + b * N + n, mask=in_n, other=1.0)
                limit = tl.div_rn(limit, adc_gain)
            else:
                limit = output_bound * tl.div_rn(tl.full([BLOCK_N], 1.0, tl.float32), adc_gain)
            limit = full * limit[None, :]
            if adc_errors is not None:
                offset = tl.load(errors + _ADC_OFFSET * blocks * N, mask=in_n, other=0.0)
                p += limit * offset[None, :]
        if OUTPUT_STEPS > 0:
            clipped = tl.abs(p) > limit
            p = _in_steps(p, limit, OUTPUT_STEPS)
        else:
            clipped = tl.zeros([BLOCK_M, BLOCK_N], tl.int1)
        if gain is not None:
            p = p * tl.load(gain + b * N + n, mask=in_n, other=0.0)[None, :]
        if output_ranges is not None:
            limit = full * tl.load(output_ranges + b * N + n, mask=in_n, other=1.0)[None, :]
            clipped = clipped | (tl.abs(p) > limit)
            p = _in_steps(p, limit, UNIT_STEPS)
        if mask is not None:
            outside = (inside & clipped).to(tl.int32)
            bits = tl.reshape(outside, [BLOCK_M, BLOCK_N // 8, 8]) << tl.arange(0, 8)[None, None, :]
            j = tile_n * (BLOCK_N // 8) + tl.arange(0, BLOCK_N // 8)
            where = mask + (b * M + m).to(tl.int64)[:, None] * _mask_row(N) + j[None, :]
            tl.store(
                where,
                tl.sum(bits, 2).to(tl.uint8),
                mask=in_m[:, None] & (j < _mask_row(N))[None, :],
            )
        total += p
    if bias is not None:
        total += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    tl.store(y + m.to(tl.int64)[:, None] * N + n[None, :], total.to(dtype), mask=inside)


@triton.jit(do_not_specialize=["M", "first_output", "first_row"])
def input_gradient_kernel(
    gx,
    sums,
    g,
    mask,
    x,
    input_range,
    w,
    scale,
    gain,
    key,
    bounds,
    M,
    N,
    K,
    blocks,
    block_size,
    block_tiles,
    first_output,
    first_row,
    weight_noise,
    SPREAD: tl.constexpr,
    CLIPPED: tl.constexpr,
    PER_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of ``gx``, within one row block, and what it adds to the gradient of the range: one of
    ``sums``.
    """
    dtype: tl.constexpr = w.dtype.element_ty
    tile_m, tile_k = _tile(tl.cdiv(M, BLOCK_M), blocks * block_tiles, GROUP)
    b = tile_k // block_tiles
    start, stop = _block(bounds, b, block_size, K)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = start + tile_k % block_tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    in_m, in_k = m < M, k < stop
    inside = in_m[:, None] & in_k[None, :]
    g_rows = g + m.to(tl.int64)[:, None] * N
    if mask is not None:
        mask_rows = mask + (b * M + m).to(tl.int64)[:, None] * _mask_row(N)
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    # a block shorter than the longest leaves tiles empty
    for first in range(0, tl.where(tl.min(k) < stop, N, 0), BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        in_n = n < N
        gb = tl.load(g_rows + n[None, :], mask=in_m[:, None] & in_n[None, :], other=0.0)
        wn = tl.load(
            w + n.to(tl.int64)[:, None] * K + k[None, :],
            mask=in_n[:, None] & in_k[None, :],
            other=0.0,
        )
        if mask is not None:
            gb = tl.where(_lost(mask_rows, n[None, :], in_m[:, None] & in_n[None, :]), 0.0, gb)
        if key is not None:
            column_scale = tl.load(scale + b * N + n, mask=in_n, other=0.0)
            words = _words(key, first_output + n)
            wn = _noisy(wn.to(tl.float32), column_scale, words, first_row + k, weight_noise, SPREAD)
        if gain is not None:  # belongs to gb, but the weight is still in float32
            wn = wn.to(tl.float32) * tl.load(gain + b * N + n, mask=in_n, other=0.0)[:, None]
        total = tl.dot(gb.to(dtype), wn.to(dtype), total, input_precision="ieee")
    place = m.to(tl.int64)[:, None] * K + k[None, :]
    if CLIPPED:
        unit = _unit(input_range, m, M, PER_VECTOR)
        inputs = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        above, below = inside & (inputs > unit), inside & (inputs < -unit)
        if sums is not None:
            taught = tl.where(above, total, tl.where(below, -total, 0.0))
            tl.store(sums + tl.program_id(0), tl.sum(tl.sum(taught, 1), 0))
        total = tl.where(above | below, 0.0, total)
    if gx is not None:
        tl.store(gx + place, total.to(gx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "share"])
def weight_gradient_kernel(
    gw,
    g,
    mask,
    x,
    input_range,
    gain,
    bounds,
    M,
    N,
    K,
    share,
    blocks,
    block_size,
    block_tiles,
    INPUT_STEPS: tl.constexpr,
    PER_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A tile of ``gw``, within one row block, from ``share`` vectors: ``gw`` has a layer per
    ``program_id(1)``.
    """
    dtype: tl.constexpr = g.dtype.element_ty
    CODES: tl.constexpr = (not PER_VECTOR) and _exact(dtype, INPUT_STEPS)
    tile_n, tile_k = _tile(tl.cdiv(N, BLOCK_N), blocks * block_tiles, GROUP)
    b = tile_k // block_tiles
    start, stop = _block(bounds, b, block_size, K)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = start + tile_k % block_tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    in_n, in_k = n < N, k < stop
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    begin = tl.program_id(1) * share
    for first in range(
        begin, tl.where(tl.min(k) < stop, tl.minimum(begin + share, M), begin), BLOCK_M
    ):
        m = first + tl.arange(0, BLOCK_M)
        in_m = m < M
        seen = in_m[:, None] & in_n[None, :]
        gb = tl.load(g + m.to(tl.int64)[:, None] * N + n[None, :], mask=seen, other=0.0)
        xq = tl.load(
            x + m.to(tl.int64)[:, None] * K + k[None, :],
            mask=in_m[:, None] & in_k[None, :],
            other=0.0,
        )
        if mask is not None:
            mask_rows = mask + (b * M + m).to(tl.int64)[:, None] * _mask_row(N)
            gb = tl.where(_lost(mask_rows, n[None, :], seen), 0.0, gb)
        if INPUT_STEPS > 0:
            unit = tl.maximum(
                _unit(input_range, m, M, PER_VECTOR),
                _LEAST_BOUND,
                propagate_nan=tl.PropagateNan.ALL,
            )
            xq = _codes(xq.to(tl.float32), tl.div_rn(INPUT_STEPS * 1.0, unit), INPUT_STEPS)
            if not CODES:
                xq = xq * tl.div_rn(unit, INPUT_STEPS * 1.0)
        total = tl.dot(tl.trans(gb.to(dtype)), xq.to(dtype), total, input_precision="ieee")
    if CODES:
        unit = tl.maximum(tl.load(input_range), _LEAST_BOUND, propagate_nan=tl.PropagateNan.ALL)
        total = total * tl.div_rn(unit, INPUT_STEPS * 1.0)
    if gain is not None:
        total = total * tl.load(gain + b * N + n, mask=in_n, other=0.0)[:, None]
    where = gw + (tl.program_id(1).to(tl.int64) * N + n)[:, None] * K + k[None, :]
    tl.store(where, total.to(gw.dtype.element_ty), mask=in_n[:, None] & in_k[None, :])
