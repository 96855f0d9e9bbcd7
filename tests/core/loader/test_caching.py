import itertools
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hydrax_core import CacheError, CacheMismatchError, DataGroup, Dataloader

ARRAYS = {"x": ((16,), "float32"), "y": ((), "int32")}


@pytest.fixture
def loaded():
    return []


@pytest.fixture
def load(loaded):
    def loader(item, arrays, seed):
        loaded.append(item)
        arrays["x"][...] = [item, seed or 0, *range(14)]
        arrays["y"][...] = item
        return {"text": f"item {item}"} if item % 2 else None

    return loader


def group(folder, count=20, batch_size=4, **more):
    return DataGroup(batch_size, range(count), **{"loader_arrays": ARRAYS, "cache_location": folder, **more})


def run(loader, training, **more):
    arguments = {"loader_kind": "thread", "loader_count": 2, "end_at": ("epoch", 1), **more}
    with Dataloader(loader, training, **arguments) as running:
        batches = [record(batch) for batch in running]
        return batches, running.stats()


def record(batch):
    arrays = {name: np.asarray(array).tolist() for name, array in batch.arrays.items()}
    additional = {name: list(values) for name, values in batch.additional.items()}
    return batch.address, batch.indices, getattr(batch, "seeds", None), arrays, additional


MODES = ["batchwise", "repeat", "reseed", "itemwise"]


@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_is_served_from_the_cache_and_equal(tmp_path, load, loaded, mode):
    train = group(tmp_path / "c", shuffle_later=mode, shuffle_first=True, count=18, remainder="pad")
    first, stats = run(load, train, end_at=("epoch", 3))
    uncached, _ = run(
        load, group(None, shuffle_later=mode, shuffle_first=True, count=18, remainder="pad"), end_at=("epoch", 3)
    )
    assert first == uncached
    one_epoch = mode in ("batchwise", "repeat")
    assert stats.cache_misses >= (5 if one_epoch else 15)
    loaded.clear()
    second, stats = run(load, train, end_at=("epoch", 3))
    assert second == first
    assert (stats.cache_hits, stats.cache_misses) == (15, 0)
    assert loaded == []


def test_later_epochs_come_from_the_cache_within_a_run(tmp_path, load, loaded):
    with Dataloader(load, group(tmp_path / "c"), loader_kind="inline", end_at=("epoch", 3)) as loader:
        for batch in loader:
            assert not batch.uncached
            with pytest.raises(RuntimeError, match="it is cached already"):
                batch.cache({})
            if batch.batch_num == 4:
                for store in loader._engine.caches._stores:
                    store.flush()
        assert loader.stats().cache_hits >= 9  # the next one or two were asked for before the flush
    assert len(loaded) <= 24


@pytest.mark.parametrize("cache_by", ["batch", "item"])
def test_a_batch_tells_whether_the_cache_served_it(tmp_path, load, cache_by):
    train = group(tmp_path / "c", cache_by=cache_by, batch_size=4)
    run(load, train, end_at=("batch", 2))
    with Dataloader(load, train, loader_kind="thread", end_at=("epoch", 1)) as loader:
        served = []
        for batch in loader:
            served.append(batch.from_cache)
            stats = loader.stats()
            counts = (stats.cache_hits, stats.cache_misses)
            assert counts == (served.count(True), served.count(False))  # what is read ahead does not count yet
    assert served == [True, True, False, False, False]
    for batch in Dataloader(load, group(None), loader_kind="inline", end_at=("batch", 1)):
        assert not batch.from_cache
        assert not batch.split(jax.devices()[:1])[0].from_cache


def test_a_batch_that_its_user_caches_was_loaded_all_the_same(tmp_path, load):
    train = group(tmp_path / "c", cache_arrays=CACHED)
    for expected in (False, True):
        with Dataloader(load, train, loader_kind="inline", end_at=("batch", 1)) as loader:
            batch = next(loader)
            if batch.uncached:
                encode(batch)
            assert batch.from_cache is expected
            assert [part.from_cache for part in batch.split(jax.devices()[:2])] == [expected] * 2


def test_the_time_to_a_first_batch_that_waits_for_no_worker_adds_up(tmp_path, load):
    train = group(tmp_path / "c")
    run(load, train)
    with Dataloader(load, train, loader_kind="process", end_at=("epoch", 1)) as loader:
        next(loader)
        early = loader.stats().first_batch
        for _ in loader:
            pass
        assert loader.stats().first_batch == early
    assert min(early.start, early.load, early.place) >= 0
    assert early.total == pytest.approx(early.start + early.load + early.place)


