"""What a file or folder is, and the groups of the source that reads it.

Promise: a file is known by its content, and by its suffix where its content says nothing; a folder by the files in it.
What no source reads is refused with what was found and what is possible; so is a folder of which several sources could
read a part, and an option that the source has no use for. Nothing but regular files is opened. The address of data
elsewhere is recognised in the same way.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hydrax_cli.shared.convert import convert
from hydrax_core import sources

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
    others: tuple[str, ...] = ()
    """Further files, read with the first one."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    """Arguments of the source's function, as text."""

    def of_data(self) -> list[str]:
        """Names of the options given that say how data is read, beside batch size and seed."""
        return [name for name in ("size", "columns", "split", "length") if getattr(self, name) is not None]


class Groups(NamedTuple):
    """Groups that carry their loaders."""

    training: DataGroup[Any]
    validation: DataGroup[Any] | None = None
    classes: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    left_out: Mapping[str, str] = MappingProxyType({})

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """What people have to know of the data: a word and a text."""
        classes = [
            ("classes", f"{len(names)} of {name}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}")
            for name, names in self.classes.items()
        ]
        reasons = [("left out", f"{name}: {why}") for name, why in list(self.left_out.items())[:_SHOWN]]
        more = len(self.left_out) - _SHOWN
        return (*classes, *reasons, *([("left out", f"{more} more columns")] if more > 0 else []))

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


class _Takes(NamedTuple):
    """The options that a source takes, what its columns are called, and whether it reads several files."""

    options: tuple[str, ...] = ("columns", "split")
    columns: str = "columns"
    several: bool = False


_SOURCES = {
    "numpy_rows": _Takes(columns="arrays"),
    "arrow": _Takes(several=True),
    "sqlite": _Takes(),
    "hdf5": _Takes(columns="datasets"),
    "zarr": _Takes(columns="arrays"),
    "lmdb": _Takes(),
    "array_record": _Takes(several=True),
    "tar": _Takes(("columns", "split", "size", "length"), several=True),
    "jsonl": _Takes(("columns", "split", "length"), several=True),
    "csv": _Takes(("columns", "split", "length"), several=True),
    "text_lines": _Takes(("split", "length"), several=True),
    "hugging_face": _Takes(("columns", "split", "size")),
    "image_folder": _Takes(("size", "split")),
    "audio_folder": _Takes(("length", "split")),
    "tokens": _Takes(("length",)),
}
_FOLDERS = {"image_folder": "a folder of images", "audio_folder": "a folder of sound"}
_COSTLY = {*_FOLDERS, "tar", "hugging_face"}
_PLURALS = {"an image": "images", "sound": "sound files", "a NumPy file": "NumPy files", "lines of text": "text files"}
_BESIDE = ("jsonl", "csv", "text_lines")
"""Sources of which files lie beside data of others: notes, lists, labels."""

_REMOTE = ("numpy_rows", "arrow", "tar", "jsonl", "csv", "text_lines", "image_folder", "tokens")
_MARKERS = {
    "dataset_dict.json": ("hugging_face", "a data set of Hugging Face"),
    "dataset_info.json": ("hugging_face", "a data set of Hugging Face"),
    "zarr.json": ("zarr", "Zarr"),
    ".zarray": ("zarr", "Zarr"),
    ".zgroup": ("zarr", "Zarr"),
    "data.mdb": ("lmdb", "an LMDB database"),
}
"""Files by which the kind of their folder is known."""

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
_BOMB, _LARGE = 100, 256 << 20
"""An archive that grows by more than this, to more than these bytes, is made to fill the memory."""

_SHOWN = 8
"""Most classes, and columns left out, that are named."""

_BIN_DTYPE = "uint16"
_TABLES = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' limit 9"
_RATE = 16_000
"""Samples a second that sound is brought to; --length counts them."""


def is_data_name(target: str) -> bool:
    return sources.file_format(target, content=False) is not None


def is_address(target: str) -> bool:
    """Whether a target is the address of data elsewhere.

    Raises:
        ValueError: It is one of a kind that no source reads.
    """
    return "://" in target and sources.is_remote(target)


