"""Members of tar archives: where each is, from a walk over the headers alone.

Promise: every regular file of the archive, or an error that says what is wrong with it: a header whose checksum is
wrong, an archive that ends before its last member does or without its end mark, or that goes on behind it (two archives
put together, of which the second would be lost), a member that is a link or has holes. The data is not read, but where
members are so small that this costs less than to skip it. Names of any length, in GNU's and in POSIX' (pax) way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias
from zlib import adler32

__all__ = ["Members", "walk"]

_BLOCK = 512
_WINDOW, _WIDEST = 2 << 10, 64 << 10
"""Bytes that are read at once: twice as many each time that several headers were in them, else few again."""

_FILES, _LONG = set(b"0\0007"), set(b"Lx")
_IGNORED = set(b"5g")
"""Folders, and pax headers for all that follows."""

_LARGE = 0x80
_SPACES = sum(b" " * 8)
_NAMES = {ord("1"): "a hard link", ord("2"): "a symbolic link", ord("S"): "a file with holes"}
_UNPACK = "unpack it and pack it anew with `tar --dereference --hard-dereference`"


_Read: TypeAlias = Callable[[int, int], bytes]


class Members(NamedTuple):
    """Regular files in the order of the archive."""

    names: list[bytes]
    offsets: list[int]
    sizes: list[int]


def walk(read: _Read, size: int, path: str) -> Members:  # noqa: C901  a call for each header would be a twentieth
    """The members of an archive.

    Args:
        read: Gives the bytes at ``(start, size)``; fewer where the file ends.
        size: Bytes of the archive.
        path: Its name, for errors.

    Raises:
        ValueError: It is no tar archive, or damaged; the text names the member before.
    """
    names: list[bytes] = []
    offsets: list[int] = []
    sizes: list[int] = []
    offset, long_name, long_size = 0, b"", -1
    start, window, width, before = 0, b"", _WINDOW, 0
    wanted: dict[bytes, int] = {}  # checksum fields and what their headers add up to: few differ
    while True:
        place = offset - start
        header = window[place : place + _BLOCK]
        if len(header) < _BLOCK:
            width = min(2 * width, _WIDEST) if len(offsets) > before + 1 else _WINDOW
            start, window, before = offset, read(offset, width), len(offsets)
            header = window[:_BLOCK]
        if len(header) < _BLOCK or (not header[156] and not header.strip(b"\0")):
            break
        kind, field, data = header[156], header[148:156], offset + _BLOCK
        try:  # nearly always digits, a zero byte or a space
            length = int(header[124:135], 8)
        except ValueError:
            length = _number(header[124:136])
        total = wanted.get(field)
        if total is None:
            total = wanted[field] = (_number(field) + (adler32(field) & 0xFFFF) - _SPACES) % 65521
        # The low half of Adler-32 is the sum of all bytes and 1, modulo 65,521: twenty times as fast as sum().
        if length < 0 or total != adler32(header) & 0xFFFF:
            raise ValueError(_damage(path, offset, names))
        if kind in _FILES:
            if long_size >= 0:
                length = long_size
            names.append(long_name or (_name(header) if header[345] else header[:100].rstrip(b"\0")))
            offsets.append(data)
            sizes.append(length)
            long_name, long_size = b"", -1
        elif kind in _LONG:
            long_name, long_size = _long(read, kind, data, length, long_name, long_size)
        elif kind in _IGNORED:
            long_name, long_size = b"", -1
        else:
            raise ValueError(f"{path}: {_shown(long_name or _name(header))} {_unreadable(kind)}")
        if data + length > size:
            what = _shown(names[-1]) if names else "its first member"
            raise ValueError(f"{path}: it ends in the middle of {what}; it was cut")
        offset = data + (length + _BLOCK - 1 & -_BLOCK)
    _check_end(read, offset, size, path, names)
    return Members(names, offsets, sizes)


def _unreadable(kind: int) -> str:
    return f"is {_NAMES.get(kind, f'of type {bytes([kind])!r}')}, which cannot be read; {_UNPACK}"


def _check_end(read: _Read, offset: int, size: int, path: str, names: list[bytes]) -> None:
    if read(offset, 2 * _BLOCK) != bytes(2 * _BLOCK):
        if not names:
            raise ValueError(f"{path} is no tar archive")
        problem = f"its end mark is missing behind {_shown(names[-1])}"
        raise ValueError(f"{path}: {problem}; it was cut, or is still being written")
    while offset < size:
        rest = read(offset, _WINDOW)
        if rest.count(0) != len(rest):
            raise ValueError(
                f"{path}: it goes on behind its end, as when two archives are put together; give them as two files"
            )
        offset += len(rest) or _WINDOW


def _long(read: _Read, kind: int, data: int, length: int, name: bytes, size: int) -> tuple[bytes, int]:
    """The name, and perhaps the size, that a header before a member gives it."""
    text = read(data, min(length, 1 << 20))
    if kind == ord("L"):
        return text.rstrip(b"\0"), size
    while text:
        digits = text.partition(b" ")[0]
        count = int(digits) if digits.isdigit() else 0
        if not count:
            break
        key, _, value = text[len(digits) + 1 : count - 1].partition(b"=")
        if key == b"path":
            name = value
        elif key == b"size":
            size = int(value)
        text = text[count:]
    return name, size


def _name(header: bytes) -> bytes:
    name = header[:100].rstrip(b"\0")
    if header[257:262] == b"ustar" and header[345] and header[257:265] != b"ustar  \0":
        return header[345:500].rstrip(b"\0") + b"/" + name
    return name


def _number(field: bytes) -> int:
    """An octal number, ended by a zero byte or a space, or in GNU's way for large ones; -1 where it is none."""
    try:
        return int(field[:-1], 8)
    except ValueError:
        pass
    if field[0] == _LARGE:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _damage(path: str, offset: int, names: list[bytes]) -> str:
    if not offset:
        return f"{path} is no tar archive (compressed ones have to be unpacked first)"
    return f"{path}: the header at byte {offset}, behind {_shown(names[-1]) if names else 'others'}, is damaged"


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace"))
