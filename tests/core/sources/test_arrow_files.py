"""Tables of Arrow and Parquet, made of the digits (UCI, CC BY 4.0) and of Python's documentation (PSF licence)."""

import gc
import os
import pickle
import pydoc_data.topics
import sys
from pathlib import Path

import numpy as np
import pytest
from filekit import epoch as filled

from hydrax_core import Dataloader
from hydrax_core.data.portable import PORTABLE
from hydrax_core.errors import CacheMismatchError, LoaderError
from hydrax_core.sources import arrow
from hydrax_core.sources.digits import _data
from hydrax_core.testing import check_loader, check_source

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

DIGITS = _data()
IMAGES = DIGITS["image"].reshape(-1, 64).astype(np.float32)
COUNT = len(IMAGES)
TOPICS = [text for _, text in sorted(pydoc_data.topics.topics.items())]


def digits_table(count=COUNT):
    image = pa.FixedSizeListArray.from_arrays(pa.array(IMAGES[:count].reshape(-1)), 64)
    label = pa.array(DIGITS["label"][:count].astype(np.int64))
    return pa.table({"image": image, "label": label, "name": [f"digit {n}" for n in range(count)]})


def ipc(table, path, rows, options=None):
    with pa.ipc.new_file(path, table.schema, options=options) as file:
        file.write_table(table, max_chunksize=rows)


def stream(table, path, rows):
    with pa.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=rows)


def compressed(table, path, rows):
    ipc(table, path, rows, pa.ipc.IpcWriteOptions(compression="lz4"))


def row_groups(table, path, rows):
    parquet.write_table(table, path, row_group_size=rows)


WRITERS = {"mapped": ipc, "stream": stream, "compressed": compressed, "parquet": row_groups}


def write(kind, folder, table, rows=100, name="a"):
    path = folder / f"{name}.{'parquet' if kind == 'parquet' else 'arrow'}"
    WRITERS[kind](table, path, rows)
    return path


def epoch(loader):
    """The real rows of one epoch, in the order of the data."""
    batches = list(loader)
    rows = {name: np.concatenate([np.asarray(b.arrays[name])[: b.size] for b in batches]) for name in batches[0].arrays}
    order = np.argsort(np.concatenate([batch.indices for batch in batches]))
    return {name: values[order] for name, values in rows.items()}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("rows", [100, 5000])
def test_rows_come_as_they_were_written(kind, rows, tmp_path):
    found = arrow(write(kind, tmp_path, digits_table(), rows), additional=["name"])
    assert len(found.training) == COUNT
    if rows == 100 and kind in {"mapped", "parquet"}:
        assert check_source(found.training.items) == []
    assert check_loader(None, found.training) == []
    with Dataloader(found.training, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            np.testing.assert_array_equal(batch.arrays["image"][: batch.size], IMAGES[list(batch.indices)])
            np.testing.assert_array_equal(batch.arrays["label"][: batch.size], DIGITS["label"][list(batch.indices)])
            assert batch.additional["name"][: batch.size] == [f"digit {index}" for index in batch.indices]
            assert batch.arrays["label"].dtype == np.int32


def test_workers_read_a_folder_of_files_each_for_itself(tmp_path):
    table = digits_table()
    for number in range(3):
        write("parquet", tmp_path, table.slice(number * 600, 600), name=f"part-{number}")
    rows = arrow(tmp_path, ["image", "label"])
    assert len(pickle.dumps(rows.training.items)) < 10_000
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 1)) as loader:
        np.testing.assert_array_equal(epoch(loader)["image"], IMAGES)
    assert len(arrow(tmp_path / "part-[01].parquet").training) == 1200


def test_a_mapped_file_is_read_where_it_lies(tmp_path):
    source = arrow(write("mapped", tmp_path, digits_table(), 5000)).training.items
    before = pa.total_allocated_bytes()
    source.__getitems__(range(100))
    assert pa.total_allocated_bytes() == before


