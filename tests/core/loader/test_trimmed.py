"""``Ragged(multiple=...)``: a batch is as long as its longest row needs."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import DataGroup, Dataloader, Ragged
from hydrax_core.data.layout import array_layouts, array_specs, views
from hydrax_core.data.trim import trimmed, trims_of

MOST, MULTIPLE = 70, 32


def load(item, arrays, seed):
    return {"x": np.full((item, 3), item)}


def group(lengths, batch_size=4, **more):
    arrays = {"x": ((Ragged(MOST, pad=7, multiple=MULTIPLE), 3), "int32", "float32"), "y": ((2,), "int8")}
    return DataGroup(batch_size, lengths, loader_func=load, **{"loader_arrays": arrays, "remainder": "pad", **more})


def check(batch):
    lengths = np.asarray(batch.arrays["x_length"]).tolist()
    assert lengths[: batch.size] == list(batch.data)
    length = min(MOST, max(1, -(-max(lengths) // MULTIPLE)) * MULTIPLE)
    assert batch.arrays["x"].shape == batch.layouts["x"].shape == (4, length, 3)
    for row, count in zip(np.asarray(batch.arrays["x"]), lengths, strict=True):
        assert (row[:count] == count).all()
    for row, count in zip(np.asarray(batch.arrays["x"])[: batch.size], lengths, strict=False):
        assert (row[count:] == 7).all()
    return length


LENGTHS = [3, 0, 5, 31, 32, 33, 1, 64, 65, 70, 2, 2, 2, 9]


@pytest.mark.parametrize("by", [None, "batch", "item"])
@pytest.mark.parametrize("kind", ["thread", "inline"])
def test_the_shape_follows_the_longest_row_loaded_or_cached(tmp_path, by, kind):
    cache = {} if by is None else {"cache_location": tmp_path / "cache", "cache_by": by}
    for _ in range(2):
        with Dataloader(group(LENGTHS, **cache), loader_kind=kind, end_at=("epoch", 2)) as loader:
            seen = [check(batch) for batch in loader]
            assert loader.stats().shapes == len(set(seen)) == 3
            assert loader.stats().bytes == sum(4 * length * 3 * 4 + 4 * 4 + 4 * 2 for length in seen)
    if by is not None:
        with Dataloader(group(LENGTHS, **cache), loader_kind="inline", end_at=("epoch", 1)) as loader:
            assert all(batch.from_cache for batch in loader)


def test_a_trimmed_array_is_not_copied_on_the_way_to_jax():
    arrays = {"x": ((Ragged(4096, multiple=64),), "int32")}

    def long(item, arrays, seed):
        return {"x": np.arange(item)}

    train = DataGroup(32, [1000] * 64, loader_func=long, loader_arrays=arrays)
    with Dataloader(train, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert batch.arrays["x"].shape == (32, 1024)
            pointer = batch.arrays["x"].unsafe_buffer_pointer()
            mapping = np.frombuffer(loader._engine._pool.memory.locate(0)[0], np.uint8)
            assert mapping.ctypes.data <= pointer < mapping.ctypes.data + mapping.nbytes
            assert loader.stats().held_batches >= 1


def test_a_step_is_compiled_once_a_shape_and_parts_and_shards_have_it_too():
    compiled = 0

    @jax.jit
    def step(x):
        nonlocal compiled
        compiled += 1
        return x.sum()

    mesh = jax.make_mesh((2,), ("data",))
    with Dataloader(group(LENGTHS), loader_kind="inline", end_at=("epoch", 3), sharding=(mesh, "data")) as loader:
        for batch in loader:
            check(batch)
            step(batch.arrays["x"])
        assert compiled == loader.stats().shapes == 3
    with Dataloader(group(LENGTHS), loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            parts = batch.split(jax.devices()[:2])
            assert [part.layouts["x"].shape for part in parts] == [part.arrays["x"].shape for part in parts]


def test_a_placement_func_gets_the_shape_and_augmentation_has_its_own():
    def place(arrays, layouts, additional, group):
        assert {name: array.shape for name, array in arrays.items()} == {
            name: layout.shape for name, layout in layouts.items()
        }
        return {name: jax.device_put(array) for name, array in arrays.items()}

    def halved(loaded, arrays, seed):
        return {"x": loaded["x"][: loaded["x_length"] // 2, 0]}

    with Dataloader(group(LENGTHS), loader_kind="inline", end_at=("epoch", 1), placement_func=place) as loader:
        for batch in loader:
            check(batch)
    shorter = group(LENGTHS, augment_func=halved, augment_arrays={"x": ((Ragged(64, multiple=8),), "int32")})
    with Dataloader(shorter, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert batch.arrays["x"].shape == (4, max(1, -(-max(n // 2 for n in batch.data) // 8)) * 8)


def test_what_cannot_have_one_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"loader_arrays\['x'\]: Ragged\(multiple=...\).*buckets"):
        Dataloader(group(LENGTHS), hosts=(0, 2))
    with pytest.raises(ValueError, match="cache_arrays: 'x' is Ragged"):
        group(LENGTHS, cache_arrays={"x": ((MOST,), "int32")}, cache_location=tmp_path)
    with pytest.raises(ValueError, match=r"Ragged\(multiple\): expected an int of at least 1, got 0"):
        group(LENGTHS, loader_arrays={"x": ((Ragged(9, multiple=0),), "int32")})
    mesh = jax.make_mesh((4,), ("length",))
    odd = group(LENGTHS, loader_arrays={"x": ((Ragged(8, multiple=2),), "int32")})
    shardings = {"x": jax.NamedSharding(mesh, jax.P(None, "length")), "x_length": jax.NamedSharding(mesh, jax.P())}
    with pytest.raises(ValueError, match="cannot be divided"):
        Dataloader(odd, sharding=shardings)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 12), st.sampled_from([(), (2,), (3, 1)]))
def test_a_trimmed_array_holds_the_rows_of_the_whole_one(lengths, multiple, inner):
    specs = array_specs("arrays", {"x": ((Ragged(9, multiple=multiple), *inner), "int16"), "y": ((3,), "int8")})
    layouts = array_layouts(len(lengths), specs)
    whole = views(bytearray(1 << 12), layouts)
    whole["x"][...] = np.arange(whole["x"].size).reshape(whole["x"].shape)
    whole["x_length"][...] = lengths
    expected = whole["x"].copy()
    found = trimmed(whole, trims_of(specs))
    length = found["x"].shape[1]
    assert max(lengths) <= length <= 9
    assert length % multiple == 0 or length == 9
    assert found["x"].flags.c_contiguous
    assert found["x"].tolist() == expected[:, :length].tolist()
    assert found["x"].__array_interface__["data"][0] == whole["x"].__array_interface__["data"][0]
