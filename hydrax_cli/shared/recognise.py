"""What a file or folder is, and the groups of the source that reads it.

Promise: a file is known by its content, and by its suffix where its content says nothing; a folder by the files in it.
What no source reads is refused with what was found and what is possible; so is a folder of which several sources could
read a part, and an option that the source has no use for. Nothing but regular files is opened.
"""

from __future__ import annotations

import functools
import json
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from hydrax_core import DataGroup

__all__ = ["Recognised", "SourceOptions", "recognise"]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a built-in source takes from the command line; ``None`` leaves it its default."""

    batch_size: int | None = None
    seed: int | None = None
    size: tuple[int, int] | None = None
    columns: tuple[str, ...] | None = None
    split: float | None = None
    length: int | None = None

    def of_data(self) -> list[str]:
        """Names of the options given that say how data is read, beside batch size and seed."""
        return [name for name in ("size", "columns", "split", "length") if getattr(self, name) is not None]


class Groups(NamedTuple):
    """Groups that carry their loaders."""

    training: DataGroup[Any]
    validation: DataGroup[Any] | None = None
    notes: tuple[tuple[str, str], ...] = ()
    """What people have to know of the data: a word and a text."""


class Recognised(NamedTuple):
    """A source that was found.

    Attributes:
        kind: What it is, for people.
        takes: The options that it has a use for, beside batch size and seed.
        load: Reads it.
        costly: Whether an item is worth a worker a core.
    """

    kind: str
    takes: frozenset[str]
    load: Callable[[SourceOptions], Groups]
    costly: bool = False

    def open(self, options: SourceOptions) -> Groups:
        """The groups.

        Raises:
            ImportError: A package is missing; the text says which.
            ValueError: An option is of no use here, or the data is damaged.
        """
        for name in options.of_data():
            if name not in self.takes:
                raise ValueError(f"--{name}: TARGET is {self.kind}, which {_NO_USE[name]}")
        return self.load(options)


class _Format(NamedTuple):
    """A format: what it is called, the function of ``hydrax_core.sources`` that reads it, and how."""

    kind: str
    function: str
    takes: tuple[str, ...] = ("columns", "split")
    columns: str = "columns"


_FORMATS = {
    "npy": _Format("a NumPy file", "numpy_rows", columns="arrays"),
    "arrow": _Format("Arrow IPC", "arrow"),
    "parquet": _Format("Parquet", "arrow"),
    "sqlite": _Format("an SQLite database", "sqlite"),
    "hdf5": _Format("an HDF5 file", "hdf5", columns="datasets"),
    "zarr": _Format("Zarr", "zarr", columns="arrays"),
    "lmdb": _Format("an LMDB database", "lmdb"),
    "array_record": _Format("ArrayRecord", "array_record"),
    "tar": _Format("tar shards", "tar", ("columns", "split", "size", "length")),
    "jsonl": _Format("JSON lines", "jsonl", ("columns", "split", "length")),
    "csv": _Format("CSV", "csv", ("columns", "split", "length")),
    "text": _Format("lines of text", "text_lines", ("split", "length")),
    "hugging_face": _Format("a data set of Hugging Face", "hugging_face", ("columns", "split", "size")),
    "images": _Format("a folder of images", "image_folder", ("size", "split")),
    "audio": _Format("a folder of sound", "audio_folder", ("length", "split")),
    "tokens": _Format("a stream of tokens", "tokens", ("length",)),
}
_SUFFIXES = {
    **dict.fromkeys((".npy", ".npz"), "npy"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), "sqlite"),
    **dict.fromkeys((".h5", ".hdf5"), "hdf5"),
    **dict.fromkeys((".array_record", ".arrayrecord"), "array_record"),
    ".tar": "tar",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    ".txt": "text",
    ".mdb": "lmdb",
    ".bin": "tokens",
    **dict.fromkeys((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"), "images"),
    **dict.fromkeys((".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"), "audio"),
}
_PLURALS = {"images": "images", "audio": "sound files", "npy": "NumPy files", "text": "text files"}
_BESIDE = ("jsonl", "csv", "text")
"""Formats of which files lie beside data of others: notes, lists, labels."""

_MAGIC = {
    b"\x93NUMPY": "npy",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"PAR1": "parquet",
    b"SQLite format 3\0": "sqlite",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"\x89PNG": "images",
    b"\xff\xd8\xff": "images",
    b"GIF8": "images",
    b"fLaC": "audio",
    b"OggS": "audio",
}
_FOREIGN = {
    b"\x1f\x8b": "compressed by gzip; unpack it (gunzip)",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it (unzstd)",
    b"BZh": "compressed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "compressed by xz; unpack it (unxz)",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"\x80\x04\x95": "a pickle, which runs code when it is read",
    b"\x80\x05\x95": "a pickle, which runs code when it is read",
}
_NO_USE = {
    "size": "has no images that are brought to a size",
    "columns": "has no columns to choose",
    "split": "is not split here",
    "length": "has nothing of variable length",
}
_POSSIBLE = (
    "a folder of images or sound; .npy, .npz, Arrow, Parquet, HDF5, Zarr, SQLite, LMDB, ArrayRecord, a data set of "
    "Hugging Face; tar, JSON lines, CSV, text; tokens (.bin, or .npy with --length)"
)
_HEAD = 4096
_BOMB, _LARGE = 100, 256 << 20
"""An archive that grows by more than this, to more than these bytes, is made to fill the memory."""

_SHOWN = 8
"""Most classes, and columns left out, that are named."""

_TAR_MAGIC = slice(257, 262)
_BIN_DTYPE = "uint16"
_TABLES = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' limit 9"
_RATE = 16_000
"""Samples a second that sound is brought to; --length counts them."""


def is_data_name(target: str) -> bool:
    """Whether a name is that of data, there or not."""
    return os.path.splitext(target)[1].lower() in _SUFFIXES  # noqa: PTH122  a target may be no path


def recognise(target: str, options: SourceOptions) -> Recognised:
    """The source of a path.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: No source reads it, or it is not clear which; the text says what was found and what is possible.
    """
    status = os.stat(target)  # noqa: PTH116  same
    if stat.S_ISDIR(status.st_mode):
        name, kind = _of_folder(Path(target))
    elif stat.S_ISREG(status.st_mode):
        name = _of_file(Path(target))
        if name in {"images", "audio"}:
            raise ValueError(f"{target} is a single file; give {_FORMATS[name].kind}")
        if name == "npy" and options.length is not None:
            name = "tokens"
        kind = _FORMATS[name].kind
        if name == "tokens" and not target.endswith(".npy"):
            kind = f"{kind}, taken for {_BIN_DTYPE}"
    else:
        raise ValueError(f"{target} is a FIFO, a socket or a device; expected a regular file or a folder")
    chosen = _FORMATS[name]
    costly = name in {"images", "audio", "tar", "hugging_face"}
    return Recognised(kind, frozenset(chosen.takes), functools.partial(_load, name, target), costly)


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise ValueError(f"{path} is {what}; possible are {_POSSIBLE}")
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[_TAR_MAGIC] == b"ustar":
        return "tar"
    if head.startswith(b"PK\x03\x04"):
        return _of_archive(path)
    if _is_json_line(head):
        return "jsonl"
    by_suffix = _SUFFIXES.get(path.suffix.lower())
    if by_suffix is not None:
        return by_suffix
    told = "an empty file" if not head else "of no known format"
    raise ValueError(f"{path} is {told}, by its content and its suffix {path.suffix!r}; possible are {_POSSIBLE}")


def _of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is a damaged archive: {error}") from error
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_LARGE, _BOMB * path.stat().st_size):
        raise ValueError(f"{path} unpacks to {unpacked:,} bytes, over {_BOMB} times its size, which no real data does")
    if all(member.filename.endswith(".npy") for member in members):
        return "npy"
    raise ValueError(f"{path} is a zip archive; unpack it and give the folder")


def _is_json_line(head: bytes) -> bool:
    line = head.lstrip().partition(b"\n")[0]
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return line.startswith(b'{"') and len(line) > _HEAD // 2


def _of_folder(path: Path) -> tuple[str, str]:
    """Format and what it is, for people."""
    for marker, name in (
        ("dataset_dict.json", "hugging_face"),
        ("dataset_info.json", "hugging_face"),
        ("zarr.json", "zarr"),
        (".zarray", "zarr"),
        (".zgroup", "zarr"),
        ("data.mdb", "lmdb"),
    ):
        if (path / marker).is_file():
            return name, _FORMATS[name].kind
    found = _count(path)
    main = (
        {name: count for name, count in found.items() if name not in _BESIDE}
        or {name: count for name, count in found.items() if name != "text"}
        or dict(found)
    )
    listed = ", ".join(f"{count} {_PLURALS.get(name, _FORMATS[name].kind)}" for name, count in found.most_common())
    if not main:
        raise ValueError(f"{path} holds no image, and nothing else that a source reads; possible are {_POSSIBLE}")
    if len(main) > 1:
        raise ValueError(f"{path} mixes formats ({listed}); give the files of one, as a folder of their own")
    (name,) = main
    if name in {"npy", "hdf5", "sqlite", "lmdb", "tokens"}:
        raise ValueError(f"{path} holds {found[name]} files, each {_FORMATS[name].kind}; give one of them")
    rest = sum(found.values()) - main[name]
    kind = _FORMATS[name].kind if name in {"images", "audio"} else f"{_FORMATS[name].kind}, {main[name]} files"
    return name, f"{kind}; {rest} other files are left out" if rest else kind


def _count(path: Path) -> Counter[str]:
    """How many files of each format are in a folder, and below it."""
    found: Counter[str] = Counter()
    for _, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        suffixes = Counter(os.path.splitext(name)[1].lower() for name in names if not name.startswith("."))  # noqa: PTH122  a million
        for suffix, count in suffixes.items():
            if suffix in _SUFFIXES:
                found[_SUFFIXES[suffix]] += count
    return found


def _load(name: str, target: str, options: SourceOptions) -> Groups:
    from hydrax_core import sources  # noqa: PLC0415  it costs what only a built-in source needs

    chosen: dict[str, Any] = {
        field: value for field in ("batch_size", "seed") if (value := getattr(options, field)) is not None
    }
    form = _FORMATS[name]
    if options.columns is not None:
        chosen[form.columns] = options.columns
    if options.size is not None:
        chosen["size"] = options.size
    function = getattr(sources, form.function)
    if name in {"images", "audio"}:
        return _load_folder(name, function, target, options, chosen)
    if name == "tokens":
        if options.length is None:
            raise ValueError(f"--length: {target} is a stream of tokens; give the length of a window")
        if not target.endswith(".npy"):
            chosen["dtype"] = _BIN_DTYPE
        return Groups(function(target, options.length, **chosen).training)
    if name == "hugging_face":
        _one_split(target)
    if options.length is not None:
        chosen["length"] = options.length
    arguments = (target, _table(target)) if name == "sqlite" else (target,)
    rows = function(*arguments, **chosen)
    if options.split is not None:
        training, validation = rows.split(options.split, options.seed or 0)
        return Groups(training, validation, _notes(rows.classes, rows.left_out))
    return Groups(rows.training, None, _notes(rows.classes, rows.left_out))


def _load_folder(
    name: str, function: Callable[..., Any], target: str, options: SourceOptions, chosen: Mapping[str, Any]
) -> Groups:
    length = {} if name == "images" else {"seconds": (options.length or _RATE) / _RATE, "rate": _RATE}
    found = function(target, split=options.split, **length, **chosen)
    return Groups(found.training, found.validation, _notes({"label": found.classes}, {}))


def _notes(classes: Mapping[str, tuple[str, ...]], left_out: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    told = [
        ("classes", f"{len(names)} of {name}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}")
        for name, names in classes.items()
        if names
    ]
    reasons = [("left out", f"{name}: {why}") for name, why in list(left_out.items())[:_SHOWN]]
    more = [("left out", f"{len(left_out) - _SHOWN} more columns")] if len(left_out) > _SHOWN else []
    return (*told, *reasons, *more)


def _one_split(target: str) -> None:
    """Refuse the folder of a DatasetDict of several splits."""
    try:
        splits = json.loads((Path(target) / "dataset_dict.json").read_text("utf-8"))["splits"]
    except FileNotFoundError:
        return
    if len(splits) != 1:
        raise ValueError(
            f"{target} holds the splits {', '.join(splits)}; give the folder of one, as {target}/{splits[0]}"
        )


def _table(path: str) -> str:
    """The only table of a database."""
    import sqlite3  # noqa: PLC0415  slow to import, and most targets need none of it

    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True)
    try:
        names = [str(row[0]) for row in connection.execute(_TABLES)]
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path}: cannot be read as an SQLite database: {error}") from error
    finally:
        connection.close()
    if len(names) != 1:
        told = f"has the tables {', '.join(names)}" if names else "has no table"
        raise ValueError(f"{path} {told}; with one table it could be run. Use hydrax_core.sources.sqlite(path, query)")
    return names[0]
