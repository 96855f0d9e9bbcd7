"""What can be asked of a place that keeps files: what a file is, some of its bytes, which files there are.

Promise: one store a place and process, made at the first use; obstore and fsspec are imported then. A store tries each
request once; who asks decides whether to try again, by the type of the error: ``PassingError`` may go away by itself.
Credentials are those of the environment (``AWS_...``, ``GOOGLE_...``, ``AZURE_...``, ``HF_TOKEN``) or of the address.
"""

from __future__ import annotations

import base64
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from hydrax_core.data.checks import require

__all__ = [
    "CHANGED",
    "SCHEMES",
    "Answer",
    "FileSystem",
    "Hub",
    "PassingError",
    "Seen",
    "Store",
    "split_address",
    "store_at",
]

T = TypeVar("T")

CHANGED = "changed"
"""What a version begins with that is a time."""

_LISTED = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "file", "memory")
_WEB = ("http", "https")
SCHEMES = (*_LISTED, *_WEB, "hf")

TIMEOUT_SECONDS = 30
"""For one request and its answer, of at most a few MiB."""

_WHICH_REQUEST = re.compile(r"^Generic \w+ error: Error performing \w+ \S+ in \S+ - ")
_SYSTEM_ERROR = re.compile(r'(?:Os|Custom) \{\s[^{}]*(?:message|error): "([^"]+)"')
"""What obstore's errors say first of the request, which ours name, and at the end of what the system said."""

_NO_RANGES = "Range request not supported"
_PERMANENT = ("PermissionDeniedError", "UnauthenticatedError", "InvalidPathError", "NotSupportedError")
_REFUSED, _SERVER, _AGAIN = 400, 500, (408, 425, 429)


class PassingError(Exception):
    """A request failed in a way that may go away."""


class Seen(NamedTuple):
    """A file as the store has it: where, how many bytes, and what names its content."""

    path: str
    size: int
    version: str


class Answer(NamedTuple):
    """Bytes of a file, and what it was when they were read."""

    data: Any
    size: int
    version: str


class Store(ABC):
    """A place that keeps files; any thread may use it."""

    again_seconds: ClassVar[float] = 2 * TIMEOUT_SECONDS
    """How long after it was first made a request that failed is made again."""

    @abstractmethod
    def status(self, path: str) -> Seen:
        """What a file is.

        Raises:
            FileNotFoundError: There is none.
            OSError: It cannot be read.
            PassingError: It may be readable later.
        """

    @abstractmethod
    def get(self, path: str, start: int, end: int) -> Answer:
        """Some bytes of a file; the errors are those of ``status``."""

    @abstractmethod
    def list(self, prefix: str) -> Iterable[Seen]:
        """The files below a folder.

        Raises:
            OSError: Nobody can tell here.
        """

    def pinned(self, path: str) -> str:
        """The path of what is there now, where the store keeps what was there before."""
        return path


def split_address(address: str) -> tuple[str, str]:
    """Where an address leads, as ``store_at`` takes it, and the path there.

    Raises:
        ValueError: It is no such address.
    """
    parts = urlsplit(address)
    if parts.scheme == "hf":
        return "hf://", unquote(address.partition("://")[2])
    if parts.query and parts.scheme not in _WEB:
        raise ValueError(f"{parts.scheme}:// addresses take no '?...'; give credentials in the environment")
    if parts.fragment:
        raise ValueError(f"{parts.scheme}:// addresses take no '#'; where it is part of a name, write %23")
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{query}", unquote(parts.path).lstrip("/")


@functools.lru_cache(64)
def store_at(place: str) -> Store:
    """What keeps the files of a place.

    Raises:
        ImportError: A package is missing; the text says which.
        ValueError: The settings of the environment are no access to it.
    """
    if place == "hf://":
        require("fsspec", "remote", "reading hf:// addresses")
        hub = require("huggingface_hub", "hf", "reading hf:// addresses")
        return Hub(hub.HfFileSystem(), hub.HfApi())
    module = require("obstore", "remote", "reading remote files")
    stores = require("obstore.store", "remote", "reading remote files")
    once: Any = {"max_retries": 0}
    client: Any = {"timeout": f"{TIMEOUT_SECONDS}s", "connect_timeout": "10s"}
    parts = urlsplit(place)
    host = parts.netloc.rpartition("@")[2]
    try:
        if parts.scheme in _WEB:
            if parts.username is not None:
                login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                client["default_headers"] = {"authorization": f"Basic {base64.b64encode(login).decode()}"}
            client["allow_http"] = parts.scheme == "http"
            address = urlunsplit((parts.scheme, host, "", parts.query, ""))
            store = stores.HTTPStore(address, client_options=client, retry_config=once)
        elif parts.scheme in {"file", "memory"}:
            store = stores.from_url(f"{parts.scheme}:///")
        else:
            store = stores.from_url(place, retry_config=once)
    except Exception as error:  # noqa: BLE001  settings are refused by many types; `from None`: they may be secret
        raise ValueError(f"no access to {parts.scheme}://{host}: {_text(error)}") from None
    return _ObjectStore(module, store, by_reading=parts.scheme in _WEB)


