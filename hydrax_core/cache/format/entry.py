"""What an entry is beside its arrays: a checksum over all of it, and additional data as sealed bytes.

Promise: an entry that lies in another place, belongs to other settings or has any byte changed has another checksum
(xxh3: it finds accidents, not forgeries). Additional data that cannot be stored is refused by
key, position and type before anything is written; what is read has the form that was written, or ``DecodeError``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import xxhash

from hydrax_core.cache.format.codec import DecodeError, UnstorableError, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

__all__ = [
    "CHECKSUM_BYTES",
    "decode_batch",
    "decode_item",
    "encode_batch",
    "encode_items",
    "entry_checksum",
    "entry_digest",
    "seal",
    "unseal",
]

CHECKSUM_BYTES: Final = 16
_SEAL_BYTES: Final = 8
_KEY: Final = struct.Struct("<qqdqq")
_PLACE: Final = struct.Struct("<qq")


def entry_digest(
    identity: bytes, epoch: int, number: int, created: float, size: int, additional: bytes | None
) -> xxhash.xxh3_128:
    """The start of an entry's checksum, to be updated with its arrays' bytes in the order of their names.

    Args:
        created: When it was written, seconds since 1970.
        additional: The additional data as it is stored.
    """
    digest = xxhash.xxh3_128(identity)
    digest.update(_KEY.pack(epoch, number, created, size, -1 if additional is None else len(additional)))
    if additional is not None:
        digest.update(additional)
    return digest


def entry_checksum(
    identity: bytes, epoch: int, number: int, created: float, size: int, additional: bytes | None, arrays: Iterable[Any]
) -> bytes:
    """The checksum of an entry whose arrays are at hand; hashing large ones lets other threads run."""
    digest = entry_digest(identity, epoch, number, created, size, additional)
    for part in arrays:
        digest.update(part)
    return digest.digest()


def seal(identity: bytes, epoch: int, number: int, additional: bytes) -> bytes:
    """Additional data with a checksum of its own, so that it can be read again without the arrays."""
    return _seal(identity, epoch, number, additional) + additional


def unseal(identity: bytes, epoch: int, number: int, sealed: bytes) -> bytes | None:
    """The additional data, ``None`` where it is damaged."""
    additional = sealed[_SEAL_BYTES:]
    return additional if sealed[:_SEAL_BYTES] == _seal(identity, epoch, number, additional) else None


def _seal(identity: bytes, epoch: int, number: int, additional: bytes) -> bytes:
    return xxhash.xxh3_64_digest(identity + _PLACE.pack(epoch, number) + additional)


def encode_batch(additional: Mapping[str, Sequence[Any]], rows: int, *, allow_pickle: bool) -> bytes | None:
    """The code of a batch's additional data, ``None`` for none.

    Raises:
        ValueError: A list does not have a value for each of ``rows``.
        TypeError: A value or key cannot be stored.
    """
    if not additional:
        return None
    _check(additional, rows)
    try:
        return encode({key: list(values) for key, values in additional.items()}, allow_pickle=allow_pickle)
    except UnstorableError:
        for key, values in additional.items():
            for position, value in enumerate(values):
                _encode(value, key, position, allow_pickle=allow_pickle)
        raise


def encode_items(additional: Mapping[str, Sequence[Any]], rows: int, *, allow_pickle: bool) -> list[bytes | None]:
    """The code of each item's additional data, ``None`` for none."""
    _check(additional, rows)
    coded: list[bytes | None] = []
    for position in range(rows):
        values = {key: values[position] for key, values in additional.items() if values[position] is not None}
        try:
            coded.append(encode(values, allow_pickle=allow_pickle) if values else None)
        except UnstorableError:
            for key, value in values.items():
                _encode(value, key, position, allow_pickle=allow_pickle)
            raise
    return coded


def decode_batch(
    data: bytes, rows: int, *, allow_pickle: bool, instead: Callable[[bytes], Any] | None = None
) -> dict[str, list[Any]]:
    """The inverse of ``encode_batch``; ``instead`` is that of ``decode``.

    Raises:
        DecodeError: It is not of that form, or holds a pickle without ``allow_pickle`` or ``instead``.
    """
    found = decode_item(data, allow_pickle=allow_pickle, instead=instead)
    if not all(type(values) is list and len(values) == rows for values in found.values()):
        raise DecodeError(f"it is no dict of lists of {rows} values")
    return found


def decode_item(data: bytes, *, allow_pickle: bool, instead: Callable[[bytes], Any] | None = None) -> dict[str, Any]:
    """The inverse of ``encode_items``, for one item; ``instead`` is that of ``decode``."""
    found = decode(data, allow_pickle=allow_pickle, instead=instead)
    if type(found) is not dict or not all(type(key) is str for key in found):
        raise DecodeError("it is no dict with names as keys")
    return found


def _check(additional: Mapping[str, Sequence[Any]], rows: int) -> None:
    for key, values in additional.items():
        if type(key) is not str:
            raise TypeError(f"additional: its keys are strings, got {key!r}")
        if len(values) != rows:
            raise ValueError(f"additional[{key!r}]: expected {rows} values, one a row, got {len(values)}")


def _encode(value: Any, key: str, position: int, *, allow_pickle: bool) -> None:
    try:
        encode(value, allow_pickle=allow_pickle)
    except UnstorableError as error:
        hint = "convert it to plain values" if allow_pickle else "convert it to plain values, or set cache_pickle=True"
        raise TypeError(f"additional[{key!r}][{position}]: the cache cannot store {error}; {hint}") from None