def shown_target(target: str) -> str:
    """A target for people: without the credentials of an address."""
    return sources.shown_address(target) if "://" in target else target


def recognise(target: str, options: SourceOptions) -> Recognised:
    """The source of a path or an address, or of several.

    Raises:
        FileNotFoundError: There is no such path.
        ImportError: A package is missing; the text says which.
        OSError: An address cannot be read.
        ValueError: No source reads it, or it is not clear which; the text says what was found and what is possible.
    """
    (source, kind), *others = (_of_path(path, options) for path in (target, *options.others))
    takes = _SOURCES[source]
    for path, other in zip(options.others, others, strict=True):
        if other != (source, kind) or not takes.several:
            why = f"{shown_target(path)} is {other[1]}" if other != (source, kind) else "it is read alone"
            raise ValueError(
                f"TARGET: {shown_target(target)} is {kind}, and {why}; give files of one kind, such as Parquet or tar"
            )
    if others:
        kind = f"{kind}, {1 + len(others)} files"
    load = functools.partial(_load, source, target)
    return Recognised(kind, frozenset(takes.options), load, source in _COSTLY)


def _of_path(target: str, options: SourceOptions) -> tuple[str, str]:
    if is_address(target):
        return _of_address(target, options)
    status = os.stat(target)  # noqa: PTH116  same
    if stat.S_ISDIR(status.st_mode):
        return _of_folder(Path(target))
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{target} is a FIFO, a socket or a device; expected a regular file or a folder")
    if target.lower().endswith(".npz"):
        _refuse_archive(Path(target))
    return _of_file(target, sources.file_format(target), options, empty=not status.st_size)


def _of_file(target: str, found: sources.FileFormat | None, options: SourceOptions, *, empty: bool) -> tuple[str, str]:
    if found is None:
        what = "an empty file" if empty else "of no known format"
        suffix = os.path.splitext(target)[1]  # noqa: PTH122  it may be an address
        raise ValueError(f"{target} is {what}, by its content and its suffix {suffix!r}; possible are {_POSSIBLE}")
    if not found.source:
        raise ValueError(f"{target} is {found.description}; possible are {_POSSIBLE}")
    if found.source in _FOLDERS:
        raise ValueError(f"{target} is a single file; give {_FOLDERS[found.source]}")
    if found.source == "numpy_rows" and options.length is not None:
        return "tokens", "a stream of tokens"
    taken = f", taken for {_BIN_DTYPE}" if found.source == "tokens" else ""
    return found.source, f"{found.description}{taken}"


def _of_address(target: str, options: SourceOptions) -> tuple[str, str]:
    found = sources.peek(target)
    if found.head is None:
        source, kind = _main_format(found.shown, _counted(os.path.splitext(name)[1].lower() for name in found.names))  # noqa: PTH122  no paths
    else:
        known = sources.file_format(found.shown, content=False, head=found.head)
        source, kind = _of_file(found.shown, known, options, empty=not found.head)
    if source not in _REMOTE:
        raise ValueError(f"{found.shown} is {kind}, which cannot be read elsewhere; copy it to a disk")
    return source, kind


def _refuse_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{path} is a damaged archive: {error}") from error
    if not all(member.filename.endswith(".npy") for member in members):
        raise ValueError(f"{path} is a zip archive; unpack it and give the folder")
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(_LARGE, _BOMB * path.stat().st_size):
        raise ValueError(f"{path} unpacks to {unpacked:,} bytes, over {_BOMB} times its size, which no real data does")


def _of_folder(path: Path) -> tuple[str, str]:
    for marker, known in _MARKERS.items():
        if (path / marker).is_file():
            return known
    return _main_format(str(path), _count(path))


