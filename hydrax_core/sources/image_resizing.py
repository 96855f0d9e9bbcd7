"""Parts of images brought to a size by OpenCV, in a third of the time that Pillow takes.

Promise: as sharp, and as free of patterns that are not in the image, as Pillow's bilinear filter: what is made smaller
is smoothed first, so that lines as fine as a pixel are as faint as Pillow makes them. Parts begin and end at whole
pixels, at most half of one from where Pillow's do; of the same part, photos differ from Pillow's by 42 dB and more. So
the library is part of what names the data. Nothing of OpenCV's settings is changed.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from hydrax_core.sources.row_source import require

__all__ = ["opencv", "resized", "turned"]

_TWICE = 2
_local = threading.local()


def opencv() -> Any:
    """The module.

    Raises:
        ImportError: It is not installed; the text says how to.
    """
    return require("cv2", "opencv", "resampling='opencv'")


def resized(
    pixels: npt.NDArray[np.uint8], part: tuple[float, float, float, float], size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """A part (left, top, right, bottom) of rows x columns (x 3) pixels, of another width and height."""
    cv2 = opencv()
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]  # as OpenCV has gray
    height, width = pixels.shape[:2]
    left, top = min(round(part[0]), width - 1), min(round(part[1]), height - 1)
    right, bottom = max(round(part[2]), left + 1), max(round(part[3]), top + 1)
    found = pixels[top:bottom, left:right]
    height, width = found.shape[:2]
    if width > _TWICE * size[0] or height > _TWICE * size[1]:
        found = cv2.resize(found, (min(width, size[0]), min(height, size[1])), interpolation=cv2.INTER_AREA)
    elif width > size[0] or height > size[1]:
        across, down = _smoothing(width / size[0]), _smoothing(height / size[1])
        found = cv2.sepFilter2D(found, -1, across, down, _memory(found.shape), borderType=cv2.BORDER_REPLICATE)
    small: npt.NDArray[np.uint8] = cv2.resize(found, size, interpolation=cv2.INTER_LINEAR)
    return small


def _memory(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Memory that is used again, in each thread for itself: fresh pages cost half of the smoothing."""
    size = math.prod(shape)
    held: npt.NDArray[np.uint8] | None = getattr(_local, "memory", None)
    if held is None or len(held) < size:
        held = _local.memory = np.empty(size, np.uint8)
    return held[:size].reshape(shape)


def _smoothing(factor: float) -> npt.NDArray[np.float32]:
    """Weights that leave of the finest lines what Pillow's filter does: all at a factor of 1, nothing at 2."""
    side = (1 - (2 - max(1.0, factor)) ** 2) / 4
    return np.array([side, 1 - 2 * side, side], np.float32)


def turned(pixels: npt.NDArray[np.uint8], *, transposed: bool, mirrored: bool, over: bool) -> npt.NDArray[np.uint8]:
    """Rows and columns exchanged, then mirrored, then turned over: ten times as fast as NumPy's ``[:, ::-1]``."""
    cv2 = opencv()
    if transposed:
        pixels = cv2.transpose(pixels)
    if mirrored or over:
        pixels = cv2.flip(pixels, -1 if mirrored and over else int(mirrored))
    return pixels
