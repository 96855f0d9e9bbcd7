import functools
import gc
import itertools
import json
import logging
import re
import threading
import time
from collections import deque

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hydrax_core
from hydrax_core import (
    BatchesHeldError,
    DataGroup,
    Dataloader,
    LoaderError,
    PlacementError,
    StateMismatchError,
    TrainingBatch,
    ValidationBatch,
    batched,
)

ARRAYS = {"x": ((3,), "float32"), "y": ((), "int32")}


def load(item, arrays, seed):
    arrays["x"][...] = [item, seed or 0, 1]
    arrays["y"][...] = item
    return {"text": str(item)} if item % 2 else None


@batched
def load_many(items, arrays, seeds):
    arrays["x"][:, 0] = items
    arrays["x"][:, 1] = seeds or 0
    arrays["x"][:, 2] = 1
    arrays["y"][...] = items
    return [{"text": str(item)} if item % 2 else None for item in items]


def group(count=20, batch_size=4, **more):
    return DataGroup(batch_size, range(count), **{"loader_arrays": ARRAYS, **more})


LARGE = {"x": ((16384,), "float32"), "y": ((), "int32")}  # batches above 64 KiB are handed over where they lie


def mark(item, arrays, seed):
    arrays["x"][...] = item
    arrays["y"][...] = item


def inline(training=None, loader=load, **more):
    return Dataloader(loader, training or group(), **{"loader_kind": "inline", "end_at": ("epoch", 1), **more})


def record(batch):
    arrays = {name: np.asarray(array).tolist() for name, array in batch.arrays.items()}
    return batch.address, batch.indices, getattr(batch, "seeds", None), arrays, dict(batch.additional)


def records(loader):
    with loader:
        return [record(batch) for batch in loader]


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


def test_a_run_that_goes_on_at_its_end_says_nothing_of_an_empty_run(caplog):
    with inline() as loader:
        assert len(list(loader)) == 5
    again = loader.replace(start_at=(3, 0))
    again.load_state_dict(inline().state_dict())
    assert len(records(again)) == 5
    again = loader.replace()
    again.load_state_dict(loader.state_dict())
    assert records(again) == []
    assert caplog.messages == []


KINDS = ["inline", "thread", "process"]


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


@settings(max_examples=25)
@given(st.integers(0, 40), st.sampled_from(["repeat", "reseed", "itemwise", "batchwise"]), st.integers(1, 7))
def test_resuming_anywhere_gives_the_tail(position, later, interval):
    def make():
        return inline(
            [group(9, shuffle_first=True, shuffle_later=later, remainder="pad"), group(8)],
            validation=("batch", interval, group(8)),
            end_at=("epoch", 4),
        )

    whole = records(make())
    with make() as loader:
        for _ in itertools.islice(loader, position):
            pass
        state = json.loads(json.dumps(loader.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert records(resumed) == whole[position:]


def test_resuming_out_of_order_batches_gives_the_rest():
    whole = records(inline(end_at=("epoch", 4)))
    loader = inline(end_at=("epoch", 4), loader_kind="thread", loader_count=3, deterministic=False, depth=6)
    with loader:
        seen = [record(next(loader)) for _ in range(9)]
        state = loader.state_dict()
    resumed = inline(end_at=("epoch", 4))
    resumed.load_state_dict(state)
    assert sorted(map(repr, seen + records(resumed))) == sorted(map(repr, whole))


def test_entering_again_goes_on_behind_the_last_batch():
    expected = records(inline())
    loader = inline()
    with loader:
        seen = [record(next(loader)), record(next(loader))]
    with loader:
        seen += [record(batch) for batch in loader]
    assert seen == expected
    with loader:
        assert list(loader) == []


def test_a_loader_in_use_cannot_be_entered_again():
    with inline() as loader, pytest.raises(RuntimeError, match="in use by another"), loader:
        pass


def test_iterating_without_with_works_and_closes_at_the_end():
    loader = inline(loader_kind="thread")
    assert len(list(loader)) == 5
    assert not loader.stats().running


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 24}, r"training.groups\[0\].items: saved 20, here 24"),
        ({"batch_size": 5}, "batch_size: saved 4, here 5"),
        ({"seed": 1}, "seed: saved 0, here 1"),
        ({"shuffle_later": "repeat"}, "shuffle_later: saved 'itemwise', here 'repeat'"),
        ({"shuffle_first": True}, "shuffle_first: saved False, here True"),
    ],
)
def test_a_state_of_other_data_or_settings_is_refused_with_what_differs(change, message):
    state = inline().state_dict()
    with pytest.raises(StateMismatchError, match=message):
        inline(group(**change)).load_state_dict(state)


