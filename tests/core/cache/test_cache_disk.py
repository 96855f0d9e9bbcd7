"""Disks that fail: nothing raises into training, one line is logged, what is served stays right."""

import errno
import os
import shutil

import cachekit as kit
import pytest

import hydrax_core.cache.format.arrays
import hydrax_core.cache.format.folder
import hydrax_core.cache.format.manifest
import hydrax_core.cache.store.locks
import hydrax_core.cache.store.record_locks
from hydrax_core.cache import verify
from hydrax_core.data.portable import PORTABLE
from hydrax_core.errors import CacheError

LOCKS = hydrax_core.cache.store.record_locks if PORTABLE else hydrax_core.cache.store.locks
SYNC = "fsync" if PORTABLE else "fdatasync"


def failing(function, code, after):
    """``function`` that raises from its call number ``after`` on."""
    calls = iter(range(10**9))

    def call(*arguments, **named):
        if next(calls) >= after:
            raise OSError(code, os.strerror(code))
        return function(*arguments, **named)

    return call


class PatchedOs:
    """The ``os`` module of one file of the cache with one function replaced."""

    def __init__(self, name, function):
        setattr(self, name, function)

    def __getattr__(self, name):
        return getattr(os, name)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("after", [0, 7, 20])
@pytest.mark.parametrize("call", ["pwrite", SYNC, "ftruncate", "mkdir"])
def test_an_error_of_the_disk_ends_caching_and_nothing_else(tmp_path, monkeypatch, caplog, call, after, code):
    patched = PatchedOs(call, failing(getattr(os, call), code, after))
    monkeypatch.setattr(hydrax_core.cache.format.arrays, "os", patched)
    with kit.open_store(tmp_path) as store:
        for number in range(kit.BATCHES):
            store.write(0, number, kit.batch(number), kit.additional(number))
            if number == 4:
                store.flush()
            store.read(0, number)
        store.flush()
        counters = store.counters()
    monkeypatch.undo()
    assert caplog.text.count("caching is off") == (1 if counters.error else 0)
    if after == 0:
        assert os.strerror(code) in counters.error
        assert counters.written == 0
    found, again = kit.served(tmp_path)
    assert len(found) == counters.written
    assert again.corrupt == 0
    kit.served(kit.fill(shutil.copytree(tmp_path, tmp_path / "copy"), batches=sorted({*range(12)} - set(found))))


def test_part_of_a_write_is_continued(tmp_path, monkeypatch):
    patched = PatchedOs("pwrite", lambda file, data, offset: os.pwrite(file, memoryview(data)[:13], offset))
    monkeypatch.setattr(hydrax_core.cache.format.arrays, "os", patched)
    kit.fill(tmp_path)
    monkeypatch.undo()
    assert len(kit.served(tmp_path)[0]) == kit.BATCHES


def test_an_index_that_cannot_grow_ends_caching(tmp_path, caplog):
    with kit.open_store(tmp_path) as store:
        store._cache.index._writer.execute("PRAGMA max_page_count = 3")
        big = {"text": ["x" * 5000] * kit.BATCH}
        store.write(0, 0, kit.batch(0), big)
        store.flush()
        assert "full" in store.counters().error
        store.write(0, 2, kit.batch(2))
        assert store.read(0, 2) is None
    assert caplog.text.count("caching is off") == 1
    assert kit.served(tmp_path)[0] == []


def test_a_defect_in_a_cacher_thread_ends_caching_with_its_traceback_and_hangs_nobody(tmp_path, monkeypatch, caplog):
    with kit.open_store(tmp_path) as store:
        monkeypatch.setattr("hydrax_core.cache.store.writer.entry_checksum", lambda *_: 1 / 0)
        for number in range(kit.BATCHES):
            store.write(0, number, kit.batch(number))
        store.flush()
    assert "ZeroDivisionError" in caplog.text
    assert store.counters().written == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_cache_that_cannot_be_created_because_the_disk_is_full_is_done_without(tmp_path, monkeypatch, caplog, code):
    monkeypatch.setattr(hydrax_core.cache.format.manifest, "open_regular", failing(None, code, 0))
    with kit.open_store(tmp_path / "c") as store:
        store.write(0, 0, kit.batch(0))
        assert store.read(0, 0) is None
    assert "training goes on without it" in caplog.text


def test_a_place_where_nothing_may_be_created_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(LOCKS, "open_regular", failing(None, errno.EACCES, 0))
    with pytest.raises(CacheError, match="cannot be created: Permission denied"):
        kit.open_store(tmp_path / "c")


def test_a_folder_that_may_not_be_written_is_read(tmp_path, monkeypatch, caplog):
    kit.fill(tmp_path)
    real = LOCKS.open_regular

    def open_regular(name, flags, **named):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, flags, **named)

    monkeypatch.setattr(LOCKS, "open_regular", open_regular)
    found, _ = kit.served(tmp_path)
    assert len(found) == kit.BATCHES
    assert "cannot be written" in caplog.text
    with pytest.raises(CacheError, match="cannot be changed"):
        verify(tmp_path, repair=True)


def test_too_many_open_files_are_a_miss_and_remove_nothing(tmp_path, monkeypatch, caplog):
    kit.fill(tmp_path)
    with kit.open_store(tmp_path) as store:
        monkeypatch.setattr(hydrax_core.cache.format.arrays, "open_regular", failing(None, errno.EMFILE, 0))
        assert store.read(0, 0) is None
        assert store.counters().corrupt == 0
        monkeypatch.undo()
        assert kit.serve(store, 0)
    assert caplog.text.count("cannot be read for now") == 1


def test_a_read_only_store_changes_nothing(tmp_path):
    kit.fill(tmp_path, batches=range(5))
    before = kit.snapshot(tmp_path)
    with kit.open_store(tmp_path, cache_readonly=True) as store:
        for number in range(kit.BATCHES):
            store.prefetch(0, number)
            assert kit.serve(store, number) is (number < 5)
            store.write(0, number, kit.batch(number))
        assert store.readonly
    assert kit.snapshot(tmp_path) == before


def test_a_bad_entry_of_a_read_only_cache_is_counted_once(tmp_path):
    kit.fill(tmp_path)
    largest = max(
        (path for path in kit.files_of(tmp_path) if path.suffix == ".npy"), key=lambda path: path.stat().st_size
    )
    with largest.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    with kit.open_store(tmp_path, cache_readonly=True) as store:
        for _ in range(3):
            assert not kit.serve(store, kit.BATCHES - 1)
            assert kit.serve(store, 0)
        assert store.counters().corrupt == 1


@pytest.mark.parametrize("name", ["with space", "new\nline", "é", "per%20cent?mode=memory#x", os.fsdecode(b"\xff\xfe")])
def test_any_path_will_do(tmp_path, name):
    folder = tmp_path / name
    kit.fill(folder)
    assert len(kit.served(folder)[0]) == kit.BATCHES
    assert list(verify(folder)) == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
