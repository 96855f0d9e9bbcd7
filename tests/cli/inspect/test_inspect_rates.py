"""Speeds and shares: pauses, first batches and jumps count for nothing."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hydrax_cli.inspect.base_app import Throttle
from hydrax_cli.inspect.numbers.rates import Rates
from hydrax_cli.inspect.run_view import Frame
from hydrax_core import FirstBatch, Stats, WorkerStats
from hydrax_core.monitor import LogLine

START = Stats(
    seconds=0.0,
    idle_seconds=0.0,
    training_batches=0,
    validation_batches=0,
    items=0,
    bytes=0,
    errors=0,
    skipped_batches=0,
    substituted_items=0,
    dropped_batches=0,
    cache_hits=0,
    cache_misses=0,
    loaded_items=0,
    load_seconds=0.0,
    depth=3,
    loader_count=2,
    slot_bytes=100,
    slots=("free",) * 5,
    held_batches=0,
    worker_restarts=0,
    workers=(),
    first_batch=None,
    running=True,
)
FIRST = FirstBatch(start=1.0, load=0.5, place=0.5)


def at(seconds, batches, *, idle=0.0, busy=(0.0, 0.0), item=None, item_seconds=0.0):
    workers = tuple(
        WorkerStats(number, 1, "busy", 0, seconds_busy, 0, "", item, item_seconds)
        for number, seconds_busy in enumerate(busy)
    )
    return replace(
        START,
        seconds=2.0 + seconds,
        idle_seconds=2.0 + idle,
        training_batches=1 + batches,
        items=8 * (1 + batches),
        bytes=800 * (1 + batches),
        loaded_items=8 * (1 + batches),
        load_seconds=sum(busy),
        first_batch=FIRST,
        workers=workers,
    )


def read(frames, **arguments):
    rates = Rates(2)
    return [rates.read(Frame(frame[0], stats=frame[1], **{**arguments, **dict(*frame[2:])})) for frame in frames]


def test_before_the_first_batch_there_is_no_speed():
    (reading,) = read([("starting", START)])
    assert (reading.items, reading.verdict, reading.state) == (0, "", "starting")


def test_speeds_are_those_since_the_first_batch():
    reading = read([("running", at(second / 5, 2 * second, idle=second / 50)) for second in range(11)])[-1]
    assert reading.items == pytest.approx(80)
    assert reading.bytes == pytest.approx(8000)
    assert reading.batches == pytest.approx(10)
    assert reading.idle == pytest.approx(0.1)
    assert reading.history == pytest.approx([80] * len(reading.history))
    assert len(reading.history) == 3


def test_a_pause_counts_for_nothing():
    before = [("running", at(second / 5, 2 * second)) for second in range(11)]
    during = [("paused", at(2 + second, 20), {"paused_seconds": float(second)}) for second in range(1, 60)]
    after = [("running", at(61 + second / 5, 20 + 2 * second), {"paused_seconds": 59.0}) for second in range(11)]
    readings = read(before + during + after)
    assert readings[-1].items == pytest.approx(80)
    assert all(reading.items == pytest.approx(80) for reading in readings[len(before) : -11])
    assert readings[len(before)].state == "paused"


def test_a_loader_that_starts_anew_starts_the_count_anew():
    readings = read([("running", at(50, 500)), ("running", at(51, 510)), ("running", at(1, 1)), ("running", at(2, 2))])
    assert readings[-1].items == pytest.approx(8)


def test_waiting_now_counts_as_idle_before_it_is_over():
    frames = [("running", at(0, 0)), ("running", at(1, 0), {"waiting_seconds": 1.0})]
    assert read(frames)[-1].idle == pytest.approx(1)


@pytest.mark.parametrize(("limit", "state"), [(5.0, "starved"), (None, "running")])
def test_who_waits_for_batches_much_of_the_time_is_starved_if_there_is_a_step_to_feed(limit, state):
    frames = [("running", at(second / 5, second, idle=second / 10)) for second in range(11)]
    assert read(frames, limit=limit)[-1].state == state


def test_busy_shares_are_those_of_each_worker_and_a_long_item_counts_as_busy():
    frames = [("running", at(second / 5, second, busy=(second / 10, 0.0))) for second in range(11)]
    assert read(frames)[-1].busy == pytest.approx((0.5, 0))
    frames = [("running", at(second, 0, item=7, item_seconds=second)) for second in range(11)]
    assert read(frames)[-1].busy == (1, 1)


def test_the_verdict_is_that_of_the_run_command():
    frames = [("running", at(second / 5, 2 * second)) for second in range(11)]
    assert read(frames)[-1].verdict.startswith("no training step to feed: a batch comes every 100 ms")
    assert read(frames, limit=10.0)[-1].verdict.startswith("the training step is the limit")


def test_memory_is_bounded():
    rates = Rates(2)
    for tick in range(20_000):
        rates.read(Frame("running", stats=at(tick / 5, tick)))
    assert len(rates._samples) < 200
    assert len(rates._buckets) <= 240


@pytest.mark.parametrize(
    ("used", "passed", "due"), [(0.04, 1, True), (0.2, 1, False), (0.2, 4.1, True), (2.0, 5.1, True)]
)
def test_drawing_takes_a_small_share_of_the_time_but_never_stops(monkeypatch, used, passed, due):
    clock = {"monotonic": 100.0, "thread_time": 50.0}
    monkeypatch.setattr(
        "hydrax_cli.inspect.base_app.time",
        SimpleNamespace(monotonic=lambda: clock["monotonic"], thread_time=lambda: clock["thread_time"]),
    )
    pace = Throttle(share=0.05, longest=5.0)
    assert pace.due()
    clock["monotonic"] += passed
    clock["thread_time"] += used
    assert pace.due() is due


def test_what_was_not_shown_comes_with_the_next_frame():
    lines = [LogLine(number, 0.0, "loader", "info", str(number)) for number in range(3)]
    earlier = Frame("running", lines=(lines[0],), missed_lines=2)
    later = Frame("paused", lines=(lines[1], lines[2]), missed_lines=1)
    shown = later.after(earlier)
    assert (shown.state, shown.lines, shown.missed_lines) == ("paused", tuple(lines), 3)