def test_a_state_of_other_items_is_refused():
    state = inline(DataGroup(4, list(range(20)), loader_arrays=ARRAYS)).state_dict()
    with pytest.raises(StateMismatchError, match="data: saved"):
        inline(DataGroup(4, [*range(19), 77], loader_arrays=ARRAYS)).load_state_dict(state)


@pytest.mark.parametrize("state", [5, {}, {"version": 1}, None])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(TypeError, match="state: expected what state_dict"):
        inline().load_state_dict(state)


def fail_on(*bad):
    def loader(item, arrays, seed):
        if item in bad:
            raise ValueError(f"bad item {item}")
        return load(item, arrays, seed)

    return loader


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_item_is_named_with_its_address(kind):
    with inline(loader=fail_on(6, 7), loader_kind=kind) as loader:
        next(loader)
        with pytest.raises(LoaderError) as caught:
            next(loader)
        assert caught.value.index == caught.value.descriptor == 6
        assert str(caught.value.address) == "training group 0, epoch 0, batch 1"
        assert "ValueError: bad item 6" in str(caught.value)
        assert 'raise ValueError(f"bad item {item}")' in caught.value.worker_traceback
        assert "body.py" not in caught.value.worker_traceback
        assert next(loader).batch_num == 2
        assert loader.stats().errors >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_skipped_batches_are_counted_and_said_once(kind, caplog):
    with inline(loader=fail_on(6, 13), loader_kind=kind, on_error="skip") as loader:
        assert [batch.batch_num for batch in loader] == [0, 2, 4]
        assert loader.stats().skipped_batches == 2
    assert sum("a batch is skipped" in message for message in caplog.messages) == 1


def test_a_run_in_which_every_batch_is_skipped_ends_with_the_error():
    failing = inline(loader=fail_on(*range(20)), on_error="skip", end_at=None)
    with failing as loader, pytest.raises(LoaderError) as caught:
        next(loader)
    assert "5 batches in a row were skipped" in caught.value.__notes__[0]


def test_without_order_the_state_passes_over_skipped_batches():
    with inline(loader=fail_on(6, 13), on_error="skip", deterministic=False, end_at=("epoch", 3)) as loader:
        for _ in loader:
            pass
        state = loader.state_dict()
    assert state["training_batches"] >= 14
    assert len(state["ahead"]) <= 1


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
    deadline = time.monotonic() + 10
    while threading.active_count() > threads:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_batched_is_known_through_partial_too():
    loader = functools.partial(load_many)
    assert records(inline(loader=loader)) == records(inline())


@pytest.mark.parametrize("kind", KINDS)
def test_a_substitute_is_another_item_and_the_same_everywhere(kind):
    def run(kind):
        with inline(loader=fail_on(6, 7), on_error="substitute", loader_kind=kind) as loader:
            batches = [record(batch) for batch in loader]
            assert loader.stats().substituted_items >= 2
        return batches

    batches = run(kind)
    assert batches == run("inline")
    _, indices, seeds, arrays, additional = batches[1]
    assert not {6, 7} & set(indices)
    assert indices[:2] == (4, 5)
    assert arrays["y"] == list(indices)
    assert [row[1] for row in arrays["x"]] == [np.float32(seed) for seed in seeds]
    assert additional["text"] == [str(item) if item % 2 else None for item in indices]


