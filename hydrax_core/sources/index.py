"""Where the items of large files begin: found once, kept in a file, mapped by every worker.

Promise: an index belongs to the files that it was made of, named by absolute path, size and time of change; of other
files, or damaged, it is made anew. It is put in place whole, by a rename, so that nobody reads half of one. Where it
cannot be kept, a warning says so and every process makes its own. A file that changed after its index was made is
refused when it is opened. Files elsewhere are named as ``remote`` says.

Indexes are kept in the folder that the caller names; else, for data of at least ``KEPT_FROM`` bytes, in
``hydrax/index`` of the user's cache folder (``$XDG_CACHE_HOME``, or ``~/.cache``). They may be deleted at any time.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

from hydrax_core.sources.remote import RemoteFile, Span, read_ranges

__all__ = ["KEPT_FROM", "FileIndex", "Folder", "IndexedFiles", "Parts", "check_regular", "regular_file"]

KEPT_FROM = 32 << 20
"""Bytes of data; an index of less is made in the time that it takes to look for it."""

Folder: TypeAlias = str | os.PathLike[str] | None
_MAGIC = b"hydrax-index-1\0\0"
_ALIGNMENT = 64
_TAIL = len(_MAGIC) + 8
_log = logging.getLogger("hydrax")


class FileIndex(NamedTuple):
    """Arrays by name, and words to go with them (JSON values)."""

    arrays: Mapping[str, npt.NDArray[Any]]
    words: Mapping[str, Any] = {}


class Parts(NamedTuple):
    """An index that is being made: of each array at least one part."""

    arrays: Mapping[str, Sequence[npt.NDArray[Any]]]
    words: Mapping[str, Any] = {}


class IndexedFiles:
    """Files that are read at places that an index knows; opened at the first read, in each process for itself.

    Args:
        kind: What the index is of; another kind, or other settings of it, is another index.
        folder: Where to keep it; ``None`` as the module says.
    """

    def __init__(self, paths: Sequence[str], kind: str, folder: Folder) -> None:
        self.paths = tuple(paths)
        self.kind = kind
        self.folder = None if folder is None else os.fspath(folder)
        self._identity: list[list[Any]] | None = None
        self._descriptors: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            try:
                os.close(descriptor)
            except (OSError, TypeError, AttributeError):
                continue  # at the end of the interpreter, which closes files itself, names of a module may be gone

    @property
    def identity(self) -> list[list[Any]]:
        """Path, size and time of change (elsewhere: version) of each file, as they were when first asked for."""
        if self._identity is None:
            self._identity = [
                [str(path), path.size, path.version]
                if isinstance(path, RemoteFile)
                else [path, *_status(regular_file(path))]
                for path in self.paths
            ]
        return self._identity

    def open(self, build: Callable[[], Parts]) -> FileIndex:
        """The index, kept from before or made now."""
        keep = self.folder is not None or sum(size for _, size, _ in self.identity) >= KEPT_FROM
        if not keep:
            return _joined(build())
        file = Path(self.folder or _users_folder()) / self._name()
        found = _read(file, self._header())
        if found is not None:
            return found
        made = build()
        try:
            _write(file, made, self._header())
        except OSError as error:
            _log.warning("the index %s cannot be kept (%s): every process makes its own, each time", file, error)
            return _joined(made)
        return _read(file, self._header()) or _joined(made)

    def descriptor(self, number: int) -> int:
        """A descriptor of a file, for ``os.pread``.

        Raises:
            ValueError: The file changed after its index was made.
        """
        descriptor = self._descriptors.get(number)
        if descriptor is None:
            descriptor = os.open(self.identity[number][0], os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._check(number, descriptor)
            except ValueError:
                os.close(descriptor)
                raise
            self._descriptors[number] = descriptor
        return descriptor

    def _check(self, number: int, descriptor: int) -> None:
        path, *expected = self.identity[number]
        if _status(os.fstat(descriptor)) != expected:
            raise ValueError(f"{path} changed after it was indexed; make the source anew")

    def read(self, number: int, start: int, size: int) -> bytes:
        """Bytes of a file.

        Raises:
            ValueError: The file changed, or is shorter than it was.
        """
        path = self.paths[number]
        if isinstance(path, RemoteFile):
            (data,) = read_ranges([Span(path, start, size)])
            return bytes(data)
        found = os.pread(self.descriptor(number), size, start)
        while len(found) < size:
            more = os.pread(self.descriptor(number), size - len(found), start + len(found))
            if not more:
                raise ValueError(f"{path} became shorter while it was read; make the source anew")
            found += more
        return found

    def read_many(self, spans: Sequence[tuple[int, int, int]]) -> Iterable[bytes]:
        """Bytes of files, ``(number, start, size)``, one after the other; elsewhere all at once.

        Raises:
            ValueError: A file changed, perhaps while it was read; told behind the last.
        """
        remote = [Span(path, *span) for number, *span in spans if isinstance(path := self.paths[number], RemoteFile)]
        return map(bytes, read_ranges(remote)) if remote else self._read_many(spans)

    def _read_many(self, spans: Sequence[tuple[int, int, int]]) -> Iterator[bytes]:
        descriptors = self._descriptors
        for number, start, size in spans:
            descriptor = descriptors.get(number)
            found = b"" if descriptor is None else os.pread(descriptor, size, start)
            yield found if len(found) == size else self.read(number, start, size)
        for number in {number for number, _, _ in spans}:  # they are open since the first read, perhaps of long ago
            self._check(number, self.descriptor(number))

    def walking(self, number: int, ahead: int) -> Callable[[int, int], bytes]:
        """What reads bytes of a file from its beginning to its end, skipping some: ``(start, size)``, fewer at the end.

        Args:
            number: The file.
            ahead: Bytes that are read at once of a file elsewhere.
        """
        path = self.paths[number]
        if not isinstance(path, RemoteFile):
            descriptor = self.descriptor(number)
            return lambda start, size: os.pread(descriptor, size, start)
        begin, data = 0, b""

        def read(start: int, size: int) -> bytes:
            nonlocal begin, data
            if not begin <= start <= start + size <= begin + len(data):
                near = start - begin - len(data) < ahead  # what lies far apart is not read through
                wanted = min(max(size, ahead if near else 0), path.size - start)
                begin, data = start, self.read(number, start, wanted) if wanted > 0 else b""
            return data[start - begin : start - begin + size]

        return read

    def _name(self) -> str:
        digest = xxhash.xxh3_64("\0".join((self.kind, *self.paths)).encode("utf-8", "surrogateescape")).hexdigest()
        return f"{self.kind.partition(' ')[0]}-{digest}.index"

    def _header(self) -> dict[str, Any]:
        return {"kind": self.kind, "files": self.identity}


def regular_file(path: str) -> os.stat_result:
    """The status of a file, which must be a regular one.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is something else, which may never end or change what it is.
    """
    return check_regular(os.stat(path), path)  # noqa: PTH116  a hundred thousand of them


def check_regular(status: os.stat_result, path: str) -> os.stat_result:
    """Refuse what is no regular file, as ``regular_file`` does."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{path} is {kinds.get(stat.S_IFMT(status.st_mode), 'a device')}; expected a regular file")
    return status


