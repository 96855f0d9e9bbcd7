"""Files that lie elsewhere: found, known by what they were then, and read by ranges.

Promise: a file is its address, size and ETag (where there is none, the time of its change), as they were when the
source was made. Every answer is compared with that: bytes of another content are refused by name, and never come into
an array, a cache or a state. The requests of one call go out together, ``REQUESTS`` at a time in each process; ranges
that are close are one request, long ones are several. A request that fails in a way that may pass is made up to
``ATTEMPTS`` times, waiting longer each time, within the ``again_seconds`` of its store; what is refused, or not there,
is an error at once. Refused, too: what has neither an ETag nor a time of change.

Credentials in an address (``https://user:password@...``, the ``?signature`` of a signed one) go to the store, and to
the workers; a ``RemoteFile`` *is* its address without them, so no text, fingerprint, index or cache has any.
"""

from __future__ import annotations

import fnmatch
import functools
import logging
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import xxhash

from hydrax_core.sources.stores import CHANGED, SCHEMES, PassingError, Seen, Store, split_address, store_at

__all__ = [
    "REQUESTS",
    "Peek",
    "RemoteFile",
    "Span",
    "find_remote",
    "is_remote",
    "list_remote",
    "peek",
    "read_ranges",
    "remote_file",
    "remote_fingerprint",
    "shown_address",
]

T = TypeVar("T")

REQUESTS = 32
"""Requests of a process that are on their way at a time."""

ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.2
_NEAR = 16 << 10
"""Bytes between two ranges up to which they are one request: less than a store sends in the time of another one."""

_PIECE = 4 << 20
"""Bytes of one request, at most."""

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://")
_QUERY, _LOGIN = re.compile(r"(://[^\s?'\"]*)\?[^\s'\")]*"), re.compile(r"://[^\s/'\"@]*@")
_SHORTEST_SECRET = 4
_chance = random.Random()  # noqa: S311  of its own, as that of the process is the user's
_warned: list[str] = []
_log = logging.getLogger("hydrax")


class RemoteFile(str):  # noqa: SLOT000  a str with attributes
    """A file; as a string its address without credentials.

    Attributes:
        place: Where it is kept, with the credentials of the address.
        path: Its path there.
        version: What names its content.
    """

    place: str
    path: str
    size: int
    version: str

    def __new__(cls, shown: str, place: str, path: str, size: int, version: str) -> Self:
        self = super().__new__(cls, shown)
        self.place, self.path, self.size, self.version = place, path, size, version
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.place, self.path, self.size, self.version


class Span(NamedTuple):
    """Some bytes of a file."""

    file: RemoteFile
    start: int
    size: int


def is_remote(path: Any) -> bool:
    """Whether something is the address of a file elsewhere.

    Raises:
        ValueError: It is an address of a kind that cannot be read.
    """
    found = _SCHEME.match(path) if isinstance(path, str) else None
    if found is None:
        return False
    if found[1].lower() not in SCHEMES:
        raise ValueError(f"{shown_address(path)}: {found[1]}:// cannot be read; known are {', '.join(SCHEMES)}")
    return True


def shown_address(address: str) -> str:
    """An address without credentials: without user, password, and all behind a ``?``."""
    bare = address.partition("?")[0].partition("#")[0]
    return bare if bare.startswith("abfs") and ":" not in bare.partition("@")[0][8:] else _LOGIN.sub("://", bare)


def find_remote(argument: str, address: str, suffixes: Sequence[str]) -> list[RemoteFile]:
    """The files of an address: of one file, of a folder (those with such a suffix), or of a pattern with ``*``; sorted.

    Raises:
        FileNotFoundError: There is none.
        ImportError: A package is missing; the text says which.
        OSError: It cannot be read.
        ValueError: The address is wrong, or the store does not say what names the content.
    """
    shown = shown_address(address)
    pattern = "*" in shown
    if not pattern and (file := remote_file(address)) is not None:
        return [file]
    if pattern:
        folder = address[: address.index("*")].rpartition("/")[0]
        found = [file for file in list_remote(folder) if fnmatch.fnmatchcase(file, shown)]
    else:
        found = [file for file in list_remote(address) if file.lower().endswith(tuple(suffixes))]
    if not found:
        looked = "" if pattern else f"; looked for {', '.join(suffixes)}"
        raise FileNotFoundError(f"{argument}: {shown} is no file, nor a folder or pattern with files{looked}")
    return found


