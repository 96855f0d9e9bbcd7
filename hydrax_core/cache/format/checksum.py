"""Checksums of entries: xxh3 over what an entry holds and over what says which entry it is.

Promise: an entry that lies in another place, belongs to other settings or has any byte changed has another checksum.
It finds accidents; who wants to deceive can compute it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["CHECKSUM_BYTES", "entry_checksum", "seal", "unseal"]

CHECKSUM_BYTES: Final = 16
_SEAL_BYTES: Final = 8
_KEY: Final = struct.Struct("<qqdqq")
_PLACE: Final = struct.Struct("<qq")


def entry_checksum(
    identity: bytes, epoch: int, number: int, created: float, size: int, additional: bytes | None, arrays: Iterable[Any]
) -> bytes:
    """The checksum of an entry.

    Args:
        identity: Digest of the settings, see ``Manifest.identity_digest``.
        epoch: Content epoch.
        number: Batch or item.
        created: When it was written, seconds since 1970.
        size: Bytes of the arrays.
        additional: The additional data as it is stored.
        arrays: Buffers of bytes in the order of the arrays' names; hashing large ones lets other threads run.
    """
    digest = xxhash.xxh3_128(identity)
    digest.update(_KEY.pack(epoch, number, created, size, -1 if additional is None else len(additional)))
    if additional is not None:
        digest.update(additional)
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