def _status(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns]


def _users_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hydrax" / "index"


def _joined(index: Parts) -> FileIndex:
    arrays = {name: np.concatenate(parts) for name, parts in index.arrays.items()}
    return FileIndex(arrays, dict(index.words))


def _write(path: Path, index: Parts, header: Mapping[str, Any]) -> None:
    """Arrays one after the other, then what they are as JSON, its length, and the magic: sizes are known at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".index-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            digest = xxhash.xxh3_128()
            arrays = {array: _write_array(file, digest, parts) for array, parts in index.arrays.items()}
            what = {"header": header, "arrays": arrays, "words": index.words, "digest": digest.hexdigest()}
            text = json.dumps(what).encode()
            file.write(text + len(text).to_bytes(8, "little") + _MAGIC)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _write_array(file: BinaryIO, digest: Any, parts: Sequence[npt.NDArray[Any]]) -> list[Any]:
    file.write(bytes(-file.tell() % _ALIGNMENT))
    start, length, dtype = file.tell(), 0, np.dtype(np.int64)
    for part in parts:
        dtype, length = part.dtype, length + len(part)
        data = np.ascontiguousarray(part).view(np.uint8).data
        digest.update(data)
        file.write(data)
    return [start, length, dtype.str]


def _read(path: Path, header: Mapping[str, Any]) -> FileIndex | None:
    """A kept index; ``None`` where there is none, or it is damaged or of other files."""
    try:
        data = np.memmap(path, np.uint8, "r")
        tail = data[-_TAIL:].tobytes()
        length = int.from_bytes(tail[:8], "little")
        if len(tail) != _TAIL or tail[8:] != _MAGIC or length > len(data) - _TAIL:
            return None
        what = json.loads(data[len(data) - _TAIL - length : len(data) - _TAIL].tobytes())
        if what["header"] != json.loads(json.dumps(header)):
            return None
        arrays = {}
        digest = xxhash.xxh3_128()
        for name, (start, count, dtype) in what["arrays"].items():
            stop = start + count * np.dtype(dtype).itemsize
            arrays[name] = data[start:stop].view(np.dtype(dtype)).view(np.ndarray)
            digest.update(data[start:stop].data)
        if digest.hexdigest() != what["digest"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return FileIndex(arrays, what["words"])