def remote_file(address: str) -> RemoteFile | None:
    """The file of an address; ``None`` where there may be a folder.

    Raises:
        FileNotFoundError: There is neither.
        OSError: It cannot be read.
    """
    shown = shown_address(address)
    place, path = split_address(address)
    if shown.endswith("/") or not path:
        return None
    try:
        seen = _asking(place, shown, lambda store: store.status(store.pinned(path)))
    except FileNotFoundError:
        if urlsplit(address).scheme in {"http", "https"}:
            raise FileNotFoundError(f"there is no file {shown}") from None
        return None
    return _known(shown, place, seen)


def list_remote(folder: str) -> list[RemoteFile]:
    """All files below a folder but hidden ones, sorted; none where there is no such folder.

    Raises:
        OSError: Nobody can tell; a web server does not.
    """
    shown = shown_address(folder).rstrip("/") + "/"
    place, path = split_address(folder)

    def look(store: Store) -> list[RemoteFile]:
        below = store.pinned(path.rstrip("/")).rstrip("/")
        below = f"{below}/" if below else ""
        files = []
        for seen in store.list(below):
            name = seen.path[len(below) :]
            if name and not any(part.startswith(".") for part in name.split("/")):
                files.append(_known(shown + name, place, seen))
        return files

    return sorted(_asking(place, shown, look))


class Peek(NamedTuple):
    """What is at an address.

    Attributes:
        shown: The address without credentials.
        head: The first bytes of a file; ``None`` of a folder.
        names: The paths in a folder.
    """

    shown: str
    head: bytes | None
    names: tuple[str, ...] = ()


def peek(address: str, size: int = 4096) -> Peek:
    """Look at an address: the first bytes of a file, or which files a folder has.

    Raises:
        FileNotFoundError: There is neither.
        OSError: It cannot be read.
        ValueError: The address is wrong, or the store does not say what names the content.
    """
    shown = shown_address(address)
    file = remote_file(address)
    if file is not None:
        (head,) = read_ranges([Span(file, 0, min(size, file.size))])
        return Peek(shown, bytes(head))
    names = tuple(str(file)[len(shown.rstrip("/")) + 1 :] for file in list_remote(address))
    if not names:
        raise FileNotFoundError(f"there is no file, nor a folder with files, at {shown}")
    return Peek(shown, None, names)


def read_ranges(spans: Sequence[Span]) -> list[memoryview]:
    """Bytes of files, in the order asked for.

    Raises:
        OSError: They cannot be read.
        ValueError: A file changed, or a span is not within it.
    """
    for file, start, size in spans:
        if start < 0 or size < 0 or start + size > file.size:
            raise ValueError(f"{file}: it ends at byte {file.size}, before byte {start + size}; it was cut")
    runs = _runs(spans)
    buffers = [memoryview(bytearray(run.end - run.start)) for run in runs]
    pieces = deque(
        (run.file, run.start + first, buffer[first : first + _PIECE])
        for run, buffer in zip(runs, buffers, strict=True)
        for first in range(0, len(buffer), _PIECE)
    )
    if len(pieces) == 1:
        _fetch_all(pieces)
    else:
        try:
            for _ in _pool().map(_fetch_all, [pieces] * min(REQUESTS, len(pieces))):
                pass
        finally:
            pieces.clear()  # after Ctrl-C, nobody wants the rest
    found: list[memoryview] = [memoryview(b"")] * len(spans)
    for run, buffer in zip(runs, buffers, strict=True):
        for place in run.spans:
            first = spans[place].start - run.start
            found[place] = buffer[first : first + spans[place].size]
    return found