def _main_format(path: str, found: Counter[sources.FileFormat]) -> tuple[str, str]:
    main = (
        {kind: count for kind, count in found.items() if kind.source not in _BESIDE}
        or {kind: count for kind, count in found.items() if kind.source != "text_lines"}
        or dict(found)
    )
    listed = ", ".join(
        f"{count} {_PLURALS.get(kind.description, kind.description)}" for kind, count in found.most_common()
    )
    if not main:
        raise ValueError(f"{path} holds no image, and nothing else that a source reads; possible are {_POSSIBLE}")
    if len(main) > 1:
        raise ValueError(f"{path} mixes formats ({listed}); give the files of one, as a folder of their own")
    (kind,) = main
    what = _FOLDERS.get(kind.source)
    if what is None and not _SOURCES[kind.source].several:
        raise ValueError(f"{path} holds {found[kind]} files, each {kind.description}; give one of them")
    what = what or f"{kind.description}, {main[kind]} files"
    rest = sum(found.values()) - main[kind]
    return kind.source, f"{what}; {rest} other files are left out" if rest else what


def _count(path: Path) -> Counter[sources.FileFormat]:
    suffixes: Counter[str] = Counter()
    for _, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        suffixes.update(os.path.splitext(name)[1].lower() for name in names if not name.startswith("."))  # noqa: PTH122  a million
    return _counted(suffixes.elements())


def _counted(suffixes: Iterable[str]) -> Counter[sources.FileFormat]:
    found: Counter[sources.FileFormat] = Counter()
    for suffix, count in Counter(suffixes).items():
        kind = sources.file_format(f"file{suffix}", content=False)
        if kind is not None:
            found[kind] += count
    return found


def _load(name: str, target: str, options: SourceOptions) -> Groups:
    chosen: dict[str, Any] = {
        field: value for field in ("batch_size", "seed") if (value := getattr(options, field)) is not None
    }
    if options.columns is not None:
        chosen[_SOURCES[name].columns] = options.columns
    if options.size is not None:
        chosen["size"] = options.size
    function = getattr(sources, name)
    chosen.update(_converted(name, function, options.parameters, chosen))
    if name in _FOLDERS:
        return _load_folder(name, function, target, options, chosen)
    if name == "tokens":
        if options.length is None:
            raise ValueError(f"--length: {shown_target(target)} is a stream of tokens; give the length of a window")
        if not shown_target(target).endswith(".npy"):
            chosen.setdefault("dtype", _BIN_DTYPE)
        return Groups(function(target, options.length, **chosen).training)
    if name == "hugging_face":
        _one_split(target)
    if options.length is not None:
        chosen["length"] = options.length
    data = [target, *options.others] if options.others else target
    rows = function(data, *([_table(target)] if name == "sqlite" else []), **chosen)
    if options.split is not None:
        training, validation = rows.split(options.split, options.seed or 0)
        return Groups(training, validation, rows.classes, rows.left_out)
    return Groups(rows.training, None, rows.classes, rows.left_out)


def _converted(
    name: str, function: Callable[..., Any], parameters: Mapping[str, str], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    keywords = [each for each in known.values() if each.kind is each.KEYWORD_ONLY]
    named = {each.name: each for each in keywords if each.name not in {*chosen, "batch_size", "seed", "split"}}
    found = {}
    for parameter, text in parameters.items():
        if parameter not in named:
            raise ValueError(f"-p {parameter}: {name} takes {', '.join(named)}; the rest has options of its own")
        try:
            found[parameter] = convert(text, named[parameter], function)
        except ValueError as error:
            raise ValueError(f"-p {parameter}: {error}") from error
    return found


def _load_folder(
    name: str, function: Callable[..., Any], target: str, options: SourceOptions, chosen: Mapping[str, Any]
) -> Groups:
    length = {} if name == "image_folder" else {"seconds": (options.length or _RATE) / _RATE, "rate": _RATE}
    found = function(target, split=options.split, **{**length, **chosen})
    return Groups(found.training, found.validation, {"label": found.classes} if found.classes else {})


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
        held = f"has the tables {', '.join(names)}" if names else "has no table"
        raise ValueError(f"{path} {held}; with one table it could be run. Use hydrax_core.sources.sqlite(path, query)")
    return names[0]
