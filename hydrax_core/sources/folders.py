"""A folder whose sub-folders are labels: which files it has, their labels, and which are for validation.

Promise: the same folder gives the same items and labels on every machine, wherever it lies; training and validation
share no file; a side of a split is never taken for a label. Refused: a folder without such files; one that has some
both beside and in sub-folders; sides of which it is not clear what they are for; a list for validation that names what
is not there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import xxhash

from hydrax_core.data.fingerprint import IdentifiedItems, files_fingerprint
from hydrax_core.data.function import random_in_each_epoch
from hydrax_core.data.group import DataGroup
from hydrax_core.data.source import Source
from hydrax_core.plan.permutation import Indices, derive_key, permute
from hydrax_core.sources.formats import file_format
from hydrax_core.sources.index import check_regular
from hydrax_core.sources.remote import (
    RemoteFile,
    Span,
    is_remote,
    list_remote,
    read_ranges,
    remote_fingerprint,
    shown_address,
)
from hydrax_core.sources.row_source import Reopened

__all__ = [
    "FolderGroups",
    "FolderItem",
    "FolderItems",
    "LocalTree",
    "RemoteTree",
    "content",
    "find_sides",
    "open_tree",
]

TRAINING, VALIDATION, TEST = {"train", "training"}, {"val", "valid", "validation", "dev", "eval"}, {"test", "testing"}
"""Sub-folders of these names, in upper or lower case, are the sides of a split; the last are not read."""

FolderItem: TypeAlias = tuple[str, int]
"""Path within the folder, with forward slashes, and the label's number."""


class FolderGroups(NamedTuple):
    """A folder of files, ready for a ``Dataloader``.

    ``classes[n]`` is the sub-folder that label ``n`` stands for; empty where the folder has no sub-folders.
    ``validation`` is ``None`` where nothing is split off.
    """

    loader_func: Any
    training: DataGroup[FolderItem]
    classes: tuple[str, ...]
    validation: DataGroup[FolderItem] | None = None


class Sides(NamedTuple):
    """What is for training and for validation, and the names of the labels."""

    training: list[FolderItem]
    validation: list[FolderItem]
    classes: tuple[str, ...]

    @property
    def label(self) -> dict[str, Any]:
        return {"label": ((), "int32")} if self.classes else {}

    def groups(
        self,
        root: Tree,
        loader_func: Any,
        arrays: Mapping[str, Any],
        reading: str,
        batch_size: int,
        seed: int,
        advice: str = "",
        **others: Any,
    ) -> FolderGroups:
        """The groups of the sides.

        Args:
            reading: What else decides what a row holds.
            advice: See ``random_in_each_epoch``, which the loader is in training.
            others: Further arguments of the groups.
        """
        training: DataGroup[FolderItem] = DataGroup(
            batch_size,
            root.items(self.training, reading),
            loader_func=random_in_each_epoch(loader_func, advice) if advice else loader_func,
            loader_arrays={**arrays, **self.label},
            seed=seed,
            shuffle_first=True,
            remainder="pad",
            labels=tuple(self.label),
            zeroed=False,
            **others,
        )
        validation = None
        if self.validation:
            validation = training.replace(data=root.items(self.validation, reading), loader_func=loader_func)
        return FolderGroups(loader_func, training, self.classes, validation)


def find_sides(
    root: Tree,
    suffixes: Collection[str],
    what: str,
    split: float | Iterable[str] | None,
    classes: Sequence[str] | None,
    seed: int,
) -> Sides:
    """The files of a folder.

    Args:
        suffixes: What counts, in lower case.
        split: A share of each label, or paths within the folder; ``None`` for what sub-folders say.
        classes: Names of the labels in the order of their numbers; ``None`` for the sub-folders.

    Raises:
        NotADirectoryError: There is no such folder.
        TypeError: An argument has the wrong type.
        ValueError: It holds no such files, or an argument has a wrong value.
    """
    found = _find(root, tuple(sorted(suffixes)), what, shared=split is not None)
    names = _names(found, classes)
    number = {name: place for place, name in enumerate(names)}
    training, validation = (
        [(path, place) for label, paths in side.items() for place in (number.get(label, 0),) for path in paths]
        for side in found
    )
    if split is not None:
        if validation:
            raise ValueError(f"split: {root} has sub-folders for training and validation; leave split out")
        training, validation = _split(training, split, seed)
    return Sides(training, validation, names)