def test_items_are_gathered_into_the_batches_of_any_epoch(tmp_path, load, loaded):
    train = group(tmp_path / "c", cache_by="item", shuffle_later="itemwise")
    run(load, train)
    assert sorted(loaded) == list(range(20))
    loaded.clear()
    batches, stats = run(load, train, start_at=(1, 0), end_at=("epoch", 3))
    assert loaded == []
    assert stats.cache_hits == 10
    assert [b[1] for b in batches[:5]] != [b[1] for b in batches[5:]]
    for _, indices, _, arrays, additional in batches:
        assert arrays["y"] == list(indices)
        assert [row[0] for row in arrays["x"]] == list(indices)
        expected = [f"item {item}" if item % 2 else None for item in indices]
        assert additional.get("text", [None] * 4) == expected
    other, stats = run(load, group(tmp_path / "c", batch_size=7, cache_by="item", remainder="pad"))
    assert stats.cache_misses == 0
    assert other[-1][3]["y"][6:] == [0]


def test_items_that_the_cache_lacks_are_loaded_alone(tmp_path, load, loaded):
    run(load, group(tmp_path / "c", cache_by="item", batch_size=8))  # 16 of 20 items
    loaded.clear()
    batches, _ = run(load, group(tmp_path / "c", cache_by="item", batch_size=5, shuffle_first=True))
    assert sorted(loaded) == [16, 17, 18, 19]
    for _, indices, _, arrays, additional in batches:
        assert arrays["y"] == list(indices)
        assert additional["text"] == [f"item {item}" if item % 2 else None for item in indices]
    loaded.clear()
    run(load, group(tmp_path / "c", cache_by="item", batch_size=5, shuffle_first=True))
    assert loaded == []


CACHED = {"mean": ((), "float32")}


def encode(batch):
    batch.cache({"mean": batch.arrays["x"].mean(1)}, {"note": [f"row {row}" for row in range(4)]})
    with pytest.raises(TypeError):
        batch.arrays["mean"] = 1


