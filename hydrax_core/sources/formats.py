"""What a file is, and which source reads it: by its content, and by its suffix where its content says nothing.

Promise: at most the first bytes of a regular file are read, and nothing else is opened. A source that is given the file
of another says what was found, and what reads it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from hydrax_core.sources.remote import RemoteFile, Span, read_ranges

__all__ = ["FileFormat", "expect_format", "file_format", "refuse_binary"]


class FileFormat(NamedTuple):
    """What a file is.

    Attributes:
        source: Name of the function of ``hydrax_core.sources`` that reads it, or a folder of such files; empty where
            none does.
        description: What it is, for people.
        by_content: Whether its content says so, and not only its suffix.
    """

    source: str
    description: str
    by_content: bool


_DESCRIPTIONS = {
    "numpy_rows": "a NumPy file",
    "arrow": "Arrow IPC",
    "sqlite": "an SQLite database",
    "hdf5": "an HDF5 file",
    "lmdb": "an LMDB database",
    "array_record": "ArrayRecord",
    "tar": "tar shards",
    "jsonl": "JSON lines",
    "csv": "CSV",
    "text_lines": "lines of text",
    "tokens": "a stream of tokens",
    "image_folder": "an image",
    "audio_folder": "sound",
}
_PARQUET = (".parquet", ".pq")
_SUFFIXES = {
    **dict.fromkeys((".npy", ".npz"), "numpy_rows"),
    **dict.fromkeys((".arrow", ".feather", ".ipc", *_PARQUET), "arrow"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), "sqlite"),
    **dict.fromkeys((".h5", ".hdf5"), "hdf5"),
    **dict.fromkeys((".array_record", ".arrayrecord"), "array_record"),
    ".tar": "tar",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    ".txt": "text_lines",
    ".mdb": "lmdb",
    ".bin": "tokens",
    **dict.fromkeys(
        (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"), "image_folder"
    ),
    **dict.fromkeys((".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"), "audio_folder"),
}
_ZIP = b"PK\x03\x04"
_MAGIC = {
    b"\x93NUMPY": "numpy_rows",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"FEA1": "arrow",
    b"PAR1": "arrow",
    b"SQLite format 3\0": "sqlite",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"\x89PNG": "image_folder",
    b"\xff\xd8\xff": "image_folder",
    b"GIF8": "image_folder",
    b"fLaC": "audio_folder",
    b"OggS": "audio_folder",
    _ZIP: "numpy_rows",
}
_FOREIGN = {
    b"\x1f\x8b": "compressed by gzip; unpack it (gunzip)",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it (unzstd)",
    b"BZh": "compressed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "compressed by xz; unpack it (unxz)",
    b"\xff\xfe": "text in UTF-16; convert it to UTF-8 (iconv)",
    b"\xfe\xff": "text in UTF-16; convert it to UTF-8 (iconv)",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"\x80\x04\x95": "a pickle, which runs code when it is read",
    b"\x80\x05\x95": "a pickle, which runs code when it is read",
}
_HEAD = 4096
_TAR_MAGIC = slice(257, 262)
_LOOKED_AT = 16
_TEXTS = {"csv", "text_lines"}
"""Sources that take text under any suffix."""


def file_format(path: str | os.PathLike[str], *, content: bool = True, head: bytes = b"") -> FileFormat | None:
    """What a file is; ``None`` for what is not known.

    Args:
        content: Whether to open it; else its suffix decides, and what ``head`` tells.
        head: Its first bytes, where they are known.

    Raises:
        OSError: It cannot be opened.
    """
    if content and not head:
        with open(path, "rb") as file:  # noqa: PTH123  a path of any kind
            head = file.read(_HEAD)
    foreign = _foreign(head)
    if foreign is not None:
        return FileFormat("", foreign, by_content=True)
    source = next((source for magic, source in _MAGIC.items() if head.startswith(magic)), None)
    if source is None and head[_TAR_MAGIC] == b"ustar":
        source = "tar"
    if source is None and _is_json_line(head):
        source = "jsonl"
    by_content = source is not None
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122  same
    source = source or _SUFFIXES.get(suffix)
    if source is None:
        return None
    if head.startswith(_ZIP) and suffix != ".npz":
        return FileFormat("", "a zip archive; unpack it and give the folder", by_content=True)
    parquet = source == "arrow" and (head.startswith(b"PAR1") or (not by_content and suffix in _PARQUET))
    return FileFormat(source, "Parquet" if parquet else _DESCRIPTIONS[source], by_content)


def refuse_binary(path: str, head: bytes) -> None:
    """Refuse what has no lines to look for.

    Raises:
        ValueError: It is none of text.
    """
    known = (_DESCRIPTIONS[source] for magic, source in _MAGIC.items() if head.startswith(magic))
    found = _foreign(head) or next(known, None)
    if found is not None:
        raise ValueError(f"{path} is {found}")


def _foreign(head: bytes) -> str | None:
    return next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)


def expect_format(source: str, paths: Sequence[str]) -> None:
    """Refuse files that another source reads.

    Args:
        paths: Its files, of which the first few are looked at.

    Raises:
        ValueError: A file is of another format.
    """
    some = paths[:_LOOKED_AT]
    remote = [Span(path, 0, min(_HEAD, path.size)) for path in some if isinstance(path, RemoteFile)]
    heads = dict(zip((str(span.file) for span in remote), map(bytes, read_ranges(remote)), strict=True))
    for path in some:
        try:
            if path in heads:
                found = file_format(path, content=False, head=heads[path])
            else:
                regular = stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116  many
                found = file_format(path) if regular else None
        except OSError:
            continue  # who reads it says why not
        if found is None or source == found.source:
            continue
        if source == "tokens" and (found.source in {"", "numpy_rows"} or not _named_so(path, found.source)):
            continue  # numbers may begin like anything
        if source in _TEXTS and (not found.by_content or (source == "text_lines" and found.source == "jsonl")):
            continue
        reader = f"; hydrax_core.sources.{found.source} reads it, {source} does not" if found.source else ""
        raise ValueError(f"{path} is {found.description}{reader}")


def _named_so(path: str, source: str) -> bool:
    return _SUFFIXES.get(os.path.splitext(path)[1].lower()) == source  # noqa: PTH122  same


def _is_json_line(head: bytes) -> bool:
    line = head.lstrip().partition(b"\n")[0]
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return line.startswith(b'{"') and len(line) > _HEAD // 2
