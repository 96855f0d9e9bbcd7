"""Entries are checked once before they are served; what is bad, cut or replaced is not. An index of dicts stands in."""

import errno
import logging
import os

import numpy as np
import pytest

from hydrax_core.cache.format.arrays import EpochMap, EpochWriter, array_files
from hydrax_core.cache.format.entry import entry_checksum, seal
from hydrax_core.cache.format.manifest import Manifest, StoredArray
from hydrax_core.cache.index.index import IndexRow
from hydrax_core.cache.store.reader import EntryReader

IDENTITY = b"identity"
MANIFEST = Manifest("training", 0, "item", 6, {}, (StoredArray("x", (4,), "uint8", "uint8", "|u1"),), {}, {})
FILES = array_files(MANIFEST)


def content(epoch, number):
    return bytes([epoch, number, 7, 7])


class Rows:
    """The index: rows by epoch and number, and how often it was asked."""

    def __init__(self):
        self.rows, self.asked, self.removed = {}, 0, []

    def get(self, epoch, number):
        self.asked += 1
        return self.rows.get((epoch, number))

    def get_many(self, epoch, numbers):
        self.asked += 1
        return {number: self.rows[epoch, number] for number in numbers if (epoch, number) in self.rows}

    def remove(self, keys):
        self.removed += keys
        for key in keys:
            self.rows.pop(key, None)


class Cache:
    def __init__(self, folder):
        self.folder, self.index = folder, Rows()

    def write(self, epoch, *numbers, additional=None):
        writer = EpochWriter(self.folder, epoch, FILES)
        for number in numbers:
            data = content(epoch, number)
            writer.write(number, [data])
            sealed = None if additional is None else seal(IDENTITY, epoch, number, additional)
            checksum = entry_checksum(IDENTITY, epoch, number, 1.0, len(data), sealed, [data])
            self.index.rows[epoch, number] = IndexRow(epoch, number, checksum, 1.0, len(data), sealed)
        writer.close()

    def path(self, epoch=0):
        return self.folder / f"epoch-{epoch}" / "x.npy"

    def damage(self, number, epoch=0):
        descriptor = os.open(self.path(epoch), os.O_WRONLY)
        os.pwrite(descriptor, b"?", FILES[0].offset(number))
        os.close(descriptor)

    def reader(self, *, writable=True):
        return EntryReader(self.folder, FILES, IDENTITY, self.index, writable=writable)


@pytest.fixture
def cache(tmp_path):
    made = Cache(tmp_path)
    made.write(0, 0, 1, 2)
    made.write(0, 3, additional=b"more")
    return made


def read(found, number):
    return bytes(found.files.parts(number)[0])


def test_an_entry_is_checked_once(cache):
    reader = cache.reader()
    for number in (0, 3):
        for _ in range(3):
            found = reader.find(0, number)
            assert read(found, number) == content(0, number)
            assert found.has_additional is (number == 3)
    assert cache.index.asked == 2
    assert reader.find(0, 4) is None
    assert reader.find(1, 0) is None
    assert reader.corrupt == 0
    empty = EntryReader(cache.folder, FILES, IDENTITY, None, writable=True)
    assert empty.find(0, 0) is None
    assert empty.additional(0, [0]) == {}
    many = empty.find_many(0, np.array([0, 1]))
    assert (many.files, many.there.tolist(), many.has_additional.tolist()) == (None, [False] * 2, [False] * 2)


@pytest.mark.parametrize("writable", [True, False])
def test_a_damaged_entry_is_counted_once_and_given_up(cache, writable, caplog):
    caplog.set_level(logging.DEBUG)
    cache.damage(1)
    cache.damage(2)
    reader = cache.reader(writable=writable)
    for _ in range(3):
        assert [reader.find(0, number) is None for number in range(4)] == [False, True, True, False]
    assert reader.corrupt == 2
    assert cache.index.removed == ([(0, 1), (0, 2)] if writable else [])
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.DEBUG]
    assert (
        "entry 1 of epoch 0 is not served, its checksum does not fit; further ones are counted in silence"
        in caplog.text
    )
    assert caplog.messages[1].endswith("does not fit")
    many = reader.find_many(0, np.array([3, 2, 1, 0]))
    assert many.there.tolist() == [True, False, False, True]
    if writable:
        cache.write(0, 1)
        assert read(reader.find(0, 1), 1) == content(0, 1)


def test_many_are_found_at_once_with_what_is_there(cache):
    reader = cache.reader()
    numbers = np.array([5, 3, 0, 0])
    assert not reader.all_checked(0, numbers)
    assert not reader.prepare(0, 0)
    many = reader.find_many(0, numbers)
    assert many.there.tolist() == [False, True, True, True]
    assert many.has_additional.tolist() == [False, True, False, False]
    assert bytes(many.files.parts(3)[0]) == content(0, 3)
    assert cache.index.asked == 1
    assert reader.all_checked(0, numbers[1:])
    assert not reader.all_checked(0, numbers)
    assert not reader.all_checked(1, numbers)
    assert reader.prepare(0, 3)
    assert not reader.prepare(0, 5)
    assert not reader.find_many(1, numbers).there.any()
    assert not reader.find_many(0, np.array([4, 5])).there.any()


