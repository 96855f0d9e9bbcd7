"""A folder of images: each sub-folder is a label, the way most image classification sets are laid out.

Promise: what ``folders`` promises of the items and labels, and ``image_decoding`` of every image.

Reading needs Pillow, and is faster with simplejpeg: the extra ``image``. Both are imported where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from hydrax_core.data.function import batched
from hydrax_core.data.source import Items
from hydrax_core.sources.folders import (
    FolderGroups,
    FolderItem,
    FolderItems,
    RemoteTree,
    content,
    find_sides,
    open_tree,
)
from hydrax_core.sources.image_decoding import Augment, Cutting, Picture, Resampling, Resize, advice_for, decoding
from hydrax_core.sources.row_source import FETCHED_AT_ONCE, require

__all__ = ["SUFFIXES", "Augment", "ImageFolder", "ImageLoader", "image_folder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image, in upper or lower case; other files are left alone."""


class ImageFolder(FolderGroups):
    """A folder of images, ready for a ``Dataloader``: its loader, the groups, and the names of the labels.

    ``classes[n]`` is the sub-folder that label ``n`` stands for; empty where the folder has no sub-folders.
    ``validation`` is ``None`` where nothing is split off.
    """


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
    decoded_size: int | tuple[int, int] | None = None,
    resampling: Resampling = "pillow",
    batch_size: int = 64,
    seed: int = 0,
) -> ImageFolder:
    """Images of a folder in batches of ``image`` (uint8, (batch, height, width, 3)) and ``label`` (int32, (batch,)).

    Each sub-folder is a label, numbered in the order of the names; deeper folders belong to it. A folder that holds its
    images directly has no ``label``. Where the sub-folders are ``train`` (or ``training``) and ``val`` (``valid``,
    ``validation``, ``dev``, ``eval``), perhaps ``test`` (``testing``), the labels are the folders in them, numbered
    over both; ``test`` is not read. ``train`` and ``test`` alone want ``split``, of ``train``. Files and folders whose
    name starts with a dot are ignored. The path of each image is in ``batch.additional["path"]``.

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
        decoded_size: Height and width of whole images, or one number for both, that ``augment`` cuts from in an
            ``augment_func``: a cache keeps them, and each epoch has other crops. Without it they are cut while they are
            decoded, which is quicker and sharper, and a cache that would keep one epoch is refused.
        resampling: ``"opencv"`` brings images to their size in a third of the time of ``"pillow"``, as sharply, from
            parts that begin at whole pixels; it is other data to a cache or a state. Wants the extra ``[opencv]``.
        batch_size: Images in a batch; the last one is padded.
        seed: Chooses the order.

    Raises:
        ImportError: Pillow, or OpenCV where it is asked for, is not installed.
        NotADirectoryError: There is no such folder.
        ValueError: It holds no image, or some in sub-folders and some not, or an argument has a wrong value.
    """
    require("PIL", "image", "reading images")
    others = {"resize": resize, "gray": gray, "bits": bits, "background": background, "resampling": resampling}
    picture = Picture.sized(size, augment, **others)
    picture.check()
    whole = decoding(picture, decoded_size)
    root = open_tree(folder)
    sides = find_sides(root, SUFFIXES, "image", split, classes, seed)
    loader: Any = ImageLoader(root.place, whole)
    if isinstance(root, RemoteTree):
        loader = batched(least=FETCHED_AT_ONCE)(loader.load_many)
    arrays = {"image": (whole.shape, whole.dtype)}
    cutting = Cutting(picture, ("image",)).changes({**arrays, **sides.label}) if whole is not picture else {}
    return ImageFolder(*sides.groups(root, loader, arrays, repr(whole), batch_size, seed, advice_for(whole), **cutting))


@dataclass(frozen=True)
class ImageLoader:
    root: str
    picture: Picture

    def __call__(self, item: FolderItem, arrays: Mapping[str, npt.NDArray[Any]], seed: int | None) -> dict[str, str]:
        """Fill ``image`` and, where there is one, ``label``.

        Raises:
            ValueError: The image is damaged or refused; the text names the file.
        """
        path, label = item
        file = os.path.join(self.root, path)  # noqa: PTH118  three times as fast as Path, once an image
        self.picture.read(content(file), file, arrays["image"], seed)
        if "label" in arrays:
            arrays["label"][...] = label
        return {"path": path}

    def load_many(
        self, items: Any, arrays: Mapping[str, npt.NDArray[Any]], seeds: Sequence[int] | None
    ) -> list[dict[str, str]]:
        """The same of images elsewhere, which are fetched all at once."""
        if not isinstance(items, Items) or not isinstance(items.source, FolderItems):
            raise TypeError(f"{self.root}: give the group's own items, or a slice of them: group.items[::2]")
        found = []
        for row, (data, (path, label)) in enumerate(zip(items.source.contents(items.indices), items, strict=True)):
            seed = None if seeds is None else seeds[row]
            self.picture.read(bytes(data), f"{self.root}/{path}", arrays["image"][row], seed)
            if "label" in arrays:
                arrays["label"][row] = label
            found.append({"path": path})
        return found
