"""A file that is given to another source than its own: what it is, and what reads it."""

import gzip
import io
import json
import sqlite3
import tarfile

import numpy as np
import PIL.Image
import pytest

from hydrax_core import sources
from hydrax_core.sources import file_format

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
h5py = pytest.importorskip("h5py")
lmdb_module = pytest.importorskip("lmdb")


def write_npy(path):
    with path.open("wb") as file:
        np.save(file, np.arange(20, dtype=np.int32))


def write_arrow(path):
    table = pa.table({"x": [1, 2]})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


def write_parquet(path):
    parquet.write_table(pa.table({"x": [1, 2]}), path)


def write_sqlite(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (x)")
    database.commit()
    database.close()


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)


def write_tar(path):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("1.cls")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))


def write_jsonl(path):
    path.write_text(json.dumps({"x": 1}) + "\n")


def write_csv(path):
    path.write_text("x,y\n1,2\n")


def write_image(path):
    PIL.Image.new("RGB", (4, 4)).save(path, "PNG")


FORMATS = {
    "numpy_rows": (write_npy, ".npy", "a NumPy file"),
    "arrow": (write_arrow, ".arrow", "Arrow IPC"),
    "arrow ": (write_parquet, ".parquet", "Parquet"),
    "sqlite": (write_sqlite, ".db", "an SQLite database"),
    "hdf5": (write_hdf5, ".h5", "an HDF5 file"),
    "tar": (write_tar, ".tar", "tar shards"),
    "jsonl": (write_jsonl, ".jsonl", "JSON lines"),
    "csv": (write_csv, ".csv", "CSV"),
    "image_folder": (write_image, ".png", "an image"),
}
CALLS = {
    "numpy_rows": {},
    "arrow": {},
    "sqlite": {"query": "t"},
    "hdf5": {},
    "zarr": {},
    "lmdb": {},
    "array_record": {},
    "tar": {},
    "jsonl": {},
    "csv": {},
    "text_lines": {},
    "tokens": {"length": 2},
    "hugging_face": {},
    "image_folder": {},
    "audio_folder": {"seconds": 1},
}
READ = {("numpy_rows", "tokens"), ("jsonl", "text_lines"), ("csv", "text_lines")}
"""What the other source takes, and rightly."""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", FORMATS)
def test_the_file_of_another_source_is_refused_with_what_reads_it(tmp_path, kind, call):
    write, suffix, told = FORMATS[kind]
    own = kind.strip()
    if own == call or (own, call) in READ:
        return
    write(tmp_path / f"a{suffix}")
    with pytest.raises((ValueError, NotADirectoryError)) as raised:
        getattr(sources, call)(tmp_path / f"a{suffix}", **CALLS[call])
    assert f"a{suffix} is" in str(raised.value)
    assert told in str(raised.value)
    assert f"hydrax_core.sources.{own} " in str(raised.value).replace(";", " ")


@pytest.mark.parametrize("kind", FORMATS)
def test_content_says_more_than_the_suffix(tmp_path, kind):
    write, suffix, told = FORMATS[kind]
    for name in (f"a{suffix}", "a.txt"):
        write(tmp_path / name)
        found = file_format(tmp_path / name)
        if kind == "csv" and name == "a.txt":
            assert found == ("text_lines", "lines of text", False)
        else:
            assert found == (kind.strip(), told, kind != "csv")
    assert file_format(f"nothing{suffix}", content=False).source == kind.strip()


def test_what_no_source_reads_is_told_and_what_is_unknown_is_none(tmp_path):
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"x"))
    assert file_format(tmp_path / "a.csv") == ("", "compressed by gzip; unpack it (gunzip)", True)
    with pytest.raises(ValueError, match=r"a\.csv is compressed by gzip; unpack it \(gunzip\)"):
        sources.csv(tmp_path / "a.csv")
    (tmp_path / "a.xyz").write_text("who knows")
    assert file_format(tmp_path / "a.xyz") is None


def test_numbers_may_begin_like_anything(tmp_path):
    for head in (b"\x1f\x8b", b"PAR1", b"PK\x03\x04"):
        (tmp_path / "a.bin").write_bytes(head + bytes(60))
        assert len(sources.tokens(tmp_path / "a.bin", 4, "uint16").training) > 0


def test_columns_may_be_given_by_place(tmp_path):
    write_csv(tmp_path / "a.csv")
    write_jsonl(tmp_path / "a.jsonl")
    write_tar(tmp_path / "a.tar")
    assert set(sources.csv(tmp_path / "a.csv", ["y"]).training.loader_layouts) == {"y"}
    assert set(sources.jsonl(tmp_path / "a.jsonl", {"x": "int8"}).training.loader_layouts) == {"x"}
    assert set(sources.tar(tmp_path / "a.tar", ["cls"]).training.loader_layouts) == {"cls"}
