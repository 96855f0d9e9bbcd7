"""What is true of all sources of files: who they are, and that two of a kind stand in one loader.

Made of the digits (UCI, CC BY 4.0); tones are made here.
"""

import contextlib
import io
import shutil
import sqlite3
import tarfile

import numpy as np
import pytest

from hydrax_core import Dataloader, sources
from hydrax_core.sources import by_content
from hydrax_core.sources.digits import _data

IMAGES, LABELS = _data()["image"].astype(np.uint8), _data()["label"].astype(np.int32)


def arrow(path, first):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"label": LABELS[first : first + 8]})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    return sources.arrow(path, batch_size=4)


def parquet(path, first):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"label": LABELS[first : first + 8]})
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    return sources.arrow(path, batch_size=4)


def numpy_rows(path, first):
    with path.open("wb") as file:
        np.save(file, IMAGES[first : first + 8])
    return sources.numpy_rows(path.rename(path.with_suffix(".npy")), batch_size=4)


def hdf5(path, first):
    with pytest.importorskip("h5py").File(path, "w") as file:
        file["label"] = LABELS[first : first + 8]
    return sources.hdf5(path, batch_size=4)


def zarr(path, first):
    module = pytest.importorskip("zarr")
    module.create_array(path, data=LABELS[first : first + 8], chunks=(4,), overwrite=True)
    return sources.zarr(path, batch_size=4)


def lmdb(path, first):
    with pytest.importorskip("lmdb").open(str(path)) as file, file.begin(write=True) as transaction:
        for place, image in enumerate(IMAGES[first : first + 8]):
            transaction.put(b"%d" % place, image.tobytes())
    return sources.lmdb(path, batch_size=4)


def array_record(path, first):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for image in IMAGES[first : first + 8]:
        writer.write(image.tobytes())
    writer.close()
    return sources.array_record(path, batch_size=4)


def sqlite_table(path, first):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (label)")
        database.executemany("INSERT INTO t VALUES (?)", [(int(label),) for label in LABELS[first : first + 8]])
    return sources.sqlite(path, "t", batch_size=4)


def jsonl(path, first):
    path.write_text("".join(f'{{"label": {label}}}\n' for label in LABELS[first : first + 8]))
    return sources.jsonl(path, batch_size=4)


def csv(path, first):
    path.write_text("label\n" + "".join(f"{label}\n" for label in LABELS[first : first + 8]))
    return sources.csv(path, batch_size=4)


def text_lines(path, first):
    path.write_text("".join(f"the digit {label}\n" for label in LABELS[first : first + 8]))
    return sources.text_lines(path, batch_size=4)


def tokens(path, first):
    LABELS[first : first + 64].astype(np.uint16).tofile(path)
    return sources.tokens(path, 8, "uint16", batch_size=4)


def tar(path, first):
    with tarfile.open(path, "w") as archive:
        for place, label in enumerate(LABELS[first : first + 8]):
            info = tarfile.TarInfo(f"{place}.cls")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"%d" % label))
    return sources.tar(path, batch_size=4)


def image_folder(path, first):
    image = pytest.importorskip("PIL.Image")
    path.mkdir(exist_ok=True)
    for place, digit in enumerate(IMAGES[first : first + 8]):
        image.fromarray(digit * 15).save(path / f"{place}.png")
    return sources.image_folder(path, size=8, batch_size=4)


def audio_folder(path, first):
    module = pytest.importorskip("soundfile")
    path.mkdir(exist_ok=True)
    for place, digit in enumerate(IMAGES[first : first + 8]):
        module.write(path / f"{place}.wav", digit.reshape(-1) / 16.0, 16_000)
    return sources.audio_folder(path, seconds=0.004, batch_size=4)


EVERY = [
    arrow, parquet, numpy_rows, hdf5, zarr, lmdb, array_record, sqlite_table, jsonl, csv, text_lines, tokens, tar,
    image_folder, audio_folder,
]  # fmt: skip


def files_of(path):
    found = path if path.exists() else path.with_suffix(".npy")
    return [found] if found.is_file() else [file for file in found.rglob("*") if file.is_file()]


def who(group):
    return group.items.fingerprint()


def values(group):
    with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
        rows = [(index, batch, row) for batch in loader for row, index in enumerate(batch.indices[: batch.size])]
        return [
            {name: np.asarray(array)[row].tolist() for name, array in batch.arrays.items()}
            for _, batch, row in sorted(rows, key=lambda found: found[0])
        ]


@pytest.mark.parametrize("make", EVERY)
def test_who_the_files_are_and_two_of_a_kind_in_one_loader(tmp_path, make):
    one, other = make(tmp_path / "one", 0).training, make(tmp_path / "other", 100).training
    expected = values(one), values(other)
    assert expected[0] != expected[1]
    with Dataloader([one, other], loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            wanted = expected[batch.group_index]
            for row, index in enumerate(batch.indices[: batch.size]):
                assert {n: np.asarray(a)[row].tolist() for n, a in batch.arrays.items()} == wanted[index]
    assert who(one) != who(other)
    before, content = who(one), who(by_content(one))
    for file in files_of(tmp_path / "one"):
        status = file.stat()
        shutil.copyfile(file, file.with_name(f"{file.name}.copy"))
        file.with_name(f"{file.name}.copy").replace(file)
        assert file.stat().st_mtime_ns != status.st_mtime_ns
    assert who(one) != before
    assert who(by_content(one)) == content
    for file in files_of(tmp_path / "one"):
        data = bytearray(file.read_bytes())
        data[-1:] = bytes([data[-1] ^ 1]) if data else b""
        file.write_bytes(data)
    assert who(by_content(one)) != content


def test_a_part_is_known_by_the_content_of_the_whole_and_what_is_no_file_is_refused(tmp_path):
    rows = numpy_rows(tmp_path / "one", 0)
    train, valid = map(by_content, rows.split(0.25))
    assert len({who(train), who(valid), who(by_content(rows.training))}) == 3
    (tmp_path / "one.npy").touch()
    assert who(by_content(rows.split(0.25)[0])) == who(train)
    assert values(train) == values(rows.split(0.25)[0])
    with pytest.raises(TypeError, match="by_content: expected a group of a source of files, got one of"):
        by_content(sources.torch_dataset([{"x": 1}] * 4, batch_size=2).training)
