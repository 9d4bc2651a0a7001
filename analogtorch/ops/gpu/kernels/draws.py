"""The noise generator: see ``ops/generator.py``."""

import triton
import triton.language as tl

from analogtorch.ops import constants

# the only globals that a kernel may read
_GOLDEN = tl.constexpr(constants.GOLDEN)
_MIX64_1, _MIX64_2 = tl.constexpr(constants.MIX64_1), tl.constexpr(constants.MIX64_2)
_MIX32_1, _MIX32_2 = tl.constexpr(constants.MIX32_1), tl.constexpr(constants.MIX32_2)
_LOG_OFFSET, _SLOPE, _OFFSET = map(
    tl.constexpr, (constants.LOG_OFFSET, constants.SLOPE, constants.OFFSET)
)
_INVERSE, _DEGREE = tl.constexpr(constants.INVERSE), tl.constexpr(len(constants.INVERSE) - 1)


@triton.jit
def mix64(x):
    """Mix the bits of 64-bit words (uint64)."""
    x = (x ^ (x >> 30)) * _MIX64_1
    x = (x ^ (x >> 27)) * _MIX64_2
    return x ^ (x >> 31)


@triton.jit
def fold(key, word):
    """Return a key made of another and a word: uint64, as ``ops.fold``."""
    return mix64(mix64(key + word * _GOLDEN) + key)


@triton.jit
def random_bits(word, column):
    """Return 32 random bits as uint32, from a row's 64-bit word (uint64) and columns (uint32)."""
    a = (word & 0xFFFFFFFF).to(tl.uint32)
    b = (word >> 32).to(tl.uint32)
    x = column * (b | 1) + a
    x = (x ^ (x >> 16)) * _MIX32_1
    x = (x ^ (x >> 15) ^ b) * _MIX32_2
    return x ^ (x >> 15)


@triton.jit
def normal_of(bits):
    """Return standard normals, float32, of 32 random bits each."""
    twice_tail = ((bits & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * 4.656612873077393e-10
    t = tl.sqrt(-tl.log(twice_tail) + _LOG_OFFSET) * _SLOPE + _OFFSET
    z = t * 0.0 + _INVERSE[_DEGREE]
    for i in tl.static_range(_DEGREE):
        z = z * t + _INVERSE[_DEGREE - 1 - i]
    return tl.where(bits >> 31 == 1, -z, z)


@triton.jit
def normal_kernel(out, key, rows, first, n_rows, count, raw: tl.constexpr, BLOCK: tl.constexpr):
    """Compute row ``program_id(0)``, columns from ``program_id(1) * BLOCK``.

    ``raw``: the bits instead of the normals.
    """
    r = tl.program_id(0)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = fold(tl.load(key).to(tl.uint64), tl.load(rows + r).to(tl.uint64))
    bits = random_bits(word, (tl.load(first + r) + j).to(tl.uint32))
    where = out + r.to(tl.int64) * count + j
    if raw:
        tl.store(where, bits.to(tl.int32, bitcast=True).to(tl.float64), mask=j < count)
    else:
        tl.store(where, normal_of(bits), mask=j < count)


@triton.jit
def row_words(key, positions):
    """Return the 64-bit words of the rows at ``positions``."""
    return fold(tl.load(key).to(tl.uint64), positions.to(tl.int64).to(tl.uint64))
