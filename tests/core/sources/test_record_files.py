"""LMDB and ArrayRecord, made of the digits (UCI, CC BY 4.0)."""

import sys

import numpy as np
import pytest

from hydrax_core import Dataloader
from hydrax_core.errors import CacheMismatchError
from hydrax_core.sources import array_record, lmdb
from hydrax_core.sources.digits import _data
from hydrax_core.testing import check_loader, check_source

DIGITS = _data()


def encoded(number):
    return DIGITS["image"][number].tobytes() + bytes([DIGITS["label"][number]])


def decode(value):
    numbers = np.frombuffer(value, np.uint8)
    return {"image": numbers[:64].reshape(8, 8), "label": numbers[64]}


def write_lmdb(path, count, database=None):
    module = pytest.importorskip("lmdb")
    with module.open(str(path), map_size=1 << 24, max_dbs=1) as environment:
        opened = environment.open_db(database)
        with environment.begin(write=True, db=opened) as transaction:
            for number in range(count):
                transaction.put(f"{number:05}".encode(), encoded(number))
    return path


def write_records(path, count):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for number in range(count):
        writer.write(encoded(number))
    writer.close()
    return path


KINDS = {
    "lmdb": (lmdb, write_lmdb, "a.lmdb"),
    "array_record": (array_record, write_records, "a.array_record"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_records_come_as_they_were_written(kind, tmp_path):
    read, write, name = KINDS[kind]
    rows = read(write(tmp_path / name, 200), decode, labels=["label"], batch_size=32)
    assert check_source(rows.training.items) == []
    assert check_loader(None, rows.training) == []
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 1)) as loader:
        for batch in loader:
            indices = list(batch.indices)
            np.testing.assert_array_equal(batch.arrays["image"][: batch.size], DIGITS["image"][indices])
            np.testing.assert_array_equal(batch.labels["label"][: batch.size], DIGITS["label"][indices])


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_function_a_record_is_its_bytes(kind, tmp_path):
    read, write, name = KINDS[kind]
    item = read(write(tmp_path / name, 20)).training.items[7]
    assert item["data"].tobytes() == encoded(7)


def test_a_database_by_its_name(tmp_path):
    path = write_lmdb(tmp_path / "a", 9, b"digits")
    assert len(lmdb(path, decode, database="digits").training) == 9
    assert len(lmdb(path / "data.mdb", decode, database="digits").training) == 9
    with pytest.raises(ValueError, match="cannot be read as LMDB"):
        lmdb(path, decode, database="other")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_and_missing_files_are_named(kind, tmp_path):
    read, write, name = KINDS[kind]
    path = write(tmp_path / name, 20)
    file = path / "data.mdb" if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises((ValueError, RuntimeError), match=r"cannot be read|a\.array_record"):
        list(read(path).training.items)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


def test_a_record_that_is_gone_or_refused_is_an_error_of_its_item(tmp_path):
    module = pytest.importorskip("lmdb")
    path = write_lmdb(tmp_path / "a", 9)
    source = lmdb(path, decode).training.items
    del source._source._opened
    with module.open(str(path)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"00003")
        transaction.put(b"00005", b"short")
    with pytest.raises(ValueError, match="it changed: the key b'00003' is gone"):
        source[3]
    with pytest.raises(ValueError, match="cannot reshape"):
        source[5]
    assert source[4]["label"] == DIGITS["label"][4]


def test_groups_of_both_stand_in_one_loader(tmp_path):
    groups = [read(write(tmp_path / name, 100), decode, batch_size=50).training for read, write, name in KINDS.values()]
    with Dataloader(groups, validation=("epoch", 1, groups[0]), end_at=("epoch", 1)) as loader:
        batches = list(loader)
    assert len(batches) == 6
    for batch in batches:
        np.testing.assert_array_equal(batch.arrays["image"], DIGITS["image"][list(batch.indices)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_other_records_is_refused(kind, tmp_path):
    read, write, name = KINDS[kind]

    def first_batch(folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / name
        if not path.exists():
            write(path, 8)
        group = read(path, decode, batch_size=4).training.replace(cache_location=tmp_path / "cache")
        with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
            return next(loader).from_cache

    assert [first_batch("x"), first_batch("x")] == [False, True]
    with pytest.raises(CacheMismatchError, match=r"settings\.data"):
        first_batch("y")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[lmdb\]'"):
        lmdb("a")
    monkeypatch.setitem(sys.modules, "array_record", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[array-record\]'"):
        array_record("a")
