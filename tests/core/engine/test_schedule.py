"""Chunks and what becomes of them, without workers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import BatchAddress, DataGroup, Dataloader, LoaderError, batched
from hydrax_core.engine.data_reader import DataReader
from hydrax_core.engine.jobs import BatchJob, JobGroup
from hydrax_core.engine.schedule import LoadCost, Schedule
from hydrax_core.engine.workers.wire import ChunkResult

ROWS = 1024


def schedule(*, workers=1, **group):
    sizes = {"batch_size": ROWS, "batch_count": 1000, "indexed": True}
    found = JobGroup(range(ROWS), {}, {}, stores_itself=False, zeroed=True, **{**sizes, **group})
    reader = DataReader(lambda: None, threaded=False)
    return Schedule([found], workers, "raise", lambda address, index, attempt: (0, None), reader)


def job(number, rows=ROWS):
    address = BatchAddress("training", 0, 0, number, number)
    planned = SimpleNamespace(number=number, address=address, content=None)
    return BatchJob(planned, 0, 0, np.arange(rows), None)


def run(found, batches, cost, rows=ROWS):
    """Sizes of the chunks of each batch, where a chunk of n items takes ``cost(n)``."""
    sizes = []
    for number in range(batches):
        found.add(job(number, rows))
        sizes.append([])
        while (chunk := found.next_chunk()) is not None:
            sizes[-1].append(chunk.size)
            found.accept(ChunkResult(chunk.number, cost(chunk.size), chunk.size, None, (), ()))
    return sizes


def test_deaths_count_against_an_item_in_one_loading_not_in_those_of_all_epochs_together():
    found = schedule()
    jobs = [job(0, rows=1), job(1, rows=1)]
    for each in jobs:
        found.add(each)
    for _ in range(2):
        for chunk in [found.next_chunk(), found.next_chunk()]:
            found.lose([chunk.number], (chunk.number, 0), "it was killed")
    assert not any(each.failures for each in jobs)
    chunk = found.next_chunk()
    found.lose([chunk.number], (chunk.number, 0), "it was killed")
    assert sum(bool(each.failures) for each in jobs) == 1


def test_one_slow_chunk_moves_what_an_item_costs_by_a_quarter():
    cost = LoadCost(batched=False)
    cost.learn(10, 0.01)
    assert cost.item == pytest.approx(0.001)
    cost.learn(10, 0.05)
    assert cost.item == pytest.approx(0.002)
    assert cost.call == 0


@pytest.mark.parametrize(("call", "item"), [(0.005, 0.0), (0.005, 1e-6), (0.002, 1e-3), (0.0, 1e-4)])
def test_a_calls_fixed_cost_is_told_from_what_its_items_cost(call, item):
    cost = LoadCost(batched=True)
    for count in (64, 32, 64, 32, 64):
        cost.learn(count, call + item * count)
    assert cost.call == pytest.approx(call, abs=1e-9)
    assert cost.item == pytest.approx(item, abs=1e-9)


def test_with_a_fixed_cost_a_batched_loader_gets_whole_batches():
    sizes = run(schedule(batched=True), 100, lambda count: 0.005 + 1e-6 * count)
    assert sum(len(batch) for batch in sizes[10:]) <= 1.2 * len(sizes[10:])


def test_of_the_first_calls_every_second_is_of_half_the_size_and_later_every_sixteenth():
    sizes = run(schedule(batched=True), 60, lambda count: 1e-9 * count, 1023)
    made = [size for batch in sizes for size in batch]
    left, expected = 0, []
    for call in range(1, len(made) + 1):
        left = left or 1023
        size = 512 if call == 1 else left  # of the first one nothing is known, so that two for each worker are made
        expected.append(math.ceil(size / 2) if call % (2 if call <= 8 else 16) == 0 else size)
        left -= expected[-1]
    assert made == expected


def test_what_is_not_known_yet_is_cut_for_all_workers_and_then_into_even_parts():
    assert run(schedule(workers=3), 1, lambda count: 1e-4 * count)[0][:1] == [171]
    sizes = run(schedule(workers=3), 3, lambda count: 1e-4 * count, 90)
    assert sizes == [[15, 19, 19, 19, 18], [23, 23, 22, 22], [23, 23, 22, 22]]


def test_what_a_batch_takes_is_that_of_the_costliest_group_that_is_known():
    found = schedule(batch_size=100)
    assert found.batch_seconds == math.inf
    assert found.estimate(SimpleNamespace(group=0, size=50)) == 0
    run(found, 1, lambda count: 1e-3 * count)
    assert found.batch_seconds == pytest.approx(0.1)
    assert found.estimate(SimpleNamespace(group=0, size=50)) == pytest.approx(0.05)


def test_batches_of_a_shard_go_to_one_worker_each():
    found = schedule(workers=2, shards=3)
    assert found.in_shards
    assert not schedule().in_shards
    for number in range(6):
        found.add(job(number, 1))
    rows = [[], []]
    for worker in (1, 0):
        while (chunk := found.next_chunk(worker)) is not None:
            rows[worker].append(found.describe(chunk.number, 0)[0].epoch_batch)
    assert rows == [[0, 2, 3, 5], [1, 4]]
    assert not found.has_uncut


def test_a_row_in_work_is_described_until_its_chunk_is_back():
    found = schedule()
    found.add(job(3, 5))
    chunk = found.next_chunk()
    for row in range(5):
        assert found.describe(chunk.number, row) == (BatchAddress("training", 0, 0, 3, 3), row)
    assert (
        found.describe(chunk.number, -1)
        is found.describe(chunk.number, 5)
        is found.describe(chunk.number + 1, 0)
        is None
    )
    found.accept(ChunkResult(chunk.number, 1.0, chunk.size, None, (), ()))
    assert found.describe(chunk.number, 0) is None


def test_a_fixed_cost_that_is_small_against_the_items_leaves_chunks_small():
    sizes = run(schedule(batched=True), 20, lambda count: 1e-5 + 1e-3 * count)
    assert max(sizes[-1]) <= 4


@pytest.mark.parametrize("batched", [False, True])
def test_items_without_a_fixed_cost_make_chunks_of_two_milliseconds(batched):
    sizes = run(schedule(batched=batched), 20, lambda count: 1e-4 * count)
    assert 10 <= max(sizes[-1]) <= 30


@given(st.floats(0, 0.1), st.floats(0, 0.1), st.integers(1, 64), st.integers(64, 1024), st.integers(1, 8))
def test_bounds_of_a_call_hold_and_every_row_goes_once(call, item, least, most, workers):
    found = schedule(batched=True, items_a_call=(least, most), workers=workers)
    for sizes in run(found, 5, lambda count: call + item * count):
        assert sum(sizes) == ROWS
        assert max(sizes) <= most
        assert min(sizes[:-1], default=least) >= least


def load(item, arrays, seed):
    arrays["y"][...] = item


@pytest.mark.parametrize("kind", ["inline", "thread", "process"])
def test_a_call_gets_as_many_items_as_it_asked_for(kind):
    @batched(least=3, most=5)
    def load_some(items, arrays, seeds):
        arrays["y"][...] = len(items)

    group = DataGroup(16, range(160), loader_arrays={"y": ((), "int32")})
    with Dataloader(load_some, group, loader_kind=kind, end_at=("epoch", 1)) as loader:
        counts = {count for batch in loader for count in batch.arrays["y"].tolist()[:-3]}
        stats = loader.stats()
    assert counts <= {3, 4, 5}
    assert 32 <= stats.calls <= 60


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ({"least": 0}, ValueError, "least: expected an int of at least 1, got 0"),
        ({"most": 2.5}, TypeError, "most: expected an int"),
        ({"least": 9, "most": 8}, ValueError, "most: expected an int of at least least=9, got 8"),
    ],
)
def test_wrong_bounds_are_refused(bounds, error, message):
    with pytest.raises(error, match=message):
        batched(**bounds)


def failing(bad):
    def loader(item, arrays, seed):
        if item in bad:
            raise ValueError(f"bad item {item}")
        load(item, arrays, seed)

    return loader


def loader_of(bad, count=20, **more):
    group = DataGroup(4, range(count), loader_arrays={"y": ((), "int32")})
    return Dataloader(failing(bad), group, **{"loader_kind": "thread", "end_at": ("epoch", 2), **more})


def test_items_that_are_substituted_are_said_once_each_and_listed(caplog):
    with loader_of({6, 7}, on_error="substitute") as loader:
        assert len(list(loader)) == 10
        failed = {item.index: item for item in loader.stats().failed_items}
    assert failed.keys() == {6, 7}
    assert failed[6].cause == "ValueError: bad item 6"
    assert (failed[6].kind, failed[6].group_index) == ("training", 0)
    assert failed[6].times >= 2
    said = [text for text in caplog.messages if "takes the place of one that failed" in text]
    assert len(said) == 2
    assert "item 6 (6) of training group 0, epoch 0, batch 1 failed: ValueError: bad item 6" in said[0]


def test_of_many_failing_items_few_are_said_and_a_hundred_listed(caplog):
    with loader_of(set(range(1, 150)), count=400, on_error="substitute", end_at=("epoch", 1)) as loader:
        assert len(list(loader)) == 100
        stats = loader.stats()
    assert len(stats.failed_items) == 100
    assert stats.errors >= 149
    said = [text for text in caplog.messages if "takes the place" in text]
    assert len(said) == 20
    assert "stats().failed_items" in said[-1]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_failed_items_are_listed_whatever_is_done_about_them(on_error):
    with loader_of({6}, on_error=on_error, end_at=("epoch", 1)) as loader:
        found = 0
        while True:
            try:
                next(loader)
            except StopIteration:
                break
            except LoaderError:
                assert on_error == "raise"
            else:
                found += 1
        assert [item.index for item in loader.stats().failed_items] == [6]
    assert found == 4


def test_when_no_substitute_is_left_the_error_says_which_failed_and_how():
    with loader_of(set(range(20)) - {0, 1, 2, 3}, on_error="substitute") as loader:
        next(loader)
        with pytest.raises(LoaderError) as caught:
            list(loader)
    error = caught.value
    assert f"item {error.index} ({error.index}) of" in str(error)
    assert f"failed: ValueError: bad item {error.index}; 8 substitutes failed, too: item " in str(error)
    assert str(error).count("ValueError: bad item") >= 9
    assert f"bad item {error.index}" in error.worker_traceback


def test_of_a_few_items_each_is_tried_once_as_a_substitute():
    with (
        loader_of({0, 1, 2, 3}, count=4, on_error="substitute", loader_kind="inline") as loader,
        pytest.raises(LoaderError, match="bad item 0; 3 substitutes failed, too: ") as caught,
    ):
        next(loader)
    assert sorted(number for number in range(4) if f"item {number}:" in str(caught.value)) == [1, 2, 3]
