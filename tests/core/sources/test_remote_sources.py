"""Each source of files gives elsewhere what it gives here, whatever the server does in between."""

import functools
import io
import itertools
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import skimage.data
from filekit import check_cache, check_promises, check_two_groups, epoch
from PIL import Image
from remotekit import serving

from hydrax_core import Dataloader
from hydrax_core.errors import HydraxError
from hydrax_core.sources import (
    array_record,
    arrow,
    audio_folder,
    csv,
    hdf5,
    image_folder,
    jsonl,
    lmdb,
    numpy_rows,
    remote,
    sqlite,
    tar,
    text_lines,
    tokens,
    zarr,
)

ROWS = 300
RNG = np.random.default_rng(0)
VALUES = {
    "x": RNG.random((ROWS, 7), np.float32),
    "n": np.arange(ROWS, dtype=np.int32),
}
TABLE = pa.table({"x": [row.tolist() for row in VALUES["x"]], "n": VALUES["n"], "t": [f"row {n}" for n in range(ROWS)]})
TABLE = TABLE.set_column(0, "x", TABLE["x"].cast(pa.list_(pa.float32(), 7)))


def write_ipc(path, compression=None):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE, max_chunksize=90)


def write_tar(path, number=ROWS):
    with tarfile.open(path, "w") as archive:
        for row in range(number):
            array = io.BytesIO()
            np.save(array, VALUES["x"][row])
            for suffix, data in (("npy", array.getvalue()), ("cls", str(row).encode()), ("txt", b"word" * (row % 9))):
                info = tarfile.TarInfo(f"{row:04}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def lines(form):
    return "".join(form.format(n=n, x=n / 4, t="word" * (n % 7)) for n in range(ROWS))


CASES = {
    "a.npy": (lambda path: np.save(path, VALUES["x"]), numpy_rows),
    "a.npz": (lambda path: np.savez(path, **VALUES), numpy_rows),
    "b.npz": (lambda path: np.savez_compressed(path, **VALUES), numpy_rows),
    "a.parquet": (
        lambda path: pyarrow.parquet.write_table(TABLE, path, row_group_size=90),
        lambda path: arrow(path, additional=["t"]),
    ),
    "a.arrow": (write_ipc, lambda path: arrow(path, ["x", "n"], shuffle="block")),
    "b.arrow": (functools.partial(write_ipc, compression="zstd"), lambda path: arrow(path, ["x", "n"])),
    "a.tar": (write_tar, lambda path: tar(path, additional=["key", "txt"])),
    "a.jsonl": (
        lambda path: path.write_text(lines('{{"n": {n}, "x": {x}, "t": "{t}"}}\n')),
        lambda path: jsonl(path, additional=["t"]),
    ),
    "a.csv": (
        lambda path: path.write_text("n,x,t\n" + lines("{n},{x},{t}\n")),
        lambda path: csv(path, missing={"t": ""}),
    ),
    "a.txt": (lambda path: path.write_text(lines("{n} {t}\r\n")), lambda path: text_lines(path, length=20)),
    "a.bin": (VALUES["n"].tofile, lambda path: tokens(path, 16, "int32", targets=True, stride=7)),
    "b.npy": (lambda path: np.save(path, VALUES["n"]), functools.partial(tokens, length=16)),
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    with serving(tmp_path) as made:
        yield made


@pytest.mark.parametrize("name", CASES)
def test_a_file_elsewhere_gives_what_it_gives_here(server, tmp_path, name):
    write, make = CASES[name]
    write(tmp_path / name)
    here, there = make(tmp_path / name), make(f"{server.address}/{name}?sig=secret")
    server.every = 5
    try:
        arrays, more = epoch(there.training)
    finally:
        server.every = 0
    expected, expected_more = epoch(here.training)
    assert arrays.keys() == expected.keys()
    for array, values in expected.items():
        np.testing.assert_array_equal(arrays[array], values)
    assert more == expected_more
    if name in {"a.npy", "a.parquet"}:
        check_promises(there.training)
    assert "secret" not in f"{there.training.fingerprint()} {there}"


@pytest.mark.parametrize("name", CASES)
def test_a_cache_of_one_is_served_to_none_with_other_content(server, tmp_path, name):
    write, make = CASES[name]
    write(tmp_path / name)
    place = f"{server.address}/{name}"
    check_cache(lambda: make(place).training, lambda: setattr(server, "salt", b"again"), tmp_path / "cache")


@pytest.mark.parametrize(("one", "other"), list(itertools.pairwise([*CASES, "a.npy"])))
def test_two_in_one_loader(server, tmp_path, one, other):
    groups = []
    for name in (one, other):
        write, make = CASES[name]
        write(tmp_path / name)
        groups.append(make(f"{server.address}/{name}").training)
    check_two_groups(*groups, kind="process" if one == "a.npy" else "inline")


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_refused_by_name(server, tmp_path, name):
    write, make = CASES[name]
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    middle = len(content) // 2
    is_text = name in {"a.csv", "a.txt"}
    (tmp_path / name).write_bytes(content[:middle] + b"\xff" + (content[middle:] if is_text else b""))
    with pytest.raises((ValueError, HydraxError), match=name):
        epoch(make(f"{server.address}/{name}").training)


@pytest.mark.parametrize("name", ["a.npy", "a.parquet", "a.tar", "a.jsonl"])
def test_a_file_that_changes_during_a_run_is_refused_by_name(server, tmp_path, name):
    write, make = CASES[name]
    write(tmp_path / name)
    group = make(f"{server.address}/{name}").training.replace(batch_size=8)
    with Dataloader(group, loader_kind="inline", depth=1, end_at=("epoch", 3)) as loader:
        next(loader)
        server.salt = b"other content"
        with pytest.raises(HydraxError, match=rf"{name} changed"):
            for _ in loader:
                pass


def photos(folder):
    for number in range(6):
        for label, photo in (("cat", skimage.data.chelsea()), ("cup", skimage.data.coffee())):
            file = folder / label / "deeper" / f"{number}.jpg" if number % 2 else folder / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[number : number + 90, : 90 + number]).save(file)


@pytest.fixture
def bucket(tmp_path, monkeypatch, server):
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "somewhere")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    remote.store_at.cache_clear()
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def test_a_folder_of_images_elsewhere(server, bucket):
    photos(bucket / "photos" / "train")
    photos(bucket / "photos" / "val")
    here = image_folder(bucket / "photos", size=24, batch_size=5, augment=True)
    there = image_folder("s3://bucket/photos", size=24, batch_size=5, augment=True)
    assert there.classes == here.classes == ("cat", "cup")
    server.every = 5
    for side in ("training", "validation"):
        (arrays, more), (expected, expected_more) = (epoch(getattr(each, side)) for each in (there, here))
        for name, values in expected.items():
            np.testing.assert_array_equal(arrays[name], values)
        assert more == expected_more
    server.every = 0
    check_promises(there.training)
    other = image_folder("s3://bucket/photos/val", size=24, batch_size=5)
    check_two_groups(there.training, other.training, "inline")
    assert epoch(there.training.replace(data=there.training[::3]))[1][0] == {"path": "train/cat/0.png"}
    group = there.training.replace(data=list(there.training))
    with pytest.raises(HydraxError, match="give the group's own items, or a slice"):
        epoch(group)
    with pytest.raises(NotADirectoryError, match="s3://bucket/none is no folder with files"):
        image_folder("s3://bucket/none")