def test_a_file_that_is_cut_serves_what_is_left(cache, caplog):
    reader = cache.reader()
    assert reader.find_many(0, np.array([0, 1, 2, 3])).there.all()
    os.truncate(cache.path(), FILES[0].offset(2) + 3)
    many = reader.find_many(0, np.array([0, 1, 2, 3]))
    assert many.there.tolist() == [True, True, False, False]
    assert read(many, 1) == content(0, 1)
    assert reader.find(0, 2) is None
    assert reader.corrupt == 2
    assert "its file is cut" in caplog.text
    os.truncate(cache.path(), FILES[0].offset(1))
    assert reader.find(0, 1) is None
    assert read(reader.find(0, 0), 0) == content(0, 0)


def test_a_file_that_is_replaced_is_read_anew(cache):
    reader = cache.reader()
    assert reader.find(0, 0)
    whole = cache.path().read_bytes()
    cache.path().unlink()
    cache.path().write_bytes(whole)
    cache.write(0, 4)
    assert read(reader.find(0, 4), 4) == content(0, 4)
    assert reader.corrupt == 0


@pytest.mark.parametrize("checksum", [bytes(16), b"\xff" * 16])
def test_a_row_that_another_process_writes_meanwhile_is_followed(cache, checksum, monkeypatch):
    reader, first = cache.reader(), cache.index.rows[0, 1]
    cache.index.rows[0, 1] = first._replace(checksum=checksum)
    get = cache.index.get

    def written_meanwhile(epoch, number):
        row = get(epoch, number)
        cache.index.rows[0, 1] = first
        return row

    monkeypatch.setattr(cache.index, "get", written_meanwhile)
    assert read(reader.find(0, 1), 1) == content(0, 1)
    cache.damage(2)

    def removed_meanwhile(epoch, number):
        return cache.index.rows.pop((epoch, number), None)

    monkeypatch.setattr(cache.index, "get", removed_meanwhile)
    assert reader.find(0, 2) is None
    assert reader.corrupt == 0


@pytest.mark.parametrize("fault", [FileNotFoundError(errno.ENOENT, "gone"), OSError("it is empty")])
def test_an_entry_whose_file_is_missing_or_no_file_is_given_up(cache, fault, monkeypatch, caplog):
    reader = cache.reader()

    def fails(self, *_):
        raise fault

    monkeypatch.setattr(EpochMap, "__init__", fails)
    assert reader.find(0, 1) is None
    assert (reader.corrupt, cache.index.removed) == (1, [(0, 1)])
    assert f"its file is missing or no plain file ({fault})" in caplog.text


@pytest.mark.parametrize("where", ["__init__", "read"])
def test_what_cannot_be_read_now_is_left_alone_and_said_once(cache, where, monkeypatch, caplog):
    reader = cache.reader()

    def fails(self, *_):
        raise OSError(errno.EIO, "the disk")

    with monkeypatch.context() as patched:
        patched.setattr(EpochMap, where, fails)
        assert reader.find(0, 1) is reader.find(0, 2) is None
        assert not reader.find_many(0, np.array([0, 1])).there.any()
    assert (reader.corrupt, cache.index.removed) == (0, [])
    assert len(caplog.messages) == 1
    assert "its entries cannot be read for now" in caplog.text
    assert read(reader.find(0, 1), 1) == content(0, 1)


def test_additional_data_that_is_damaged_gives_up_its_entry(cache):
    reader = cache.reader()
    assert reader.find(0, 3)
    assert reader.additional(0, [3, 5]) == {3: b"more"}
    cache.write(0, 4, additional=b"more")
    row = cache.index.rows[0, 4]
    cache.index.rows[0, 4] = row._replace(additional=row.additional[:-1] + b"?")
    assert reader.additional(0, [3, 4]) == {3: b"more"}
    assert (reader.corrupt, cache.index.removed) == (1, [(0, 4)])
    assert reader.additional(0, [0]) == {}
    assert reader.corrupt == 2
    assert reader.find(0, 0) is None


def test_the_epochs_used_last_are_kept_open(cache):
    for epoch in range(1, 6):
        cache.write(epoch, 0)
    reader = cache.reader()
    for epoch in (0, 1, 2, 3, 0, 4):
        assert read(reader.find(epoch, 0), 0) == content(epoch, 0)
    asked = cache.index.asked
    for epoch in (0, 2, 3, 4):
        reader.find(epoch, 0)
    assert cache.index.asked == asked
    reader.find(1, 0)
    assert cache.index.asked == asked + 1
    reader.drop(4)
    reader.find(3, 0)
    assert cache.index.asked == asked + 1
    reader.find(4, 0)
    assert cache.index.asked == asked + 2
    reader.close()
    reader.find(3, 0)
    assert cache.index.asked == asked + 3


def test_files_that_are_replaced_all_the_time_are_tried_a_few_times(cache, monkeypatch):
    cache.damage(1)
    monkeypatch.setattr(EpochMap, "is_current", lambda self: False)
    reader = cache.reader()
    assert reader.find(0, 1) is None
    assert reader.corrupt == 1
