"""Data that people have, by name: each call gives a loader function and the groups to give to a ``Dataloader``.

``docs/sources.md`` has a table of what there is. A name is imported when it is first used, so that this package costs
nothing and a worker imports only what its own source needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrax_core.data.lazy_names import lazy

if TYPE_CHECKING:
    from hydrax_core.sources.array_files import hdf5 as hdf5, zarr as zarr
    from hydrax_core.sources.arrow_files import arrow as arrow
    from hydrax_core.sources.audio import AudioFolder as AudioFolder, audio_folder as audio_folder
    from hydrax_core.sources.colour import oklab as oklab, srgb as srgb
    from hydrax_core.sources.row_source import Rows as Rows, RowSource as RowSource, by_content as by_content
    from hydrax_core.sources.digits import Digits as Digits, uci_digits as uci_digits
    from hydrax_core.sources.formats import FileFormat as FileFormat, file_format as file_format
    from hydrax_core.sources.frames import data_frame as data_frame
    from hydrax_core.sources.hf_datasets import hugging_face as hugging_face
    from hydrax_core.sources.images import ImageFolder as ImageFolder, image_folder as image_folder
    from hydrax_core.sources.numpy_files import numpy_rows as numpy_rows
    from hydrax_core.sources.image_decoding import Augment as Augment
    from hydrax_core.sources.record_files import array_record as array_record, lmdb as lmdb
    from hydrax_core.sources.remote import (
        Peek as Peek,
        is_remote as is_remote,
        peek as peek,
        shown_address as shown_address,
    )
    from hydrax_core.sources.sqlite_rows import sqlite as sqlite
    from hydrax_core.sources.streams import Streamed as Streamed, stream as stream
    from hydrax_core.sources.tar_files import tar as tar
    from hydrax_core.sources.text_files import csv as csv, jsonl as jsonl, text_lines as text_lines
    from hydrax_core.sources.token_files import Tokens as Tokens, tokens as tokens
    from hydrax_core.sources.wrapped import (
        Wrapped as Wrapped,
        grain_source as grain_source,
        tfds_source as tfds_source,
        torch_dataset as torch_dataset,
        wrap as wrap,
    )

_HOMES = {
    "sources.array_files": "hdf5 zarr",
    "sources.arrow_files": "arrow",
    "sources.audio": "AudioFolder audio_folder",
    "sources.colour": "oklab srgb",
    "sources.row_source": "RowSource Rows by_content",
    "sources.digits": "Digits uci_digits",
    "sources.formats": "FileFormat file_format",
    "sources.frames": "data_frame",
    "sources.hf_datasets": "hugging_face",
    "sources.images": "ImageFolder image_folder",
    "sources.numpy_files": "numpy_rows",
    "sources.image_decoding": "Augment",
    "sources.record_files": "array_record lmdb",
    "sources.remote": "Peek is_remote peek shown_address",
    "sources.sqlite_rows": "sqlite",
    "sources.streams": "Streamed stream",
    "sources.tar_files": "tar",
    "sources.text_files": "csv jsonl text_lines",
    "sources.token_files": "Tokens tokens",
    "sources.wrapped": "Wrapped grain_source tfds_source torch_dataset wrap",
}
"""File -> its public names. A file never has the name of a function, which its import would replace."""

__all__, _find = lazy(__name__, _HOMES)

if not TYPE_CHECKING:  # a name that is not above is a mistake
    __getattr__ = _find


def __dir__() -> list[str]:
    return sorted(__all__)
