"""Tables of SQLite, made of the digits (UCI, CC BY 4.0)."""

import contextlib
import sqlite3

import numpy as np
import pytest

from hydrax_core import Dataloader
from hydrax_core.errors import CacheMismatchError, LoaderError
from hydrax_core.sources import sqlite
from hydrax_core.sources.digits import _data
from hydrax_core.testing import check_loader, check_source

DIGITS = _data()
COUNT = len(DIGITS["label"])


def write(path, count=COUNT):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE digits (label INTEGER, ink REAL, name TEXT, image BLOB)")
        database.executemany(
            "INSERT INTO digits VALUES (?, ?, ?, ?)",
            [
                (int(DIGITS["label"][n]), DIGITS["image"][n].mean().item(), f"digit {n}", DIGITS["image"][n].tobytes())
                for n in range(count)
            ],
        )
    return path


def change(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize(
    "query", ["digits", "SELECT rowid, * FROM digits", "WITH d AS (SELECT rowid, * FROM digits) SELECT * FROM d"]
)
def test_rows_come_as_they_were_written(query, tmp_path):
    columns = {"label": None, "ink": None, "image": ((8, 8), "uint8", "float32")}
    rows = sqlite(write(tmp_path / "a.db", 200), query, columns, additional=["name"], batch_size=32)
    assert check_source(rows.training.items) == []
    assert check_loader(None, rows.training) == []
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 1)) as loader:
        for batch in loader:
            indices = list(batch.indices)
            np.testing.assert_array_equal(batch.arrays["image"][: batch.size], DIGITS["image"][indices])
            np.testing.assert_array_equal(batch.arrays["label"][: batch.size], DIGITS["label"][indices])
            assert batch.additional["name"][: batch.size] == [f"digit {index}" for index in indices]


def test_numbers_are_found_and_the_rest_is_left_out(tmp_path):
    rows = sqlite(write(tmp_path / "a.db", 20), "digits")
    dtypes = {name: layout.numpy_dtype.name for name, layout in rows.training.loader_layouts.items()}
    assert dtypes == {"label": "int32", "ink": "float32"}
    assert rows.left_out["name"] == "it holds str"
    assert "blobs" in rows.left_out["image"]


def test_rows_of_a_query_have_the_keys_that_it_yields(tmp_path):
    path = write(tmp_path / "a.db")
    change(path, "DELETE FROM digits WHERE rowid % 3 = 0")
    rows = sqlite(path, "SELECT rowid AS n, label FROM digits WHERE label >= 5;", key="n")
    expected = [n for n in range(COUNT) if DIGITS["label"][n] >= 5 and (n + 1) % 3]
    assert [int(item["label"]) for item in rows.training.items] == DIGITS["label"][expected].tolist()
    many = rows.training.items.__getitems__(list(range(len(expected)))[::-1])  # more than one statement takes
    assert [int(item["label"]) for item in many] == DIGITS["label"][expected[::-1]].tolist()
    assert sqlite(path, "SELECT rowid AS n, label FROM digits", ["n"], key="n").training.items[0]["n"] == 1


def test_the_keys_of_a_whole_table_are_not_sent(tmp_path):
    assert isinstance(sqlite(write(tmp_path / "a.db", 50), "digits").training.items._numbers, range)


def test_a_missing_value_is_an_error_of_its_row(tmp_path):
    path = write(tmp_path / "a.db", 10)
    change(
        path,
        "UPDATE digits SET label = NULL, ink = NULL WHERE rowid = 4",
        "UPDATE digits SET label = 'x' WHERE rowid = 6",
    )
    group = sqlite(path, "digits", {"label": ((), "int32")}, batch_size=3).training.replace(shuffle_first=False)
    with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
        assert next(loader).arrays["label"].tolist() == DIGITS["label"][:3].tolist()
        with pytest.raises(LoaderError, match="'label': the row with rowid 4 holds None, no number; missing="):
            next(loader)
    assert np.isnan(sqlite(path, "digits", ["ink"]).training.items[3]["ink"])
    assert sqlite(path, "digits", {"label": ((), "int32")}, missing={"label": -1}).training.items[3]["label"] == -1
    with pytest.raises(ValueError, match="rowid 6 holds 'x'"):
        sqlite(path, "digits", {"label": ((), "int32")}, missing={"label": -1}).training.items[5]


