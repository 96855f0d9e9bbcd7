import hashlib
import mmap
import pickle
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hydrax_core import Dataloader, Items, Source
from hydrax_core.sources import numpy_rows, uci_digits
from hydrax_core.sources.row_source import put


def rows_of(source, items=None):
    """What the loader fills for these items, all of them by default."""
    group = source.training
    items = (range(len(group)) if isinstance(group.items, Source) else list(group)) if items is None else items
    arrays = {
        name: np.zeros((len(items), *layout.shape[1:]), layout.numpy_dtype)
        for name, layout in group.loader_layouts.items()
    }
    if getattr(source.loader_func, "__hydrax_batched__", False):
        if isinstance(group.items, Source):
            items = Items(group.items, np.array(items))
        source.loader_func(items, arrays, list(range(len(items))))
    else:
        for row, item in enumerate(items):
            source.loader_func(item, {name: array[row, ...] for name, array in arrays.items()}, row)
    return arrays


# --- digits


def test_the_digits_are_those_that_the_readme_beside_them_names():
    folder = files("hydrax_core.sources").joinpath("data")
    with np.load(str(folder.joinpath("digits.npz")), allow_pickle=False) as archive:
        image, label = archive["image"], archive["label"]
    assert image.shape == (1797, 8, 8)
    assert hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest() in folder.joinpath("README.md").read_text()
    assert np.bincount(label).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_every_digit_is_either_for_training_or_for_validation():
    source = uci_digits()
    assert len(source.training) == 1437
    assert len(source.validation) == 360
    assert sorted([*source.training, *source.validation]) == list(range(1797))


def test_digits_come_as_pictures_with_their_labels():
    source = uci_digits(32)
    with Dataloader(source.loader_func, source.validation, loader_kind="inline", end_at=("epoch", 1)) as loader:
        batches = [batch for batch in loader if batch.is_training]
    labels = np.concatenate([np.asarray(batch.arrays["label"])[: batch.size] for batch in batches])
    picture = np.asarray(batches[0].arrays["image"])[0]
    assert len(labels) == 360
    assert labels[:4].tolist() == [0, 5, 0, 5]
    assert picture.dtype == np.float32
    assert picture.max() == 15


# --- NumPy files

rows_strategy = hnp.arrays(
    st.sampled_from(["u1", "<i4", ">i4", "<f4", ">f4", "<f2", "?", "<c8"]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4),
    elements={"allow_nan": False},
)


@given(array=rows_strategy, save_archive=st.sampled_from([None, np.savez, np.savez_compressed]), fortran=st.booleans())
def test_rows_come_as_they_were_saved(array, save_archive, fortran):
    array = np.asfortranarray(array) if fortran else array
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("rows.npz" if save_archive else "rows.npy")
        if save_archive:
            save_archive(path, data=array, number=np.arange(len(array), dtype=np.int32))
        else:
            np.save(path, array)
        source = numpy_rows(path, batch_size=1)
        backwards = list(range(len(array)))[::-1]
        loaded = rows_of(source, backwards)
    np.testing.assert_array_equal(loaded["data"], array[::-1])
    assert loaded["data"].dtype == array.dtype.newbyteorder("=")
    if save_archive:
        assert loaded["number"].tolist() == backwards


def test_stored_arrays_are_mapped_and_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 2)))
    for name in ("a.npy", "b.npz"):
        arrays = numpy_rows(tmp_path / name, batch_size=2).training.items.arrays
        assert all(isinstance(array.base, np.memmap | mmap.mmap) for array in arrays.values())


def test_a_source_travels_without_its_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100_000, dtype=np.float32))
    source = numpy_rows(tmp_path / "a.npy").training.items
    assert len(source.arrays["data"]) == 100_000
    assert len(pickle.dumps(source)) < 1000
    assert len(pickle.loads(pickle.dumps(source)).arrays["data"]) == 100_000


def test_64_bit_numbers_become_32_bit_ones(tmp_path):
    np.savez(tmp_path / "a.npz", f=np.full(3, 0.1), i=np.arange(3), u=np.arange(3, dtype="u8"), c=np.ones(3, "c16"))
    source = numpy_rows(tmp_path / "a.npz", batch_size=3)
    dtypes = {name: layout.numpy_dtype.name for name, layout in source.training.loader_layouts.items()}
    assert dtypes == {"f": "float32", "i": "int32", "u": "uint32", "c": "complex64"}
    assert rows_of(source)["f"].tolist() == [np.float32(0.1)] * 3


def test_an_integer_that_needs_64_bits_fails_its_row(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1, 2**40]))
    source = numpy_rows(tmp_path / "a.npy", batch_size=1)
    assert rows_of(source, [0])["data"].tolist() == [1]
    with pytest.raises(OverflowError, match=r"a\.npy: 'data': 1099511627776 does not fit into int32"):
        rows_of(source, [1])


class Tripwire:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("save_file", [np.save, np.savez, np.savez_compressed])
def test_pickled_objects_are_refused_and_not_run(tmp_path, save_file):
    path = tmp_path / ("a.npy" if save_file is np.save else "a.npz")
    save_file(path, np.array([Tripwire(), Tripwire()], object))
    with pytest.raises(ValueError, match=str(path)):
        numpy_rows(path, batch_size=1)