def test_a_table_in_memory_goes_along():
    table = digits_table(200)
    rows = arrow(table, batch_size=32)
    assert check_source(rows.training.items) == []
    assert arrow(digits_table(200)).training.items.fingerprint() == rows.training.items.fingerprint()
    assert arrow(digits_table(199)).training.items.fingerprint() != rows.training.items.fingerprint()
    with Dataloader(rows.training, end_at=("epoch", 1)) as loader:
        np.testing.assert_array_equal(epoch(loader)["image"], IMAGES[:200])


@pytest.mark.parametrize("rows", [7, 1000])
def test_every_type_of_numbers_becomes_an_array(tmp_path, rows):
    count = 50
    tensor = pa.fixed_shape_tensor(pa.int8(), (2, 3))
    cubes = np.arange(count * 6, dtype=np.int8).reshape(count, 6)
    columns = {
        "flag": pa.array([n % 3 == 0 for n in range(count)]),
        "half": pa.array(np.arange(count, dtype=np.float16)),
        "big": pa.array(np.arange(count, dtype=np.uint64)),
        "maybe": pa.array([None if n % 5 == 0 else n / 2 for n in range(count)]),
        "cube": pa.ExtensionArray.from_storage(
            tensor, pa.FixedSizeListArray.from_arrays(pa.array(cubes.reshape(-1)), 6)
        ),
        "pair": pa.array([[n, -n] for n in range(count)], pa.list_(pa.int16())),
        "bits": pa.array([[n % 2 == 0, True] for n in range(count)], pa.list_(pa.bool_(), 2)),
        "when": pa.array([0] * count, pa.timestamp("ms")),
    }
    for kind in ("mapped", "parquet"):
        found = arrow(write(kind, tmp_path, pa.table(columns), rows))
        assert dict(found.left_out) == {"when": "its type is timestamp[ms]"}
        item = found.training.items[10]
        assert {name: layout.numpy_dtype.name for name, layout in found.training.loader_layouts.items()} == {
            "flag": "bool", "half": "float16", "big": "uint32", "maybe": "float32", "cube": "int8", "pair": "int16",
            "bits": "bool",
        }  # fmt: skip
        assert np.isnan(item["maybe"])
        assert found.training.items[11]["maybe"] == 5.5
        assert item["cube"].tolist() == cubes[10].reshape(2, 3).tolist()
        assert item["pair"].tolist() == [10, -10]
        assert item["bits"].tolist() == [True, True]
        assert not item["flag"]
        assert item["big"] == 10
        assert check_loader(None, found.training) == []


def tokens_table():
    lists = pa.array([np.frombuffer(text.encode()[: 5 + n % 7], np.uint8) for n, text in enumerate(TOPICS)])
    return pa.table({"tokens": lists, "text": TOPICS})


@pytest.mark.parametrize("kind", ["mapped", "parquet"])
def test_lists_of_different_length_bring_their_lengths(kind, tmp_path):
    path = write(kind, tmp_path, tokens_table(), 10)
    if kind == "parquet":
        with pytest.raises(ValueError, match=r"'tokens' cannot become an array: its lists are of different length"):
            arrow(path, ["tokens"])
        found = arrow(path, {"tokens": ((11,), "uint8")})
    else:
        found = arrow(path)
    assert found.training.loader_layouts["tokens"].shape[1:] == (11,)
    for index, item in enumerate(found.training.items):
        length = 5 + index % 7
        assert item["tokens_length"] == length
        assert bytes(item["tokens"]) == TOPICS[index].encode()[:length].ljust(11, b"\0")
    cut = arrow(path, {"tokens": ((6,), "int32")}).training.items
    assert [item["tokens_length"] for item in cut] == [min(6, 5 + index % 7) for index in range(len(TOPICS))]
    assert check_loader(None, found.training) == []


