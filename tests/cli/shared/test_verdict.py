import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_cli.shared.verdict import Pace, pace, verdict
from hydrax_core import Stats


def measured(*, step=0.39, item=0.041, rows=64, workers=4, batches=100, wait=None, depth=3, hits=0, **more):
    """A pace as it comes about when nothing but the slower side limits it."""
    if wait is None:
        wait = max(0.0, item * rows / workers - step)
    return Pace(
        batches=batches,
        items=rows * batches,
        seconds=(step + wait) * batches,
        idle_seconds=wait * batches,
        hits=hits,
        item_seconds=item,
        workers=workers,
        depth=depth,
        **more,
    )


def judge(pace_, *, has_step=True, inline=False, cores=64, tuned=()):
    return verdict(pace_, has_step=has_step, inline=inline, cores=cores, tuned=tuned)


def test_a_loader_that_is_behind_is_told_how_many_workers_would_do():
    assert judge(measured()) == (
        "the loader is behind: 41 ms an item x 64 / 4 workers = 656 ms a batch > 390 ms a step, "
        "which waits 41 % of the time; 7 workers would do"
    )


def test_what_auto_chose_follows():
    plain = judge(measured())
    assert judge(measured(), tuned=("depth", "loader_count")) == f"{plain}; auto chose 4 workers and depth 3"
    assert judge(measured(), tuned=("depth",)) == f"{plain}; auto chose depth 3"


def test_more_workers_than_cores_are_not_promised_without_saying_so():
    assert judge(measured(), cores=4).endswith("7 workers would do (there are 4 cores)")


def test_a_step_that_is_the_limit_is_told_how_much_the_loader_could_feed():
    assert judge(measured(item=0.005)) == (
        "the training step is the limit: 390 ms against 80 ms a batch from the loader, "
        "which could feed 4.9 times as much; 1 worker would do"
    )


def test_fewer_workers_are_named_only_where_fewer_would_do():
    assert "would do" not in judge(measured(item=0.02))


def test_waiting_that_loading_does_not_explain_is_not_blamed_on_the_workers():
    text = judge(measured(item=0.001, wait=0.2))
    assert text.startswith("the step of 390 ms waits 34 % of the time, though loading takes 16 ms a batch")
    assert text.endswith("more workers would not")


def test_slow_reading_in_the_main_process_is_named_and_neither_placement_nor_workers():
    assert judge(measured(step=0.01, item=1e-5, wait=0.31, read_seconds=0.005)) == (
        "the step of 10 ms waits 97 % of the time for reading data[i] in the main process: 5.0 ms an item, "
        "320 ms a batch, whatever the number of workers; "
        "give a Source (hydrax_core.Source), which is read in the workers"
    )
    text = judge(measured(step=0.01, item=1e-5, wait=0.31, read_seconds=0.005, workers=1), inline=True)
    assert text.startswith("the step of 10 ms waits while its own thread reads data[i]: 5.0 ms an item")
    text = judge(measured(step=0.0, item=1e-5, wait=0.32, read_seconds=0.005), has_step=False)
    assert "reading data[i] in the main process is the limit: 5.0 ms an item" in text
    assert "a longer step would not wait" not in text


def test_reading_that_is_not_what_takes_the_time_is_not_blamed():
    line = judge(measured())
    assert judge(measured(read_seconds=0.001)) == line
    assert judge(measured(item=0.001, wait=0.2, read_seconds=1e-4)) == judge(measured(item=0.001, wait=0.2))


def test_the_fixed_cost_of_a_batched_loaders_calls_is_named():
    slow = {"step": 0.001, "item": 0.01, "workers": 1}  # 640 ms a batch
    text = judge(measured(**slow, calls=64, call_seconds=0.0099))
    assert text.startswith(judge(measured(**slow)))
    assert text.endswith(
        "; 99 % of loading is the fixed cost of a call of the batched loader (9.9 ms), not its items: "
        "a larger batch_size spreads it over more of them"
    )
    assert judge(measured(**slow, calls=1, call_seconds=0.01)) == judge(measured(**slow))
    assert "fixed cost" in judge(measured(step=0, item=0.01, calls=64, call_seconds=0.0099), has_step=False)


def test_a_loader_in_line_is_told_what_a_worker_would_do():
    text = judge(measured(item=0.001, workers=1, wait=0.064), inline=True)
    assert text == (
        "the step waits while its own thread loads: 64 ms a batch on top of 390 ms a step; 1 worker would do"
    )


def test_without_a_step_only_the_rate_is_told():
    text = judge(measured(step=0.001), has_step=False)
    assert text == "no training step to feed: a batch comes every 656 ms (98 items/s); a longer step would not wait"