class FolderItems(Reopened, Source[FolderItem]):
    """Paths and labels, which travel to each worker once.

    A slice of them, as in ``items[::10]``, is known by the same files, of which it has some.
    """

    content = False
    """See ``FileSource``."""

    def __init__(
        self, root: str, items: Sequence[FolderItem], reading: str, remote: Sequence[RemoteFile] | None = None
    ) -> None:
        self.root, self.reading, self._remote = root, reading, remote
        self._paths = "\0".join(path for path, _ in items)
        self._labels = np.array([label for _, label in items], np.int32)

    @functools.cached_property
    def paths(self) -> list[str]:
        """Path of each item within the folder."""
        return self._paths.split("\0")

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> FolderItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FolderItem]: ...
    def __getitem__(self, index: int | slice) -> FolderItem | Sequence[FolderItem]:
        if isinstance(index, slice):
            items = list(zip(self.paths[index], self._labels[index].tolist(), strict=True))
            if self._remote is not None:
                return FolderItems(self.root, items, self.reading, self._remote[index])  # type: ignore[return-value]
            return IdentifiedItems(items, self.fingerprint)
        return self.paths[index], int(self._labels[index])

    def contents(self, indices: Indices) -> list[memoryview]:
        """What these files hold, of a folder elsewhere."""
        assert self._remote is not None
        files = [self._remote[index] for index in indices.tolist()]
        return read_ranges([Span(file, 0, file.size) for file in files])

    def fingerprint(self) -> str:
        """The files by path, size and time of change, their labels, and what is made of them."""
        labels = xxhash.xxh3_64_hexdigest(self._labels.tobytes())
        files = (
            files_fingerprint(self.paths, self.root, self.content)
            if self._remote is None
            else remote_fingerprint(self._remote)
        )
        return f"{files} {labels} {self.reading}"


class Tree(Protocol):
    """A folder and what is below it, but for hidden files; its text is its name."""

    def entries(self, below: str) -> list[_Entry]:
        """What is in a folder below, by name; nothing but files and folders."""

    def walk(self, below: str) -> Iterator[tuple[str, Iterable[str]]]:
        """Each folder from one below on, in the order of the names, and its files."""

    def items(self, items: Sequence[FolderItem], reading: str) -> FolderItems:
        """The data of a group."""


class _Entry(NamedTuple):
    name: str
    is_folder: bool


