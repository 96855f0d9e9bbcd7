"""Each source of files is known by the content of its files, then by their suffix; all else is refused in words."""

import gzip
import json
import os
import sqlite3
import struct
import tarfile
import zipfile
from pathlib import Path

import click
import numpy as np
import PIL.Image
import pytest

from hydrax_cli.main import run_command_line
from hydrax_cli.shared import recognise
from hydrax_cli.shared.recognise import SourceOptions
from hydrax_cli.shared.target import load_target


def write_npy(name):
    with Path(name).open("wb") as file:
        np.save(file, np.arange(60, dtype=np.float32).reshape(20, 3))


def write_npz(name):
    with Path(name).open("wb") as file:
        np.savez(file, x=np.zeros((20, 3), np.float32), y=np.arange(20))


def write_jsonl(name):
    Path(name).write_text("".join(json.dumps({"x": n, "y": n / 2, "text": "a" * n}) + "\n" for n in range(20)))


def write_csv(name):
    Path(name).write_text("x,y\n" + "".join(f"{n},{n / 2}\n" for n in range(20)))


def write_text(name):
    Path(name).write_text("some line\n" * 20)


def write_tar(name):
    Path("part").write_text("3")
    with tarfile.open(name, "w") as archive:
        for number in range(20):
            archive.add("part", f"{number}.cls")
    Path("part").unlink()


def write_sqlite(name):
    connection = sqlite3.connect(name)
    connection.execute("create table points (x integer, y real)")
    connection.executemany("insert into points values (?, ?)", [(n, n / 2) for n in range(20)])
    connection.commit()
    connection.close()


def write_parquet(name):
    table = pytest.importorskip("pyarrow").table({"x": list(range(20)), "y": [0.5] * 20})
    pytest.importorskip("pyarrow.parquet").write_table(table, name)


def write_arrow(name):
    table = pytest.importorskip("pyarrow").table({"x": list(range(20)), "y": [0.5] * 20})
    pytest.importorskip("pyarrow.feather").write_feather(table, name)


def write_hdf5(name):
    with pytest.importorskip("h5py").File(name, "w") as file:
        file["x"] = np.zeros((20, 3), np.float32)


def write_images(name):
    for label in ("cat", "dog"):
        for number in range(10):
            (Path(name) / label).mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(Path(name) / label / f"{number}.png")


def write_sound(name):
    soundfile = pytest.importorskip("soundfile")
    Path(name).mkdir()
    for number in range(20):
        soundfile.write(Path(name) / f"{number}.wav", np.zeros(400, np.float32), 16_000)


FILES = [
    (write_npy, ".npy", "a NumPy file", {"data"}),
    (write_npz, ".npz", "a NumPy file", {"x", "y"}),
    (write_jsonl, ".jsonl", "JSON lines", {"x", "y"}),
    (write_csv, ".csv", "CSV", {"x", "y"}),
    (write_text, ".txt", "lines of text", {"text", "length"}),
    (write_tar, ".tar", "tar shards", {"cls"}),
    (write_sqlite, ".sqlite", "an SQLite database", {"x", "y"}),
    (write_parquet, ".parquet", "Parquet", {"x", "y"}),
    (write_arrow, ".feather", "Arrow IPC", {"x", "y"}),
    (write_hdf5, ".h5", "an HDF5 file", {"x"}),
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_line():
    return lambda *words: run_command_line(["run", *words, "--batch", "2", "--kind", "inline"])


def load(target, **options):
    return load_target(target, {}, SourceOptions(**options))


@pytest.mark.parametrize(("write", "suffix", "kind", "arrays"), FILES, ids=[suffix for _, suffix, _, _ in FILES])
def test_a_file_is_known_and_its_rows_are_loaded(write, suffix, kind, arrays):
    write(f"data{suffix}")
    found = load(f"data{suffix}", batch_size=4)
    assert found.kind == kind
    group = found.loader.training[0]
    assert len(group) == 20
    assert set(group.loader_layouts) == arrays
    with found.loader.replace(loader_kind="inline", end_at=("epoch", 1)) as loader:
        assert sum(batch.size for batch in loader) == 20


@pytest.mark.parametrize(
    ("write", "kind"), [(write_tar, "tar shards"), (write_jsonl, "JSON lines"), (write_sqlite, "an SQLite database")]
)
def test_content_says_more_than_the_suffix(write, kind):
    write("data.csv")
    assert load("data.csv").kind == kind


@pytest.mark.parametrize(
    ("write", "options", "kind"),
    [
        (write_images, {"size": (4, 4), "split": 0.5}, "a folder of images"),
        (write_sound, {"length": 100}, "a folder of sound"),
    ],
)
def test_folders_are_known_by_their_files(write, options, kind):
    write("folder")
    found = load("folder", **options)
    assert found.kind == kind
    assert bool(found.loader.validation) == ("split" in options)
    Path("folder/notes.txt").write_text("notes")
    assert load("folder", **options).kind == f"{kind}; 1 other files are left out"


def test_a_folder_of_shards_is_one_data_set():
    Path("shards").mkdir()
    for number in range(3):
        write_jsonl(f"shards/{number}.jsonl")
    found = load("shards", columns=("y",))
    assert found.kind == "JSON lines, 3 files"
    assert len(found.loader.training[0]) == 60
    assert set(found.loader.training[0].loader_layouts) == {"y"}


def test_tokens_want_a_length():
    np.arange(21 * 4, dtype=np.uint16).tofile("a.bin")
    with pytest.raises(click.UsageError, match=r"--length: a\.bin is a stream of tokens"):
        load("a.bin")
    found = load("a.bin", length=4)
    assert found.kind == "a stream of tokens, taken for uint16"
    assert len(found.loader.training[0]) == 21
    np.save("b.npy", np.arange(20))
    assert load("b.npy", length=4).kind == "a stream of tokens"


def test_rows_are_split():
    write_csv("a.csv")
    loader = load("a.csv", split=0.25).loader
    assert (len(loader.training[0]), len(loader.validation[0])) == (15, 5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "compressed by gzip; unpack it"),
        ("a.parquet", b"\x80\x04\x95rest", "a pickle, which runs code"),
        ("a", b"", "an empty file"),
        ("a", b"whatever", "of no known format"),
        ("a.png", b"\x89PNG\r\n", "a single file; give a folder of images"),
        ("a.npz", b"PK\x03\x04rest", "a damaged archive"),
        ("a.csv", b"", "it is empty"),
        ("a.tar", b"no tar at all" * 99, "is no tar archive"),
        ("a.db", b"no database", "cannot be read as an SQLite database"),
        ("a.npy", b"no array", "cannot be read as a NumPy file"),
    ],
)
def test_damaged_and_foreign_files_are_named(name, content, message):
    Path(name).write_bytes(content)
    with pytest.raises(click.UsageError, match=message):
        load(name)


