"""Uniform random numbers that are a pure function of their keys.

They have no state, so they are the same in any order, batch and process.

The keys are folded in one after the other by a 64-bit hash, the finaliser of SplitMix64 (G. Steele,
D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). This is numpy on
the host: a clip needs about ten numbers.
"""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analogtorch.ops.constants import GOLDEN, MIX64_1, MIX64_2

_GOLDEN = np.uint64(GOLDEN)
_MULTIPLIERS = (np.uint64(MIX64_1), np.uint64(MIX64_2))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def hashed(*keys: int | str | ArrayLike) -> NDArray[np.uint64]:
    """Return a 64-bit hash of the keys.

    Keys are integers, strings, or integer arrays that broadcast against each other.
    """
    state = np.zeros(1, dtype=np.uint64)
    for key in keys:
        state = _mix(state + _GOLDEN + _as_words(key))
    return state


def uniform(*keys: int | str | ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1) with 53 random bits, one for each combination of the keys.

    The array has at least one dimension.
    """
    return (hashed(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _as_words(key: int | str | ArrayLike) -> NDArray[np.uint64]:
    if isinstance(key, str):
        key = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    if isinstance(key, int):
        return np.array([key % 2**64], dtype=np.uint64)
    return np.asarray(key, dtype=np.int64).view(np.uint64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> _SHIFTS[0])) * _MULTIPLIERS[0]
    x = (x ^ (x >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return x ^ (x >> _SHIFTS[2])
