"""A loader driven by a feed: orders are obeyed, whatever happens becomes a frame, nothing is left behind."""

import threading
import time

import numpy as np
import pytest
from inspect_support import Watcher, children, failing_at, feed_of, killing_at, load, make_loader

EPOCH = 12


@pytest.fixture
def start():
    """Start a feed over a loader; closes it at the end."""
    opened = []

    def start(make=make_threads, **arguments):
        context = feed_of(make, **arguments)
        feed = context.__enter__()
        opened.append(context)
        feed.start()
        return Watcher(feed)

    yield start
    for context in opened:
        context.__exit__(None, None, None)


def make_threads(function=load, **arguments):
    """A loader for what has nothing to do with processes."""
    return make_loader(function, loader_kind="thread", **arguments)


def place(record):
    return record.kind, record.epoch, record.epoch_batch


def paused(frame):
    return frame.state == "paused"


def test_a_run_with_an_end_is_done_and_every_batch_was_told(start):
    watch = start(lambda: make_threads(end_at=("epoch", 2)))
    watch.until(lambda frame: frame.state == "done")
    told = [place(record) for record in watch.records]
    assert told == [
        (kind, epoch, batch) for epoch in (0, 1) for kind in ("training", "validation") for batch in range(EPOCH)
    ]
    assert [record.serial for record in watch.records] == list(range(1, 4 * EPOCH + 1))
    assert watch.frame.stats.training_batches == 2 * EPOCH
    assert watch.frame.device.startswith("cpu")


def test_play_after_the_end_begins_again(start):
    watch = start(lambda: make_threads(end_at=("batch", 3), validation=None))
    watch.until(lambda frame: frame.state == "done")
    watch.feed.play()
    watch.until(lambda frame: len(watch.records) == 6)
    assert [record.batch_num for record in watch.records] == [0, 1, 2, 0, 1, 2]


def test_paused_from_the_start_nothing_is_taken_until_a_step_takes_one(start):
    watch = start(playing=False)
    watch.until(lambda frame: frame.subject is not None and paused(frame))
    assert watch.records == []
    for count in (1, 2, 3):
        watch.feed.step()
        watch.until(lambda frame, count=count: len(watch.records) == count and paused(frame))
    assert [place(record) for record in watch.records] == [("training", 0, batch) for batch in range(3)]


def test_a_jump_goes_anywhere_at_once_and_shows_the_batch_there(start):
    watch = start(playing=False)
    watch.until(paused)
    for where in ((1000, 7), (0, 2), (3, 0)):
        watch.feed.jump(*where)
        watch.until(lambda frame, where=where: frame.current is not None and place(frame.current)[1:] == where)
    assert paused(watch.until(paused))


def hang_at_first(item, arrays, seed):
    if item == 0:
        time.sleep(3600)
    load(item, arrays, seed)


def test_a_jump_interrupts_a_wait_for_a_hanging_item(start):
    watch = start(lambda: make_loader(hang_at_first, validation=None))
    watch.until(lambda frame: frame.waiting_seconds > 0)
    watch.feed.jump(0, 5)
    frame = watch.until(lambda frame: frame.current is not None)
    assert place(watch.records[0]) == ("training", 0, 5)
    assert frame.fault is None


def test_a_jump_past_the_end_goes_on_without_one_and_says_so(start):
    watch = start(lambda: make_threads(end_at=("epoch", 1), validation=None), playing=False)
    watch.until(paused)
    watch.feed.jump(4, 1)
    watch.until(lambda frame: len(watch.records) == 1)
    assert place(watch.records[0]) == ("training", 4, 1)
    assert any("past the end" in line.text for line in watch.lines)


def test_a_limit_is_kept_and_can_be_lifted(start):
    watch = start(limit=5.0)
    watch.until(lambda frame: len(watch.records) >= 3)
    stats = watch.frame.stats
    assert stats.training_batches <= 1 + 5 * (stats.seconds - stats.first_batch.total) + 1
    watch.feed.set_limit(None)
    watch.until(lambda frame: len(watch.records) > 500)


def test_the_same_batch_can_be_looked_at_again_long_after(start):
    watch = start(playing=False)
    watch.until(paused)
    watch.feed.step()
    watch.until(lambda frame: len(watch.records) == 1 and paused(frame))
    in_hand = watch.feed.open(watch.records[0])
    watch.feed.jump(2, 3)
    watch.until(lambda frame: len(watch.records) == 2 and paused(frame))
    again = watch.feed.open(watch.records[0])
    assert again.source != in_hand.source
    assert again.indices == in_hand.indices
    assert again.seeds == in_hand.seeds
    assert again.descriptors == in_hand.descriptors
    assert again.additional["path"][0] == f"photo-{again.indices[0]}.jpg"
    for name, array in in_hand.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
    assert watch.look().state == "paused"


def test_a_validation_batch_can_be_looked_at_again(start):
    watch = start(lambda: make_threads(end_at=("epoch", 2)))
    watch.until(lambda frame: frame.state == "done")
    record = next(record for record in watch.records if place(record) == ("validation", 0, 4))
    view = watch.feed.open(record)
    assert tuple(view.indices) == tuple(range(32, 40))
    assert view.seeds is None
    assert view.command == "hydrax run the-target --start 0:11 --batches 1"