def test_a_group_of_failing_items_is_an_error_even_with_substitutes():
    with inline(loader=fail_on(*range(20)), on_error="substitute") as loader, pytest.raises(LoaderError):
        next(loader)


class Broken(list):
    def __getitem__(self, index):
        if index == 6:
            raise OSError("disk gone")
        return super().__getitem__(index)


def test_data_that_raises_is_an_error_of_the_item():
    train = DataGroup(4, Broken(range(20)), loader_arrays=ARRAYS)
    with inline(train, on_error="skip") as loader:
        assert [batch.batch_num for batch in loader] == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (5, "it returned a int: 5"),
        (np.zeros(2), "it returned a ndarray"),
        ({1: 2}, "names of additional data are strings, got 1"),
    ],
)
def test_a_wrong_result_is_explained(result, message):
    with inline(loader=lambda item, arrays, seed: result) as loader, pytest.raises(LoaderError, match=message):
        next(loader)


def test_replacing_an_array_instead_of_filling_it_is_explained():
    def replace(item, arrays, seed):
        arrays["x"] = np.zeros(3)

    with inline(loader=replace) as loader, pytest.raises(LoaderError, match=r"arrays\[name\]\[...\] = value"):
        next(loader)


KEPT = []


def keep_view(item, arrays, seed):
    KEPT.append(arrays["x"])


def keep_slice(item, arrays, seed):
    KEPT.append(arrays["x"][1:])


def return_array(item, arrays, seed):
    return {"x": arrays["x"]}


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (keep_view, "keeps a reference to its arrays"),
        (keep_slice, "keeps a reference to its arrays"),
        (return_array, "returns one of its arrays as the additional data 'x'"),
    ],
)
@pytest.mark.parametrize("kind", ["inline", "process"])
def test_a_loader_that_keeps_or_returns_its_arrays_is_told_once(loader, message, kind, caplog):
    with inline(loader=loader, loader_kind=kind) as running:
        assert len(list(running)) == 5
    KEPT.clear()
    assert sum(message in text for text in caplog.messages) == 1


def test_an_honest_loader_is_not_accused(caplog):
    scratch = np.ones(3, np.float32)

    def honest(item, arrays, seed):
        cycle = {"arrays": arrays}
        cycle["self"] = cycle  # garbage, kept by nobody
        np.add(scratch, item, out=arrays["x"])
        arrays["y"][()] = item

    with inline(loader=honest, end_at=("epoch", 3)) as loader:
        assert sum(1 for _ in loader) == 15
    assert caplog.messages == []


def test_a_kept_batch_never_changes_and_never_stalls_the_loader(caplog):
    with inline(group(400, loader_arrays=LARGE), loader=mark, loader_kind="thread", depth=2) as loader:
        kept = list(loader)
        assert len(kept) == 100
        for batch in kept:
            assert np.asarray(batch.arrays["y"]).tolist() == list(batch.data)
        assert loader.stats().held_batches >= 100
    told = [text for text in caplog.messages if "batches are held, more than depth=2" in text]
    assert len(told) == 1
    assert "test_dataloader.py:" in told[0]
    for batch in kept:
        assert np.asarray(batch.arrays["y"]).tolist() == list(batch.data)


def test_past_the_bound_the_holders_are_named_and_the_loader_goes_on_when_they_let_go():
    train = group(400, loader_arrays=LARGE)
    with inline(train, loader=mark, loader_kind="thread", depth=2, max_held=5) as loader:
        kept = []
        with pytest.raises(BatchesHeldError, match=r"max_held.*test_dataloader.py:\d+"):
            kept.extend(loader)
        assert len(kept) >= 5
        seen = {batch.batch_num for batch in kept}
        kept.clear()
        seen.update(batch.batch_num for batch in loader)
        assert seen == set(range(100))