def test_what_prefetching_explains_is_not_judged():
    for has_step in (False, True):
        assert judge(measured(batches=3, depth=3), has_step=has_step).startswith("too few batches to tell: 3 after")
    assert not judge(measured(batches=4, depth=3)).startswith("too few")


def test_batches_that_were_not_loaded_are_not_called_loaded():
    text = judge(measured(item=0.0, wait=0.0))
    assert text == "the training step is the limit: 390 ms; the batches needed no loading"


def test_a_run_that_the_cache_served_is_said_to_be_one():
    all_of_it = {"item": 0.0, "hits": 100}
    assert judge(measured(**all_of_it, wait=0.0)) == (
        "the training step is the limit: 390 ms; the cache served all batches"
    )
    assert judge(measured(**all_of_it, step=0.0, wait=0.001), has_step=False) == (
        "no training step to feed: a batch comes every 1.0 ms from the cache (64,000 items/s); "
        "a longer step would not wait"
    )


def test_waiting_for_the_cache_is_not_blamed_on_the_loader():
    waits = measured(item=0.041, wait=0.2, hits=100)  # the item was loaded before what is measured
    text = judge(waits)
    assert text.startswith("the step of 390 ms waits 34 % of the time, though the cache served all batches: 200 ms")
    assert text.endswith("more depth may help, more workers would not")
    assert judge(waits, inline=True).endswith("another kind than inline reads ahead")


@pytest.mark.parametrize("options", [{}, {"item": 0.005}, {"item": 0.001, "wait": 0.2}], ids=str)
def test_a_run_that_the_cache_served_in_part_is_told_how_much(options):
    line = judge(measured(**options))
    assert judge(measured(**options, hits=30)) == f"{line}; the cache served 30 of 100 batches"


positive = st.floats(1e-6, 100)


@given(
    positive,
    positive,
    st.integers(1, 512),
    st.integers(1, 64),
    st.booleans(),
    st.booleans(),
    st.floats(0, 50),
    st.sampled_from([0, 1, 99, 100]),
)
def test_there_is_one_line_for_every_pace(step, item, rows, workers, has_step, inline, wait, hits):
    pace_ = measured(step=step, item=item, rows=rows, workers=workers, wait=wait, hits=hits)
    text = judge(pace_, has_step=has_step, inline=inline)
    assert text
    assert "\n" not in text
    assert "nan" not in text
    assert ("cache" in text) == (hits > 0)
    assert ("worker would do" in text or "workers would do" in text) <= (hits < 100)


@given(positive, positive, st.integers(1, 512), st.integers(1, 64))
def test_with_the_workers_it_asks_for_the_loader_keeps_up(step, item, rows, workers):
    text = judge(measured(step=step, item=item, rows=rows, workers=workers))
    advice = text.rpartition("; ")[2].removesuffix(" (there are 64 cores)")
    if advice == "more workers would help, but no number of them would do":
        assert item * rows / 1024 > step * (1 - 1e-6)
    elif text.startswith("the loader is behind"):
        enough = int(advice.removesuffix("workers would do").replace(",", ""))
        assert enough > workers
        assert item * rows / enough <= step * (1 + 1e-6)
        assert item * rows / (enough - 1) > step * (1 - 1e-6)


def stats(**changes):
    values = dict.fromkeys((field.name for field in dataclasses.fields(Stats)), 0)
    values |= {"slots": (), "workers": (), "first_batch": None, "running": True, "loader_count": 2, "depth": 3}
    return Stats(**{**values, **changes})


def test_the_pace_between_two_snapshots_leaves_out_what_was_before():
    before = stats(seconds=10.0, idle_seconds=9.0, training_batches=1, items=8, loaded_items=32, load_seconds=6.4)
    after = stats(
        seconds=14.0,
        idle_seconds=10.0,
        training_batches=9,
        validation_batches=2,
        items=88,
        loaded_items=112,
        load_seconds=14.4,
        cache_hits=5,
        read_items=160,
        read_seconds=0.5,
        calls=30,
        call_seconds=3.5,
    )
    before = dataclasses.replace(before, cache_hits=1, read_items=80, read_seconds=0.1, calls=10, call_seconds=1.5)
    assert pace(before, after) == Pace(
        batches=10,
        items=80,
        seconds=4.0,
        idle_seconds=1.0,
        hits=4,
        item_seconds=pytest.approx(0.1),
        workers=2,
        depth=3,
        read_seconds=pytest.approx(0.005),
        calls=pytest.approx(2.0),
        call_seconds=pytest.approx(0.1),
    )


def test_items_that_were_all_loaded_before_still_count():
    before = stats(loaded_items=10, load_seconds=5.0, training_batches=1)
    after = stats(loaded_items=10, load_seconds=5.0, training_batches=2, seconds=1.0)
    assert pace(before, after).item_seconds == pytest.approx(0.5)