def test_what_changes_after_is_an_error(tmp_path):
    path = write(tmp_path / "a.db", 10)
    source = sqlite(path, "digits").training.items
    change(path, "DELETE FROM digits WHERE rowid = 4")
    with pytest.raises(ValueError, match="it changed: the row with rowid 4 is gone"):
        source[3]


def test_the_database_is_never_written(tmp_path):
    path = write(tmp_path / "a.db", 10)
    before = path.read_bytes()
    source = sqlite(path, "digits").training.items
    assert len(list(source)) == 10
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        source._connection.execute("DELETE FROM digits")
    assert path.read_bytes() == before


def test_wrong_arguments_and_files_are_named(tmp_path):
    path = write(tmp_path / "a.db", 10)
    change(path, "CREATE TABLE empty (x INTEGER)")
    for query, options, text in (
        ("nothing", {}, r"a\.db: no such table: nothing"),
        ("SELECT label FROM digits", {}, "no such column: .*rowid|key: 'rowid' is not an integer"),
        ("SELECT label / 2 AS label FROM digits", {"key": "label"}, "key: 'label' is the same in several rows"),
        ("SELECT name FROM digits", {"key": "name"}, "key: 'name' is not an integer"),
        ("empty", {}, "the query yields no row"),
        ("digits", {"columns": ["name"]}, "'name' cannot become an array: it holds str"),
        ("SELECT FROM", {}, "syntax error"),
    ):
        with pytest.raises(ValueError, match=text):
            sqlite(path, query, **options)
    with pytest.raises(ValueError, match="expected a blob of 4 bytes, got 64 bytes"):
        sqlite(path, "digits", {"image": ((4,), "uint8")}).training.items[0]
    (tmp_path / "text.db").write_text("no database, but long enough to look like one" * 100)
    with pytest.raises(ValueError, match=r"text\.db: file is not a database"):
        sqlite(tmp_path / "text.db", "digits")
    with pytest.raises(FileNotFoundError, match="path: there is no file"):
        sqlite(tmp_path / "none.db", "digits")


def test_a_whole_number_that_floats_round_is_an_error_of_its_row(tmp_path):
    path = tmp_path / "a.db"
    change(path, "CREATE TABLE t (x)")
    change(path, f"INSERT INTO t VALUES (0.5), ({2**53 + 1})")
    source = sqlite(path, "t").training.items
    assert source[0]["x"] == 0.5
    with pytest.raises(OverflowError, match=rf"'x' holds {2**53 + 1}, which floats round"):
        source[1]


def test_a_damaged_page_is_an_error(tmp_path):
    path = write(tmp_path / "a.db")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 8192] = b"\xff" * 8192
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.db"):
        sqlite(path, "digits").training.items.__getitems__(range(COUNT))


def test_groups_of_two_queries_stand_in_one_loader(tmp_path):
    path = write(tmp_path / "a.db")
    low, high = (
        sqlite(path, f"SELECT rowid, label FROM digits WHERE label {test}", batch_size=100).training
        for test in ("< 5", ">= 5")
    )
    with Dataloader([low, high], validation=("epoch", 1, low), end_at=("epoch", 1)) as loader:
        for batch in loader:
            high_ones = batch.arrays["label"][: batch.size] >= 5
            assert high_ones.all() if batch.is_training and batch.group_index == 1 else not high_ones.any()


def test_a_cache_of_another_query_or_file_is_refused(tmp_path):
    def first_batch(path, query):
        group = sqlite(path, query, batch_size=4).training.replace(cache_location=tmp_path / "cache")
        with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
            return next(loader).from_cache

    path = write(tmp_path / "a.db", 8)
    assert [first_batch(path, "digits"), first_batch(path, "digits")] == [False, True]
    for other, query in (
        (path, "SELECT rowid, label + 1 AS label, ink FROM digits"),
        (write(tmp_path / "b.db", 8), "digits"),
    ):
        with pytest.raises(CacheMismatchError, match=r"settings\.data"):
            first_batch(other, query)