@pytest.mark.parametrize("kind", ["mapped", "parquet"])
def test_what_cannot_be_kept_is_an_error_of_its_row(kind, tmp_path):
    table = pa.table({"x": pa.array([1, None, 3]), "y": pa.array([2**40, 1, 2])})
    path = write(kind, tmp_path, table)
    group = arrow(path, ["x"], batch_size=1).training.replace(shuffle_first=False)
    if kind == "mapped":
        with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
            assert next(loader).arrays["x"].tolist() == [1]
            with pytest.raises(LoaderError, match=r"'x': row 1 has no value \(null\); missing="):
                next(loader)
    else:
        with pytest.raises(ValueError, match=r"block 0: 'x': row 1 has no value"):
            group.items[0]
    assert [item["x"] for item in arrow(path, ["x"], missing={"x": -1}).training.items] == [1, -1, 3]
    with pytest.raises(OverflowError, match=r"'y': 1099511627776 does not fit into int32"):
        arrow(path, ["y"]).training.items[0]


def test_wrong_arguments_and_files_are_named(tmp_path):
    path = write("mapped", tmp_path, digits_table(10))
    for arguments, text in (
        ((path, ["name"]), "'name' cannot become an array: its type is string"),
        ((path, ["lable"]), "there is no 'lable'.*did you mean 'label'"),
        ((write("parquet", tmp_path, digits_table(0), name="b"),), "b.parquet: it has no rows"),
        (([path, write("mapped", tmp_path, tokens_table(), name="c")],), "c.arrow: expected the schema of the first"),
        (([path, write("compressed", tmp_path, digits_table(9), name="d")],), "all compressed, or none"),
    ):
        with pytest.raises(ValueError, match=text):
            arrow(*arguments)
    with pytest.raises(FileNotFoundError, match=r"data: .*nothing\.parquet is no file"):
        arrow(tmp_path / "nothing.parquet")
    with pytest.raises(ValueError, match="shuffle: expected one of 'rows', 'block'"):
        arrow(path, shuffle="items")
    with pytest.raises(ValueError, match="window: expected rows, or bytes such as '64MB', got '3 apples'"):
        arrow(write("parquet", tmp_path, digits_table(10)), window="3 apples")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("keep", [0, 3, 9, 400, -40])
def test_a_truncated_file_is_refused_by_name(kind, keep, tmp_path):
    path = write(kind, tmp_path, digits_table(200))
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=path.name):
        list(arrow(path).training.items)


def test_a_damaged_row_group_is_an_error_of_its_rows(tmp_path):
    path = write("parquet", tmp_path, digits_table(300))
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    damaged = bytearray(path.read_bytes())
    damaged[column.data_page_offset : column.data_page_offset + 40] = bytes(40)
    path.write_bytes(damaged)
    source = arrow(path, ["image"]).training.items
    for _ in range(2):
        np.testing.assert_array_equal(source[0]["image"], IMAGES[0])
        with pytest.raises(ValueError, match=r"a\.parquet"):
            source[150]
        np.testing.assert_array_equal(source[299]["image"], IMAGES[299])


def test_groups_of_two_tables_stand_in_one_loader(tmp_path):
    first = arrow(write("parquet", tmp_path, digits_table(100)), ["image"], batch_size=50).training
    second = arrow(write("mapped", tmp_path, digits_table(200), name="b"), ["image"], batch_size=50).training
    with Dataloader([first, second], validation=("epoch", 1, second), end_at=("epoch", 1)) as loader:
        batches = list(loader)
    assert len(batches) == 2 + 4 + 4
    for batch in batches:
        np.testing.assert_array_equal(batch.arrays["image"], IMAGES[list(batch.indices)])


