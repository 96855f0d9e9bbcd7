"""What lies on the disk stays as it is, for caches of earlier versions: change it only with the format's version."""

import contextlib
import dataclasses
import datetime as dt
import errno
import gc
import mmap
import os

import cachekit as kit
import numpy as np
import pytest

from hydrax_core.cache.format import arrays as arrays_module
from hydrax_core.cache.format.arrays import HEADER_BYTES, EpochMap, EpochWriter, array_files, punch
from hydrax_core.cache.format.codec import DecodeError, decode, encode
from hydrax_core.cache.format.entry import (
    CHECKSUM_BYTES,
    decode_batch,
    decode_item,
    encode_batch,
    encode_items,
    entry_checksum,
    seal,
    unseal,
)
from hydrax_core.cache.format.manifest import Manifest, StoredArray
from hydrax_core.data.portable import PORTABLE
from hydrax_core.engine.resources.slots import _anonymous_file

IDENTITY = bytes(range(16))
PLACE = (3, 41)
WEST, HERE = dt.timezone(-dt.timedelta(hours=3, minutes=30)), dt.timezone(dt.timedelta(hours=1), "here")
CODES = [
    (None, "4e"),
    (True, "54"),
    (False, "46"),
    (0, "690100"),
    (-1, "6901ff"),
    (127, "69017f"),
    (128, "69028000"),
    (-(2**70), "69090000000000000000c0"),
    (1.5, "66000000000000f83f"),
    (1 - 2j, "63000000000000f03f00000000000000c0"),
    ("é\ud800", "7305c3a9eda080"),
    ("x" * 200, "73c801" + "78" * 200),
    (b"\x00\xff", "620200ff"),
    ([1, (), [None]], "6c0369010174006c014e"),
    ({"a": 1, 2: b""}, "64027301616901016901026200"),
    (np.array([[1, 2, 3]], "<i2"), "61033c693202010306010002000300"),
    (np.float32(1), "6e033c6634040000803f"),
    (np.zeros((0, 3), "<u8"), "61033c753802000300"),
    (dt.date(2024, 2, 29), "44e807021d"),
    (dt.time(23, 59, 58, 999_999, fold=1), "43173b3a3f420f00014e"),
    (dt.datetime(1, 2, 3, 4, 5, 6, 7), "4d0100020304050607000000004e"),  # noqa: DTZ001  one of the values
    (
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
        "4de807010100000000000000007a4cffffffff48200100000000004e",
    ),
    (
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "here")),
        "4de807010100000000000000007a4c00000000100e000000000000730468657265",
    ),
    (dt.timedelta(-1, 2, 3), "4cffffffff0200000003000000"),
]


@pytest.mark.parametrize(("value", "code"), CODES, ids=lambda value: repr(value)[:40])
def test_the_code_of_a_value_is_that_of_every_version(value, code):
    assert encode(value).hex() == code
    found = decode(bytes.fromhex(code))
    assert (type(found), repr(found)) == (type(value), repr(value))


def test_checksums_and_seals_are_those_of_every_version():
    checksum = entry_checksum(IDENTITY, *PLACE, 1.5, 6, None, [b"abc", b"def"])
    assert checksum.hex() == "d92b3aebbb04cb59d5d9741f77204669"
    assert len(checksum) == CHECKSUM_BYTES
    assert entry_checksum(IDENTITY, *PLACE, 1.5, 6, b"more", [b"abcdef"]).hex() == "2fb848045e2a73a496271c8981fc397a"
    sealed = seal(IDENTITY, *PLACE, b"more")
    assert sealed.hex() == "0b9e0b18e1f02a826d6f7265"
    assert unseal(IDENTITY, *PLACE, sealed) == b"more"


def test_all_that_an_entry_is_counts_for_its_checksum():
    base = (IDENTITY, *PLACE, 1.5, 6, b"more", [b"abc", b"def"])
    others = [bytes(16), 4, 42, 1.75, 7, b"mere", [b"abc", b"deg"]]
    changed = [(*base[:place], other, *base[place + 1 :]) for place, other in enumerate(others)]
    changed += [(*base[:5], None, base[6]), (*base[:5], b"", base[6]), (*base[:5], b"moreabc", [b"def"])]
    checksums = {entry_checksum(*entry) for entry in (base, *changed)}
    assert len(checksums) == len(changed) + 1


