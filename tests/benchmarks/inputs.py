"""Deterministic inputs of the works: rows to copy and JPEGs to decode, made anew in a folder the caller removes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from loads import ROW, SMALL_IMAGE

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 128
"""128 MiB of rows: four times the last-level cache of the machine the marks were set on, and quick to write."""
IMAGES = 192
QUALITY = 90
SEED = 20240610


def make_inputs(folder: Path) -> None:
    """Write every input of every work into ``folder``."""
    rng = np.random.default_rng(SEED)
    rows = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=np.float32, shape=(ROWS, ROW))
    for row in rows:
        row[...] = rng.random(ROW, np.float32)
    rows.flush()
    for size in (384, SMALL_IMAGE):
        _images(folder / f"jpeg-{size}", size, rng)


def _images(folder: Path, size: int, rng: np.random.Generator) -> None:
    """Smooth shapes under a little noise: about the bytes a pixel that a photograph takes at this quality."""
    from PIL import Image  # noqa: PLC0415  the marks themselves need no Pillow

    folder.mkdir()
    for number in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 16, size // 16, 3), np.uint8))
        pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
        noise = rng.normal(0, 6, pixels.shape)
        image = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
        image.save(folder / f"{number:04}.jpg", quality=QUALITY)
