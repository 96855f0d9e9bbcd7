"""The work on one item, once for every peer: the same arrays, filled in place or made anew, whichever a peer asks for.

Workers import this file, so it imports neither jax nor a peer. Inputs come from the folder in HYDRAX_BENCH_INPUTS,
which ``inputs.py`` filled. Item numbers wrap around the inputs: a work has as many items as it likes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "HYDRAX_BENCH_INPUTS"
TINY = 16
ROW = 1 << 18
"""Elements of a row: 1 MiB of float32."""
IMAGE = 224
SMALL_IMAGE = 32
SLOW_EVERY = 500
SLOW_FACTOR = 100
STEADY_SIZE = 64
STEADY_UNITS = 15
"""Units of ``SLOW_UNIT`` passes that make an item of the steady work: about 1 ms here."""
SLOW_UNIT = 40
"""Passes over 16 KiB that make the normal item of the slow work: about 0.1 ms here. Counted, not timed."""

Arrays = Mapping[str, Any]
Specs = Mapping[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Load:
    """What an item costs.

    Attributes:
        specs: Arrays of one item, ``name -> (shape, dtype)``.
        fill: ``fill(item, arrays, seed)`` writes the item into arrays that the peer owns.
        make: ``make(item)`` returns the arrays of the item, made as its peer's own examples make them.
        fill_many: ``fill_many(items, arrays, seeds)``, for peers that hand over a run of items.
        make_many: ``make_many(items)`` returns arrays with a leading dimension.
    """

    specs: Specs
    fill: Callable[..., None]
    make: Callable[[int], dict[str, Any]]
    fill_many: Callable[..., None] | None = None
    make_many: Callable[[Sequence[int]], dict[str, Any]] | None = None


@functools.cache
def rows() -> Any:
    """The rows of the copy work, mapped once in a process and kept."""
    return np.load(Path(os.environ[FOLDER]) / "rows.npy", mmap_mode="r")


@functools.cache
def image_paths(size: int) -> tuple[str, ...]:
    return tuple(sorted(str(path) for path in (Path(os.environ[FOLDER]) / f"jpeg-{size}").iterdir()))


def decode(path: str, size: int) -> Any:
    from PIL import Image  # noqa: PLC0415  only the image works need Pillow

    with Image.open(path) as image:
        pixels = image.convert("RGB")
        return pixels if pixels.size == (size, size) else pixels.resize((size, size), Image.Resampling.BILINEAR)


def tiny_fill(item, arrays, seed=None):
    arrays["x"][...] = item


def tiny_make(item):
    return {"x": np.full(TINY, item, np.float32)}


def tiny_fill_many(items, arrays, seeds=None):
    arrays["x"][...] = np.asarray(items, np.float32)[:, None]


def tiny_make_many(items):
    return {"x": np.repeat(np.asarray(items, np.float32)[:, None], TINY, axis=1)}


def copy_fill(item, arrays, seed=None):
    source = rows()
    arrays["x"][...] = source[item % len(source)]


def copy_make(item):
    source = rows()
    return {"x": source[item % len(source)]}


def image_fill(item, arrays, seed=None):
    paths = image_paths(384)
    arrays["x"][...] = decode(paths[item % len(paths)], IMAGE)


def image_make(item):
    paths = image_paths(384)
    return {"x": np.asarray(decode(paths[item % len(paths)], IMAGE))}


def small_fill(item, arrays, seed=None):
    paths = image_paths(SMALL_IMAGE)
    arrays["x"][...] = decode(paths[item % len(paths)], SMALL_IMAGE)


def small_make(item):
    paths = image_paths(SMALL_IMAGE)
    return {"x": np.asarray(decode(paths[item % len(paths)], SMALL_IMAGE))}


@functools.cache
def _scratch() -> Any:
    return np.ones(4096, np.float32)


def toil(item: int) -> float:
    """Work that takes SLOW_FACTOR times as long for one item in SLOW_EVERY."""
    scratch = _scratch()
    total = 0.0
    for _ in range(SLOW_UNIT * (SLOW_FACTOR if item % SLOW_EVERY == SLOW_EVERY - 1 else 1)):
        total += float(scratch.sum())
    return total


def slow_fill(item, arrays, seed=None):
    toil(item)
    arrays["x"][...] = item


def slow_make(item):
    toil(item)
    return {"x": np.full(TINY, item, np.float32)}


def steady_fill(item, arrays, seed=None):
    for _ in range(STEADY_UNITS):
        toil(0)
    arrays["x"][...] = item % 256


def steady_make(item):
    return {"x": np.full((STEADY_SIZE, STEADY_SIZE, 3), item % 256, np.uint8)}


def many_arrays(count: int) -> Load:
    """The tiny work with ``count`` arrays an item."""
    names = tuple(f"x{number}" for number in range(count))

    def fill(item, arrays, seed=None):
        for name in names:
            arrays[name][...] = item

    def make(item):
        return {name: np.full(TINY, item, np.float32) for name in names}

    return Load(dict.fromkeys(names, ((TINY,), "float32")), fill, make)


_TINY_SPECS: Specs = {"x": ((TINY,), "float32")}

LOADS = {
    "tiny": Load(_TINY_SPECS, tiny_fill, tiny_make, tiny_fill_many, tiny_make_many),
    "copy": Load({"x": ((ROW,), "float32")}, copy_fill, copy_make),
    "image": Load({"x": ((IMAGE, IMAGE, 3), "uint8")}, image_fill, image_make),
    "small": Load({"x": ((SMALL_IMAGE, SMALL_IMAGE, 3), "uint8")}, small_fill, small_make),
    "slow": Load(_TINY_SPECS, slow_fill, slow_make),
    "steady": Load({"x": ((STEADY_SIZE, STEADY_SIZE, 3), "uint8")}, steady_fill, steady_make),
}


def load_named(name: str) -> Load:
    """A load by name; ``arrays:N`` is the tiny work with N arrays."""
    kind, _, count = name.partition(":")
    return many_arrays(int(count)) if kind == "arrays" else LOADS[kind]
