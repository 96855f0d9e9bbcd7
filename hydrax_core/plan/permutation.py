"""Permutations, keys and seeds: pure functions of 64-bit keys, without a table.

Promise: the image of any position costs the same, for 10 elements as for 10**9, and does not depend on the machine.

The permutation is a Feistel network over a rectangle a x b just larger than the number of items, walking the cycle for
the few values that fall outside (J. Black, P. Rogaway: Ciphers with Arbitrary Finite Domains, CT-RSA 2002, section 5).
Hashes are the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood: Fast Splittable Pseudorandom Number Generators,
OOPSLA 2014), keys come from BLAKE2b.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Indices", "Seeds", "derive_key", "few_seeds", "permute", "seeds_of"]

Indices: TypeAlias = npt.NDArray[np.int64]
Seeds: TypeAlias = npt.NDArray[np.uint32]
_Uints: TypeAlias = npt.NDArray[np.uint64]

_ROUNDS = 6
_SMALL_ROUNDS = 24
_SMALL = 64
"""Sizes up to this take more rounds: with 8, the 120 orders of 5 items are visibly not equally likely (chi-square)."""
_64_BITS = 2**64 - 1
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)  # SplitMix64
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)  # SplitMix64
_GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's increment, 2**64 / golden ratio
_HALF = np.uint64(32)


@lru_cache(maxsize=1024)
def derive_key(*parts: int | str) -> int:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permute(key: int, size: int, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where a keyed permutation of ``range(size)`` sends ``positions``.

    Args:
        key: Chooses the permutation, 64 bits.
        size: Number of elements, at least 1 and below 2**62.
        positions: Values in ``range(size)``, any shape.

    Returns:
        Where they go, int64, of the shape of ``positions``.
    """
    values = np.array(positions, np.uint64)
    if size == 1:
        return values.astype(np.int64)
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    keys = [np.uint64(derive_key(key, turn)) for turn in range(_SMALL_ROUNDS if size <= _SMALL else _ROUNDS)]
    flat = values.reshape(-1)
    _feistel(flat, rows, columns, keys)
    outside = np.flatnonzero(flat >= size)
    while outside.size:
        walking = flat[outside]
        _feistel(walking, rows, columns, keys)
        flat[outside] = walking
        outside = outside[walking >= size]
    return values.astype(np.int64)


def _feistel(values: _Uints, rows: int, columns: int, keys: list[np.uint64]) -> None:
    """One pass of the network over ``range(rows * columns)``, in place."""
    width = np.uint64(columns)
    left = values // width
    right = values - left * width
    sides = (np.uint64(rows), width)
    hashed, spare = np.empty_like(values), np.empty_like(values)
    for turn, key in enumerate(keys):
        modulus = sides[turn % 2]
        source, target = (right, left) if turn % 2 == 0 else (left, right)
        np.add(source, key, out=hashed)
        hashed *= _MULTIPLY_1
        np.right_shift(hashed, _HALF, out=spare)
        hashed ^= spare
        hashed *= _MULTIPLY_2
        hashed >>= _HALF
        hashed *= modulus  # below 2**32, so the product fits: Lemire's range reduction
        hashed >>= _HALF
        target += hashed
        np.subtract(target, modulus, out=spare)
        np.minimum(target, spare, out=target)  # target % modulus: the difference wraps around where it is not needed
    np.multiply(left, width, out=values)
    values += right


def seeds_of(key: int, numbers: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """A seed in [0, 2**32) for each number, well mixed; ``jax.random.key`` would drop any higher bits in silence."""
    values = np.array(numbers, np.uint64)
    values *= np.uint64(_GOLDEN)
    values += np.uint64((key + _GOLDEN) % 2**64)
    values ^= values >> np.uint64(30)
    values *= _MULTIPLY_1
    values ^= values >> np.uint64(27)
    values *= _MULTIPLY_2
    values ^= values >> np.uint64(31)
    return (values >> _HALF).astype(np.uint32)


def few_seeds(key: int, numbers: Iterable[int]) -> list[int]:
    """``seeds_of`` of a few numbers, for which NumPy's calls cost ten times this."""
    found = []
    for number in numbers:
        value = (number * _GOLDEN + key + _GOLDEN) & _64_BITS
        value = (value ^ (value >> 30)) * int(_MULTIPLY_1) & _64_BITS
        value = (value ^ (value >> 27)) * int(_MULTIPLY_2) & _64_BITS
        found.append((value ^ (value >> 31)) >> 32)
    return found