def test_images_elsewhere_that_are_damaged_or_change(server, bucket, tmp_path):
    photos(bucket / "photos")

    def make():
        return image_folder("s3://bucket/photos", size=24, batch_size=4).training

    check_cache(make, lambda: setattr(server, "salt", b"again"), tmp_path / "cache")
    group = make()
    damaged = bucket / "photos" / "cat" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(HydraxError, match=r"s3://bucket/photos/cat/2\.png changed"):
        epoch(group)
    with pytest.raises(HydraxError, match=r"s3://bucket/photos/cat/2\.png"):
        epoch(make())


def test_files_of_a_folder_and_several_addresses(server, bucket):
    for number in range(3):
        (bucket / f"part-{number}.jsonl").write_text(f'{{"n": {number}}}\n' * 4)
    rows = jsonl("s3://bucket", batch_size=12)
    assert epoch(rows.training)[0]["n"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    several = jsonl([f"{server.address}/bucket/part-{number}.jsonl" for number in (2, 0)], batch_size=8)
    assert epoch(several.training)[0]["n"].tolist() == [2] * 4 + [0] * 4
    with pytest.raises(ValueError, match="some files are here and some elsewhere"):
        jsonl([bucket / "part-0.jsonl", "s3://bucket/part-1.jsonl"])


def test_an_index_is_kept_without_credentials(server, tmp_path):
    write_tar(tmp_path / "a.tar")

    def make():
        return tar(f"http://ann:secret@{server.address[7:]}/a.tar?sig=secret", index_folder=tmp_path / "index")

    first = epoch(make().training)[0]
    second = epoch(make().training)[0]
    np.testing.assert_array_equal(first["npy"], second["npy"])
    (index,) = (tmp_path / "index").iterdir()
    assert b"secret" not in index.read_bytes()
    assert b"a.tar" in index.read_bytes()


def test_workers_read_elsewhere_and_keep_no_credentials_in_the_cache(server, tmp_path):
    write, make = CASES["a.parquet"]
    write(tmp_path / "a.parquet")
    group = make(f"{server.address}/a.parquet?sig=secret").training.replace(cache_location=tmp_path / "c")
    first = epoch(group, kind="process", loader_count=2)
    server.asked.clear()
    assert epoch(group)[1] == first[1]
    assert server.asked["all"] == 0
    for file in (tmp_path / "c").rglob("*"):
        assert not file.is_file() or b"secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (hdf5, "path"),
        (zarr, "path"),
        (lmdb, "path"),
        (array_record, "paths"),
        (lambda address: sqlite(address, "t"), "path"),
        (lambda address: audio_folder(address, seconds=1), "folder"),
    ],
)
def test_other_sources_refuse_an_address(make, argument):
    with pytest.raises(ValueError, match=rf"{argument}: https://host/a: .* cannot be read elsewhere; copy it"):
        make("https://ann:pw@host/a?sig=1")
