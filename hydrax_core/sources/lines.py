r"""Lines of text files by number, from an index of where each begins.

Promise: the lines of all files, in the order of the files, whatever ends them (``\n`` or ``\r\n``, the last one
perhaps nothing); only an index of 8 bytes a line is kept, never the text, so that files may be larger than memory.
Refused by name: compressed files and UTF-16, whose lines cannot be found by looking for their ends.

Lines are found by all cores in blocks that stay in the processor's cache: reading and looking cost more than Python.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from hydrax_core.sources.formats import refuse_binary
from hydrax_core.sources.index import Folder, IndexedFiles, Parts
from hydrax_core.sources.remote import RemoteFile
from hydrax_core.sources.row_source import Reopened

__all__ = ["LineFiles"]

_BLOCK = 512 << 10
_SEGMENT = 16 << 20
_NEWLINE, _RETURN, _QUOTE = b'\n\r"'
_EMPTY = {b"\n", b"\r\n", b"\r"}
_MAY_BE_EMPTY = 2
"""Bytes of the longest of them."""

_BOM = b"\xef\xbb\xbf"
_TOP = np.uint64(56)
_PLACE = np.uint64(sum(place << 8 * (7 - place) for place in range(8)))
"""Times a word of which only the n-th byte is 1, it has n in its highest byte."""

Kind = Literal["all", "filled", "quoted"]


class _Segment(NamedTuple):
    """Where lines begin in a part of a file: after an even, and after an odd number of quotes in this part.

    ``shortest`` is the least distance of two newlines in a block of it.
    """

    even: list[npt.NDArray[np.int64]]
    odd: list[npt.NDArray[np.int64]]
    quotes: int
    shortest: int


class LineFiles(Reopened):
    """Lines by number.

    Args:
        kind: Which lines count: ``"all"``; ``"filled"``, those that are not empty; ``"quoted"``, the records of CSV
            files, which may be several lines long within quotes, without the empty ones.
        header: Whether the first line of each file is none of the data.
        folder: Where to keep the index, see ``IndexedFiles``.
    """

    def __init__(self, paths: Sequence[str], kind: Kind, *, header: bool = False, folder: Folder = None) -> None:
        self.kind: Kind = kind
        self.files = IndexedFiles(paths, f"lines {kind} {header}", folder)
        self.header = header

    def __len__(self) -> int:
        return int(self._index["first"][-1])

    def read(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        first, starts = self._index["first"], self._index["starts"]
        files = np.searchsorted(first, indices, "right") - 1
        places = indices + files  # each file has one start more than lines: its end
        begins, ends = starts[places], starts[places + 1]
        spans = zip(files.tolist(), begins.tolist(), (ends - begins).tolist(), strict=True)
        found = list(self.files.read_many(list(spans)))
        if self.kind == "all":
            return [line.removesuffix(b"\n").removesuffix(b"\r") for line in found]
        return [line.rstrip(b"\r\n") for line in found]

    def place(self, index: int) -> str:
        file = int(np.searchsorted(self._index["first"], index, "right")) - 1
        return f"{self.files.paths[file]} at byte {self._index['starts'][index + file]}"

    def first_lines(self, file: int, count: int) -> list[bytes]:
        """The first records of a file, its header included."""
        text = self.files.read(file, 0, min(_BLOCK, self.files.identity[file][1])).removeprefix(_BOM)
        return [line for line in text.splitlines() if line][:count]

    @functools.cached_property
    def _index(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Where lines start, and the number of the first line of each file and of all lines."""
        return self.files.open(self._build).arrays

    def _build(self) -> Parts:
        starts: list[npt.NDArray[np.int64]] = []
        first = [0]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for file, (path, size, _) in enumerate(self.files.identity):
                refuse_binary(path, self.files.read(file, 0, min(size, 16)))
                found = self._in_file(file, size, threads)
                starts.extend(found)
                first.append(first[-1] + sum(map(len, found)) - 1)
        return Parts({"first": [np.array(first)], "starts": starts})

    def _in_file(self, file: int, size: int, threads: ThreadPoolExecutor) -> list[npt.NDArray[np.int64]]:
        """Where each line of a file begins, and where the last one ends."""
        begin = len(_BOM) if self.files.read(file, 0, min(size, len(_BOM))) == _BOM else 0
        look = functools.partial(_look, self.files, file, size, self.kind == "quoted")
        found, quotes, shortest = [np.array([begin])], 0, size
        for segment in threads.map(look, range(0, size, _SEGMENT)):
            found.extend(segment.odd if quotes % 2 else segment.even)
            quotes += segment.quotes
            shortest = min(shortest, segment.shortest)
        if quotes % 2:
            raise ValueError(
                f"{self.files.paths[file]}: a quote is opened and never closed, so it cannot be told where records "
                "end; where quotes have no meaning in it, give quotes=False"
            )
        found = [part for part in found if len(part)]
        if found[-1][-1] < size:
            found.append(np.array([size]))  # the last line has no end
        if self.kind != "all" and min([shortest, *_gaps(found)]) <= _MAY_BE_EMPTY:
            found = [self._filled(file, np.concatenate(found))]
        if self.header and sum(map(len, found)) > 1:
            found[0] = found[0][1:]
        return found

    def _filled(self, file: int, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Without the beginnings of empty lines, which then are the end of the line before, cut off when it is read."""
        sizes = np.diff(starts)
        keep = sizes > _MAY_BE_EMPTY
        for place in np.flatnonzero(~keep).tolist():
            keep[place] = self.files.read(file, int(starts[place]), int(sizes[place])) not in _EMPTY
        return np.append(starts[:-1][keep], starts[-1])


def _look(files: IndexedFiles, file: int, file_size: int, quoted: bool, start: int) -> _Segment:
    """The beginnings of lines behind each newline in a segment of a file."""
    find = _Finder()
    even: list[npt.NDArray[np.int64]] = []
    odd: list[npt.NDArray[np.int64]] = []
    quotes, shortest = 0, file_size
    for offset, data in _blocks(files, file, start, min(start + _SEGMENT, file_size)):
        ends = find(data, _NEWLINE)
        if len(ends) > 1:
            shortest = min(shortest, int((ends[1:] - ends[:-1]).min()))
        marks = find(data, _QUOTE) if quoted else ()
        outside = (np.searchsorted(marks, ends) + quotes) % 2 == 0 if len(marks) else None
        ends += offset + 1
        if outside is None:
            (odd if quotes % 2 else even).append(ends)
            continue
        even.append(ends[outside])
        odd.append(ends[~outside])
        quotes += len(marks)
    return _Segment(even, odd, quotes, shortest)


class _Finder:
    """Where a byte is in a block: ``np.flatnonzero`` in a third of its time where it is rare.

    Eight bytes are looked at in one word, in memory that is used again.
    """

    def __init__(self) -> None:
        self._equal = np.empty(_BLOCK, np.bool_)
        self._filled = np.empty(_BLOCK // 8, np.bool_)

    def __call__(self, data: npt.NDArray[np.uint8], byte: int) -> npt.NDArray[np.int64]:
        equal = np.equal(data, byte, out=self._equal[: len(data)])
        if len(equal) % 8:
            return np.flatnonzero(equal)
        words = equal.view("<u8")
        places: npt.NDArray[np.int64]
        (places,) = np.not_equal(words, 0, out=self._filled[: len(words)]).nonzero()
        words = words.take(places)
        if (words & words - 1).any():
            return np.flatnonzero(equal)  # two in one word
        words *= _PLACE
        words >>= _TOP
        places <<= 3
        places += words.view(np.int64)
        return places


def _gaps(parts: list[npt.NDArray[np.int64]]) -> list[int]:
    return [int(after[0] - before[-1]) for before, after in itertools.pairwise(parts)]


def _blocks(files: IndexedFiles, file: int, start: int, stop: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    if isinstance(files.paths[file], RemoteFile):
        segment = np.frombuffer(files.read(file, start, stop - start), np.uint8)
        yield from ((start + first, segment[first : first + _BLOCK]) for first in range(0, len(segment), _BLOCK))
        return
    descriptor, block = files.descriptor(file), np.empty(_BLOCK, np.uint8)
    while start < stop:
        size = os.preadv(descriptor, [block[: min(_BLOCK, stop - start)].data], start)
        if not size:
            raise ValueError("a file became shorter while it was indexed; make the source anew")
        yield start, block[:size]
        start += size