def test_the_bound_is_the_number_that_may_be_held_beside_the_batch_in_use():
    train = group(400, loader_arrays=LARGE)
    with inline(train, loader=mark, loader_kind="thread", depth=3, max_held=4) as loader:
        kept = [next(loader) for _ in range(5)]
        with pytest.raises(BatchesHeldError, match="5 batches are held, more than max_held=4"):
            next(loader)
        kept.pop()
        assert next(loader).batch_num == 5


def test_a_consumer_that_never_calls_jax_does_not_stall_it():
    train = group(4000, loader_arrays=LARGE)
    with inline(train, loader=mark, loader_kind="thread", depth=2, max_held=8) as loader:
        assert sum(1 for _ in loader) == 1000


def test_closing_ends_the_lease_and_use_after_it_raises():
    with inline(loader_kind="thread", depth=1) as loader:
        batch = next(loader)
        array = batch.arrays["x"]
        with batch:
            assert batch.size == 4
        assert batch.closed
        batch.close()
        assert array.is_deleted()
        for use in (lambda: batch.arrays, lambda: batch.size, lambda: batch.get_data(0), lambda: batch.split([1])):
            with pytest.raises(hydrax_core.BatchClosedError, match="this batch is closed"):
                use()
        assert "closed" in repr(batch)


def test_a_result_in_flight_is_right_though_its_batch_is_closed():
    @jax.jit
    def slow(x):
        return jax.lax.fori_loop(0, 300, lambda _, y: y @ x / jax.numpy.linalg.norm(x), x)

    def fill(item, arrays, seed):
        arrays["m"][...] = np.random.default_rng(item).random((128, 128))

    train = DataGroup(1, range(30), loader_arrays={"m": ((128, 128), "float32")})
    expected = [np.asarray(slow(np.random.default_rng(i).random((128, 128)).astype("f4"))) for i in range(30)]
    with inline(train, loader=fill, loader_kind="thread", depth=2) as loader:
        results = []
        for batch in loader:
            results.append(slow(batch.arrays["m"][0]))
            batch.close()
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(result), right)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth: expected an int from 1 to 4096, got 0"),
        ({"loader_count": 0}, "loader_count: expected an int from 1 to 1024, got 0"),
        ({"start_at": (0, -1)}, r"start_at\[1\]: expected an int of at least 0"),
        ({"end_at": ("hours", 3)}, r"end_at\[0\]: expected one of 'epoch', 'batch', got 'hours'"),
        ({"validation": ("epoch", 0, group())}, r"validation\[1\]: expected an int of at least 1"),
        ({"loader_kind": "fork"}, "loader_kind: expected one of 'process', 'thread', 'inline', got 'fork'"),
        ({"on_error": "ignore"}, "on_error: expected one of 'raise', 'skip', 'substitute'"),
        ({"training": []}, "training: expected at least one DataGroup"),
        ({"max_held": 0}, "max_held: expected an int of at least 1"),
    ],
)
def test_wrong_values_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dataloader(**{"loader_func": load, "training": group(), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loader_func": 5}, r"loader_func: expected a function of \(item, arrays, seed\), got 5"),
        ({"loader_func": lambda item: 1}, r"loader_func: it is called with \(item, arrays, seed\)"),
        ({"startup_func": load}, "startup_func: it is called with no argument"),
        ({"placement_func": load}, r"placement_func: it is called with \(arrays, layouts"),
        ({"training": [group(), 5]}, "training: expected DataGroups, got int at position 1"),
        ({"training": 5}, "training: expected a DataGroup or several, got int"),
        ({"validation": group()}, r"validation: expected \(\"epoch\", interval, groups\)"),
        ({"start_at": 5}, r"start_at: expected \(epoch, batches\)"),
        ({"timeout_sec": "soon"}, "timeout_sec: expected a number of seconds"),
        ({"deterministic": "yes"}, "deterministic: expected True or False"),
        ({"depth": 2.5}, "depth: expected an int"),
    ],
)
def test_wrong_types_are_refused_by_name(arguments, message):
    with pytest.raises(TypeError, match=message):
        Dataloader(**{"loader_func": load, "training": group(), **arguments})