class LocalTree:
    """A folder of this machine.

    Raises:
        NotADirectoryError: There is none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        if not self.path.is_dir():
            kind = file_format(self.path) if self.path.is_file() else None
            reads = f", which hydrax_core.sources.{kind.source} reads" if kind else ""
            but = f" but {kind.description}{reads}" if kind and kind.source else ""
            raise NotADirectoryError(f"folder: {self.path} is no folder{but}")
        self.place = str(self.path.resolve())

    def __str__(self) -> str:
        return str(self.path)

    def entries(self, below: str) -> list[_Entry]:
        return sorted(
            _Entry(entry.name, is_folder)
            for entry in os.scandir(self.path / below)
            if entry.name[0] != "." and ((is_folder := entry.is_dir()) or entry.is_file())
        )

    def items(self, items: Sequence[FolderItem], reading: str) -> FolderItems:
        return FolderItems(self.place, items, reading)

    def walk(self, below: str) -> Iterator[tuple[str, Iterable[str]]]:
        folder = self.path / below
        for parent, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield "/".join((below, *Path(parent).relative_to(folder).parts)), names


class RemoteTree:
    """A folder elsewhere, by the list of its files.

    Raises:
        NotADirectoryError: There are none.
        OSError: The store gives no list.
    """

    def __init__(self, address: str) -> None:
        self.place = shown_address(address).rstrip("/")
        found = list_remote(address)
        if not found:
            raise NotADirectoryError(f"folder: {self.place} is no folder with files")
        self._files = {str(file)[len(self.place) + 1 :]: file for file in found}
        self._below: dict[str, dict[str, bool]] = {}
        for path in self._files:
            parts = path.split("/")
            for depth, name in enumerate(parts):
                self._below.setdefault("/".join(parts[:depth]), {})[name] = depth + 1 < len(parts)

    def __str__(self) -> str:
        return self.place

    def entries(self, below: str) -> list[_Entry]:
        return sorted(_Entry(name, is_folder) for name, is_folder in self._below.get(below, {}).items())

    def walk(self, below: str) -> Iterator[tuple[str, Iterable[str]]]:
        entries = self.entries(below)
        yield below, [name for name, is_folder in entries if not is_folder]
        for name, is_folder in entries:
            if is_folder:
                yield from self.walk(f"{below}/{name}")

    def items(self, items: Sequence[FolderItem], reading: str) -> FolderItems:
        return FolderItems(self.place, items, reading, [self._files[path] for path, _ in items])


def open_tree(folder: str | os.PathLike[str]) -> LocalTree | RemoteTree:
    """A folder, or the address of one elsewhere; see these for errors."""
    return RemoteTree(str(folder)) if is_remote(folder) else LocalTree(folder)


class _Found(NamedTuple):
    """Paths by the names of their labels, in order; of no name where there are none."""

    training: Mapping[str, list[str]]
    validation: Mapping[str, list[str]]


def content(path: str) -> bytes:
    """What a regular file holds."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO is found out, not waited for
    with open(descriptor, "rb") as file:  # noqa: PTH123  of a descriptor
        size = check_regular(os.fstat(descriptor), path).st_size
        return file.read(size + 1)


def _find(root: Tree, suffixes: tuple[str, ...], what: str, *, shared: bool) -> _Found:
    entries = root.entries("")
    folders = [entry.name for entry in entries if entry.is_folder]
    train, valid, test = ([n for n in folders if n.lower() in names] for names in (TRAINING, VALIDATION, TEST))
    sides = [*train, *valid, *test]
    beside = (entry.name for entry in entries if entry.name not in sides and _holds(root, entry, suffixes))
    others = next(beside, None) if sides else None
    if not sides or (others and not (train and (valid or test))):
        return _Found(_labelled(root, "", suffixes, what), {})
    found = f"folder: {root} has {', '.join(f'{name}/' for name in sides)}"
    if others:
        raise ValueError(
            f"{found}, and {what}s in {others} beside them; move that elsewhere, or give one of the folders"
        )
    if len(train) != 1 or len(valid) > 1:
        raise ValueError(
            f"{found}; expected one folder for training and at most one for validation; give one, as {root}/{sides[0]}"
        )
    if test and not valid and not shared:
        raise ValueError(
            f"{found}, and none for validation; split=0.1 (--split 0.1) takes a share of {train[0]}/ for it and leaves "
            f"{test[0]}/ unread; or give one of the folders, such as {root}/{train[0]}"
        )
    training, *validation = (_labelled(root, name, suffixes, what) for name in (*train, *valid))
    return _Found(training, validation[0] if validation else {})


def _holds(root: Tree, entry: _Entry, suffixes: tuple[str, ...]) -> bool:
    """Whether it is one of the files, or a folder with some."""
    if not entry.is_folder:
        return _counts(entry.name, suffixes)
    return any(_counts(name, suffixes) for _, names in root.walk(entry.name) for name in names)