@pytest.mark.parametrize("kind", ["mapped", "parquet"])
def test_a_cache_of_another_table_or_reading_is_refused(kind, tmp_path):
    def first_batch(data, **options):
        group = arrow(data, ["label"], batch_size=4, **options).training.replace(cache_location=tmp_path / "cache")
        with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
            return next(loader).from_cache

    path = write(kind, tmp_path, digits_table(8))
    assert [first_batch(path), first_batch(path)] == [False, True]
    for other, options in ((write(kind, tmp_path, digits_table(8), name="b"), {}), (path, {"missing": {"label": 3}})):
        with pytest.raises(CacheMismatchError, match=r"settings\.data"):
            first_batch(other, **options)


def test_without_pyarrow_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[arrow\]'"):
        arrow("a.parquet")


def blocks_of(batches, rows):
    return [set((np.array(batch.indices) // rows).tolist()) for batch in batches]


def test_parquet_is_shuffled_in_whole_row_groups_within_a_window(tmp_path):
    path = write("parquet", tmp_path, digits_table(1600), 100)
    rows = arrow(path, ["label"], window=400, batch_size=100, seed=3)
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 2)) as loader:
        batches = list(loader)
    for epoch_batches in (batches[:16], batches[16:]):
        windows = [set().union(*blocks_of(epoch_batches[first : first + 4], 100)) for first in range(0, 16, 4)]
        assert [len(window) for window in windows] == [4] * 4
        assert set().union(*windows) == set(range(16))
        assert all(len(found) > 1 for found in blocks_of(epoch_batches, 100))
    assert batches[0].indices != batches[16].indices
    with Dataloader(rows.training, validation=("epoch", 1, rows.training), loader_kind="inline") as loader:
        validation = [next(loader) for _ in range(17)][16]
    assert list(validation.indices) == list(range(100))
    everywhere = arrow(path, ["label"], shuffle="rows", batch_size=100)
    with Dataloader(everywhere.training, loader_kind="inline") as loader:
        assert len(blocks_of([next(loader)], 100)[0]) > 10


def test_each_row_group_is_decoded_once_an_epoch(tmp_path, monkeypatch):
    group = arrow(write("parquet", tmp_path, digits_table(1600), 100), ["label"], window=400, batch_size=64).training
    read, source = [], group.items
    monkeypatch.setattr(
        type(source), "read_block", lambda self, number, arrays: read.append(number) or {}, raising=True
    )
    with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
        assert sum(batch.size for batch in loader) == 1600
    assert sorted(read) == list(range(16))


def test_a_split_keeps_the_order_by_row_groups(tmp_path):
    rows = arrow(write("parquet", tmp_path, digits_table(1600), 100), ["label"], window=200, batch_size=32)
    training, validation = rows.split(0.25)
    with Dataloader(training, loader_kind="inline", end_at=("epoch", 1)) as loader:
        found = [{training.items._indices[index] // 100 for index in batch.indices} for batch in loader]
    assert max(map(len, found)) <= 6
    assert len(training) + len(validation) == 1600
    assert training.fingerprint() != validation.fingerprint()


@pytest.mark.skipif(PORTABLE, reason="each worker has a copy")
def test_a_large_table_in_memory_is_shared_by_the_workers():
    count = 40_000
    values = np.arange(count * 64, dtype=np.float32).reshape(count, 64)
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 64)})
    rows = arrow(table, batch_size=1000)
    packed = pickle.dumps(rows.training.items)
    assert len(packed) < 10_000
    before = pa.total_allocated_bytes()
    copy = pickle.loads(packed)
    np.testing.assert_array_equal([item["x"] for item in copy.__getitems__([5, 0])], values[[5, 0]])
    assert pa.total_allocated_bytes() < before + 10_000
    with Dataloader(rows.training, loader_count=2, end_at=("batch", 4)) as loader:
        for batch in loader:
            np.testing.assert_array_equal(batch.arrays["x"], values[list(batch.indices)])
    path = rows.training.items._shared.place[0]
    del rows, loader, batch
    gc.collect()
    assert not Path(path).exists()
    with pytest.raises(ValueError, match="shared only while the process that has it keeps it"):
        pickle.loads(packed)[0]


