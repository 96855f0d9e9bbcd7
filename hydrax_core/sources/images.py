"""A folder of images: each sub-folder is a label, the way most image classification sets are laid out.

Promise: the same folder gives the same items and labels on every machine, wherever it lies; training and validation
share no image. Refused: a folder without images; one with images both beside and in sub-folders; a list for validation
that names what is not there. What ``pictures`` promises holds for every image.

Reading needs Pillow, and is faster with simplejpeg: the extra ``image``. Both are imported where they are used.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import xxhash

from hydrax_core.data.fingerprint import IdentifiedItems, files_fingerprint
from hydrax_core.data.group import DataGroup
from hydrax_core.data.source import Source
from hydrax_core.plan.permutation import derive_key, permute
from hydrax_core.sources.common import require
from hydrax_core.sources.index import check_regular
from hydrax_core.sources.pictures import Augment, Picture, Resize

__all__ = ["SUFFIXES", "Augment", "ImageFolder", "ImageLoader", "image_folder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image, in upper or lower case; other files are left alone."""

TRAINING, VALIDATION = ("train", "training"), ("val", "valid", "validation")
"""Sub-folders of these names are no labels but the two sides of a split."""

ImageItem: TypeAlias = tuple[str, int]
"""Path within the folder, with forward slashes, and the label's number."""


class ImageFolder(NamedTuple):
    """A folder of images, ready for a ``Dataloader``.

    ``classes[n]`` is the sub-folder that label ``n`` stands for; empty where the folder has no sub-folders.
    ``validation`` is ``None`` where nothing is split off.
    """

    loader_func: ImageLoader
    training: DataGroup[ImageItem]
    classes: tuple[str, ...]
    validation: DataGroup[ImageItem] | None = None


def image_folder(
    folder: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] = 224,
    resize: Resize = "crop",
    split: float | Iterable[str] | None = None,
    classes: Sequence[str] | None = None,
    gray: bool = False,
    bits: Literal[8, 16] = 8,
    background: tuple[int, int, int] = (255, 255, 255),
    augment: bool | Augment = False,
    batch_size: int = 64,
    seed: int = 0,
) -> ImageFolder:
    """Images of a folder in batches of ``image`` (uint8, (batch, height, width, 3)) and ``label`` (int32, (batch,)).

    Each sub-folder is a label, numbered in the order of the names; deeper folders belong to it. A folder that holds its
    images directly has no ``label``. Where the sub-folders are ``train`` and ``val`` (or ``valid``, ``validation``),
    perhaps ``test``, the labels are the folders in them, numbered over both; ``test`` is not read. Files and folders
    whose name starts with a dot are ignored. The path of each image is in ``batch.additional["path"]``.

    Args:
        folder: The folder.
        size: Height and width that every image is brought to, or one number for both.
        resize: How: ``"crop"``: scaled until it fills the size, the middle of it; ``"fit"``: all of it in the top left
            corner, zeros elsewhere; ``"pad"``: all of it in the middle; ``"stretch"``: all of it, whatever its shape.
        split: What is for validation: a share of each label's images, chosen by ``seed``; or the paths of these images
            within the folder.
        classes: Names of the labels in the order of their numbers, so that several folders have one numbering; by
            default the sub-folders.
        gray: One channel instead of three.
        bits: 16 for uint16, which images of 8 bits then fill, too; Pillow reads 16 bits of gray images only.
        background: Red, green and blue behind transparent parts, 0 to 255.
        augment: Random crops, and mirrored images, by the items' seeds, in training only; ``Augment`` says how.
        batch_size: Images in a batch; the last one is padded.
        seed: Chooses the order.

    Raises:
        ImportError: Pillow is not installed.
        NotADirectoryError: There is no such folder.
        ValueError: It holds no image, or some in sub-folders and some not, or an argument has a wrong value.
    """
    require("PIL", "image", "reading images")
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"folder: {root} is no folder")
    height, width = (size, size) if isinstance(size, int) else size
    how = augment if isinstance(augment, Augment) else Augment() if augment else None
    picture = Picture(height, width, resize, gray, bits, background, how)
    picture.check()
    found = _find(root)
    names = _names(found, classes)
    number = {name: place for place, name in enumerate(names)}
    training = [(path, number.get(label, 0)) for path, label in found.training]
    validation = [(path, number.get(label, 0)) for path, label in found.validation]
    if split is not None:
        if validation:
            raise ValueError(f"split: {root} has sub-folders for training and validation; leave split out")
        training, validation = _split(training, split, seed)
    loader = ImageLoader(str(root.resolve()), picture)
    arrays: dict[str, Any] = {"image": (picture.shape, picture.dtype)}
    if names:
        arrays["label"] = ((), "int32")
    group: DataGroup[ImageItem] = DataGroup(
        batch_size,
        ImageItems(loader.root, training, repr(picture)),
        loader_func=loader,
        loader_arrays=arrays,
        seed=seed,
        shuffle_first=True,
        remainder="pad",
        labels=("label",) if names else (),
        zeroed=False,
    )
    valid = group.replace(data=ImageItems(loader.root, validation, repr(picture))) if validation else None
    return ImageFolder(loader, group, names, valid)