def test_a_zip_archive_a_fifo_and_a_missing_file_are_no_data():
    with zipfile.ZipFile("a.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(click.UsageError, match="is a zip archive; unpack it"):
        load("a.npz")
    os.mkfifo("b.npy")
    with pytest.raises(click.UsageError, match=r"b\.npy is a FIFO"):
        load("b.npy")
    with pytest.raises(click.UsageError, match=r"there is no file c\.parquet"):
        load("c.parquet")


@pytest.mark.parametrize(
    ("write", "suffix", "kind"),
    [(write_parquet, ".parquet", "Parquet"), (write_tar, ".tar", "tar shards"), (write_csv, ".csv", "CSV")],
)
def test_several_files_of_one_kind_are_one_data_set(run_line, capsys, write, suffix, kind):
    for name in "ab":
        write(f"{name}{suffix}")
    found = load(f"a{suffix}", others=(f"b{suffix}",))
    assert (found.kind, len(found.loader.training[0])) == (f"{kind}, 2 files", 40)
    assert run_line(f"a{suffix}", f"b{suffix}") == 0
    assert "40 items" in capsys.readouterr().out


def test_several_files_that_are_no_data_set_are_refused(run_line, capsys):
    write_csv("a.csv")
    write_jsonl("b.jsonl")
    write_npy("c.npy")
    for files, why in (
        (("a.csv", "b.jsonl"), "a.csv is CSV, and b.jsonl is JSON lines"),
        (("c.npy", "c.npy"), "c.npy is a NumPy file, and it is read alone"),
        (("my_module:loader", "a.csv"), "my_module:loader is code, of which one is run"),
    ):
        assert run_line(*files) == 2
        assert why in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_mixes_formats_says_what_is_in_it():
    write_images("folder")
    write_tar("folder/a.tar")
    with pytest.raises(click.UsageError, match=r"folder mixes formats \(20 images, 1 tar shards\)"):
        load("folder")
    Path("arrays").mkdir()
    for name in ("a", "b"):
        write_npy(f"arrays/{name}.npy")
    with pytest.raises(click.UsageError, match="arrays holds 2 files, each a NumPy file; give one of them"):
        load("arrays")


def test_a_database_of_several_tables_lists_them():
    write_sqlite("a.db")
    connection = sqlite3.connect("a.db")
    connection.execute("create table others (z integer)")
    connection.close()
    with pytest.raises(click.UsageError, match="has the tables points, others"):
        load("a.db")


def test_a_header_that_promises_more_than_the_file_has_is_refused():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824,), }"
    header += b" " * (117 - len(header)) + b"\n"
    Path("a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    with pytest.raises(click.UsageError, match=r"a\.npy"):
        load("a.npy")


def test_the_command_says_what_it_took_data_for(capsys):
    write_csv("a.csv")
    arguments = ["run", "a.csv", "--batch", "5", "--kind", "inline"]
    assert run_command_line([*arguments, "--columns", "x"]) == 0
    assert "hydrax run: a.csv (CSV)" in capsys.readouterr().out
    assert run_command_line([*arguments, "--length", "0"]) == 2
    assert run_command_line([*arguments, "--columns", "z"]) == 2
    assert "there is no 'z'" in capsys.readouterr().err


def test_a_data_set_of_hugging_face_is_known_by_its_folder():
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"x": list(range(20))}).save_to_disk("saved")
    found = load("saved", columns=("x",))
    assert found.kind == "a data set of Hugging Face"
    assert len(found.loader.training[0]) == 20