def test_arrays_of_different_length_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(4))
    with pytest.raises(ValueError, match="one length; x: 3, y: 4"):
        numpy_rows(tmp_path / "a.npz")


def test_a_single_value_and_an_empty_archive_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", scale=np.float32(2))
    with pytest.raises(ValueError, match="'scale': it is a single value"):
        numpy_rows(tmp_path / "a.npz")
    zipfile.ZipFile(tmp_path / "b.npz", "w").close()
    with pytest.raises(ValueError, match="it holds none"):
        numpy_rows(tmp_path / "b.npz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("keep", [0, 5, 100, -8])
def test_a_truncated_file_is_refused_by_name(tmp_path, name, keep):
    path = tmp_path / name
    (np.save if name == "a.npy" else np.savez)(path, np.zeros((100, 3), np.float32))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{name}: cannot be read as a NumPy file"):
        numpy_rows(path)


@given(st.sampled_from([np.save, np.savez, np.savez_compressed]), st.data())
def test_a_damaged_file_loads_or_is_refused(save_file, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.npy" if save_file is np.save else "a.npz")
        save_file(path, np.arange(60, dtype=np.float32).reshape(20, 3))
        damaged = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(damaged)
        try:
            source = numpy_rows(path, batch_size=1)
        except ValueError:
            return  # refused; anything else that is raised fails the test
        assert set(rows_of(source)) == set(source.training.loader_layouts)


def test_strings_are_no_rows_for_jax(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["a", "b"]))
    with pytest.raises(ValueError, match="jax has no dtype"):
        numpy_rows(tmp_path / "a.npy", batch_size=1)


def test_arrays_are_chosen_and_what_is_none_does_not_spoil_the_rest(tmp_path):
    path = tmp_path / "a.npz"
    names = np.array(["a", "b", "c"])
    np.savez(path, x=np.arange(6.0).reshape(3, 2), y=np.arange(3), names=names, scale=2.0, o=np.array([None]))
    rows = numpy_rows(path, batch_size=2)
    assert set(rows.training.loader_layouts) == {"x", "y"}
    assert set(rows.left_out) == {"names", "scale", "o"}
    assert "unpickling runs code" in rows.left_out["o"]
    rows = numpy_rows(path, {"x": "float16", "y": ((), "int8", "float32")}, additional=["names"], labels=["y"])
    assert rows.training.loader_layouts["x"].numpy_dtype == np.float16
    assert rows.training.items[1]["names"] == "b"
    assert rows.training.items[1]["x"].tolist() == [2, 3]
    assert set(numpy_rows(path, ["y"]).training.loader_layouts) == {"y"}
    with pytest.raises(ValueError, match=r"there is no 'xx'; there are .*did you mean 'x'"):
        numpy_rows(path, ["xx"])
    with pytest.raises(ValueError, match="'names' cannot become an array: jax has no dtype <U1"):
        numpy_rows(path, ["names"])
    with pytest.raises(TypeError, match=r"arrays: expected names of columns.*write \['x'\]"):
        numpy_rows(path, "x")


def test_rows_are_split_at_random_without_loss(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100, dtype=np.float32))
    rows = numpy_rows(tmp_path / "a.npy", batch_size=8)
    training, validation = rows.split(0.2, seed=3)
    values = [{item["data"].item() for item in part.items} for part in (training, validation)]
    assert [len(part) for part in values] == [80, 20]
    assert values[0] | values[1] == set(range(100))
    assert rows.split(0.2, seed=3)[1].fingerprint() == validation.fingerprint()
    assert rows.split(0.2, seed=4)[1].fingerprint() != validation.fingerprint()
    assert len(pickle.dumps(training.items)) < 1000
    with Dataloader(training, validation=("epoch", 1, validation), loader_kind="inline") as loader:
        batches = [next(loader) for _ in range(10 + 3)]
    seen = [value for batch in batches[10:] for value in batch.arrays["data"][: batch.size].tolist()]
    assert set(seen) == values[1]
    with pytest.raises(ValueError, match="share: expected a number above 0 and below 1, got 20"):
        rows.split(20)


def test_a_file_that_changed_since_is_an_error(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(9))
    source = numpy_rows(tmp_path / "a.npy").training.items
    np.save(tmp_path / "a.npy", np.zeros(8))
    with pytest.raises(ValueError, match=r"a\.npy: it changed: 'data' no longer has 9 rows"):
        source[8]


@pytest.mark.parametrize(
    ("value", "source", "target"),
    [
        (1e300, "float64", "float32"),
        (-1e40, "float64", "float32"),
        (1e30, "float32", "float16"),
        (70_000, "int32", "float16"),
    ],
)
def test_a_finite_number_never_becomes_infinity(value, source, target):
    array = np.zeros(3, target)
    put("x", array, np.array([0, np.inf, np.nan]).astype(source if source[0] == "f" else "float32"))
    assert np.isinf(array[1])
    with pytest.raises(OverflowError, match=rf"x: .* does not fit into {target}"):
        put("x", array, np.array([0, value, 1], source))


def test_a_finite_number_of_a_file_never_becomes_infinity(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([0.5, 1e300]))
    items = numpy_rows(tmp_path / "a.npz").training.items
    assert items[0]["x"] == np.float32(0.5)
    with pytest.raises(OverflowError, match=r"1e\+300 does not fit into float32"):
        items[1]
