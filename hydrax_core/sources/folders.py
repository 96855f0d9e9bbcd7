"""A folder whose sub-folders are labels: which files it has, their labels, and which are for validation.

Promise: the same folder gives the same items and labels on every machine, wherever it lies; training and validation
share no file; a side of a split is never taken for a label. Refused: a folder without such files; one that has some
both beside and in sub-folders; sides of which it is not clear what they are for; a list for validation that names what
is not there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import xxhash

from hydrax_core.data.fingerprint import IdentifiedItems, files_fingerprint
from hydrax_core.data.source import Source
from hydrax_core.plan.permutation import derive_key, permute
from hydrax_core.sources.formats import file_format
from hydrax_core.sources.index import check_regular

__all__ = ["FolderItem", "FolderItems", "Sides", "content", "find_sides"]

TRAINING, VALIDATION, TEST = {"train", "training"}, {"val", "valid", "validation", "dev", "eval"}, {"test", "testing"}
"""Sub-folders of these names, in upper or lower case, are the sides of a split; the last are not read."""

FolderItem: TypeAlias = tuple[str, int]
"""Path within the folder, with forward slashes, and the label's number."""


class Sides(NamedTuple):
    """What is for training and for validation, and the names of the labels."""

    training: list[FolderItem]
    validation: list[FolderItem]
    classes: tuple[str, ...]


def find_sides(
    root: Path,
    suffixes: Collection[str],
    what: str,
    split: float | Iterable[str] | None,
    classes: Sequence[str] | None,
    seed: int,
) -> Sides:
    """The files of a folder.

    Args:
        root: The folder.
        suffixes: What counts, in lower case.
        what: What they are, for errors.
        split: A share of each label, or paths within the folder; ``None`` for what sub-folders say.
        classes: Names of the labels in the order of their numbers; ``None`` for the sub-folders.
        seed: Chooses the share.

    Raises:
        NotADirectoryError: There is no such folder.
        TypeError: An argument has the wrong type.
        ValueError: It holds no such files, or an argument has a wrong value.
    """
    if not root.is_dir():
        kind = file_format(root) if root.is_file() else None
        told = f" but {kind.told}, which hydrax_core.sources.{kind.source} reads" if kind and kind.source else ""
        raise NotADirectoryError(f"folder: {root} is no folder{told}")
    found = _find(root, suffixes, what, shared=split is not None)
    names = _names(found, classes)
    number = {name: place for place, name in enumerate(names)}
    training = [(path, number.get(label, 0)) for path, label in found.training]
    validation = [(path, number.get(label, 0)) for path, label in found.validation]
    if split is not None:
        if validation:
            raise ValueError(f"split: {root} has sub-folders for training and validation; leave split out")
        training, validation = _split(training, split, seed)
    return Sides(training, validation, names)


class FolderItems(Source[FolderItem]):
    """Paths and labels, which travel to each worker once.

    A slice of them, as in ``items[::10]``, is known by the same files, of which it has some.
    """

    def __init__(self, root: str, items: Sequence[FolderItem], reading: str) -> None:
        self.root, self.reading = root, reading
        self._paths = "\0".join(path for path, _ in items)
        self._labels = np.array([label for _, label in items], np.int32)

    @functools.cached_property
    def paths(self) -> list[str]:
        """Path of each item within the folder."""
        return self._paths.split("\0")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "paths"}

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> FolderItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FolderItem]: ...
    def __getitem__(self, index: int | slice) -> FolderItem | Sequence[FolderItem]:
        if isinstance(index, slice):
            items = zip(self.paths[index], self._labels[index].tolist(), strict=True)
            return IdentifiedItems(list(items), self.fingerprint)
        return self.paths[index], int(self._labels[index])

    def fingerprint(self) -> str:
        """The files by path, size and time of change, their labels, and what is made of them."""
        labels = xxhash.xxh3_64_hexdigest(self._labels.tobytes())
        return f"{files_fingerprint(self.paths, self.root)} {labels} {self.reading}"


