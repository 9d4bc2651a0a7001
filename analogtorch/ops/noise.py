"""Counter-based noise: every random number is a pure function of (seed, stream, position).

The same seed gives the same chip and the same noise, whatever the tiling, the batch split or the device, because
nothing is drawn "next": a number is computed from where it is used. Definition (version 1):

    key     = fold(seed, stream)                    64 bits; the stream names what the noise is for
    (a, b)  = the two halves of fold(key, row)      one 64-bit word per row
    x       = column * (b | 1) + a                  32 bits from here on, wrapping
    x       = (x ^ x >> 16) * 0x21f0aaad
    x       = (x ^ x >> 15 ^ b) * 0xd35a2d97
    bits    = x ^ x >> 15
    normal  = sign of the top bit, magnitude -ndtri((low 31 bits + 0.5) / 2^32)

``fold`` is two rounds of splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014), keyed in both; the 32-bit rounds
use the constants of the hash-prospector search (Wellons 2018), with the row's word keyed into both, so that two rows
are not shifted copies of each other. Normals reach 6.34 standard deviations. Integers are equal on every device,
normals to the last bits of the device's ``ndtri``.
"""

import hashlib
from enum import StrEnum

import torch
from torch import Tensor

VERSION = 1
"""Version of the generator: raised whenever the same seed would give other numbers."""

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15  # odd, 2^64 over the golden ratio: splitmix64's increment


class Noise(StrEnum):
    """What a stream of noise is for: streams of different kinds are independent."""

    PROGRAMMING = "programming"
    DRIFT = "drift"
    READ = "read"
    OUTPUT = "output"
    TRAINING = "training"
    COMPENSATION = "compensation"


def stream(*names: str | int | float) -> int:
    """A signed 64-bit number that stands for the given names, for ``fold``. Same names, same number, everywhere."""
    text = "\x1f".join(f"{type(name).__name__[0]}:{name!s}" for name in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def fold(key: Tensor, word: Tensor | int) -> Tensor:
    """A key for each ``word``: int64 of the broadcast shape. Keys of different words are independent."""
    if isinstance(word, int):
        step: Tensor | int = _signed64(word * _GOLDEN & _M64)  # Python's integers do not wrap by themselves
    else:
        step = word.to(torch.int64) * _signed64(_GOLDEN)
    return _mix64(_mix64(key + step) + key)


def random_bits(key: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """32 random bits, as int32, for each position of the broadcast shape of ``rows`` and ``cols``.

    Args:
        key: int64, from ``fold``.
        rows: integer positions; cheapest where its last dimension is 1.
        cols: integer positions below 2^32.
    """
    word = fold(key, rows)
    a = ((word << 32) >> 32).to(torch.int32)
    b = (word >> 32).to(torch.int32)
    x = cols.to(torch.int32) * (b | 1) + a
    x = (x ^ _shift32(x, 16)) * 0x21F0AAAD
    x = (x ^ _shift32(x, 15) ^ b) * (0xD35A2D97 - 2**32)
    return x ^ _shift32(x, 15)


def normal(key: Tensor, rows: Tensor, cols: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals for the positions of the broadcast shape of ``rows`` and ``cols`` (see ``random_bits``)."""
    bits = random_bits(key, rows, cols)
    tail = ((bits & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-32
    z = torch.special.ndtri(tail)
    return torch.where(bits < 0, z, -z).to(dtype)


def seed_tensor(seed: int, device: torch.device | None = None) -> Tensor:
    """The seed as an int64 tensor.

    Raises:
        TypeError: not an integer.
        ValueError: outside the signed 64-bit range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {type(seed).__name__}: {seed!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must lie in -2^63 .. 2^63 - 1, got {seed}")
    return torch.tensor(seed, dtype=torch.int64, device=device)


def _mix64(x: Tensor) -> Tensor:
    x = (x ^ _shift64(x, 30)) * _signed64(0xBF58476D1CE4E5B9)
    x = (x ^ _shift64(x, 27)) * _signed64(0x94D049BB133111EB)
    return x ^ _shift64(x, 31)


def _shift64(x: Tensor, n: int) -> Tensor:
    return (x >> n) & ((1 << (64 - n)) - 1)  # torch shifts signed integers arithmetically


def _shift32(x: Tensor, n: int) -> Tensor:
    return (x >> n) & (_M32 >> n)


def _signed64(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x