def _labelled(root: Tree, below: str, suffixes: tuple[str, ...], what: str) -> dict[str, list[str]]:
    """Files in a folder by the sub-folders they are in."""
    prefix = f"{below}/" if below else ""
    folder = f"{root}/{below}" if below else str(root)
    entries = root.entries(below)
    direct = [entry.name for entry in entries if not entry.is_folder and _counts(entry.name, suffixes)]
    walked = {entry.name: _walk(root, prefix + entry.name, suffixes) for entry in entries if entry.is_folder}
    found = {name: paths for name, paths in walked.items() if paths}
    if not direct and not found:
        raise ValueError(
            f"folder: {folder} holds no {what}; looked for {', '.join(sorted(suffixes))}, in sub-folders too"
        )
    if direct and found:
        raise ValueError(
            f"folder: {folder} holds {what}s itself ({direct[0]}) and in sub-folders ({next(iter(found))}/), so some "
            "would have a label and some not; move them into a sub-folder, or give the sub-folder alone"
        )
    return {"": [prefix + name for name in direct]} if direct else found


def _walk(root: Tree, below: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files below a folder, as paths in the root."""
    return [
        f"{folder}/{name}"
        for folder, names in root.walk(below)
        for name in sorted(names)
        if name.lower().endswith(suffixes) and name[0] != "."  # as in _counts: a call a file takes as long
    ]


def _counts(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes) and name[0] != "."


def _names(found: _Found, classes: Sequence[str] | None) -> tuple[str, ...]:
    labels = {*found.training, *found.validation}
    there = sorted(labels - {""})
    if "" in labels and there:
        raise ValueError("folder: one of training and validation has sub-folders for labels and the other has none")
    if classes is None:
        return tuple(there)
    if isinstance(classes, str):
        raise TypeError(f"classes: expected a tuple of names, got the string {classes!r}")
    names = tuple(classes)
    if len(set(names)) != len(names):
        raise ValueError(f"classes: a name is given twice: {names}")
    unknown = [label for label in there if label not in names]
    if unknown or not there:
        problem = f"the sub-folder {unknown[0]!r} is none of them" if unknown else "the folder has no sub-folders"
        raise ValueError(f"classes: {problem}; given are {', '.join(map(repr, names))}")
    return names


def _split(
    items: list[FolderItem], split: float | Iterable[str], seed: int
) -> tuple[list[FolderItem], list[FolderItem]]:
    """Training and validation, each in the order of the items."""
    if isinstance(split, str) or not isinstance(split, float | Iterable):
        raise TypeError(f"split: expected a share between 0 and 1, or paths in the folder, got {split!r}")
    if isinstance(split, float):
        if not 0 < split < 1:
            raise ValueError(f"split: expected a share above 0 and below 1, got {split!r}")
        chosen = _share([label for _, label in items], split, seed)
    else:
        wanted = {os.fspath(path).replace(os.sep, "/").removeprefix("./") for path in split}
        unknown = sorted(wanted - {path for path, _ in items})
        if unknown:
            raise ValueError(f"split: there is no {unknown[0]!r} in the folder ({len(unknown)} are not there)")
        chosen = np.array([path in wanted for path, _ in items])
    training, validation = ([items[place] for place in np.flatnonzero(side)] for side in (~chosen, chosen))
    if not training or not validation:
        raise ValueError(f"split: it leaves nothing for {'validation' if training else 'training'}")
    return training, validation


def _share(labels: Sequence[int], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which items are for validation: of each label the share, rounded."""
    kinds = np.array(labels)
    chosen = np.zeros(len(kinds), bool)
    for label in np.unique(kinds):
        places = np.flatnonzero(kinds == label)
        count = round(len(places) * share)
        chosen[places[permute(derive_key(seed, f"split {label}"), len(places), np.arange(count))]] = True
    return chosen
