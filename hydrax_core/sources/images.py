"""A folder of images: each sub-folder is a label, the way most image classification sets are laid out.

Promise: the same folder gives the same items and labels on every machine, wherever it lies. Refused: a folder without
images; an image that is damaged, implausibly large or of more than 8 bits a channel, by name.

Reading needs Pillow, the extra ``image``. Pillow is imported where it is used, as the rest of hydrax does without it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hydrax_core.data.fingerprint import IdentifiedItems, files_fingerprint
from hydrax_core.data.group import DataGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

__all__ = ["SUFFIXES", "ImageFolder", "ImageLoader", "image_folder"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image, in upper or lower case; other files are left alone."""

ImageItem: TypeAlias = tuple[str, int]
"""Path within the folder, with forward slashes, and the label's number."""


class ImageFolder(NamedTuple):
    """A folder of images, ready for a ``Dataloader``.

    ``classes[n]`` is the sub-folder that label ``n`` stands for; empty where the folder has no sub-folders.
    """

    loader_func: ImageLoader
    training: DataGroup[ImageItem]
    classes: tuple[str, ...]


def image_folder(
    folder: str | os.PathLike[str], *, size: int | tuple[int, int] = 224, batch_size: int = 64, seed: int = 0
) -> ImageFolder:
    """Images of a folder in batches of ``image`` (uint8, (batch, height, width, 3)) and ``label`` (int32, (batch,)).

    Each sub-folder is a label, numbered in the order of the names; deeper folders belong to it. A folder that holds its
    images directly has no ``label``. Files and folders whose name starts with a dot are ignored. The path of each image
    is in ``batch.additional["path"]``.

    Args:
        folder: The folder.
        size: Height and width that every image is brought to, or one number for both: scaled so that it fills them, and
            cropped to the middle.
        batch_size: Images in a batch; the last one is padded.
        seed: Chooses the order.

    Raises:
        ImportError: Pillow is not installed.
        NotADirectoryError: There is no such folder.
        ValueError: It holds no image, or some in sub-folders and some not, or an argument has a wrong value.
    """
    _pillow()
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"folder: {root} is no folder")
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size: expected a height and a width of at least 1, got {size!r}")
    items, classes = _find(root)
    arrays: dict[str, Any] = {"image": ((height, width, 3), "uint8")}
    if classes:
        arrays["label"] = ((), "int32")
    loader = ImageLoader(str(root.resolve()))
    return ImageFolder(
        loader,
        DataGroup(
            batch_size,
            IdentifiedItems(items, functools.partial(files_fingerprint, [path for path, _ in items], root.resolve())),
            loader_func=loader,
            loader_arrays=arrays,
            seed=seed,
            shuffle_first=True,
            remainder="pad",
            labels=("label",) if classes else (),
        ),
        classes,
    )


@dataclass(frozen=True)
class ImageLoader:
    """Loads the images below ``root``; the height and width are those of the array it is to fill."""

    root: str

    def __call__(self, item: ImageItem, arrays: Mapping[str, npt.NDArray[Any]], seed: int | None) -> dict[str, str]:  # noqa: ARG002  a loader has three parameters
        """Fill ``image`` and, where there is one, ``label``.

        Raises:
            ValueError: The image is damaged or refused; the text names the file.
        """
        path, label = item
        image = arrays["image"]
        image[...] = _read(os.path.join(self.root, path), image.shape[0], image.shape[1])  # noqa: PTH118  three times as fast as Path, once an image
        if "label" in arrays:
            arrays["label"][...] = label
        return {"path": path}


def _find(root: Path) -> tuple[list[ImageItem], tuple[str, ...]]:
    entries = sorted(
        (entry for entry in root.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
    )
    direct = [entry.name for entry in entries if _is_image(entry.name) and entry.is_file()]
    found = {entry.name: below for entry in entries if entry.is_dir() and (below := list(_walk(root, entry)))}
    if not direct and not found:
        raise ValueError(f"folder: {root} holds no image; looked for {', '.join(sorted(SUFFIXES))}, in sub-folders too")
    if direct and found:
        raise ValueError(
            f"folder: {root} holds images itself ({direct[0]}) and in sub-folders ({next(iter(found))}/), so some "
            "would have a label and some not; move them into a sub-folder, or give the sub-folder alone"
        )
    if direct:
        return [(name, 0) for name in direct], ()
    return [(path, label) for label, paths in enumerate(found.values()) for path in paths], tuple(found)


def _walk(root: Path, folder: Path) -> list[str]:
    """Images below ``folder``, as paths within ``root``."""
    paths: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(parent).relative_to(root).as_posix()
        paths.extend(f"{below}/{name}" for name in sorted(names) if _is_image(name))
    return paths


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  a million names


def _pillow() -> Any:
    try:
        import PIL.Image  # noqa: PLC0415  an optional extra
        import PIL.ImageOps  # noqa: PLC0415  same
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install 'hydrax-toolkit[image]'") from error
    return PIL


def _read(path: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    pil = _pillow()
    try:
        with pil.Image.open(path) as image:
            _refuse_oversized(image, pil.Image.MAX_IMAGE_PIXELS)
            upright = _to_rgb(pil.ImageOps.exif_transpose(image))
            return np.asarray(pil.ImageOps.fit(upright, (width, height)))
    except Exception as error:
        # Pillow's plugins let out whatever a damaged file makes them stumble over: OSError, SyntaxError, struct.error.
        raise ValueError(f"{path}: the image cannot be read ({type(error).__name__}: {error})") from error


def _refuse_oversized(image: Image, limit: int | None) -> None:
    """Pillow itself refuses only what is twice as large, and warns of the rest."""
    pixels = image.width * image.height
    if limit is not None and pixels > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels are more than the {limit} of PIL.Image.MAX_IMAGE_PIXELS, "
            "which guards against decompression bombs"
        )


def _to_rgb(image: Image) -> Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel, which uint8 cannot hold")
    # A palette may have transparent colours, which Pillow converts without a warning by way of RGBA only.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
