"""Randomness as a pure function of (seed, purpose, indices): a counter-based hash. No generator is shared."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every input bit changes every output bit."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


@lru_cache
def _number(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def hash64(seed: int, purpose: str, *indices: ArrayLike) -> NDArray[np.uint64]:
    """A 64-bit hash for each element of the broadcast `indices` (integers below 2**63).

    >>> hash64(7, "sample", [0, 1], 3).shape
    (2,)
    """
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(np.uint64(seed % 2**64) * _GOLDEN + np.uint64(_number(purpose))))
        for index in indices:
            state = _mix((state + _GOLDEN) ^ (np.asarray(index).astype(np.uint64) * _MIX_1 + _GOLDEN))
    return state


def unit(seed: int, purpose: str, *indices: ArrayLike) -> NDArray[np.float64]:
    """A number in (0, 1) for each element of the broadcast indices, uniform, by the hash of (seed, purpose, indices)."""
    values: NDArray[np.float64] = ((hash64(seed, purpose, *indices) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return values


def stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A separate generator for (seed, purpose, indices). It draws the same numbers in any process and in any order of calls."""
    return np.random.Generator(np.random.Philox(key=int(hash64(seed, purpose, *indices))))
