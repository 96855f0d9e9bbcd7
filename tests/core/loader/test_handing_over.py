"""Where arrays go: their dtypes, the user's placement, the parts of a batch for several devices."""

import jax
import numpy as np
import pytest
from loaderkit import group, inline, mark

from hydrax_core import DataGroup, PlacementError, TrainingBatch


def test_split_gives_each_device_its_part():
    devices = jax.devices()[:2]
    with inline(group(8, remainder="pad")) as loader:
        batch = next(loader)
        first, second = batch.split(devices)
    assert first.arrays["x"].devices() == {devices[0]}
    assert second.arrays["x"].devices() == {devices[1]}
    for part, rows in ((first, slice(0, 2)), (second, slice(2, 4))):
        assert type(part) is TrainingBatch
        assert part.size == 2
        assert part.indices == batch.indices[rows]
        assert part.data == batch.data[rows]
        assert part.seeds == batch.seeds[rows]
        assert list(part.additional["text"]) == batch.additional["text"][rows]
        assert np.asarray(part.arrays["y"]).tolist() == np.asarray(batch.arrays["y"])[rows].tolist()
        assert part.layouts["x"].shape == (2, 3)
        with pytest.raises(TypeError):
            part.arrays["x"] = 1


def test_split_unevenly_only_when_asked():
    devices = jax.devices()[:3]
    with inline(group(7, batch_size=7)) as loader:
        batch = next(loader)
        with pytest.raises(ValueError, match="7 rows cannot be split evenly across 3"):
            batch.split(devices)
        assert [part.size for part in batch.split(devices, even_split=False)] == [3, 3, 1]
        with pytest.raises(ValueError, match="devices: expected 1 to 7"):
            batch.split([])


def test_a_part_of_all_rows_is_independent_of_the_whole():
    with inline() as loader:
        whole = next(loader)
        (part,) = whole.split(jax.devices()[:1])
        whole.close()
        assert np.asarray(part.arrays["y"]).tolist() == list(part.data)
        other = next(loader)
        (part,) = other.split(jax.devices()[:1])
        part.close()
        assert np.asarray(other.arrays["y"]).tolist() == list(other.data)


def sharded(arrays, layouts, additional, group):
    mesh = jax.make_mesh((4,), ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    return jax.device_put(dict(arrays), sharding)


def test_a_sharded_batch_keeps_its_values_and_can_be_split():
    train = group(16, batch_size=8, loader_arrays={"x": ((32,), "uint8", "float32"), "y": ((), "int32")})
    with inline(train, loader=mark, placement_func=sharded) as loader:
        batch = next(loader)
    assert batch.arrays["x"].dtype == np.float32, "the dtype is converted where the user left it"
    assert len(batch.arrays["x"].devices()) == 4
    for part in batch.split(jax.devices()[:2]):
        assert np.asarray(part.arrays["x"])[:, 0].tolist() == list(part.data)


def test_split_of_a_short_batch_counts_the_real_rows():
    with inline(group(6, remainder="pad")) as loader:
        _, short = loader
        assert [part.size for part in short.split(jax.devices()[:2])] == [2, 0]


def test_dtypes_are_converted_on_the_device():
    def fill(item, arrays, seed):
        arrays["image"][...] = 200

    train = DataGroup(4, range(8), loader_arrays={"image": ((2,), "uint8", "float32"), "b": ((), "bfloat16")})
    with inline(train, loader=fill) as loader:
        batch = next(loader)
    assert batch.arrays["image"].dtype == np.float32
    assert np.asarray(batch.arrays["image"]).tolist() == [[200.0, 200.0]] * 4
    assert str(batch.arrays["b"].dtype) == "bfloat16"


def test_a_dtype_that_jax_would_change_in_silence_is_refused():
    train = DataGroup(4, range(8), loader_arrays={"n": ((), "int64")})
    with pytest.raises(PlacementError, match="would turn int64 into int32 in silence; declare the jax dtype 'int32'"):
        next(inline(train))
    fine = DataGroup(4, range(8), loader_arrays={"n": ((), "int64", "int32")})
    assert next(inline(fine, loader=lambda i, a, s: None)).arrays["n"].dtype == np.int32


def test_placement_is_the_users_if_wanted_and_checked():
    device = jax.devices()[1]

    def place(arrays, layouts, additional, group):
        assert set(layouts) == set(arrays)
        assert additional["text"][1] == "1"
        return {name: jax.device_put(array, device) for name, array in arrays.items()}

    with inline(placement_func=place) as loader:
        assert next(loader).arrays["x"].devices() == {device}
    for wrong, message in [
        (lambda *_: 5, "expected a dict"),
        (lambda *_: {}, r"expected the arrays \['x', 'y'\]"),
        (lambda arrays, *_: dict(arrays), "is a ndarray, not a jax array"),
        (
            lambda arrays, *_: {n: jax.numpy.zeros(2) for n in arrays},
            r"'x' is float32\[2\], declared is float32\[4, 3\]",
        ),
    ]:
        with pytest.raises(PlacementError, match=message), inline(placement_func=wrong) as loader:
            next(loader)
