"""Data that people have, by name: each call gives a loader function and the groups to give to a ``Dataloader``.

``docs/sources.md`` has a table of what there is. A name is imported when it is first used, so that this package costs
nothing and a worker imports only what its own source needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrax_core.sources.array_files import hdf5, zarr
    from hydrax_core.sources.arrow_files import arrow
    from hydrax_core.sources.audio import AudioFolder, audio_folder
    from hydrax_core.sources.colour import oklab, srgb
    from hydrax_core.sources.common import Rows, RowSource
    from hydrax_core.sources.digits import Digits, uci_digits
    from hydrax_core.sources.frames import data_frame
    from hydrax_core.sources.hf_datasets import hugging_face
    from hydrax_core.sources.images import ImageFolder, image_folder
    from hydrax_core.sources.numpy_files import numpy_rows
    from hydrax_core.sources.pictures import Augment
    from hydrax_core.sources.record_files import array_record, lmdb
    from hydrax_core.sources.sqlite_rows import sqlite
    from hydrax_core.sources.tar_files import tar
    from hydrax_core.sources.text_files import csv, jsonl, text_lines
    from hydrax_core.sources.token_files import Tokens, tokens
    from hydrax_core.sources.wrapped import Wrapped, grain_source, tfds_source, torch_dataset, wrap

__all__ = [
    "AudioFolder",
    "Augment",
    "Digits",
    "ImageFolder",
    "RowSource",
    "Rows",
    "Tokens",
    "Wrapped",
    "array_record",
    "arrow",
    "audio_folder",
    "csv",
    "data_frame",
    "grain_source",
    "hdf5",
    "hugging_face",
    "image_folder",
    "jsonl",
    "lmdb",
    "numpy_rows",
    "oklab",
    "sqlite",
    "srgb",
    "tar",
    "text_lines",
    "tfds_source",
    "tokens",
    "torch_dataset",
    "uci_digits",
    "wrap",
    "zarr",
]

_HOMES = {
    "array_files": ("hdf5", "zarr"),
    "arrow_files": ("arrow",),
    "audio": ("AudioFolder", "audio_folder"),
    "colour": ("oklab", "srgb"),
    "common": ("RowSource", "Rows"),
    "digits": ("Digits", "uci_digits"),
    "frames": ("data_frame",),
    "hf_datasets": ("hugging_face",),
    "images": ("ImageFolder", "image_folder"),
    "numpy_files": ("numpy_rows",),
    "pictures": ("Augment",),
    "record_files": ("array_record", "lmdb"),
    "sqlite_rows": ("sqlite",),
    "tar_files": ("tar",),
    "text_files": ("csv", "jsonl", "text_lines"),
    "token_files": ("Tokens", "tokens"),
    "wrapped": ("Wrapped", "grain_source", "tfds_source", "torch_dataset", "wrap"),
}
"""File -> its public names. A file never has the name of a function, which its import would replace."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