@pytest.mark.parametrize("place", range(12))
def test_sealed_data_that_was_changed_or_moved_is_damaged(place):
    sealed = bytearray(seal(IDENTITY, *PLACE, b"more"))
    for identity, epoch, number in ((bytes(16), *PLACE), (IDENTITY, 3, 42), (IDENTITY, 4, 41)):
        assert unseal(identity, epoch, number, bytes(sealed)) is None
    sealed[place] ^= 1
    assert unseal(IDENTITY, *PLACE, bytes(sealed)) is None
    assert unseal(IDENTITY, *PLACE, bytes(sealed[:place])) is None


def test_additional_data_has_one_form_for_batches_and_one_for_items():
    values = {"a": [1, None, "x"], "b": (None, None, 2.5)}
    coded = encode_batch(values, 3, allow_pickle=False)
    assert coded == encode({"a": [1, None, "x"], "b": [None, None, 2.5]})
    assert decode_batch(coded, 3, allow_pickle=False) == {"a": [1, None, "x"], "b": [None, None, 2.5]}
    assert encode_batch({}, 3, allow_pickle=False) is None
    items = encode_items(values, 3, allow_pickle=False)
    assert items == [encode({"a": 1}), None, encode({"a": "x", "b": 2.5})]
    assert decode_item(items[2], allow_pickle=False) == {"a": "x", "b": 2.5}
    assert encode_items({}, 2, allow_pickle=False) == [None, None]
    many = {"a": list(range(1000))}
    assert decode_batch(encode_batch(many, 1000, allow_pickle=False), 1000, allow_pickle=False) == many
    assert len(encode_items(many, 1000, allow_pickle=False)) == 1000


@pytest.mark.parametrize("value", [5, [], {1: [1, 2]}, {"a": 1}, {"a": (1, 2)}, {"a": [1]}, {"a": [1, 2, 3]}], ids=repr)
def test_what_has_not_that_form_is_refused(value):
    with pytest.raises(DecodeError, match="it is no dict"):
        decode_batch(encode(value), 2, allow_pickle=False)


@pytest.mark.parametrize("function", [encode_batch, encode_items])
def test_additional_data_that_does_not_fit_is_refused_by_key_and_place(function):
    for allowed, hint in ((False, "or set cache_pickle=True"), (True, "convert it to plain values$")):
        with pytest.raises(TypeError, match=rf"additional\['b'\]\[1\]: the cache cannot store .*{hint}"):
            function({"a": [1, 2], "b": [3, (n for n in ())]}, 2, allow_pickle=allowed)
    with pytest.raises(TypeError, match="its keys are strings, got 1"):
        function({1: [1, 2]}, 2, allow_pickle=False)
    for values in ([1], [1, 2, 3]):
        with pytest.raises(ValueError, match=rf"additional\['a'\]: expected 2 values, one a row, got {len(values)}"):
            function({"a": values}, 2, allow_pickle=False)


MANIFEST = Manifest(
    "training",
    1,
    "batch",
    3,
    {"seed": 0, "data": "d"},
    (StoredArray("x", (2, 3), "float32", "float32", "<f4"), StoredArray("y", (2,), "bfloat16", "bfloat16", "<u2")),
    {"at": "now"},
    {"load": "1"},
)
FILES = array_files(MANIFEST)
DTYPES = {"y": np.dtype("<u2"), "x": np.dtype("<f4")}


def test_files_and_identities_are_those_of_every_version():
    assert MANIFEST.identity_digest().hex() == "82e780572a733878266012d1008d7179"
    assert [(file.file_name, file.entries, file.entry_bytes, file.size) for file in FILES] == [
        ("x.npy", 3, 24, 4096 + 72),
        ("y.npy", 3, 4, 4096 + 12),
    ]
    start = b"\x93NUMPY\x01\x00\xf6\x0f{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2, 3), }"
    assert FILES[0].header == start.ljust(4095) + b"\n"
    assert HEADER_BYTES == 4096
    assert [FILES[0].offset(number) for number in (0, 2)] == [4096, 4144]