class _Found(NamedTuple):
    """Paths and the names of their labels, in order."""

    training: list[tuple[str, str]]
    validation: list[tuple[str, str]]


def content(path: str) -> bytes:
    """What a regular file holds."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO is found out, not waited for
    with open(descriptor, "rb") as file:  # noqa: PTH123  of a descriptor
        size = check_regular(os.fstat(descriptor), path).st_size
        return file.read(size + 1)


def _find(root: Path, suffixes: Collection[str], what: str, *, shared: bool) -> _Found:
    entries = sorted((entry for entry in os.scandir(root) if entry.name[0] != "."), key=_entry_name)
    folders = [entry.name for entry in entries if entry.is_dir()]
    train, valid, test = ([n for n in folders if n.lower() in names] for names in (TRAINING, VALIDATION, TEST))
    sides = [*train, *valid, *test]
    others = [entry.name for entry in entries if entry.name not in sides and _holds(entry, suffixes)]
    if not sides or (others and not (train and (valid or test))):
        return _Found(_labelled(root, "", suffixes, what), [])
    told = f"folder: {root} has {', '.join(f'{name}/' for name in sides)}"
    if others:
        raise ValueError(
            f"{told}, and {what}s in {others[0]} beside them; move that elsewhere, or give one of the folders"
        )
    if len(train) != 1 or len(valid) > 1:
        raise ValueError(
            f"{told}; expected one folder for training and at most one for validation; give one, as {root / sides[0]}"
        )
    if test and not valid and not shared:
        raise ValueError(
            f"{told}, and none for validation; split=0.1 (--split 0.1) takes a share of {train[0]}/ for it and leaves "
            f"{test[0]}/ unread; or give one of the folders, such as {root / train[0]}"
        )
    training, *validation = (_labelled(root, name, suffixes, what) for name in (*train, *valid))
    return _Found(training, validation[0] if validation else [])


def _holds(entry: os.DirEntry[str], suffixes: Collection[str]) -> bool:
    """Whether it is one of the files, or a folder with some."""
    if entry.is_dir():
        return bool(_walk(Path(entry.path), entry.name, suffixes))
    return _counts(entry.name, suffixes) and entry.is_file()


def _labelled(root: Path, below: str, suffixes: Collection[str], what: str) -> list[tuple[str, str]]:
    """Files in a folder and the sub-folders they are in; no name where there are none."""
    folder = root / below
    prefix = f"{below}/" if below else ""
    entries = sorted((entry for entry in os.scandir(folder) if entry.name[0] != "."), key=_entry_name)
    direct = [entry.name for entry in entries if _counts(entry.name, suffixes) and entry.is_file()]
    walked = {entry.name: _walk(folder / entry.name, entry.name, suffixes) for entry in entries if entry.is_dir()}
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
    if direct:
        return [(prefix + name, "") for name in direct]
    return [(prefix + path, label) for label, paths in found.items() for path in paths]


def _entry_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _walk(folder: Path, name: str, suffixes: Collection[str]) -> list[str]:
    """Files below a folder, as paths that begin with its name."""
    paths: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = "/".join((name, *Path(parent).relative_to(folder).parts))
        paths.extend(f"{below}/{file}" for file in sorted(names) if _counts(file, suffixes))
    return paths


def _counts(name: str, suffixes: Collection[str]) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122  a million names


def _names(found: _Found, classes: Sequence[str] | None) -> tuple[str, ...]:
    there = sorted({label for _, label in (*found.training, *found.validation)} - {""})
    if any(not label for _, label in (*found.training, *found.validation)) and there:
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
        told = f"the sub-folder {unknown[0]!r} is none of them" if unknown else "the folder has no sub-folders"
        raise ValueError(f"classes: {told}; given are {', '.join(map(repr, names))}")
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