def test_the_named_splits_of_hugging_face_are_folders(run_line, capsys):
    datasets = pytest.importorskip("datasets")
    both = {name: datasets.Dataset.from_dict({"x": list(range(20))}) for name in ("train", "test")}
    datasets.DatasetDict(both).save_to_disk("both")
    for options in ([], ["--split", "0.5"]):
        assert run_line("both", *options) == 2
        assert "both holds the splits train, test; give the folder of one, as both/train" in capsys.readouterr().err
    assert run_line("both", "--split", "train") == 2
    assert "TARGET/train" in " ".join(capsys.readouterr().err.split())
    assert run_line("both/train") == 0


@pytest.mark.parametrize(
    ("text", "code"), [("0.1", 0), (".5", 0), ("5e-1", 0), ("0", 2), ("1", 2), ("0.0", 2), ("1.5", 2)]
)
def test_a_share_is_between_0_and_1(run_line, text, code):
    write_csv("a.csv")
    assert run_line("a.csv", "--split", text) == code


def test_a_run_tells_classes_and_columns_left_out(run_line, capsys):
    for label in range(12):
        Path(f"set/{label:02}").mkdir(parents=True)
        PIL.Image.new("RGB", (4, 4)).save(f"set/{label:02}/0.png")
    assert run_line("set", "--size", "4") == 0
    assert "classes: 12 of label: 00, 01, 02, 03, 04, 05, 06, 07, ..." in capsys.readouterr().out
    write_jsonl("a.jsonl")
    assert run_line("a.jsonl") == 0
    assert "left out: text: text; name it in columns" in capsys.readouterr().out


def test_folders_of_zarr_and_lmdb_are_known_by_what_lies_in_them():
    pytest.importorskip("zarr").save_array("array.zarr", np.zeros((20, 3), np.float32))
    assert load("array.zarr").kind == "Zarr"
    with pytest.importorskip("lmdb").open("base") as database, database.begin(write=True) as transaction:
        for number in range(20):
            transaction.put(b"%03d" % number, b"abc")
    assert load("base").kind == "an LMDB database"


def test_an_archive_made_to_fill_the_memory_is_refused(monkeypatch):
    np.savez_compressed("a.npz", x=np.zeros((1000, 1000), np.float32))
    assert load("a.npz").kind == "a NumPy file"
    monkeypatch.setattr(recognise, "_LARGE", 1 << 20)
    with pytest.raises(click.UsageError, match=r"a\.npz unpacks to 4,000,128 bytes, over 100 times its size"):
        load("a.npz")


def test_a_source_takes_its_other_arguments_by_p(run_line, capsys):
    write_parquet("a.parquet")
    found = load_target("a.parquet", {"window": "1kB", "additional": "y", "shuffle": "block"}, SourceOptions())
    source = found.loader.training[0].items
    assert (source.additional, set(source.specs)) == (("y",), {"x"})
    write_sound("sound")
    assert load_target("sound", {"seconds": "0.5"}, SourceOptions()).loader.training[0].loader_layouts["audio"].shape[
        1:
    ] == (8000,)
    for words, why in (
        (("-p", "windw=3"), "-p windw: arrow takes columns"),
        (("-p", "seed=3"), "the rest has options of its own"),
        (("-p", "shuffle=no"), "-p shuffle: expected one of rows, block, got 'no'"),
        (("-p", "missing=3"), "-p missing: "),
    ):
        assert run_line("a.parquet", *words) == 2
        assert why.removesuffix("columns") in " ".join(capsys.readouterr().err.split())


def test_json_has_all_names_of_classes(run_line, capsys):
    for label in range(12):
        Path(f"set/{label:02}").mkdir(parents=True)
        PIL.Image.new("RGB", (4, 4)).save(f"set/{label:02}/0.png")
    assert run_line("set", "--size", "4", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"label": [f"{label:02}" for label in range(12)]}
    write_csv("a.csv")
    assert run_line("a.csv", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {}


def test_what_loads_an_item_is_no_target(run_line, capsys):
    Path("mine.py").write_text("def load(item, out, seed):\n    pass\n\n\ndef many(items, arrays, seeds):\n    pass\n")
    for name in ("load", "many"):
        assert run_line(f"mine.py:{name}") == 2
        assert "so it seems to be what loads an item; give the Dataloader" in " ".join(capsys.readouterr().err.split())