class ImageItems(Source[ImageItem]):
    """Paths and labels, which travel to each worker once.

    A slice of them, as in ``items[::10]``, is known by the same files, of which it has some.
    """

    def __init__(self, root: str, items: Sequence[ImageItem], reading: str) -> None:
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
    def __getitem__(self, index: int) -> ImageItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageItem]: ...
    def __getitem__(self, index: int | slice) -> ImageItem | Sequence[ImageItem]:
        if isinstance(index, slice):
            items = zip(self.paths[index], self._labels[index].tolist(), strict=True)
            return IdentifiedItems(list(items), self.fingerprint)
        return self.paths[index], int(self._labels[index])

    def fingerprint(self) -> str:
        """The files by path, size and time of change, their labels, and what is made of them."""
        labels = xxhash.xxh3_64_hexdigest(self._labels.tobytes())
        return f"{files_fingerprint(self.paths, self.root)} {labels} {self.reading}"


@dataclass(frozen=True)
class ImageLoader:
    """Loads the images below ``root``."""

    root: str
    picture: Picture

    def __call__(self, item: ImageItem, arrays: Mapping[str, npt.NDArray[Any]], seed: int | None) -> dict[str, str]:
        """Fill ``image`` and, where there is one, ``label``.

        Raises:
            ValueError: The image is damaged or refused; the text names the file.
        """
        path, label = item
        file = os.path.join(self.root, path)  # noqa: PTH118  three times as fast as Path, once an image
        self.picture.read(_content(file), file, arrays["image"], seed)
        if "label" in arrays:
            arrays["label"][...] = label
        return {"path": path}


class _Found(NamedTuple):
    """Paths and the names of their labels, in order."""

    training: list[tuple[str, str]]
    validation: list[tuple[str, str]]


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO is found out, not waited for
    with open(descriptor, "rb") as file:  # noqa: PTH123  of a descriptor
        size = check_regular(os.fstat(descriptor), path).st_size
        return file.read(size + 1)


def _find(root: Path) -> _Found:
    entries = sorted((entry for entry in os.scandir(root) if entry.name[0] != "."), key=lambda entry: entry.name)
    direct = [entry.name for entry in entries if _is_image(entry.name) and entry.is_file()]
    folders = [entry.name for entry in entries if entry.is_dir()]
    sides = [[name for name in folders if name.lower() in side] for side in (TRAINING, VALIDATION)]
    if all(len(side) == 1 for side in sides) and set(folders) <= {*sides[0], *sides[1], "test"} and not direct:
        train, valid = (_labelled(root, side[0], "holds no image") for side in sides)
        return _Found(train, valid)
    found = _labelled(root, "", "holds no image")
    return _Found(found, [])


def _labelled(root: Path, below: str, nothing: str) -> list[tuple[str, str]]:
    """Images in a folder and the sub-folders they are in; no name where there are none."""
    folder = root / below
    prefix = f"{below}/" if below else ""
    entries = sorted((entry for entry in os.scandir(folder) if entry.name[0] != "."), key=lambda entry: entry.name)
    direct = [entry.name for entry in entries if _is_image(entry.name) and entry.is_file()]
    found = {
        entry.name: paths for entry in entries if entry.is_dir() and (paths := _walk(folder / entry.name, entry.name))
    }
    if not direct and not found:
        raise ValueError(f"folder: {folder} {nothing}; looked for {', '.join(sorted(SUFFIXES))}, in sub-folders too")
    if direct and found:
        raise ValueError(
            f"folder: {folder} holds images itself ({direct[0]}) and in sub-folders ({next(iter(found))}/), so some "
            "would have a label and some not; move them into a sub-folder, or give the sub-folder alone"
        )
    if direct:
        return [(prefix + name, "") for name in direct]
    return [(prefix + path, label) for label, paths in found.items() for path in paths]


def _walk(folder: Path, name: str) -> list[str]:
    """Images below a folder, as paths that begin with its name."""
    paths: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = "/".join((name, *Path(parent).relative_to(folder).parts))
        paths.extend(f"{below}/{file}" for file in sorted(names) if _is_image(file))
    return paths


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  a million names


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


def _split(items: list[ImageItem], split: float | Iterable[str], seed: int) -> tuple[list[ImageItem], list[ImageItem]]:
    """Training and validation, each in the order of the items."""
    if isinstance(split, str) or not isinstance(split, float | Iterable):
        raise TypeError(f"split: expected a share between 0 and 1, or paths of images, got {split!r}")
    if isinstance(split, float):
        if not 0 < split < 1:
            raise ValueError(f"split: expected a share above 0 and below 1, got {split!r}")
        chosen = _share([label for _, label in items], split, seed)
    else:
        wanted = {os.fspath(path).replace(os.sep, "/").removeprefix("./") for path in split}
        unknown = sorted(wanted - {path for path, _ in items})
        if unknown:
            raise ValueError(f"split: there is no image {unknown[0]!r} in the folder ({len(unknown)} are not there)")
        chosen = np.array([path in wanted for path, _ in items])
    training, validation = ([items[place] for place in np.flatnonzero(side)] for side in (~chosen, chosen))
    if not training or not validation:
        raise ValueError(f"split: it leaves no image for {'validation' if training else 'training'}")
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
