"""Oklab, a colour space in which equal distances look equally large.

Promise: ``srgb(oklab(x))`` is ``x`` to the last of 8 bits. The formulas and numbers are Björn Ottosson's, "A
perceptual color space for image processing" (https://bottosson.github.io/posts/oklab/, public domain); the curve of
sRGB is that of IEC 61966-2-1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["oklab", "srgb"]

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LINEAR_BELOW = 0.04045
_SLOPE = 12.92


def oklab(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Colours of sRGB as Oklab.

    Args:
        image: The last dimension is red, green, blue: uint8, uint16, or floats from 0 to 1.

    Returns:
        float32 of the same shape: lightness from 0 to 1, then green to red and blue to yellow, about -0.4 to 0.4.
    """
    values = image / np.iinfo(image.dtype).max if image.dtype.kind == "u" else image.astype(np.float64)
    linear = np.where(values <= _LINEAR_BELOW, values / _SLOPE, ((np.maximum(values, 0) + 0.055) / 1.055) ** 2.4)
    found: npt.NDArray[np.float32] = (np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T).astype(np.float32)
    return found


def srgb(lab: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Colours of Oklab as sRGB; those that no screen can show become the nearest in each channel.

    Args:
        lab: The last dimension is what ``oklab`` returns.

    Returns:
        uint8 of the same shape: red, green, blue.
    """
    cones = (lab.astype(np.float64) @ np.linalg.inv(_TO_LAB).T) ** 3
    linear = np.clip(cones @ np.linalg.inv(_TO_CONES).T, 0, 1)
    curved = np.where(linear <= _LINEAR_BELOW / _SLOPE, linear * _SLOPE, 1.055 * linear ** (1 / 2.4) - 0.055)
    found: npt.NDArray[np.uint8] = np.rint(curved * 255).astype(np.uint8)
    return found
