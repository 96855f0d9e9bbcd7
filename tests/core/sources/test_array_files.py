"""HDF5 and Zarr, made of the digits (UCI, CC BY 4.0)."""

import pickle
import sys

import numpy as np
import pytest
from filekit import touch

from hydrax_core import Dataloader
from hydrax_core.errors import CacheMismatchError
from hydrax_core.sources import hdf5, zarr
from hydrax_core.sources.digits import _data
from hydrax_core.testing import check_loader, check_source

h5py = pytest.importorskip("h5py")
zarr_module = pytest.importorskip("zarr")

DIGITS = _data()
IMAGES = DIGITS["image"].astype(np.float32)
LABELS = DIGITS["label"].astype(np.int64)
COUNT = len(LABELS)
NAMES = [f"digit {number}" for number in range(COUNT)]


def write_hdf5(path, count=COUNT, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=IMAGES[:count], **options)
        file.create_dataset("about/label", data=LABELS[:count])
        file.create_dataset("scale", data=16.0)
    return path


def write_zarr(path, count=COUNT, **options):
    group = zarr_module.open_group(path, mode="w")
    group.create_array("image", data=IMAGES[:count], chunks=(100, 8, 8), **options)
    group.create_group("about").create_array("label", data=LABELS[:count], chunks=(50,))
    return path


def contiguous(folder, name="a", count=COUNT):
    return hdf5, write_hdf5(folder / f"{name}.h5", count)


def chunked(folder, name="a", count=COUNT):
    return hdf5, write_hdf5(folder / f"{name}.h5", count, chunks=(min(count, 100), 8, 8), compression="gzip")


def folder_of_chunks(folder, name="a", count=COUNT):
    return zarr, write_zarr(folder / f"{name}.zarr", count)


WRITERS = [contiguous, chunked, folder_of_chunks]