def remote_fingerprint(files: Iterable[RemoteFile]) -> str:
    """The identity of files: of each, in this order, its address, size and what names its content."""
    digest = xxhash.xxh3_128(b"remote")
    for file in files:
        digest.update(f"{file}\0{file.size} {file.version}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class _Run(NamedTuple):
    """Bytes of a file that are read together, and which spans lie in them."""

    file: RemoteFile
    start: int
    end: int
    spans: list[int]


def _runs(spans: Sequence[Span]) -> list[_Run]:
    numbers: dict[tuple[str, str], int] = {}
    files = [numbers.setdefault((file.place, file.path), len(numbers)) for file, _, _ in spans]
    runs: list[_Run] = []
    before = -1
    for place in np.lexsort(([span.start for span in spans], files)).tolist():
        file, start, size = spans[place]
        if files[place] == before and start <= runs[-1].end + _NEAR:
            runs[-1].spans.append(place)
            runs[-1] = runs[-1]._replace(end=max(runs[-1].end, start + size))
        else:
            runs.append(_Run(file, start, start + size, [place]))
        before = files[place]
    return runs


def _fetch_all(pieces: deque[tuple[RemoteFile, int, memoryview]]) -> None:
    """Fetch pieces until none is left, as several threads do at once: handing out each costs as much as fetching it."""
    try:
        while pieces:
            try:
                piece = pieces.popleft()
            except IndexError:
                return
            _fetch(*piece)
    except BaseException:
        pieces.clear()
        raise


def _fetch(file: RemoteFile, start: int, target: memoryview) -> None:
    def read(store: Store) -> None:
        answer = store.get(file.path, start, start + len(target))
        _same(file, answer.size, answer.version)
        if len(answer.data) != len(target):
            raise PassingError(f"{len(answer.data)} bytes came of {len(target)}")
        target[:] = answer.data

    try:
        _asking(file.place, file, read)
    except FileNotFoundError:
        raise ValueError(f"{file} is no longer there; make the source anew") from None
    except OSError:
        _asking(
            file.place, file, lambda store: _same(file, *store.status(file.path)[1:])
        )  # a shorter one has no such range
        raise


def _same(file: RemoteFile, size: int, version: str) -> None:
    if (size, version) != (file.size, file.version):
        raise ValueError(
            f"{file} changed: it had {file.size} bytes ({file.version}) when the source was made, and has {size} bytes "
            f"({version or 'unnamed'}); make the source anew"
        )


def _known(shown: str, place: str, seen: Seen) -> RemoteFile:
    if not seen.version or ("?" in place and seen.version.startswith(CHANGED)):
        raise ValueError(
            f"{shown}: the server gives no ETag, so that nothing tells another content from this one; copy the file"
        )
    return RemoteFile(shown, place, seen.path, seen.size, seen.version)


def _asking(place: str, shown: str, ask: Callable[[Store], T]) -> T:
    """What a store answers, asked again where that may help; errors name what was asked for and no credentials.

    Raises:
        FileNotFoundError: It is not there.
        OSError: The store refused, or failed ``ATTEMPTS`` times, or once that took long.
    """
    store, first = store_at(place), time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask(store)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no {shown}") from None
        except PassingError as error:
            reason = _clean(str(error), place)
            if attempt == ATTEMPTS or time.monotonic() - first >= store.again_seconds:
                times = "failed" if attempt == 1 else f"failed {attempt} times, at last"
                raise OSError(f"{shown}: {times}: {reason}") from None
            _warn_once(shown, reason)
            time.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * _chance.uniform(0.5, 1))
        except OSError as error:
            raise type(error)(f"{shown}: {_clean(str(error), place)}") from None
    raise AssertionError


def _warn_once(shown: str, reason: str) -> None:
    """Tell of the first failure in a process: later ones are as many as the network is bad."""
    if not _warned:
        _warned.append(shown)
        _log.warning("%s: a request failed and is made again, as others will be (%s)", shown, reason)


def _clean(text: str, place: str) -> str:
    """A text of the store without what is secret in an address."""
    parts = urlsplit(place)
    secrets = [parts.username, parts.password, parts.query, *(value for _, value in parse_qsl(parts.query))]
    text = _QUERY.sub(r"\1", _LOGIN.sub("://", text))
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "...").replace(unquote(secret), "...")
    return text


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(REQUESTS, "hydrax-remote")


os.register_at_fork(after_in_child=_pool.cache_clear)
