"""``hydrax-cache.json``: what a cache was made for, and refusing it for anything else.

Promise: a manifest is either read exactly as it was written or known to be damaged (it carries a checksum and has one
spelling only); it is written whole or not at all. Two groups share a cache only where all that decides the content of
their entries is equal.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import platform
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import xxhash

from hydrax_core.cache.format.folder import MANIFEST, open_regular
from hydrax_core.data.code_digest import code_digests
from hydrax_core.data.fingerprint import WHAT_DATA_IS
from hydrax_core.errors import CacheMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hydrax_core.data.group import DataGroup

__all__ = [
    "CacheBy",
    "DamagedManifestError",
    "Manifest",
    "StoredArray",
    "read_manifest",
    "side_by_side",
    "write_manifest",
]

CacheBy = Literal["batch", "item"]

_FORMAT: Final = "hydrax-cache"
_VERSION: Final = 1
_LARGEST: Final = 2**26
_MOST_GROUPS: Final = 2**31
_MOST_ARRAYS: Final = 10_000
_MOST_DIMS: Final = 32
_MOST_BYTES: Final = 2**40
_PLAIN: Final = (str, int, float, bool, type(None))
_STORED: Final = re.compile(r"[<>|][biufc](?:1|2|4|8|16|32)")
_ITEM_SETTINGS: Final = ("items", "data", "seed", "version")
_VALIDATION_SETTINGS: Final = ("items", "data", "batch_size", "remainder", "version")


class DamagedManifestError(ValueError):
    """The file is not as it was written."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of an entry.

    Attributes:
        name: Its name.
        shape: Shape of one entry: with the batch dimension, or of one item with ``cache_by="item"``.
        dtype: Name of the NumPy dtype.
        jax_dtype: Name of the jax dtype.
        stored: Dtype in the file as NumPy writes it, ``"<f4"``; one of equal size where NumPy's format has none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    jax_dtype: str
    stored: str

    @property
    def nbytes(self) -> int:
        """Bytes of an entry."""
        size = np.dtype(self.stored).itemsize
        for dim in self.shape:
            size *= dim
        return size


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a cache holds.

    Attributes:
        kind: ``"training"`` or ``"validation"``.
        group_index: Place among the training groups, which decides the items' seeds; ``None`` for validation.
        cache_by: Whether an entry is a batch or an item.
        entries: Entries of one content epoch.
        settings: What decides the entries' content: ``DataGroup.fingerprint()``, and the version that the user gives.
        arrays: The arrays, in the order of their names.
        made: Who made it and when, for people.
        code: Digests of the loader's code, see ``hydrax_core.data.code_digest``; no part of the identity.
    """

    kind: str
    group_index: int | None
    cache_by: CacheBy
    entries: int
    settings: Mapping[str, Any]
    arrays: tuple[StoredArray, ...]
    made: Mapping[str, str]
    code: Mapping[str, str]

    @classmethod
    def of(
        cls,
        group: DataGroup[Any],
        *,
        kind: str,
        group_index: int,
        cache_by: CacheBy,
        loader_func: Callable[..., Any] | None = None,
    ) -> Manifest:
        """The manifest that a group asks for; ``loader_func`` loads it where it brings none."""
        settings = {**group.fingerprint(), "version": group.cache_version}
        settings.pop("augment_func", None)  # it runs behind the cache
        entries = group.batch_count
        if cache_by == "item":
            settings = {key: settings[key] for key in _ITEM_SETTINGS}
            entries = len(group)
        if kind == "validation":
            settings = {key: value for key, value in settings.items() if key in _VALIDATION_SETTINGS}
        arrays = []
        for name, layout in sorted(group.cache_layouts.items()):
            shape = layout.shape[1:] if cache_by == "item" else layout.shape
            stored = _stored_dtype(layout.numpy_dtype)
            arrays.append(StoredArray(name, shape, layout.numpy_dtype.name, layout.jax_dtype.name, stored))
        index = group_index if kind == "training" else None
        loader = group.loader_func or loader_func
        code = {} if loader is None else code_digests(loader, group.items)
        return cls(kind, index, cache_by, entries, settings, tuple(arrays), _made(), code)

    def identity(self) -> dict[str, Any]:
        """All that has to be equal, as JSON values."""
        return {
            "kind": self.kind,
            "group_index": self.group_index,
            "cache_by": self.cache_by,
            "entries": self.entries,
            "settings": dict(self.settings),
            "arrays": {
                array.name: {
                    "shape": list(array.shape),
                    "dtype": array.dtype,
                    "jax_dtype": array.jax_dtype,
                    "stored": array.stored,
                }
                for array in self.arrays
            },
        }

    def identity_digest(self) -> bytes:
        """16 bytes that go into every entry's checksum."""
        return xxhash.xxh3_128_digest(_json({"format": _FORMAT, "version": _VERSION, **self.identity()}))

    def differences(self, wanted: Manifest) -> list[tuple[str, str, str]]:
        """What another manifest has otherwise: the field, what is here and what is there, ``"-"`` for nothing."""
        here, there = dict(_flat("", self.identity())), dict(_flat("", wanted.identity()))
        keys = [key for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
        return [(key, here.get(key, "-"), there.get(key, "-")) for key in keys]

    def require_equal(self, wanted: Manifest, folder: Path) -> None:
        """Refuse a group that asks for something else than this."""
        differences = self.differences(wanted)
        if differences:
            raise CacheMismatchError(
                f"{folder}: this cache holds something else than the group asks for\n\n"
                f"{side_by_side(differences, 'group')}\n\n"
                "Every group needs a cache_location of its own. If the cache is of no more use, remove it: "
                f"hydrax cache clear {folder}"
            )


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a cache, ``None`` where there is none.

    Raises:
        DamagedManifestError: It is not as it was written.
        CacheMismatchError: A later version of the format.
        OSError: It cannot be read.
    """
    try:
        descriptor = open_regular(folder / MANIFEST, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(_LARGEST + 1)
    try:
        content = json.loads(text) if len(text) <= _LARGEST else None
    except (ValueError, RecursionError) as error:
        raise DamagedManifestError("it is no JSON") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DamagedManifestError("it does not say that it is the manifest of a hydrax cache")
    checksum = content.pop("checksum", None)
    try:
        sound = checksum == _checksum(content) and text == _pretty({**content, "checksum": checksum})
    except RecursionError as error:
        raise DamagedManifestError("its values are nested too deeply") from error
    if not sound:
        raise DamagedManifestError("its checksum does not fit")
    version = content.get("version")
    if type(version) is not int or version != _VERSION:
        raise CacheMismatchError(
            f"{folder}: this cache has the format version {version!r}, this hydrax reads {_VERSION}; "
            "upgrade hydrax, or use another folder"
        )
    return _parse(content)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a manifest in place, whole or not at all."""
    beside = {"made": dict(manifest.made), "code": dict(manifest.code)}
    content = {"format": _FORMAT, "version": _VERSION, **manifest.identity(), **beside}
    temporary = folder / f"{MANIFEST}.{secrets.token_hex(4)}.tmp"
    descriptor = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_pretty({**content, "checksum": _checksum(content)}))
            file.flush()
            os.fsync(descriptor)
        temporary.replace(folder / MANIFEST)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _parse(content: dict[str, Any]) -> Manifest:
    try:
        arrays = tuple(_parse_array(name, fields) for name, fields in sorted(content["arrays"].items()))
        settings, made, code, entries = content["settings"], content["made"], content["code"], content["entries"]
        kind, group_index, cache_by = content["kind"], content["group_index"], content["cache_by"]
        good = (
            kind in ("training", "validation")
            and (group_index is None or (type(group_index) is int and 0 <= group_index < _MOST_GROUPS))
            and cache_by in ("batch", "item")
            and type(entries) is int
            and entries > 0
            and type(settings) is dict
            and all(type(value) in _PLAIN for value in settings.values())
            and type(made) is dict
            and type(code) is dict
            and all(type(text) is str for text in (*made.values(), *code.values()))
            and 0 < len(arrays) <= _MOST_ARRAYS
            and (cache_by == "item" or (arrays[0].shape and len({array.shape[:1] for array in arrays}) == 1))
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedManifestError(f"a field is missing or wrong: {error!r}") from error
    sizes = [array.nbytes for array in arrays] if good else [0]
    if not good or sum(sizes) > _MOST_BYTES or entries * max(sizes) >= 2**62:
        raise DamagedManifestError("a field is wrong")
    return Manifest(kind, group_index, cache_by, entries, settings, arrays, made, code)


def _parse_array(name: str, fields: dict[str, Any]) -> StoredArray:
    shape, texts = fields["shape"], (fields["dtype"], fields["jax_dtype"], fields["stored"])
    if (
        len(shape) > _MOST_DIMS
        or not all(type(dim) is int and dim > 0 for dim in shape)
        or not all(type(text) is str for text in texts)
    ):
        raise ValueError(f"array {name!r}")
    if not _STORED.fullmatch(texts[2]) or np.dtype(texts[2]).itemsize < 1:
        raise ValueError(f"array {name!r}")
    return StoredArray(name, tuple(shape), *texts)


def _stored_dtype(dtype: np.dtype[Any]) -> str:
    extended = dtype.type.__module__.partition(".")[0] == "ml_dtypes"
    return np.dtype(f"u{dtype.itemsize}").str if extended else dtype.str


def _made() -> dict[str, str]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    try:
        version = importlib.metadata.version("hydrax-toolkit")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"at": now, "by": f"{user}@{platform.node()}", "hydrax": version}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _pretty(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def _checksum(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(_json(content))


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [row for key, part in value.items() for row in _flat(f"{prefix}.{key}" if prefix else str(key), part)]
    return [(_printable(prefix), _printable(value if isinstance(value, str) else json.dumps(value)))]


def _printable(text: str) -> str:
    """A forged manifest may hold control codes of terminals."""
    return text if text.isprintable() else ascii(text)


def side_by_side(differences: Sequence[tuple[str, str, str]], other: str) -> str:
    """What ``Manifest.differences`` found, as lines of three columns; ``other`` is what differs from the cache."""
    rows = [("", "cache", other), *differences]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    table = "\n".join(f"  {line.rstrip()}" for line in lines)
    return (
        f"{table}\n\nsettings.data is {WHAT_DATA_IS}."
        if any(field == "settings.data" for field, _, _ in differences)
        else table
    )
