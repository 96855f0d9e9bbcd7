"""A run as its consumer sees it: what batches tell, in which order they come, how a run ends."""

import copy
import functools
import gc
import pickle
import threading

import jax
import numpy as np
import pytest
from loaderkit import KINDS, group, inline, load, load_many, records
from waiting import wait_until

from hydrax_core import Dataloader, TrainingBatch, ValidationBatch, batched


def test_a_batch_tells_all_about_its_rows():
    train = group(shuffle_first=True, labels=("y",))
    with inline(train) as loader:
        batch = next(loader)
        assert isinstance(batch, TrainingBatch)
        assert batch.is_training
        assert not batch.is_validation
        assert (batch.epoch, batch.epoch_batch, batch.batch_num, batch.progress, batch.progress_total) == (
            0,
            0,
            0,
            1,
            5,
        )
        assert batch.size == 4
        assert batch.mask.tolist() == [True] * 4
        assert batch.data == batch.indices == tuple(np.asarray(batch.get_array("y")).tolist())
        assert batch.get_data(2) == batch.data[2]
        assert np.asarray(batch.arrays["x"])[:, 1].tolist() == [np.float32(seed) for seed in batch.seeds]
        assert 0 <= batch.seed < 2**32
        assert set(batch.inputs) == {"x"}
        assert set(batch.labels) == {"y"}
        assert batch.group is train
        assert batch.group_index == 0
        assert batch.layouts == train.loader_layouts
        assert batch.uncached
        assert batch.indices is batch.indices
        assert batch.seeds is batch.seeds
        texts = [str(item) if item % 2 else None for item in batch.data]
        assert list(batch.additional["text"]) == batch.get_additional("text") == texts
        assert batch.get_additional("text", 1, default="-") == (texts[1] or "-")
        assert batch.get_additional("text", default="-") == [text or "-" for text in texts]
        assert batch.get_additional("other", default=5) == [5] * 4
        assert batch.get_additional("other", 3, default=5) == 5
        for key in ("text", "other"):
            with pytest.raises(IndexError):
                batch.get_additional(key, 4)
        for mapping in (batch.arrays, batch.additional, batch.inputs):
            with pytest.raises(TypeError):
                mapping["x"] = 1
        with pytest.raises(RuntimeError, match="no cache layouts"):
            batch.cache({})


def test_a_padded_batch_has_zeros_in_its_missing_rows():
    with inline(group(6, remainder="pad")) as loader:
        full, short = loader
    assert full.size == 4
    assert short.size == 2
    assert short.mask.tolist() == [True, True, False, False]
    assert np.asarray(short.arrays["x"])[2:].tolist() == [[0] * 3] * 2
    assert short.additional["text"] == [None, "5", None, None]
    assert len(short.data) == len(short.seeds) == 2


def test_padding_is_zero_also_in_memory_used_before():
    def fill(item, arrays, seed):
        arrays["x"][...] = 9
        arrays["y"][...] = 9

    with inline(group(6, remainder="pad"), loader=fill, end_at=("epoch", 4)) as loader:
        for batch in loader:
            assert np.asarray(batch.arrays["y"])[batch.size :].tolist() == [0] * (4 - batch.size)


def test_rows_are_zeros_before_the_loader_gets_them():
    def fill_some(item, arrays, seed):
        arrays["x"][: item % 4] = item

    with inline(loader=fill_some, end_at=("epoch", 6)) as loader:
        for batch in loader:
            for item, row in zip(batch.data, np.asarray(batch.arrays["x"]), strict=True):
                assert row.tolist() == [item if place < item % 4 else 0 for place in range(3)]


def test_validation_comes_at_its_interval_and_every_time_whole():
    with inline(validation=("batch", 2, group(8)), end_at=("batch", 5)) as loader:
        kinds = [batch.is_training for batch in loader]
        assert loader.batches_per_validation == 2
    assert kinds == [True, True, False, False, True, True, False, False, True]


def test_validation_batches_count_for_themselves_and_get_no_seeds():
    seeds = []

    def note(item, arrays, seed):
        seeds.append(seed)

    with inline(validation=("epoch", 1, group(8)), loader=note, end_at=("epoch", 2)) as loader:
        found = [batch for batch in loader if isinstance(batch, ValidationBatch)]
    assert [batch.validation_epoch for batch in found] == [0, 0, 1, 1]
    assert [batch.validation_epoch_batch for batch in found] == [0, 1, 0, 1]
    assert [batch.validation_batch_num for batch in found] == [0, 1, 2, 3]
    assert [batch.progress for batch in found] == [1, 2, 1, 2]
    assert seeds[20:28] == [None] * 8


def test_two_groups_of_one_seed_share_no_item_seeds():
    with inline([group(), group()], end_at=("epoch", 3)) as loader:
        seeds = [set(), set()]
        for batch in loader:
            seeds[batch.group_index].update(batch.seeds)
    assert len(seeds[0]) == len(seeds[1]) == 60
    assert not seeds[0] & seeds[1]