class _ObjectStore(Store):
    """obstore.

    Args:
        by_reading: Whether a file is looked at by reading a byte of it: web servers may refuse HEAD where an address
            is signed for GET, and have to serve ranges.
    """

    def __init__(self, module: Any, store: Any, *, by_reading: bool) -> None:
        self._module, self._store, self._by_reading = module, store, by_reading

    def status(self, path: str) -> Seen:
        if self._by_reading:
            try:
                answer = self.get(path, 0, 1)
                return Seen(path, answer.size, answer.version)
            except PassingError as error:
                if "416" not in str(error):
                    raise
        return _seen(self._asking(self._module.head, path))

    def get(self, path: str, start: int, end: int) -> Answer:
        def read() -> Answer:
            found = self._module.get(self._store, path, options={"range": (start, end)})
            meta = _seen(found.meta)
            return Answer(found.bytes(), meta.size, meta.version)

        return self._tried(read)

    def list(self, prefix: str) -> Iterator[Seen]:
        if self._by_reading:
            raise OSError("a web server does not tell which files it has; give the address of each file")
        for part in self._tried(lambda: list(self._module.list(self._store, prefix=prefix or None))):
            yield from map(_seen, part)

    def _asking(self, function: Any, path: str) -> Any:
        return self._tried(lambda: function(self._store, path))

    def _tried(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except FileNotFoundError:
            raise
        except self._module.exceptions.BaseError as error:
            text = _WHICH_REQUEST.sub("", _text(error))
            if (cause := _SYSTEM_ERROR.search(str(error))) is not None:
                text = f"{text} ({cause[1]})"
            if _NO_RANGES in text:
                raise OSError(
                    "the server sends whole files only, not ranges of them; copy the file to a disk"
                ) from None
            if type(error).__name__ in _PERMANENT:
                raise PermissionError(text) from None
            raise PassingError(text) from None


def _seen(meta: Any) -> Seen:
    when = meta["last_modified"]
    version = meta["e_tag"] or (f"{CHANGED} {when.isoformat()}" if when is not None and when.timestamp() > 0 else "")
    return Seen(meta["path"], meta["size"], version)


class FileSystem(Store):
    def __init__(self, system: Any) -> None:
        self._system = system

    def status(self, path: str) -> Seen:
        return self._seen_by(self._tried(lambda: self._system.info(path)))

    def get(self, path: str, start: int, end: int) -> Answer:
        seen = self.status(path)
        # Its own cache would read megabytes ahead of each range.
        data = self._tried(lambda: self._system.cat_file(path, start=start, end=end, cache_type="none"))
        return Answer(data, seen.size, seen.version)

    def list(self, prefix: str) -> Iterator[Seen]:
        found = self._tried(lambda: self._system.find(prefix.rstrip("/"), detail=True))
        return (self._seen_by(info) for info in found.values() if info["type"] == "file")

    def _seen_by(self, info: Any) -> Seen:
        if info["type"] != "file":
            raise FileNotFoundError(f"{info['name']} is a folder")
        return Seen(info["name"], info["size"], str(info.get("blob_id") or self._system.ukey(info["name"])))

    def _tried(self, call: Any) -> Any:
        try:
            return call()
        except (FileNotFoundError, PermissionError, ImportError):
            raise
        except Exception as error:  # noqa: BLE001  each file system has its own; `from None` as above
            status = getattr(getattr(error, "response", None), "status_code", _SERVER)
            if _REFUSED <= status < _SERVER and status not in _AGAIN:
                raise PermissionError(_text(error)) from None
            raise PassingError(_text(error)) from None


class Hub(FileSystem):
    """Repositories of Hugging Face: what is read is a commit, whose files never change."""

    again_seconds = 20
    """Its client itself makes most requests five times more, over 23 seconds, and has no setting for that."""

    def __init__(self, system: Any, api: Any) -> None:
        super().__init__(system)
        self._api = api

    def pinned(self, path: str) -> str:
        if path.startswith("buckets/"):
            raise ValueError("hf://buckets/ has no commits, so that a change could not be noticed; copy the files")
        found = self._tried(lambda: self._system.resolve_path(path))
        repository, kind = found.repo_id, found.repo_type
        commit = self._tried(lambda: self._api.repo_info(repository, repo_type=kind, revision=found.revision)).sha
        prefix = {"dataset": "datasets/", "space": "spaces/"}.get(kind, "")
        return f"{prefix}{repository}@{commit}/{found.path_in_repo}"


def _text(error: BaseException) -> str:
    """What an error says first: what follows repeats it for those who debug, addresses with credentials included."""
    return str(error).partition("\n")[0] or type(error).__name__
