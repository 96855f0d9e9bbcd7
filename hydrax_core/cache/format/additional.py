"""Additional data of batches and items to bytes and back.

Promise: what cannot be stored is refused by key, position and type before anything is written. What is read has the
form that was written, or raises ``DecodeError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydrax_core.cache.format.codec import DecodeError, UnstorableError, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["decode_batch", "decode_item", "encode_batch", "encode_items"]


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
    """The code of each item's additional data, ``None`` for none.

    Raises:
        ValueError: A list does not have a value for each of ``rows``.
        TypeError: A value or key cannot be stored.
    """
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
    """The inverse of ``encode_items``, for one item; ``instead`` is that of ``decode``.

    Raises:
        DecodeError: It is not of that form, or holds a pickle without ``allow_pickle`` or ``instead``.
    """
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
