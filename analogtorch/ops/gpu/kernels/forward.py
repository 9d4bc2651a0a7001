"""The linear analog product, from input to output in one kernel."""

import triton
import triton.language as tl

from analogtorch.chips import ADC_ERRORS
from analogtorch.ops.gpu.kernels.draws import normal_of, random_bits, row_words
from analogtorch.ops.gpu.kernels.pieces import (
    dac,
    holds_codes,
    in_steps,
    mask_row_bytes,
    program_tile,
    ranges_of,
    row_block,
    to_codes,
    with_weight_noise,
)

_ERRORS = {error.kind: tl.constexpr(i) for i, error in enumerate(ADC_ERRORS)}
_ADC_GAIN, _ADC_OFFSET = _ERRORS["gain"], _ERRORS["offset"]
KNOWN_ERRORS = ("gain", "offset")
"""Kinds of ADC errors that the kernels compute."""


@triton.jit
def _partial_sum(
    x_rows, w_rows, in_m, in_n, start, stop, up, down, column_scale, words, first_row, weight_noise,
    dtype: tl.constexpr, SPREAD: tl.constexpr, STEPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return the sum of products over the rows ``start`` to ``stop``.

    ``words`` None: no weight noise.
    """
    CODES: tl.constexpr = holds_codes(dtype, STEPS)
    p = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(start, stop, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        in_k = (k < stop)[None, :]
        xq = tl.load(x_rows + k[None, :], mask=in_m[:, None] & in_k, other=0.0)
        wn = tl.load(w_rows + k[None, :], mask=in_n[:, None] & in_k, other=0.0)
        if STEPS > 0:
            xq = to_codes(xq.to(tl.float32), up, STEPS)
            if not CODES:
                xq = xq * down
        if words is not None:
            wn = with_weight_noise(
                wn.to(tl.float32), column_scale, words, first_row + k, weight_noise, SPREAD
            )
        p = tl.dot(xq.to(dtype), tl.trans(wn.to(dtype)), p, input_precision="ieee")
    if CODES:
        p = p * down
    return p


@triton.jit
def _read_variance(
    x_rows, variance_rows, in_m, in_n, start, stop, up, down,
    STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return the sum of variances x squared inputs over the rows ``start`` to ``stop``."""
    q = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(start, stop, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        in_k = (k < stop)[None, :]
        xq = tl.load(x_rows + k[None, :], mask=in_m[:, None] & in_k, other=0.0).to(tl.float32)
        variance = tl.load(variance_rows + k[None, :], mask=in_n[:, None] & in_k, other=0.0)
        if STEPS > 0:
            xq = to_codes(xq, up, STEPS) * down
        q = tl.dot((xq * xq).to(tl.bfloat16), tl.trans(variance), q)
    return q


@triton.jit
def _adc(
    p, full, adc_range, adc_ranges, adc_errors, b, n, in_n, N, blocks,
    STEPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Return the ADC outputs of row block ``b`` for its partial sums, and which were clipped."""
    clipped = tl.zeros([BLOCK_M, BLOCK_N], tl.int1)
    if STEPS > 0 or adc_errors is not None:
        adc_gain = tl.full([BLOCK_N], 1.0, tl.float32)
        if adc_errors is not None:
            errors = adc_errors + b * N + n
            adc_gain = tl.load(errors + _ADC_GAIN * blocks * N, mask=in_n, other=1.0)
        if adc_ranges is not None:
            limit = tl.load(adc_ranges + b * N + n, mask=in_n, other=1.0)
            limit = tl.div_rn(limit, adc_gain)
        else:
            limit = adc_range * tl.div_rn(tl.full([BLOCK_N], 1.0, tl.float32), adc_gain)
        limit = full * limit[None, :]
        if adc_errors is not None:
            offset = tl.load(errors + _ADC_OFFSET * blocks * N, mask=in_n, other=0.0)
            p += limit * offset[None, :]
        if STEPS > 0:
            clipped = tl.abs(p) > limit
            p = in_steps(p, limit, STEPS)
    return p, clipped


@triton.jit
def _store_mask(
    mask, clipped, b, m, tile_n, in_m, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Store which outputs were clipped, a bit for each: see ops/mask.py."""
    bits = tl.reshape(clipped.to(tl.int32), [BLOCK_M, BLOCK_N // 8, 8])
    bits = bits << tl.arange(0, 8)[None, None, :]
    j = tile_n * (BLOCK_N // 8) + tl.arange(0, BLOCK_N // 8)
    where = mask + (b * M + m).to(tl.int64)[:, None] * mask_row_bytes(N) + j[None, :]
    inside = in_m[:, None] & (j < mask_row_bytes(N))[None, :]
    tl.store(where, tl.sum(bits, 2).to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["M", "first_output", "first_row"])
def forward_kernel(
    y, mask, x, input_range, w, scale, gain, bias, key, output_keys, samples,
    adc_ranges, output_ranges, adc_errors, read_variances, bounds,
    M, N, K, blocks, block_size, first_output, first_row, adc_range, output_noise, read_noise,
    weight_noise,
    SPREAD: tl.constexpr, INPUT_STEPS: tl.constexpr, OUTPUT_STEPS: tl.constexpr,
    UNIT_STEPS: tl.constexpr, PER_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Compute a tile of ``y``.

    Effects whose operand is None are absent: ``key`` for weight noise, ``output_keys`` for all
    noise of partial sums, ``read_variances`` for read noise.
    """
    dtype: tl.constexpr = w.dtype.element_ty
    tile_m, tile_n = program_tile(tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    m, n = tile_m * BLOCK_M + tl.arange(0, BLOCK_M), tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < M, n < N
    inside = in_m[:, None] & in_n[None, :]
    x_rows, w_rows = x + m.to(tl.int64)[:, None] * K, w + n.to(tl.int64)[:, None] * K
    unit = ranges_of(input_range, m, M, PER_VECTOR)
    up, down = dac(unit, INPUT_STEPS) if INPUT_STEPS > 0 else (unit, unit)
    words = row_words(key, first_output + n) if key is not None else None
    if output_keys is not None:
        vectors = m.to(tl.int64) if samples is None else tl.load(samples + m, mask=in_m, other=0)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for b in range(blocks):
        start, stop = row_block(bounds, b, block_size, K)
        column_scale = tl.load(scale + b * N + n, mask=in_n, other=0.0)
        p = _partial_sum(
            x_rows, w_rows, in_m, in_n, start, stop, up, down, column_scale, words, first_row,
            weight_noise, dtype, SPREAD, INPUT_STEPS, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        full = unit * column_scale[None, :]
        if output_keys is not None:
            row = row_words(output_keys + b, vectors)[:, None]
            z = normal_of(random_bits(row, (first_output + n).to(tl.uint32)[None, :]))
            std = full * output_noise
            if read_variances is not None:
                rows = read_variances + n.to(tl.int64)[:, None] * K
                q = _read_variance(
                    x_rows, rows, in_m, in_n, start, stop, up, down, INPUT_STEPS,
                    BLOCK_M, BLOCK_N, BLOCK_K,
                )  # fmt: skip
                read = (column_scale * read_noise)[None, :]
                std = tl.sqrt(std * std + read * read * q)
            p = p + std * z
        p, clipped = _adc(
            p, full, adc_range, adc_ranges, adc_errors, b, n, in_n, N, blocks, OUTPUT_STEPS,
            BLOCK_M, BLOCK_N,
        )  # fmt: skip
        if gain is not None:
            p = p * tl.load(gain + b * N + n, mask=in_n, other=0.0)[None, :]
        if output_ranges is not None:
            limit = full * tl.load(output_ranges + b * N + n, mask=in_n, other=1.0)[None, :]
            clipped = clipped | (tl.abs(p) > limit)
            p = in_steps(p, limit, UNIT_STEPS)
        if mask is not None:
            _store_mask(mask, inside & clipped, b, m, tile_n, in_m, M, N, BLOCK_M, BLOCK_N)
        total += p
    if bias is not None:
        total += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    tl.store(y + m.to(tl.int64)[:, None] * N + n[None, :], total.to(dtype), mask=inside)