def test_groups_interleave_or_follow_one_another():
    groups = [group(12), group(4)]
    with inline(groups) as loader:
        assert [batch.group_index for batch in loader] == [0, 0, 1, 0]
    with inline(groups, interleave_groups="least_used") as loader:
        assert [batch.group_index for batch in loader] == [0, 1, 0, 0]
    with inline(groups, interleave_groups=False) as loader:
        assert [batch.group_index for batch in loader] == [0, 0, 0, 1]


def test_start_at_carries_over_into_later_epochs():
    with inline(start_at=(0, 7), end_at=("epoch", 3)) as loader:
        assert loader.first_batch == 7
        assert loader.last_batch == 15
        batch = next(loader)
    assert (batch.epoch, batch.epoch_batch, batch.batch_num) == (1, 2, 7)


@pytest.mark.parametrize(("start", "end"), [((10**9, 0), ("epoch", 1)), ((2, 0), ("epoch", 2)), ((0, 0), ("batch", 0))])
def test_a_start_at_or_beyond_the_end_gives_nothing_and_says_so(start, end, caplog):
    assert records(inline(start_at=start, end_at=end)) == []
    (told,) = caplog.messages
    assert told.startswith(f"start_at, end_at: the run is empty, as it starts at training batch {start[0] * 5} of all")


def test_all_kinds_and_worker_counts_give_the_same_batches():
    def make(kind, count, loader=load, **more):
        return Dataloader(
            loader,
            [group(21, shuffle_first=True, remainder="pad"), group(9)],
            validation=("batch", 3, group(6, remainder="pad")),
            end_at=("epoch", 3),
            loader_kind=kind,
            loader_count=count,
            **more,
        )

    expected = records(make("inline", 1))
    assert len(expected) == 24 + 8 * 2
    for kind, count in [("thread", 3), ("process", 1), ("process", 3)]:
        assert records(make(kind, count)) == expected, (kind, count)
    assert records(make("process", 2, load_many)) == expected
    unordered = records(make("thread", 3, deterministic=False))
    assert sorted(map(repr, unordered)) == sorted(map(repr, expected))


def test_iterating_without_with_works_and_closes_at_the_end():
    loader = inline(loader_kind="thread")
    assert len(list(loader)) == 5
    assert not loader.stats().running


def test_a_loader_closed_while_a_batch_is_placed_ends_the_iteration():
    def place(arrays, layouts, additional, group):
        loader.close()
        return {name: jax.numpy.array(array) for name, array in arrays.items()}

    loader = inline(placement_func=place, loader_kind="thread")
    assert list(loader) == []


def test_a_loader_that_dies_in_its_own_thread_is_closed_all_the_same():
    threads = threading.active_count()
    reached, collect = threading.Event(), threading.Event()

    def load_and_collect(item, arrays, seed):
        reached.set()
        collect.wait(10)
        gc.collect()

    loader = inline(loader=load_and_collect, loader_kind="thread")
    loader.cycle = [loader]
    loader.__enter__()
    reached.wait(10)
    del loader
    collect.set()
    wait_until(lambda: threading.active_count() <= threads)


def test_batched_is_known_through_partial_too():
    loader = functools.partial(load_many)
    assert records(inline(loader=loader)) == records(inline())


def test_interrupt_ends_the_iteration():
    with inline(end_at=None, loader_kind="thread") as loader:
        for batch in loader:
            if batch.batch_num == 7:
                loader.interrupt()
        assert batch.batch_num == 7
        assert loader.interrupted


def test_stats_count_what_happened():
    with inline(loader_kind="thread", validation=("epoch", 1, group(8)), end_at=("epoch", 2)) as loader:
        assert loader.stats().first_batch is None
        batches = list(loader)
        stats = loader.stats()
    assert (stats.training_batches, stats.validation_batches, stats.items) == (10, 4, 56)
    assert stats.bytes == 14 * 4 * (12 + 4)
    assert stats.loaded_items == 56
    assert stats.workers[0].items == 56
    assert stats.first_batch.total > 0
    assert loader.idle_usec() >= 0
    assert loader.stats().items == 56
    assert not loader.stats().running
    del batches


class ManyItems:
    def load(self, items, arrays, _seeds):
        arrays["y"][...] = items


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_can_be_batched(kind):
    load_all = batched(ManyItems().load)
    with inline(loader=functools.partial(load_all), loader_kind=kind) as loader:
        assert [batch.arrays["y"].tolist() for batch in loader] == [[*range(n, n + 4)] for n in range(0, 20, 4)]


def test_what_cannot_be_called_cannot_be_batched():
    with pytest.raises(TypeError, match=r"batched: expected a function of .* got 5"):
        batched(5)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_loader_has_no_copy_that_would_share_its_batches(copied):
    loader = Dataloader(load, group())
    with pytest.raises(TypeError, match=r"a Dataloader cannot be copied or pickled; replace\(\) makes another"):
        copied(loader)