def test_batches_are_stored_in_the_users_layout(tmp_path, load, loaded):
    train = group(tmp_path / "c", cache_arrays=CACHED)
    expected = []
    with Dataloader(load, train, loader_kind="thread", end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert batch.uncached
            assert batch.layouts == train.loader_layouts
            encode(batch)
            assert not batch.uncached
            assert batch.layouts == train.cache_layouts
            assert batch.get_additional("note", 2) == "row 2"
            with pytest.raises(RuntimeError, match="cached already"):
                batch.cache({})
            expected.append(record(batch))
    loaded.clear()
    served, stats = run(load, train)
    assert served == expected
    assert loaded == []
    assert stats.cache_hits == 5


def test_what_is_not_to_persist_is_not_stored(tmp_path, load, loaded):
    train = group(tmp_path / "c", cache_arrays=CACHED)
    with Dataloader(load, train, loader_kind="inline", end_at=("epoch", 1)) as loader:
        for batch in loader:
            batch.cache({"mean": batch.arrays["x"].mean(1)}, persist=False)
            assert batch.get_additional("text", 1, default="") is not None
    loaded.clear()
    _, stats = run(load, train)
    assert stats.cache_hits == 0
    assert len(loaded) == 20


@pytest.mark.parametrize(
    ("arrays", "additional", "message"),
    [
        ({}, None, r"arrays: expected the arrays \['mean'\], got \[\]"),
        ({"mean": jnp.zeros(3)}, None, r"arrays: 'mean' is float32\[3\], declared is float32\[4\]"),
        ({"mean": jnp.zeros(4, "int32")}, None, r"arrays: 'mean' is int32\[4\]"),
        ({"mean": np.zeros(4)}, None, "arrays: 'mean' is a ndarray, not a jax array"),
        ({"mean": jnp.zeros(4)}, {"note": ["a"]}, r"additional\['note'\]: expected a list of 4 values"),
    ],
)
def test_what_does_not_match_is_refused(tmp_path, load, arrays, additional, message):
    with Dataloader(load, group(tmp_path / "c", cache_arrays=CACHED), loader_kind="inline") as loader:
        batch = next(loader)
        with pytest.raises(ValueError, match=message):
            batch.cache(arrays, additional)
        assert batch.uncached


def test_storing_after_the_loader_is_closed_is_refused(tmp_path, load):
    with Dataloader(load, group(tmp_path / "c", cache_arrays=CACHED), loader_kind="inline") as loader:
        batch = next(loader)
    with pytest.raises(RuntimeError, match="the loader is closed"):
        encode(batch)


def test_a_cache_alone_serves_what_it_holds_and_counts_the_rest(tmp_path, load):
    train = group(tmp_path / "c", cache_arrays=CACHED)
    with Dataloader(load, train, loader_kind="inline", end_at=("batch", 3)) as loader:
        for batch in loader:
            encode(batch)
    alone = group(tmp_path / "c", cache_arrays=CACHED, loader_arrays=None)
    batches, stats = run(None, alone, loader_count=0)
    assert [batch[0].batch_num for batch in batches] == [0, 1, 2]
    assert stats.dropped_batches == 2
    assert stats.workers == ()


def test_an_endless_run_over_a_cache_that_holds_nothing_ends_with_an_error(tmp_path, load):
    with Dataloader(
        load, group(tmp_path / "c", cache_arrays=CACHED), loader_kind="inline", end_at=("batch", 1)
    ) as loader:
        next(loader)
    alone = group(tmp_path / "c", cache_arrays=CACHED, loader_arrays=None)
    with pytest.raises(CacheError, match="holds none of 5 batches in a row"):
        run(None, alone, end_at=None, loader_count=0)


def test_a_read_only_group_stores_nothing(tmp_path, load, loaded):
    run(load, group(tmp_path / "c"), end_at=("batch", 2))
    loaded.clear()
    _, stats = run(load, group(tmp_path / "c", cache_readonly=True))
    assert stats.cache_hits == 2
    loaded.clear()
    _, stats = run(load, group(tmp_path / "c", cache_readonly=True))
    assert (stats.cache_hits, len(loaded)) == (2, 12)


def test_another_seed_is_refused(tmp_path, load):
    run(load, group(tmp_path / "c"))
    with pytest.raises(CacheMismatchError, match="seed"):
        run(load, group(tmp_path / "c", seed=1))


def test_substitutes_are_not_stored_as_if_they_were_the_batch(tmp_path, loaded):
    broken = {6}

    def load(item, arrays, seed):
        if item in broken:
            raise ValueError("damaged")
        arrays["y"][...] = item

    run(load, group(tmp_path / "c"), on_error="substitute")
    broken.clear()
    batches, stats = run(load, group(tmp_path / "c"))
    assert stats.cache_misses == 1
    assert batches[1][1] == (4, 5, 6, 7)
    assert run(load, group(tmp_path / "c"))[1].cache_misses == 0


class Odd:
    pass


def test_what_cannot_be_stored_is_said_once_and_training_goes_on(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="hydrax")

    def load(item, arrays, seed):
        return {"odd": Odd()}

    batches, _ = run(load, group(tmp_path / "c"))
    assert len(batches) == 5
    assert sum("is not cached" in text and "'odd'" in text for text in caplog.messages) == 1
    assert run(load, group(tmp_path / "c"))[1].cache_hits == 0


def test_damage_is_loaded_anew_and_served_right(tmp_path, load, loaded):
    train = group(tmp_path / "c")
    expected, _ = run(load, train)
    for file in (tmp_path / "c").rglob("y.npy"):
        data = bytearray(file.read_bytes())
        data[-1] ^= 0x40
        file.write_bytes(data)
    loaded.clear()
    again, stats = run(load, train)
    assert again == expected
    assert stats.cache_misses == 1
    assert sorted(loaded) == [16, 17, 18, 19]
    assert run(load, train)[1].cache_misses == 0


def test_a_cached_batch_outlives_loader_and_files_and_is_not_copied(tmp_path, load):
    train = group(tmp_path / "c", batch_size=16, count=32)
    expected, _ = run(load, train)
    with Dataloader(load, train, loader_kind="inline", end_at=("epoch", 1)) as loader:
        kept = list(loader)
        assert loader.stats().cache_hits == 2
    shutil.rmtree(tmp_path / "c")
    assert [record(batch) for batch in kept] == expected


def test_resuming_in_the_middle_of_a_cached_run(tmp_path, load):
    train = group(tmp_path / "c")
    run(load, train)
    whole, _ = run(load, train, end_at=("epoch", 3))
    with Dataloader(load, train, loader_kind="thread", end_at=("epoch", 3)) as loader:
        for _ in itertools.islice(loader, 7):
            pass
        state = loader.state_dict()
    resumed = Dataloader(load, train, loader_kind="thread", end_at=("epoch", 3))
    resumed.load_state_dict(state)
    with resumed:
        assert [record(batch) for batch in resumed] == whole[7:]


def test_validation_is_cached_too(tmp_path, load, loaded):
    def once():
        train, valid = group(tmp_path / "t", count=8), group(tmp_path / "v", count=8)
        return run(load, train, validation=("epoch", 1, valid), end_at=("epoch", 2))

    first, _ = once()
    loaded.clear()
    second, stats = once()
    assert first == second
    assert loaded == []
    assert stats.cache_hits == 8


def test_where_items_are_cached_their_seeds_are_those_of_the_first_epoch(tmp_path, load):
    train = group(tmp_path / "c", cache_by="item", shuffle_first=True)
    first, _ = run(load, train, start_at=(2, 0), end_at=("epoch", 4))
    again, stats = run(load, train, start_at=(2, 0), end_at=("epoch", 4))
    assert first == again
    assert stats.cache_misses == 0
    seeds = [dict(zip(indices, given, strict=True)) for _, indices, given, _, _ in first]
    assert {**seeds[0], **seeds[1], **seeds[2], **seeds[3], **seeds[4]} == {
        **seeds[5],
        **seeds[6],
        **seeds[7],
        **seeds[8],
        **seeds[9],
    }