@pytest.mark.parametrize("write", WRITERS)
def test_rows_come_as_they_were_written(write, tmp_path):
    read, path = write(tmp_path)
    rows = read(path, batch_size=50, window=300)
    assert check_source(rows.training.items) == []
    assert check_loader(None, rows.training) == []
    assert set(rows.left_out) <= {"scale"}
    seen = []
    with Dataloader(rows.training, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            indices = list(batch.indices)
            seen += indices
            np.testing.assert_array_equal(batch.arrays["image"][: batch.size], IMAGES[indices])
            np.testing.assert_array_equal(batch.arrays["about/label"][: batch.size], LABELS[indices])
            if write is not contiguous:
                assert len(set((np.array(indices) // 100).tolist())) <= 6
    assert sorted(seen) == list(range(COUNT))


def test_a_dataset_in_one_piece_is_mapped(tmp_path):
    source = hdf5(write_hdf5(tmp_path / "a.h5")).training.items
    assert source.window is None
    assert set(source._mapped) == {"image", "about/label"}
    assert source._mapped["image"].base is not None


def test_a_single_array_of_zarr_and_workers(tmp_path):
    zarr_module.create_array(tmp_path / "a.zarr", data=IMAGES, chunks=(64, 8, 8))
    rows = zarr(tmp_path / "a.zarr", {"data": "float16"}, batch_size=64)
    with Dataloader(rows.training, loader_count=2, end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert batch.arrays["data"].dtype == np.float16
            np.testing.assert_array_equal(batch.arrays["data"][: batch.size], IMAGES[list(batch.indices)])


def test_shards_of_zarr_are_blocks(tmp_path):
    zarr_module.create_array(tmp_path / "a.zarr", data=IMAGES[:400], chunks=(10, 8, 8), shards=(200, 8, 8))
    assert zarr(tmp_path / "a.zarr").training.items.blocks.tolist() == [0, 200, 400]


@pytest.mark.parametrize("options", [{}, {"chunks": (100, 8, 8)}])
def test_texts_are_additional_data(tmp_path, options):
    path = write_hdf5(tmp_path / "a.h5", **options)
    with h5py.File(path, "a") as file:
        file["name"] = NAMES
    assert "jax has no dtype" in hdf5(path).left_out["name"]
    item = hdf5(path, ["image"], additional=["name"]).training.items[13]
    assert item["name"] == "digit 13"
    np.testing.assert_array_equal(item["image"], IMAGES[13])


def test_wrong_arguments_and_files_are_named(tmp_path):
    path = write_hdf5(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["short"] = np.zeros(3)
        file["huge"] = np.full(COUNT, 2**40)
    with pytest.raises(ValueError, match=r"expected arrays of one length; .*short: 3.*name those to load"):
        hdf5(path)
    with pytest.raises(ValueError, match="'scale' cannot become an array: it is a single value"):
        hdf5(path, ["scale"])
    with pytest.raises(OverflowError, match="'huge': 1099511627776 does not fit into int32"):
        hdf5(path, ["huge"]).training.items[0]
    (tmp_path / "text.h5").write_text("no HDF5")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match=r"text\.h5: cannot be read as an HDF5 file"):
        hdf5(tmp_path / "text.h5")
    with pytest.raises(ValueError, match=r"empty\.zarr: cannot be read as an array or group of Zarr"):
        zarr(tmp_path / "empty.zarr")
    for read in (hdf5, zarr):
        with pytest.raises(FileNotFoundError, match="path: there is no"):
            read(tmp_path / "nothing")


def virtual(path, other):
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4,), "int32")
        layout[:] = h5py.VirtualSource(str(other), "x", (4,))
        file.create_virtual_dataset("x", layout, fillvalue=9)


def test_values_in_other_files_are_part_of_the_data_and_never_made_up(tmp_path):
    (tmp_path / "parts").mkdir()
    part = tmp_path / "parts" / "a.h5"
    with h5py.File(part, "w") as file:
        file["x"] = np.arange(4, dtype=np.int32)
    virtual(tmp_path / "parts" / "b.h5", "a.h5")
    virtual(tmp_path / "c.h5", "parts/b.h5")
    source = hdf5(tmp_path / "c.h5").training.items
    assert [int(item["x"]) for item in source] == [0, 1, 2, 3]
    named, copied = source.fingerprint(), pickle.dumps(source)
    assert named == hdf5(tmp_path / "c.h5").training.items.fingerprint()
    touch(part)
    assert source.fingerprint() != named
    part.unlink()
    for read in (lambda: pickle.loads(copied)[0], lambda: hdf5(tmp_path / "c.h5")):
        with pytest.raises(ValueError, match=r"'/x' is made of values of .*a\.h5, which is no file"):
            read()
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("x", data=np.arange(4), external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(ValueError, match=r"d\.h5: '/x' keeps its values in .*raw; copy it into a file"):
        hdf5(tmp_path / "d.h5")


def test_damage_is_an_error_of_its_rows(tmp_path):
    read, path = chunked(tmp_path)
    with h5py.File(path) as file:
        place = file["image"].id.get_chunk_info(3)
    damaged = bytearray(path.read_bytes())
    damaged[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(damaged)
    source = read(path).training.items
    for _ in range(2):
        np.testing.assert_array_equal(source[0]["image"], IMAGES[0])
        with pytest.raises(ValueError, match=r"a\.h5: rows 300 to 400 cannot be read"):
            source[350]
    _, path = folder_of_chunks(tmp_path)
    (path / "image/c/2/0/0").write_bytes(b"nonsense")
    source = zarr(path).training.items
    np.testing.assert_array_equal(source[0]["image"], IMAGES[0])
    with pytest.raises(ValueError, match=r"a\.zarr: rows 200 to 300 cannot be read"):
        source[250]


@pytest.mark.parametrize("keep", [0, 50, 3000, -100])
def test_a_truncated_file_is_refused_by_name(keep, tmp_path):
    _, path = chunked(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.h5: "):
        list(hdf5(path).training.items)


def test_groups_of_two_files_stand_in_one_loader(tmp_path):
    groups = []
    for number, write in enumerate(WRITERS):
        read, path = write(tmp_path, f"file-{number}", 100)
        groups.append(read(path, ["image"], batch_size=50).training)
    with Dataloader(groups[:2], validation=("epoch", 1, groups[2]), end_at=("epoch", 1)) as loader:
        batches = list(loader)
    assert len(batches) == 6
    for batch in batches:
        np.testing.assert_array_equal(batch.arrays["image"], IMAGES[list(batch.indices)])


@pytest.mark.parametrize("write", WRITERS)
def test_a_cache_of_another_file_is_refused(write, tmp_path):
    def first_batch(name):
        read, path = write(tmp_path, name, 20)
        group = read(path, ["image"], batch_size=10).training.replace(cache_location=tmp_path / "cache")
        with Dataloader(group, loader_kind="inline", end_at=("epoch", 1)) as loader:
            return next(loader).from_cache

    assert first_batch("a") is False
    with pytest.raises(CacheMismatchError, match=r"settings\.data"):
        first_batch("b")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[hdf5\]'"):
        hdf5("a.h5")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"pip install 'hydrax-toolkit\[zarr\]'"):
        zarr("a.zarr")
