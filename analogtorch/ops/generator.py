"""Counter-based noise: every random number is a pure function of (seed, stream, position).

The same seed gives the same chip and the same noise, whatever the tiling, the batch split or the
device, because nothing is drawn "next": a number is computed from where it is used. Definition
(version 1):

    key     = fold(seed, stream)                    64 bits; the stream names what the noise is for
    (a, b)  = the two halves of fold(key, row)      one 64-bit word per row
    x       = column * (b | 1) + a                  32 bits from here on, wrapping
    x       = (x ^ x >> 16) * MIX32_1
    x       = (x ^ x >> 15 ^ b) * MIX32_2
    bits    = x ^ x >> 15
    tail    = (low 31 bits + 0.5) / 2^32
    normal  = sign of the top bit, magnitude P(SLOPE sqrt(LOG_OFFSET - ln(2 tail)) + OFFSET)

``fold`` is two rounds of splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014), keyed in both;
the 32-bit rounds use the constants of the hash-prospector search (Wellons 2018), with the row's
word keyed into both, so that two rows are not shifted copies of each other. ``P``, with
coefficients ``INVERSE``, is a polynomial that inverts the normal distribution to 1.1e-6 (fitted at
Chebyshev nodes). The constants stand in ``ops/constants.py``. Normals reach 6.34 standard
deviations. Integers are equal on every device, normals to 1e-6.
"""

import hashlib
from enum import StrEnum
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from analogtorch.ops.constants import (
    GOLDEN,
    INVERSE,
    LOG_OFFSET,
    MIX32_1,
    MIX32_2,
    MIX64_1,
    MIX64_2,
    OFFSET,
    SLOPE,
)

VERSION = 1
"""Version of the generator: it rises when the same seed would give other numbers."""

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF


class Noise(StrEnum):
    """Purpose of a stream of noise: streams of different kinds are independent."""

    PROGRAMMING = "programming"
    DRIFT = "drift"
    READ = "read"
    OUTPUT = "output"
    TRAINING = "training"
    COMPENSATION = "compensation"
    EXPANSION = "expansion"


def stream(*names: str | int | float) -> int:
    """Return a signed 64-bit number for the given names, for ``fold``: always the same."""
    text = "\x1f".join(f"{type(name).__name__[0]}:{name!s}" for name in names)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def fold(key: Tensor, word: Tensor | int) -> Tensor:
    """Return a key for each ``word``: int64 of the broadcast shape; they are independent."""
    if isinstance(word, int):
        # Python's integers do not wrap by themselves
        step: Tensor | int = _signed64(word * GOLDEN & _M64)
    else:
        step = word.to(torch.int64) * _signed64(GOLDEN)
    return _mix64(_mix64(key + step) + key)


def key_of(seed: int, word: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return ``fold(seed_tensor(seed, device), word)`` without a call of torch for each step."""
    key = seed & _M64
    return seed_tensor(_signed64(_mixed(_mixed(key + word * GOLDEN) + key)), device)


def _mixed(x: int) -> int:
    """Return ``_mix64`` of an integer."""
    x &= _M64
    x = (x ^ x >> 30) * MIX64_1 & _M64
    x = (x ^ x >> 27) * MIX64_2 & _M64
    return x ^ x >> 31


def random_bits(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Return 32 random bits, as int32 (R, count), at ``rows`` and ``count`` columns from ``first``.

    Args:
        key: () int64, from ``fold``.
        rows: (R,) int64.
        first: (R,) int64, below 2^32.
        count: number of columns, at least 0.
    """
    word = fold(key, rows).unsqueeze(1)
    a = ((word << 32) >> 32).to(torch.int32)
    b = (word >> 32).to(torch.int32)
    numbers = torch.arange(count, device=rows.device, dtype=torch.int32)
    columns = numbers + first.to(torch.int32).unsqueeze(1)
    x = columns * (b | 1) + a
    x = (x ^ _shift32(x, 16)) * _signed32(MIX32_1)
    x = (x ^ _shift32(x, 15) ^ b) * _signed32(MIX32_2)
    return x ^ _shift32(x, 15)


def happens(key: Tensor, rows: Tensor, first: Tensor, count: int, probability: float) -> Tensor:
    """Return whether an event of ``probability`` in [0, 1) happens: bool (R, count).

    The positions are those of ``random_bits``. The probability is exact to 2^-32, and the result is
    the same on every device.
    """
    threshold = min(round(probability * 2**32) - 2**31, 2**31 - 1)
    return random_bits(key, rows, first, count) < threshold


def normal_reference(key: Tensor, rows: Tensor, first: Tensor, count: int) -> Tensor:
    """Return ``normal`` in plain torch, which every kernel must reproduce."""
    bits = random_bits(key, rows, first, count)
    twice_tail = ((bits & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-31
    t = torch.sqrt(LOG_OFFSET - torch.log(twice_tail)) * SLOPE + OFFSET
    z = torch.full_like(t, INVERSE[-1])
    for coefficient in reversed(INVERSE[:-1]):
        z = z.mul_(t).add_(coefficient)
    return torch.where(bits < 0, -z, z)


def seed_tensor(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the seed as an int64 tensor, on the CPU whatever ``torch.set_default_device`` says.

    Raises:
        TypeError: the seed is not an integer.
        ValueError: the seed is outside the signed 64-bit range.
    """
    return torch.tensor(seed_number(seed), dtype=torch.int64, device=device)


def derived(seed: int, *names: str | int | float) -> int:
    """Return another seed, of what the names say; different names give independent seeds.

    Raises:
        TypeError: the seed is not an integer.
        ValueError: the seed is outside the signed 64-bit range.
    """
    return int(fold(seed_tensor(seed), stream(*names)).item())


def seed_number(seed: Any) -> int:
    """Return the seed as Python's own integer, which JSON takes; it may be one of NumPy.

    Raises:
        TypeError: the seed is not an integer.
        ValueError: the seed is outside the signed 64-bit range.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {type(seed).__name__}: {seed!r}")
    number = int(seed)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"seed must lie in -2^63 .. 2^63 - 1, got {number}")
    return number


def _mix64(x: Tensor) -> Tensor:
    x = (x ^ _shift64(x, 30)) * _signed64(MIX64_1)
    x = (x ^ _shift64(x, 27)) * _signed64(MIX64_2)
    return x ^ _shift64(x, 31)


def _shift64(x: Tensor, n: int) -> Tensor:
    return (x >> n) & ((1 << (64 - n)) - 1)  # torch shifts signed integers arithmetically


def _shift32(x: Tensor, n: int) -> Tensor:
    return (x >> n) & (_M32 >> n)


def _signed64(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


def _signed32(x: int) -> int:
    return x - 2**32 if x >= 2**31 else x