def test_a_loader_that_cannot_travel_is_refused_with_advice():
    lock = threading.Lock()

    def locked(item, arrays, seed):
        with lock:
            pass

    with pytest.raises(TypeError, match=r"loader_func: it cannot be sent to worker processes.*startup_func"):
        Dataloader(locked, group()).__enter__()
    assert len(records(inline(loader=locked, loader_kind="thread"))) == 5


def test_interrupt_ends_the_iteration():
    with inline(end_at=None, loader_kind="thread") as loader:
        for batch in loader:
            if batch.batch_num == 7:
                loader.interrupt()
        assert batch.batch_num == 7
        assert loader.interrupted


def test_replace_makes_a_new_loader():
    loader = inline(iter([group()]), validation=("epoch", 1, iter([group(8)])))
    again = loader.replace(loader_count=3, end_at=("batch", 2))
    assert again.loader_count == 3
    assert again.validation_interval == 5
    assert len(records(again)) == 2
    assert len(records(loader)) == 7


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


def test_live_batches_and_their_holders_are_listed():
    class Trainer:
        pass

    def waiting(batch):
        yield batch

    def using(batch):
        return lambda: batch

    with inline(group(100)) as loader:
        mine = next(loader)
        several = [0, next(loader), next(loader)]
        several[0] = several[2]
        by_name = {"last": next(loader)}
        trainer = Trainer()
        trainer.batch = next(loader)
        trainer.history = {"all": [next(loader)]}
        trainer.ring = deque([next(loader)])
        generator = waiting(next(loader))
        next(generator)
        function = using(next(loader))
        handles = {next(loader)}
        text = hydrax_core.debug_batch_references()
    holders = {int(number): line.strip() for number, line in re.findall(r"batch (\d+):.*\n(.*)", text)}
    where = f"test_live_batches_and_their_holders_are_listed, {__file__}:"
    for number, expected in enumerate(
        [
            f"variable mine in {where}",
            f"a list, at 1 (variable several in {where}",
            f"a list, at 0, 2 (variable several in {where}",
            f"a dict, at 'last' (variable by_name in {where}",
            f"a Trainer, at .batch (variable trainer in {where}",
            "a list, at 0 (in a dict, at 'all')",
            "a deque, at 0 (attribute ring of a Trainer)",
            f"variable batch in waiting, {__file__}:",
            "a cell (variable batch that test_live_batches_and_their_holders_are_listed.<locals>.using.",
            f"a set (variable handles in {where}",
        ]
    ):
        assert holders[number].startswith(expected)
    assert "training group 0, epoch 0, batch 0" in text
    del mine, several, by_name, trainer, generator, function, handles


def test_batches_that_are_only_made_ahead_are_none_that_somebody_holds():
    # Batches of other tests may be alive still; none of them has these numbers.
    with Dataloader(load, group(4000), loader_kind="thread", depth=8, start_at=(0, 777)) as loader:
        mine = next(loader)
        while loader.stats().slots.count("ready") < 4:
            time.sleep(0.001)
        text = hydrax_core.debug_batch_references()
    assert "epoch 0, batch 777:" in text
    assert "epoch 0, batch 778:" not in text
    del mine


def test_timeout_says_what_every_worker_does():
    release = threading.Event()

    def stuck(item, arrays, seed):
        if item == 5:
            release.wait(20)

    with inline(loader=stuck, loader_kind="thread", loader_count=2, timeout_sec=0.2) as loader:
        next(loader)
        with pytest.raises(
            hydrax_core.BatchTimeoutError, match=r"busy with item 5 of training group 0, epoch 0, batch 1"
        ):
            next(loader)
        release.set()
        assert next(loader).batch_num == 1


def test_a_failing_startup_is_told():
    def start():
        raise RuntimeError("no database")

    for kind in KINDS:
        loader = inline(startup_func=start, loader_kind=kind)
        with loader, pytest.raises(hydrax_core.WorkerStartError, match="RuntimeError: no database"):
            next(loader)


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.WARNING, logger="hydrax")