def test_the_lengths_of_lists_are_told_for_packing(tmp_path):
    source = arrow(write("mapped", tmp_path, tokens_table(), 10)).training.items
    assert source.lengths().tolist() == [5 + index % 7 for index in range(len(TOPICS))]
    with pytest.raises(ValueError, match="lengths: no array of the source is ragged; give columns="):
        arrow(digits_table(5)).training.items.lengths()


@pytest.mark.skipif(PORTABLE, reason="each worker has a copy")
def test_a_copy_of_a_table_in_memory_never_becomes_another_one():
    def made(value):
        source = arrow(pa.table({"x": np.full(3_000_000, value, np.int32)})).training.items
        return source, pickle.dumps(source), int(source.__getstate__()["_memory"][0].rpartition("/")[2])

    first, copied, number = made(1)
    assert pickle.loads(pickle.dumps(pickle.loads(copied)))[5]["x"] == 1
    del first
    gc.collect()
    second, _, other = made(2)
    if other != number:  # as it may be where the number was free
        os.dup2(other, number)
    try:
        with pytest.raises(ValueError, match="only while the process that has it keeps it"):
            pickle.loads(copied)[5]
    finally:
        if other != number:
            os.close(number)
    assert second[5]["x"] == 2


@pytest.mark.parametrize("mapped", [False, True])
def test_a_name_has_one_number_and_a_missing_one_has_none(mapped, tmp_path):
    def rows(numbers, names, **options):
        table = pa.table({"kind": pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(names))})
        ipc(table, tmp_path / "a.arrow", 4)
        return arrow(tmp_path / "a.arrow" if mapped else table, **options)

    twice = rows([0, 1, 2], ["x", "y", "x"])
    assert twice.classes["kind"] == ("x", "y")
    assert filled(twice.training)[0]["kind"].tolist() == [0, 1, 0]
    none = rows([0, 1, 2], ["x", None, "y"], missing={"kind": -1})
    assert none.classes["kind"] == ("x", "y")
    assert filled(none.training)[0]["kind"].tolist() == [0, -1, 1]
    with pytest.raises(LoaderError, match="row 1 has no value"):
        filled(rows([0, 1, 2], ["x", None, "y"]).training)


def test_names_that_are_numbered_anew_in_the_file_are_refused(tmp_path):
    path = tmp_path / "a.arrow"
    ipc(pa.table({"kind": pa.array(["x", "y"]).dictionary_encode()}), path, 4)
    copied = pickle.dumps(arrow(path).training.items)
    ipc(pa.table({"kind": pa.array(["y", "x"]).dictionary_encode()}), path, 4)
    with pytest.raises(ValueError, match="it changed: the names of 'kind' are others"):
        pickle.loads(copied)[0]


@pytest.mark.parametrize("write", [ipc, compressed, row_groups])
def test_columns_that_share_a_name_are_refused_by_it(write, tmp_path):
    two = [pa.array([1, 2]), pa.array([3, 4])]
    write(pa.Table.from_arrays(two, ["a", "a"]), tmp_path / "a.parquet", 4)
    with pytest.raises(ValueError, match="two columns are called 'a'"):
        arrow(tmp_path / "a.parquet")
    lists = pa.table({"x_length": [8, 9], "x": [[1, 2], [3]]})
    write(lists, tmp_path / "b.parquet", 4)
    shape = {"x": ((2,), "int32")}
    with pytest.raises(ValueError, match="the lengths of 'x' would be 'x_length', which is a column, too"):
        arrow(tmp_path / "b.parquet", {**shape, "x_length": None})
    assert filled(arrow(tmp_path / "b.parquet", shape).training)[0]["x_length"].tolist() == [2, 1]
    same = pa.table({"x": [[1, 2], [3, 4]], "x_length": [8, 9]})
    write(same, tmp_path / "c.parquet", 4)
    assert filled(arrow(tmp_path / "c.parquet").training)[0]["x_length"].tolist() == [8, 9]