def test_an_opened_batch_keeps_no_memory_of_the_loader(start):
    watch = start(lambda: make_threads(validation=None), playing=False)
    watch.until(paused)
    watch.feed.step()
    watch.until(lambda frame: len(watch.records) == 1 and paused(frame))
    view = watch.feed.open(watch.records[0])
    before = {name: array.copy() for name, array in view.arrays.items()}
    watch.feed.play()
    watch.until(lambda frame: len(watch.records) > 50)
    for name, array in view.arrays.items():
        assert array.base is None
        np.testing.assert_array_equal(array, before[name])


def test_a_glance_shows_the_batch_in_hand_while_paused(start):
    watch = start(playing=False)
    watch.until(paused)
    watch.feed.step()
    watch.until(lambda frame: len(watch.records) == 1 and paused(frame))
    watch.until(lambda frame: watch.feed.preview() is not None)
    view = watch.feed.preview()
    assert view.record.serial == 1
    assert view.arrays["label"].tolist() == [index % 10 for index in view.indices]


def test_a_failing_item_stops_the_run_with_its_address_and_play_goes_on_behind_it(start):
    watch = start(lambda: make_loader(failing_at(17), validation=None))
    frame = watch.until(lambda frame: frame.state == "failed")
    failed = watch.records[-1]
    assert place(failed) == ("training", 0, 2)
    assert "item 17" in failed.error.splitlines()[0]
    assert "bad header in item 17" in failed.error
    assert not frame.fault.fatal
    watch.feed.play()
    watch.until(lambda frame: len(watch.records) > 4)
    assert [place(record)[2] for record in watch.records[:5]] == [0, 1, 2, 3, 4]
    assert any(line.level == "error" and "bad header" in line.text for line in watch.lines)


def test_a_killed_worker_is_replaced_told_and_given_up_on_by_name(start):
    watch = start(lambda: make_loader(killing_at(20), validation=None, end_at=("epoch", 1)))
    frame = watch.until(lambda frame: frame.state == "failed")
    assert "SIGSEGV" in frame.fault.text
    assert not frame.fault.fatal
    watch.feed.play()
    watch.until(lambda frame: frame.state == "done")
    assert watch.frame.stats.worker_restarts == 3
    assert len(watch.records) == EPOCH


def test_a_target_that_fails_can_be_read_anew(start):
    tries = []

    def make():
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("no such table")
        return make_threads()

    watch = start(make)
    frame = watch.until(lambda frame: frame.state == "failed")
    assert frame.fault.fatal
    assert "no such table" in frame.fault.text
    assert frame.subject is None
    watch.feed.reopen()
    watch.until(lambda frame: len(watch.records) > 2)
    assert watch.frame.fault is None


def test_a_worker_that_cannot_start_is_fatal_and_play_tries_again(start, tmp_path):
    mark = tmp_path / "ready"

    def startup():
        if not mark.exists():
            raise RuntimeError("the disk is not mounted")

    watch = start(lambda: make_loader(startup_func=startup, validation=None))
    frame = watch.until(lambda frame: frame.state == "failed")
    assert frame.fault.fatal
    assert "the disk is not mounted" in frame.fault.text
    mark.touch()
    watch.feed.play()
    watch.until(lambda frame: len(watch.records) > 2)
    assert place(watch.records[0]) == ("training", 0, 0)


def test_opening_a_batch_that_fails_now_says_why(start):
    watch = start(lambda: make_threads(failing_at(17), validation=None))
    watch.until(lambda frame: frame.state == "failed")
    with pytest.raises(LookupError, match="bad header in item 17"):
        watch.feed.open(watch.records[-1]._replace(error=""))


@pytest.mark.parametrize("moment", ["running", "paused", "before the first batch"])
def test_closing_leaves_no_process(start, moment):
    before = children()
    watch = start(make_loader, playing=moment != "paused")
    if moment == "running":
        watch.until(lambda frame: len(watch.records) > 20)
        assert children() > before
    elif moment == "paused":
        watch.feed.step()
        watch.until(lambda frame: len(watch.records) == 1)
        assert children() > before
    watch.feed.close()
    assert children() == before


def test_closing_does_not_wait_for_a_hanging_item(start):
    before = children()

    watch = start(lambda: make_loader(hang_at_first, validation=None))
    watch.until(
        lambda frame: frame.stats is not None and any(worker.item is not None for worker in frame.stats.workers)
    )
    watch.feed.close()
    assert children() == before


def test_memory_of_what_happened_is_bounded(start):
    watch = start(lambda: make_threads(load, validation=None))
    watch.until(lambda frame: frame.stats is not None and frame.stats.first_batch is not None)
    total = watch.frame.stats.training_batches
    while watch.feed._loader.stats().training_batches < total + 1200:
        threading.Event().wait(0.01)
    frame = watch.feed.frame()
    assert 0 < len(frame.records) <= 500


def test_mistakes_of_a_loader_function_are_in_the_log(start):
    def mistaken(item, arrays, seed):
        load(item, arrays, seed)
        if seed is None:
            arrays["label"][...] = time.monotonic_ns() % 1000

    watch = start(lambda: make_threads(mistaken), check=True)
    watch.until(lambda frame: len(watch.records) > 1)
    assert ["with seed=None" in line.text for line in watch.lines if line.level == "warning"] == [True]
