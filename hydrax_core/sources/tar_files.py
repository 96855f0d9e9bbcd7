"""Tar archives in the way of webdataset: files that differ in their suffix only are one sample.

Promise: every file of every archive is part of one sample, whatever the order of the files; samples are read in any
order, from an index that is made once and kept. ``tar_members`` says what is refused. A sample that lacks a file which
its arrays need, or one that is damaged, fails as an item, by archive and name. Pickles are never read.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import ArraySpec
from hydrax_core.errors import shorten
from hydrax_core.plan.permutation import Indices
from hydrax_core.sources.image_decoding import Augment, Cutting, Picture, Resampling, Resize, advice_for, decoding
from hydrax_core.sources.index import FileIndex, Folder, IndexedFiles, Parts
from hydrax_core.sources.paths import Paths, find_files
from hydrax_core.sources.record_columns import LENGTH, additional_of, choose_columns, fill_columns, read_json, sampled
from hydrax_core.sources.row_source import Arrays, Columns, Extra, FileSource, Rows, make_rows, spec_of
from hydrax_core.sources.tar_members import Members, walk

__all__ = ["TAR", "TarSamples", "tar"]

TAR = (".tar",)
_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "pgm", "tif", "tiff"}
_NUMBERS = {"cls", "cls2", "id", "index", "inx"}
_TEXTS = {"txt", "text", "transcript"}
_ARRAYS = ("offsets", "sizes", "kinds", "shards", "counts", "keys", "key_sizes")
_LOOKED_AT = 50
_AHEAD = 256 << 10
_NPY_1, _HEADER_END = b"\x93NUMPY\x01\x00", 10

Sample: TypeAlias = Mapping[str, bytes]


def tar(
    paths: Paths,
    columns: Columns = None,
    *,
    additional: Iterable[str] = (),
    missing: Mapping[str, Any] | None = None,
    size: int | tuple[int, int] = 224,
    resize: Resize = "crop",
    gray: bool = False,
    augment: bool | Augment = False,
    decoded_size: int | tuple[int, int] | None = None,
    resampling: Resampling = "pillow",
    length: int = LENGTH,
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    index_folder: Folder = None,
) -> Rows:
    """Samples of tar archives: ``0001.jpg`` and ``0001.cls`` are one, with the arrays ``image`` and ``cls``.

    An array is named by the suffix: ``cls`` and ``id`` are whole numbers, ``npy`` an array, ``txt`` a text, ``json``
    has its fields as ``json.field``. An image is ``image``, or ``left`` where the file is ``0001.left.png``. Numbers,
    lists and texts become arrays as in ``jsonl``. Files whose name starts with a dot are ignored.

    Args:
        paths: An archive, a folder (its ``.tar`` files), a pattern with ``*``, or several of these.
        columns: Names of the arrays, or a dict of ``name -> (shape, dtype)``; by default images and numbers.
        additional: Names that go to ``batch.additional``; ``key`` is what the names of a sample's files begin with.
        missing: What a missing value is, by column.
        size: Height and width of images, or one number for both.
        resize: How, as in ``image_folder``.
        gray: One channel instead of three.
        augment: Random crops, and mirrored images, by the items' seeds; ``Augment`` says how.
        decoded_size: What they are cut from, as in ``image_folder``.
        resampling: What brings images to their size, as in ``image_folder``.
        length: Bytes kept of a text; 256 unless given, and a warning tells of longer ones.
        batch_size: Samples in a batch; the last one is padded.
        seed: Chooses the order.
        labels: Names of the arrays that ``batch.labels`` shows.
        index_folder: Where to keep the index; by default the user's cache folder, see ``hydrax_core.sources.index``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: There are images, and Pillow is not installed.
        ValueError: It is no such file, is damaged, or has no such columns.
    """
    picture = Picture.sized(size, augment, resize=resize, gray=gray, resampling=resampling)
    whole = decoding(picture, decoded_size)
    source = TarSamples(find_files("paths", paths, TAR, "tar"), whole, index_folder, dict(missing or {}))
    source.choose(columns, additional, length)
    cutting = Cutting(picture, source.images).changes(source.specs) if whole is not picture else {}
    return make_rows(source, batch_size, seed, labels, advice=advice_for(whole) if source.images else "", **cutting)


class TarSamples(FileSource):
    def __init__(
        self, paths: Sequence[str], picture: Picture, index_folder: Folder, missing: Mapping[str, Any]
    ) -> None:
        super().__init__(paths, picture, missing)
        self.picture, self.missing = picture, missing
        self.files = IndexedFiles(paths, "tar", index_folder)
        self.images: tuple[str, ...] = ()
        self._needed: set[str] | None = None

    def __len__(self) -> int:
        return len(self.index.arrays["first"]) - 1

    @functools.cached_property
    def index(self) -> FileIndex:
        """Where the members of each sample are."""
        return self.files.open(self._build)

    def choose(self, columns: Columns, additional: Iterable[str], length: int) -> None:
        if not len(self):
            raise ValueError(f"{self.paths[0]}: it has no files")
        tried = sampled(len(self))
        records = [
            self._record(index, sample) for index, sample in self._samples(tried[:: -(-len(tried) // _LOOKED_AT)])
        ]
        kinds = self.index.words["kinds"]
        spec = spec_of(self.picture.shape, self.picture.dtype)
        given: dict[str, ArraySpec | str] = {_name(kind): spec for kind in kinds if _suffix(kind) in _IMAGES}
        given["key"] = "text; name it in additional"
        self.specs, self.additional, self.left_out = choose_columns(
            records, columns, additional, length, given=given, missing=self.missing
        )
        self.images = tuple(name for name in self.specs if isinstance(given.get(name), ArraySpec))
        if self.images:
            self.picture.check()
        wrong = next((name for name in self.images if self.specs[name] != spec), None)
        if wrong is not None:
            raise ValueError(f"columns: {wrong!r} is {spec.numpy_dtype} {spec.shape}, as size and gray say")
        names = {*self.specs, *self.additional}
        self._needed = {kind for kind in kinds if any(f"{name}.".startswith(f"{kind}.") for name in names)}

    def fill(self, indices: Indices, arrays: Arrays) -> Extra:
        return self.fill_seeded(indices, arrays, None)

    def fill_seeded(self, indices: Indices, arrays: Arrays, seeds: Sequence[int] | None) -> Extra:
        records = []
        for row, (index, sample) in enumerate(self._samples(indices.tolist())):
            for name in self.images:
                found = [data for kind, data in sample.items() if _suffix(kind) in _IMAGES and _name(kind) == name]
                if len(found) != 1:
                    raise ValueError(f"{self._where(index)}: it has {'several images' if found else 'no'} {name!r}")
                seed = None if seeds is None else seeds[row]
                self.picture.read(found[0], f"{self._where(index)}: {name}", arrays[name][row], seed)
            records.append(self._record(index, sample))
        others = {name: array for name, array in arrays.items() if name not in self.images}
        fill_columns(records, others, f"{self.paths[0]}: ", missing=self.missing)
        return additional_of(records, self.additional)

    def _samples(self, indices: Sequence[int]) -> Iterable[tuple[int, Sample]]:
        arrays, kinds = self.index.arrays, self.index.words["kinds"]
        first, offsets, sizes = arrays["first"], arrays["offsets"], arrays["sizes"]
        asked = np.asarray(indices, np.int64)
        starts, stops, shards = (found.tolist() for found in (first[asked], first[asked + 1], arrays["shards"][asked]))
        members = [
            list(zip(offsets[start:stop].tolist(), sizes[start:stop].tolist(), strict=True))
            for start, stop in zip(starts, stops, strict=True)
        ]
        spans = [_together(places) for places in members]
        read = iter(
            self.files.read_many([(shard, *each) for shard, some in zip(shards, spans, strict=True) for each in some])
        )
        for index, start, stop, places, some in zip(indices, starts, stops, members, spans, strict=True):
            parts = [next(read) for _ in some]
            if len(some) < len(places):
                parts = [parts[0][place - some[0][0] :][:length] for place, length in places]
            names = [kinds[kind] for kind in arrays["kinds"][start:stop].tolist()]
            yield index, dict(zip(names, parts, strict=True))
        next(read, None)  # which looks whether the files are still what they were

    def _record(self, index: int, sample: Sample) -> dict[str, Any]:
        """The values that are needed of a sample, but for images."""
        record: dict[str, Any] = {"key": self._key(index)} if "key" in self.additional else {}
        for kind, data in sample.items():
            if _suffix(kind) in _IMAGES or (self._needed is not None and kind not in self._needed):
                continue
            try:
                value = _decode(_suffix(kind), data)
            except Exception as error:
                # Damage shows as whatever it makes NumPy and json stumble over.
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"{self._where(index)}.{kind} cannot be read ({reason})") from error
            record[kind] = value
            if isinstance(value, dict):
                record.update({f"{kind}.{field}": entry for field, entry in value.items()})
        return record

    def _key(self, index: int) -> str:
        keys, ends = self.index.arrays["keys"], self.index.arrays["key_ends"]
        return str(keys[ends[index] : ends[index + 1]].tobytes().decode("utf-8", "surrogateescape"))

    def _where(self, index: int) -> str:
        return f"{self.paths[int(self.index.arrays['shards'][index])]}: {self._key(index)}"

    def _build(self) -> Parts:
        kinds: dict[bytes, int] = {}
        parts: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
        for shard, (path, size, _) in enumerate(self.files.identity):
            _group(walk(self.files.walking(shard, _AHEAD), size, path), path, shard, kinds, parts)
        for whole, counts in (("first", "counts"), ("key_ends", "key_sizes")):
            parts[whole] = [np.concatenate([[0], *parts.pop(counts)]).cumsum()]
        return Parts(parts, {"kinds": [kind.decode("utf-8", "surrogateescape") for kind in kinds]})


def _together(places: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """One span around the members of a sample where they lie close, else one of each."""
    begin, end = min(place for place, _ in places), max(place + length for place, length in places)
    near = end - begin <= sum(length for _, length in places) + 2048 * len(places)
    return [(begin, end - begin)] if near else places


def _group(members: Members, path: str, shard: int, kinds: dict[bytes, int], parts: dict[str, list[Any]]) -> None:
    """Add the samples of one archive, in the order of their first files."""
    samples: dict[bytes, int] = {}
    numbers, kind_of, kept = [], [], []
    for place, name in enumerate(members.names):
        base = name.rfind(b"/") + 1
        dot = name.find(b".", base)
        if dot == base:
            continue
        if dot < 0:
            shown = repr(name.decode("utf-8", "replace"))
            raise ValueError(f"{path}: {shown} has no suffix, so it can be part of no sample")
        numbers.append(samples.setdefault(name[:dot], len(samples)))
        kind_of.append(kinds.setdefault(name[dot + 1 :].lower(), len(kinds)))
        kept.append(place)
    sample = np.array(numbers, np.int64)
    order = np.argsort(sample, kind="stable")
    kind, places = np.array(kind_of, np.int64)[order], np.array(kept, np.int64)[order]
    both = np.sort(sample[order] * (len(kinds) + 1) + kind)
    if len(both) > 1 and (both[1:] == both[:-1]).any():
        twice = int(both[1:][both[1:] == both[:-1]][0]) // (len(kinds) + 1)
        raise ValueError(f"{path}: {shorten(list(samples)[twice])} has two files of one suffix")
    parts["offsets"].append(np.array(members.offsets, np.int64)[places])
    parts["sizes"].append(np.array(members.sizes, np.int64)[places])
    parts["kinds"].append(kind)
    parts["shards"].append(np.full(len(samples), shard))
    parts["counts"].append(np.bincount(sample, minlength=len(samples)))
    parts["keys"].append(np.frombuffer(b"".join(samples), np.uint8))
    parts["key_sizes"].append(np.array([len(key) for key in samples], np.int64))


@functools.cache
def _suffix(kind: str) -> str:
    return kind.rpartition(".")[2]


def _name(kind: str) -> str:
    return kind.rpartition(".")[0] or "image"


def _decode(suffix: str, data: bytes) -> Any:
    if suffix in _NUMBERS:
        return int(data)
    if suffix in _TEXTS:
        return data.decode()
    if suffix == "json":
        return read_json(data)
    return _array(data) if suffix == "npy" else data


def _array(data: bytes) -> npt.NDArray[Any]:
    """The array of an .npy file; np.load parses each header as Python, which takes five times as long as all else."""
    size = _HEADER_END + int.from_bytes(data[8:_HEADER_END], "little")
    if data[:8] != _NPY_1 or len(data) < size:
        found: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        return found
    shape, fortran_order, dtype = _header(data[:size])
    count = math.prod(shape)
    if dtype.hasobject or len(data) != size + count * dtype.itemsize:
        raise ValueError(f"expected {count} values of {dtype} in {len(data) - size} bytes")
    return np.frombuffer(data, dtype, count, size).reshape(shape, order="F" if fortran_order else "C")


@functools.lru_cache(256)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return np.lib.format.read_array_header_1_0(io.BytesIO(head[8:]))