def descriptors():
    gc.collect()  # what others left may go at any moment
    return kit.descriptors()


def parts(number):
    return [np.full((2, 3), number, "<f4"), np.full(2, number, "<u2")]


@pytest.fixture
def written(tmp_path):
    """A folder with the entries 0 and 2 of epoch 5."""
    writer = EpochWriter(tmp_path, 5, FILES)
    for number in (0, 2):
        writer.write(number, [memoryview(part).cast("B") for part in parts(number + 1)])
    writer.sync()
    assert not writer.mended
    before = descriptors()
    writer.close()
    assert descriptors() == before - 4
    return tmp_path


def test_entries_are_read_where_they_were_written(written):
    before = descriptors()
    mapped = EpochMap(written, 5, FILES)
    assert [np.load(written / "epoch-5" / name)[2].tolist() for name in ("x.npy", "y.npy")] == [[[3] * 3] * 2, [3] * 2]
    for number in range(3):
        mapped.read_ahead(number)
        mapped.read(number)
        assert mapped.holds(number)
        expected = parts(0 if number == 1 else number + 1)
        assert [bytes(part) for part in mapped.parts(number)] == [part.tobytes() for part in expected]
        arrays = mapped.arrays(number, DTYPES)
        assert list(arrays) == ["y", "x"]
        assert [arrays[name].tolist() for name in ("x", "y")] == [part.tolist() for part in expected]
    assert not mapped.holds(3)
    assert mapped.is_current()
    into = {"x": np.zeros((4, 2, 3), "<f4"), "y": np.zeros((4, 2), "<u2")}
    mapped.gather(np.array([2, 0, 2]), into)
    assert into["x"][:, 0, 0].tolist() == into["y"][:, 1].tolist() == [3, 1, 3, 0]
    del mapped, arrays
    assert descriptors() == before


def test_what_is_cut_or_replaced_under_a_mapping_is_seen(written):
    mapped = EpochMap(written, 5, FILES)
    path = written / "epoch-5" / "x.npy"
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 1)
    assert [mapped.holds(number) for number in range(3)] == [True, True, False]
    assert not mapped.is_current()
    path.write_bytes(whole)
    assert mapped.is_current()
    cut = EpochMap(written, 5, [*FILES[:1], FILES[1]])
    path.rename(written / "old")
    assert not mapped.is_current()
    path.write_bytes(whole)
    assert not cut.is_current()
    path.write_bytes(whole[: 4096 + 24 + 23])
    short = EpochMap(written, 5, FILES)
    assert [short.holds(number) for number in range(2)] == [True, False]
    assert short.is_current()
    short.read_ahead(2)
    path.write_bytes(b"")
    before = descriptors()
    with pytest.raises(OSError, match=r"epoch-5/x\.npy is empty") as caught:
        EpochMap(written, 5, FILES)
    assert caught.value.errno is None
    assert descriptors() == before


def test_a_file_that_is_short_or_has_another_header_is_mended_and_keeps_its_entries(written):
    path = written / "epoch-5" / "y.npy"
    whole = path.read_bytes()
    for damaged, mended in ((whole[:-1], True), (b"?" + whole[1:], False), (b"", False), (whole + b"more", False)):
        path.write_bytes(damaged)
        writer = EpochWriter(written, 5, FILES)
        writer.close()
        assert writer.mended is mended
        assert len(path.read_bytes()) == max(len(whole), len(damaged))
        assert path.read_bytes()[:4096] == whole[:4096]
        if damaged:
            assert path.read_bytes()[4096:4104] == whole[4096:4104]
            assert EpochMap(written, 5, FILES).holds(2)


def test_the_room_of_an_entry_that_is_given_back_reads_as_zeros(written):
    writer = EpochWriter(written, 5, FILES)
    writer.free(2)
    writer.close()
    mapped = EpochMap(written, 5, FILES)
    assert [bytes(part) for part in mapped.parts(2)] == [bytes(24), bytes(4)]
    assert [bytes(part) for part in mapped.parts(0)] == [part.tobytes() for part in parts(1)]


