"""Folders whose names are values (``year=2024/``), of the digits (UCI, CC BY 4.0)."""

import numpy as np
import pytest
from filekit import check_promises, check_two_groups, epoch

from hydrax_core.sources import arrow
from hydrax_core.sources.digits import _data

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
dataset = pytest.importorskip("pyarrow.dataset")
feather = pytest.importorskip("pyarrow.feather")

DIGITS = _data()
TABLE = pa.table({"ink": DIGITS["image"].mean((1, 2)).astype(np.float32)[:300], "number": np.arange(300)})
EACH = 100


def save(folder, keys, kind="parquet"):
    """A hundred rows in each of three folders."""
    for part, key in enumerate(keys):
        (folder / key).mkdir(parents=True)
        write = parquet.write_table if kind == "parquet" else feather.write_feather
        options = {"compression": "uncompressed"} if kind == "feather" else {}
        write(TABLE.slice(part * EACH, EACH), folder / key / f"0.{kind}", **options)
    return folder


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_the_keys_of_folders_are_columns(tmp_path, kind):
    folder = save(tmp_path / "set", ["year=2023/kind=b%2Fc", "year=2024/kind=a", "year=2024/kind=b%2Fc"], kind)
    rows = arrow(folder, additional=["kind"] if kind == "parquet" else [])
    found, more = epoch(rows.training)
    np.testing.assert_array_equal(found["ink"], TABLE["ink"].to_numpy())
    assert found["year"].tolist() == [2023] * EACH + [2024] * 2 * EACH
    assert found["year"].dtype == np.int32
    if kind == "parquet":
        assert [each["kind"] for each in more] == ["b/c"] * EACH + ["a"] * EACH + ["b/c"] * EACH
    else:
        assert rows.classes == {"kind": ("a", "b/c")}
        assert found["kind"].tolist() == [1] * EACH + [0] * EACH + [1] * EACH
    if kind == "feather":
        check_promises(rows.training)


def test_names_become_numbers_and_a_key_alone_is_read(tmp_path):
    folder = save(tmp_path / "set", ["kind=x", "kind=y", "kind=__HIVE_DEFAULT_PARTITION__"])
    rows = arrow(folder, ["kind"], missing={"kind": -1})
    assert rows.classes == {"kind": ("x", "y")}
    assert epoch(rows.training)[0]["kind"].tolist() == [-1] * EACH + [0] * EACH + [1] * EACH
    with pytest.raises(ValueError, match=r"'kind': row 0 has no value \(null\)"):
        arrow(folder, ["kind"]).training.items[0]


@pytest.mark.parametrize("pattern", [".", "*/*.parquet", "year=2*", "*/*/../*.parquet"])
def test_patterns_and_lists_of_files_have_their_keys(tmp_path, pattern):
    folder = save(tmp_path / "set", ["year=1", "year=2", "year=3"])
    if pattern == "year=2*":
        assert epoch(arrow(folder / pattern / "*").training)[0]["year"].tolist() == [2] * EACH
        return
    found = arrow(folder / pattern if pattern != "*/*/../*.parquet" else sorted(folder.glob("*/*")))
    assert epoch(found.training)[0]["year"].tolist() == [1] * EACH + [2] * EACH + [3] * EACH
    assert "year" not in arrow(folder / "year=1").training.loader_layouts
    assert "year" not in arrow(folder / "year=1/0.parquet").training.loader_layouts


def test_what_pyarrow_writes_is_read_as_pyarrow_reads_it(tmp_path):
    table = TABLE.append_column("month", pa.array([1 + n % 12 for n in range(300)]))
    dataset.write_dataset(table, tmp_path / "set", format="parquet", partitioning=["month"], partitioning_flavor="hive")
    expected = dataset.dataset(tmp_path / "set", partitioning="hive").to_table().sort_by("number")
    found = epoch(arrow(tmp_path / "set").training)[0]
    order = np.argsort(found["number"])
    for name in table.column_names:
        np.testing.assert_array_equal(found[name][order], expected[name].to_numpy())


def test_folders_of_other_keys_are_refused_by_name(tmp_path):
    folder = save(tmp_path / "set", ["year=1", "year=2", "month=2"])
    with pytest.raises(ValueError, match=r"year=1.*expected folders with the keys of .*\(month=\), got year="):
        arrow(folder)
    (folder / "month=2").rename(folder / "rest")
    with pytest.raises(ValueError, match=r"\(none\), got year=|\(year=\), got none"):
        arrow(folder)


def test_a_column_of_the_files_is_the_one_that_counts_and_a_key_is_part_of_the_identity(tmp_path):
    folder = save(tmp_path / "set", ["number=7", "number=8"])
    assert epoch(arrow(folder).training)[0]["number"].tolist() == list(range(200))
    one = save(tmp_path / "one", ["year=1"])
    before = arrow(one).training.fingerprint()
    (one / "year=1").rename(one / "year=2")
    assert arrow(one).training.fingerprint() != before


def test_workers_read_keys_and_two_folders_stand_in_one_loader(tmp_path):
    groups = [arrow(save(tmp_path / name, [f"kind={name}", "kind=z"]), batch_size=50).training for name in ("a", "b")]
    check_two_groups(*groups)


def test_many_rows_of_one_value_take_no_memory(tmp_path):
    rows = 5_000_000
    (tmp_path / "year=3").mkdir()
    feather.write_feather(
        pa.table({"x": np.zeros(rows, np.int8)}), tmp_path / "year=3/0.feather", compression="uncompressed"
    )
    before = pa.total_allocated_bytes()
    source = arrow(tmp_path, batch_size=4).training.items
    assert pa.total_allocated_bytes() - before < 3 * rows
    assert source[rows - 1]["year"] == 3
