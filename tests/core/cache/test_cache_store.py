import gc
import subprocess
import sys
import threading
import weakref

import cachekit as kit
import ml_dtypes
import numpy as np
import pytest

from hydrax_core.cache import CacheStore

DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128", "bfloat16", "int4", "uint4", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz",
]  # fmt: skip


def random_bytes(shape, dtype, seed=0):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype.kind == "b" else 256, count, np.uint8)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_of_every_dtype_come_back_bit_by_bit_in_this_and_the_next_process(tmp_path, dtype):
    arrays = {"image": ((5, 3), dtype), "scalar": ((), dtype)}
    batch = {name: random_bytes((kit.BATCH, *spec[0]), dtype) for name, spec in arrays.items()}
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        store.write(0, 4, batch)
        store.flush()
        assert kit.equal(store.read(0, 4).arrays, batch)
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        assert kit.equal(store.read(0, 4).arrays, batch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_files_are_plain_npy_files_whose_rows_are_in_batch_order(tmp_path, dtype):
    arrays = {"image": ((5, 3), dtype)}
    batches = {number: random_bytes((kit.BATCH, 5, 3), dtype, number) for number in (0, 3)}
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        for number, batch in batches.items():
            store.write(0, number, {"image": batch})
    found = np.load(tmp_path / "epoch-0" / "image.npy", mmap_mode="r", allow_pickle=False)
    assert found.shape == (kit.BATCHES, kit.BATCH, 5, 3)
    assert found.dtype.itemsize == batches[0].dtype.itemsize
    for number in range(kit.BATCHES):
        expected = batches[number].tobytes() if number in batches else bytes(batches[0].nbytes)
        assert found[number].tobytes() == expected


def test_data_starts_at_a_multiple_of_64_bytes_and_so_does_every_batch_of_such_a_size(tmp_path):
    arrays = {"x": ((4, 4), "float32"), "odd": ((7,), "uint8")}
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        for number in range(kit.BATCHES):
            odd = np.full((kit.BATCH, 7), number, np.uint8)
            store.write(0, number, {"x": kit.batch(number)["x"], "odd": odd})
        store.flush()
        for number in range(kit.BATCHES):
            found = store.read(0, number).arrays
            assert found["x"].ctypes.data % 64 == 0
            assert found["x"].flags.c_contiguous
            assert (found["odd"] == number).all()
        assert store.read(0, 0).arrays["odd"].ctypes.data % 64 == 0


def test_what_is_served_is_read_only_and_outlives_the_store(tmp_path):
    kit.fill(tmp_path)
    with kit.open_store(tmp_path) as store:
        found = store.read(0, 2)
        with pytest.raises(ValueError, match="read-only"):
            found.arrays["x"][0] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            found.arrays["x"].flags.writeable = True
    gc.collect()
    assert kit.equal(found.arrays, kit.batch(2))


def test_what_is_served_is_no_copy(tmp_path):
    kit.fill(tmp_path)
    with kit.open_store(tmp_path) as store:
        assert np.shares_memory(store.read(0, 2).arrays["x"], store.read(0, 2).arrays["x"])


def test_content_epochs_are_apart_also_when_there_are_many(tmp_path):
    epochs = (0, 1, 2, 3, 7, 10**12)
    kit.fill(tmp_path, epochs=epochs, batches=range(3), shuffle_later="itemwise")
    with kit.open_store(tmp_path, shuffle_later="itemwise") as store:
        for _ in range(2):
            for epoch in epochs:
                assert [kit.serve(store, number, epoch) for number in range(4)] == [True, True, True, False]
        assert not kit.serve(store, 0, 4)


def test_an_entry_that_is_there_is_not_written_again(tmp_path):
    kit.fill(tmp_path, batches=[1])
    with kit.open_store(tmp_path) as store:
        store.write(0, 1, kit.batch(1, salt=9))
        store.write(0, 2, kit.batch(2))
        store.write(0, 2, kit.batch(2, salt=9))
        store.flush()
        assert store.counters().written == 1
        assert kit.serve(store, 1)
        assert kit.equal(store.read(0, 2).arrays, kit.batch(2))


def test_counters_count_hits_misses_and_written(tmp_path):
    with kit.open_store(tmp_path) as store:
        for number in (0, 1, 2):
            store.write(0, number, kit.batch(number))
        store.flush()
        for number in range(5):
            store.read(0, number)
        counters = store.counters()
    assert (counters.hits, counters.misses, counters.corrupt, counters.written) == (3, 2, 0, 3)
    assert counters.written_bytes == 3 * sum(array.nbytes for array in kit.batch(0).values())
    assert counters.error == ""


@pytest.mark.parametrize("changes", [{}, {"cacher_count": 3}, {"cacher_count": 0}, {"cache_readonly": True}])
def test_arrays_are_held_until_they_are_stored_and_no_longer(tmp_path, changes):
    kit.fill(tmp_path, batches=[1])  # one that is there already is let go of, too
    store = kit.open_store(tmp_path, **changes)
    for number in (0, 1, 2):
        arrays = kit.batch(number)
        held = [weakref.ref(array) for array in arrays.values()]
        store.write(0, number, arrays)
        del arrays
        store.flush()
        assert [array() for array in held] == [None] * len(held)
    store.close()
    assert not store.write(0, 3, kit.batch(3))


def test_prefetched_batches_are_served_like_others(tmp_path):
    kit.fill(tmp_path)
    with kit.open_store(tmp_path) as store:
        for number in range(kit.BATCHES):
            for ahead in range(number, min(number + 3, kit.BATCHES)):
                store.prefetch(0, ahead)
            assert kit.serve(store, number) if number % 2 == 0 else store.read(0, number)
        for number in range(500):  # never read
            store.prefetch(number, 0)
        assert kit.serve(store, 1)


def test_reading_from_many_threads_serves_the_truth(tmp_path):
    kit.fill(tmp_path)
    wrong = []
    with kit.open_store(tmp_path) as store:

        def read(seed):
            for number in np.random.default_rng(seed).integers(0, kit.BATCHES, 50).tolist():
                store.prefetch(0, (number + 1) % kit.BATCHES)
                if not kit.serve(store, number):
                    wrong.append(number)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.counters().hits == 200
    assert wrong == []


def test_arrays_that_do_not_fit_the_layouts_are_refused_by_name(tmp_path):
    good = kit.batch(0)
    with kit.open_store(tmp_path) as store:
        for bad, text in [
            ({**good, "x": good["x"][:4]}, r"'x'.*shape"),
            ({**good, "x": good["x"].astype("float64")}, r"'x'.*float32.*float64"),
            ({"x": good["x"]}, "'half', 'label', 'x'"),
            ({**good, "more": good["x"]}, "more"),
        ]:
            with pytest.raises(ValueError, match=text):
                store.write(0, 0, bad)
        with pytest.raises(IndexError, match="12"):
            store.write(0, kit.BATCHES, good)
        with pytest.raises(IndexError):
            store.read(0, -1)
        with pytest.raises(ValueError, match=r"'name'.*8 values"):
            store.write(0, 0, good, {"name": ["a"]})
        with pytest.raises(TypeError, match="strings"):
            store.write(0, 0, good, {1: ["a"] * kit.BATCH})
        store.flush()
        assert store.counters().written == 0


def test_arrays_in_any_memory_order_are_written(tmp_path):
    good = kit.batch(0)
    with kit.open_store(tmp_path) as store:
        store.write(0, 0, {name: np.asfortranarray(array) for name, array in good.items()})
        store.flush()
        assert kit.equal(store.read(0, 0).arrays, good)


def test_additional_data_that_cannot_be_stored_is_refused_by_key_and_type(tmp_path):
    with kit.open_store(tmp_path) as store:
        values = [{1}, *[None] * (kit.BATCH - 1)]
        with pytest.raises(TypeError, match=r"'tags'\]\[0\].*builtins.set.*cache_pickle=True"):
            store.write(0, 0, kit.batch(0), {"name": ["a"] * kit.BATCH, "tags": values})
    with kit.open_store(tmp_path, cache_pickle=True) as store:
        store.write(0, 0, kit.batch(0), {"tags": values})
        store.flush()
        assert store.read(0, 0).additional["tags"] == values
        with pytest.raises(TypeError, match=r"'tags'\]\[7\].*cannot be pickled"):
            store.write(0, 1, kit.batch(0), {"tags": [*values[1:], threading.Lock()]})


def test_entries_with_pickles_are_missed_without_cache_pickle_and_stay(tmp_path, caplog):
    with kit.open_store(tmp_path, cache_pickle=True) as store:
        store.write(0, 0, kit.batch(0), {"tags": [{1}] * kit.BATCH})
        store.write(0, 1, kit.batch(1), kit.additional(1))
    with kit.open_store(tmp_path) as store:
        assert [store.read(0, 0) for _ in range(3)] == [None] * 3
        assert kit.serve(store, 1)
        assert store.counters().corrupt == 0
    assert caplog.text.count("cache_pickle=True") == 1
    with kit.open_store(tmp_path, cache_pickle=True) as store:
        assert store.read(0, 0).additional["tags"] == [{1}] * kit.BATCH


def test_the_last_batch_of_a_padded_epoch_is_a_batch_like_others(tmp_path):
    with kit.open_store(tmp_path, remainder="pad") as store:
        store.write(0, kit.BATCHES, kit.batch(0))
        store.flush()
        assert kit.equal(store.read(0, kit.BATCHES).arrays, kit.batch(0))


# Of items


def fill_items(folder, indices, **changes):
    with kit.open_store(folder, cache_by="item", **changes) as store:
        store.write_items(indices, kit.items(indices), {"name": [str(i) if i % 2 else None for i in indices]})


def room(rows):
    return {name: np.zeros((rows, *array.shape[1:]), array.dtype) for name, array in kit.items([0]).items()}


def test_items_are_gathered_in_any_order_and_the_missing_are_named(tmp_path):
    stored = [5, 99, 0, 42, 43, 7]
    fill_items(tmp_path, stored)
    asked = np.array([42, 1, 99, 42, 2, 5])
    into = room(8)
    with kit.open_store(tmp_path, cache_by="item") as store:
        store.prefetch_items(asked)
        found = store.read_items(asked, into)
        assert found.missing.tolist() == [1, 4]
        there = [0, 2, 3, 5]
        assert kit.equal({k: v[there] for k, v in into.items()}, kit.items(asked[there]))
        assert not any(array[[1, 4, 6, 7]].astype(bool).any() for array in into.values())
        assert found.additional == {"name": [None, None, "99", None, None, "5"]}
        counters = store.counters()
        assert (counters.hits, counters.misses) == (4, 2)


def test_a_cache_of_items_serves_any_batch_size_and_shuffle(tmp_path):
    fill_items(tmp_path, list(range(kit.ITEMS)))
    other = {"batch_size": 32, "shuffle_later": "itemwise", "shuffle_first": True, "remainder": "pad"}
    asked = np.random.default_rng(0).permutation(kit.ITEMS)[:32]
    into = room(32)
    with kit.open_store(tmp_path, cache_by="item", **other) as store:
        assert store.read_items(asked, into).missing.size == 0
        assert kit.equal(into, kit.items(asked))


def test_items_lie_in_a_plain_npy_file_in_the_order_of_the_data(tmp_path):
    fill_items(tmp_path, [3, 17])
    found = np.load(tmp_path / "epoch-0" / "x.npy", mmap_mode="r")
    assert found.shape == (kit.ITEMS, 4, 4)
    assert np.array_equal(found[17], kit.item(17)["x"])


def test_no_items_are_nothing(tmp_path):
    with kit.open_store(tmp_path, cache_by="item") as store:
        assert not store.write_items([], kit.items([0]))
        assert store.read_items([], room(4)).missing.tolist() == []


def test_items_that_do_not_exist_and_room_that_does_not_fit_are_refused(tmp_path):
    with kit.open_store(tmp_path, cache_by="item") as store:
        with pytest.raises(IndexError, match="item 100"):
            store.read_items([1, 100], room(2))
        with pytest.raises(ValueError, match="3 rows"):
            store.read_items([1, 2, 3], room(2))
        with pytest.raises(ValueError, match="C-contiguous"):
            store.read_items([1], {name: np.repeat(array, 2, axis=0)[::2] for name, array in room(2).items()})


# What it costs


def test_own_memory_and_files_do_not_grow_with_the_cache(tmp_path):
    script = """
        import numpy as np
        def own():
            for line in open("/proc/self/status"):
                if line.startswith("RssAnon"):
                    return int(line.split()[1]) * 1024
        arrays = {"x": ((1024, 256), "float32")}
        with kit.open_store(arguments[0], loader_arrays=arrays) as store:
            batch = {"x": np.ones((kit.BATCH, 1024, 256), np.float32)}
            def step(number):
                store.write(0, number, batch, {"name": ["n" * 100] * kit.BATCH})
                store.flush()
                assert store.read(0, number).arrays["x"][0, 0, 0] == 1
            step(0); step(1)
            before, files = own(), kit.descriptors()
            for number in range(2, kit.BATCHES):
                step(number)
            print((own() - before) // 2**20, kit.descriptors() - files)
    """
    megabytes, files = map(int, kit.start(script, tmp_path).result().split())
    assert megabytes < 8  # the batches written and read are 80 MiB
    assert files == 0


def test_the_cache_imports_no_jax():
    code = "import sys, hydrax_core.cache; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_open_and_close_leave_no_thread_and_no_file(tmp_path):
    kit.fill(tmp_path)
    gc.collect()
    threads, files = threading.active_count(), kit.descriptors()
    for _ in range(20):
        with kit.open_store(tmp_path) as store:
            store.prefetch(0, 1)
            store.write(0, 1, kit.batch(1))
            assert kit.serve(store, 1)
    del store
    gc.collect()
    assert threading.active_count() == threads
    assert kit.descriptors() == files


def test_a_group_without_a_place_for_a_cache_is_refused():
    with pytest.raises(ValueError, match="cache_location"):
        CacheStore.open(kit.group(None), kind="training", group_index=0)