def test_a_file_that_cannot_be_opened_leaves_no_descriptor(written):
    path = written / "epoch-5" / "y.npy"
    path.unlink()
    path.symlink_to("x.npy")
    before = descriptors()
    for kind in (EpochWriter, EpochMap):
        with pytest.raises(OSError, match=r"y\.npy"):
            kind(written, 5, FILES)
        assert descriptors() == before
    with pytest.raises(FileNotFoundError):
        EpochMap(written, 6, FILES)
    assert descriptors() == before


@pytest.mark.parametrize("portable", [True, pytest.param(False, marks=pytest.mark.skipif(PORTABLE, reason="no holes"))])
def test_a_hole_reads_as_zeros_and_takes_no_room_where_there_are_holes(monkeypatch, portable):
    monkeypatch.setattr(arrays_module, "PORTABLE", portable)
    descriptor = _anonymous_file()
    with open(descriptor, "r+b") as file:  # noqa: PTH123  a descriptor
        file.write(b"x" * 1_000_000)
        file.flush()
        before = os.fstat(descriptor).st_blocks
        punch(descriptor, 5000, 300_001)
        file.seek(0)
        assert file.read() == b"x" * 5000 + bytes(300_001) + b"x" * 694_999
        assert (os.fstat(descriptor).st_blocks < before) is not portable


def test_what_the_system_writes_in_pieces_is_written_whole(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:7], offset))
    writer = EpochWriter(tmp_path, 0, FILES)
    writer.write(1, parts(5))
    writer.close()
    assert (tmp_path / "epoch-0" / "x.npy").read_bytes()[: len(FILES[0].header)] == FILES[0].header
    assert [bytes(part) for part in EpochMap(tmp_path, 0, FILES).parts(1)] == [part.tobytes() for part in parts(5)]


class Mapping:
    """Of a file; notes what is asked of the system."""

    def __init__(self, length):
        self.length, self.asked = length, []

    def __len__(self):
        return self.length

    def madvise(self, advice, start, length):
        self.asked.append((advice, start, length))


def test_the_system_is_asked_for_the_pages_of_an_entry_as_far_as_they_are_mapped(written):
    entry = 10_000
    (file,) = array_files(
        dataclasses.replace(MANIFEST, entries=5, arrays=(StoredArray("x", (entry,), "u1", "u1", "|u1"),))
    )
    cut = 4096 + 3 * entry + 100
    mapped = EpochMap(written, 5, FILES)
    mapped._files, mapped._maps = [file], [Mapping(cut)]
    for number in range(5):
        mapped.read_ahead(number)
    mapped.read(1)
    page = mmap.PAGESIZE
    expected = []
    for number in (0, 1, 2, 3, 1):
        start, end = 4096 + number * entry, min(cut, 4096 + (number + 1) * entry)
        expected.append((start - start % page, end - (start - start % page)))
    assert [asked[1:] for asked in mapped._maps[0].asked] == expected
    assert [asked[0] for asked in mapped._maps[0].asked] == [*[mmap.MADV_WILLNEED] * 4, 22]


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True), (errno.EFAULT, True)])
def test_an_older_system_is_asked_in_the_older_way(written, number, raised):
    def madvise(advice, start, length):
        asked.append(advice)
        if advice != mmap.MADV_WILLNEED:
            raise OSError(number, "")

    asked, mapped = [], EpochMap(written, 5, FILES[:1])
    mapped._maps = [Mapping(4096 + 72)]
    mapped._maps[0].madvise = madvise
    with pytest.raises(OSError, match=f"Errno {number}") if raised else contextlib.nullcontext():
        mapped.read(0)
    assert asked == ([22] if raised else [22, mmap.MADV_WILLNEED])


def test_a_file_that_cannot_be_extended_leaves_no_descriptor(tmp_path, monkeypatch):
    def full(descriptor, size):
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(os, "ftruncate", full)
    before = descriptors()
    with pytest.raises(OSError, match="full"):
        EpochWriter(tmp_path, 0, FILES)
    assert descriptors() == before
