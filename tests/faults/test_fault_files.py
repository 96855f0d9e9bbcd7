"""Files that the user gives: flipped, cut, hostile. Refused by name, or read; never a crash, a bomb or foreign code."""

import io
import pickle
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from faultkit import damaged, limit, rounds

from hydrax_core import Dataloader, LoaderError
from hydrax_core.sources import image_folder, numpy_rows

pytestmark = limit(30, 300)


def array_files():
    """A file of every way to store arrays, as bytes, by its suffix."""
    arrays = {"x": np.arange(60, dtype="float32").reshape(12, 5), "label": np.arange(12)}
    for save, name in ((np.savez, "plain.npz"), (np.savez_compressed, "packed.npz")):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        yield name, buffer.getvalue()
    for name, array in (("plain.npy", arrays["x"]), ("turned.npy", np.asfortranarray(arrays["x"]))):
        buffer = io.BytesIO()
        np.save(buffer, array)
        yield name, buffer.getvalue()


def read(path):
    rows = numpy_rows(path, batch_size=4)
    with Dataloader(rows.loader_func, rows.training, loader_kind="inline", end_at=("epoch", 1)) as loader:
        return sum(batch.size for batch in loader)


def test_damaged_array_files_are_read_or_refused_by_name(tmp_path, record_property):
    count = rounds(120, 5000)
    record_property("rounds", count)
    files = dict(array_files())
    chance = random.Random(11)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert read(tmp_path / name) == 12
    refused = []
    for number in range(count):
        name = chance.choice([*files])
        path = tmp_path / f"{number} {name}"
        path.write_bytes(damaged(files[name], chance))
        try:
            read(path)
        except (ValueError, LoaderError, MemoryError) as error:
            refused.append((path.name, str(error)))
        path.unlink()
    assert [entry for entry in refused if entry[0] not in entry[1]] == []
    assert len(refused) > count / 4


def test_pickles_in_array_files_are_not_opened(tmp_path):
    mark = tmp_path / "mark"

    class Hostile:
        def __reduce__(self):
            return open, (str(mark), "w")

    (tmp_path / "a.npy").write_bytes(pickle.dumps(Hostile()))
    objects = np.array([Hostile(), Hostile()], dtype=object)
    np.save(tmp_path / "b.npy", objects)
    np.savez(tmp_path / "c.npz", fine=np.arange(2), objects=objects)
    np.savez_compressed(tmp_path / "d.npz", fine=np.arange(2), objects=objects)
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Hostile()))
    for name in ("a.npy", "b.npy", "e.npz"):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
    for name in ("c.npz", "d.npz"):
        assert read(tmp_path / name) == 2
        assert "unpickling runs code" in numpy_rows(tmp_path / name).left_out["objects"]
    assert not mark.exists()


def png(width, height, data):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image_files():
    from PIL import Image  # noqa: PLC0415  an extra

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    for name in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, name)
        yield name, buffer.getvalue()


@pytest.mark.filterwarnings("ignore")  # Pillow warns of much in damaged files
def test_damaged_images_are_read_or_refused_by_name(tmp_path, record_property):
    pytest.importorskip("PIL")
    count = rounds(150, 8000)
    record_property("rounds", count)
    files = dict(image_files())
    chance = random.Random(12)
    for number in range(count):
        suffix = chance.choice([*files])
        (tmp_path / f"{number}.{suffix}").write_bytes(damaged(files[suffix], chance))
    folder = image_folder(tmp_path, size=16, batch_size=1)
    assert len(folder.training) == count
    refused = []
    with Dataloader(folder.loader_func, folder.training, loader_count=2, end_at=("epoch", 1), timeout_sec=20) as loader:
        for _ in range(count):
            try:
                next(loader)
            except LoaderError as error:
                refused.append((folder.training[error.index][0], error.cause))
        assert next(loader, None) is None
        assert loader.stats().worker_restarts == 0
    assert [entry for entry in refused if entry[0] not in entry[1]] == []
    assert count / 10 < len(refused) < count


def test_images_that_would_fill_the_memory_are_refused_by_name(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, zlib.compress(bytes(1 << 20), 9)))
    (tmp_path / "text.png").write_bytes(png(8, 8, zlib.compress(bytes(8 * 25))) + b"trailing" * 1000)
    folder = image_folder(tmp_path, size=16, batch_size=1)
    found = {}
    with Dataloader(folder.loader_func, folder.training, end_at=("epoch", 1), timeout_sec=20) as loader:
        while len(found) < 2:
            try:
                batch = next(loader)
                found[batch.data[0][0]] = "read"
            except LoaderError as error:
                found[folder.training[error.index][0]] = str(error)
    assert "decompression bomb" in found["bomb.png"]
    assert found["text.png"] == "read"
