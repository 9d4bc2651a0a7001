"""Straight-through gradients of a linear analog product."""

import triton
import triton.language as tl

from analogtorch.ops.gpu.kernels.draws import row_words
from analogtorch.ops.gpu.kernels.pieces import (
    dac,
    holds_codes,
    mask_row_bytes,
    program_tile,
    ranges_of,
    row_block,
    saturated,
    to_codes,
    with_weight_noise,
)


@triton.jit(do_not_specialize=["M", "first_output", "first_row"])
def input_gradient_kernel(
    gx, sums, g, mask, x, input_range, w, scale, gain, key, bounds,
    M, N, K, blocks, block_size, block_tiles, first_output, first_row, weight_noise,
    SPREAD: tl.constexpr, CLIPPED: tl.constexpr, PER_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Compute a tile of ``gx``, within one row block.

    Its part of the gradient of the range is one of ``sums``.
    """
    dtype: tl.constexpr = w.dtype.element_ty
    tile_m, tile_k = program_tile(tl.cdiv(M, BLOCK_M), blocks * block_tiles, GROUP)
    b = tile_k // block_tiles
    start, stop = row_block(bounds, b, block_size, K)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    k = start + tile_k % block_tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    in_m, in_k = m < M, k < stop
    inside = in_m[:, None] & in_k[None, :]
    g_rows = g + m.to(tl.int64)[:, None] * N
    if mask is not None:
        mask_rows = mask + (b * M + m).to(tl.int64)[:, None] * mask_row_bytes(N)
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
            gb = tl.where(saturated(mask_rows, n[None, :], in_m[:, None] & in_n[None, :]), 0.0, gb)
        if key is not None:
            column_scale = tl.load(scale + b * N + n, mask=in_n, other=0.0)
            words = row_words(key, first_output + n)
            wn = with_weight_noise(
                wn.to(tl.float32), column_scale, words, first_row + k, weight_noise, SPREAD
            )
        if gain is not None:  # belongs to gb, but the weight is still in float32
            wn = wn.to(tl.float32) * tl.load(gain + b * N + n, mask=in_n, other=0.0)[:, None]
        total = tl.dot(gb.to(dtype), wn.to(dtype), total, input_precision="ieee")
    where = m.to(tl.int64)[:, None] * K + k[None, :]
    if CLIPPED:
        unit = ranges_of(input_range, m, M, PER_VECTOR)
        inputs = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
        above, below = inside & (inputs > unit), inside & (inputs < -unit)
        if sums is not None:
            clipped = tl.where(above, total, tl.where(below, -total, 0.0))
            tl.store(sums + tl.program_id(0), tl.sum(tl.sum(clipped, 1), 0))
        total = tl.where(above | below, 0.0, total)
    if gx is not None:
        tl.store(gx + where, total.to(gx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["M", "share"])
def weight_gradient_kernel(
    gw, g, mask, x, input_range, gain, bounds,
    M, N, K, share, blocks, block_size, block_tiles,
    INPUT_STEPS: tl.constexpr, PER_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Compute a tile of ``gw``, within one row block, from ``share`` vectors.

    ``gw`` has a layer per ``program_id(1)``.
    """
    dtype: tl.constexpr = g.dtype.element_ty
    CODES: tl.constexpr = (not PER_VECTOR) and holds_codes(dtype, INPUT_STEPS)
    tile_n, tile_k = program_tile(tl.cdiv(N, BLOCK_N), blocks * block_tiles, GROUP)
    b = tile_k // block_tiles
    start, stop = row_block(bounds, b, block_size, K)
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
            mask_rows = mask + (b * M + m).to(tl.int64)[:, None] * mask_row_bytes(N)
            gb = tl.where(saturated(mask_rows, n[None, :], seen), 0.0, gb)
        if INPUT_STEPS > 0:
            up, down = dac(ranges_of(input_range, m, M, PER_VECTOR), INPUT_STEPS)
            xq = to_codes(xq.to(tl.float32), up, INPUT_STEPS)
            if not CODES:
                xq = xq * down
        total = tl.dot(tl.trans(gb.to(dtype)), xq.to(dtype), total, input_precision="ieee")
    if CODES:
        up, down = dac(tl.load(input_range), INPUT_STEPS)
        total = total * down
    if gain is not None:
        total = total * tl.load(gain + b * N + n, mask=in_n, other=0.0)[:, None]
    where = gw + (tl.program_id(1).to(tl.int64) * N + n)[:, None] * K + k[None, :]
    tl.store(where, total.to(gw.dtype.element_ty), mask=in_n[:, None] & in_k[None, :])
