import select
import socket
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import pytest

from hydrax_core.engine import ready as ready_module
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.engine.ready import ReadyQueue, Wakeup


def host(number):
    return HostBatch(SimpleNamespace(number=number), 0, None, {}, [], None, {}, cached=False)


class Event:
    """Wakes nobody, and is interrupted when told to be."""

    def __init__(self):
        self.notified = 0
        self.interrupted = False

    def __call__(self):
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        self.notified += 1


class PreparedBatch:
    def __init__(self, number):
        self.number = number


def never():
    return False


def test_a_wake_that_ctrl_c_cut_off_is_made_up_for_before_waiting():
    event = Event()
    queue = ReadyQueue(event)
    queue.offer(host(0))
    queue.sleeping(1)
    event.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        queue.take(queue.first())
    assert event.notified == 0
    assert queue.await_news(0.0, notify=never) is False
    assert event.notified == 1
    assert queue.await_news(0.0, notify=never) is False
    assert event.notified == 1


def test_a_wake_behind_an_error_that_ctrl_c_cut_off_is_made_up_for():
    event = Event()
    queue = ReadyQueue(event)
    queue.offer(ValueError("an item"))
    event.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        queue.first()
    queue.await_news(0.0, notify=never)
    assert event.notified == 1


def test_the_engine_is_woken_below_the_mark_only():
    event = Event()
    queue = ReadyQueue(event)
    for number in range(4):
        queue.offer(host(number))
    queue.sleeping(2)
    notified = []
    while (ready := queue.first()) is not None:
        assert queue.take(ready)
        notified.append(event.notified)
    assert notified == [0, 0, 1, 2]
    assert queue.taken == 4


def test_what_was_prepared_goes_with_its_batch_and_holds_none_that_is_gone():
    queue = ReadyQueue(Event())
    first, second = host(0), host(1)
    queue.offer(first)
    queue.offer(second)
    queue.offer(ValueError("an item"))
    make = mock.Mock(side_effect=lambda batch: PreparedBatch(batch.planned.number))
    queue.prepare(make, most=1)
    queue.prepare(make, most=1)
    make.assert_called_once_with(first)
    queue.prepare(make, most=8)
    assert queue.first().prepared.number == 0
    assert make.call_count == 2
    made = weakref.ref(queue.first().prepared)
    assert queue.take(queue.first())
    assert made() is None
    assert queue.first().batch is second
    assert queue.first().prepared.number == 1


def test_nothing_is_made_of_a_batch_that_the_consumer_has_in_hand():
    queue = ReadyQueue(Event())
    for number in range(3):
        queue.offer(host(number))
    assert queue.ready() is queue.first()
    make = mock.Mock(return_value="made")
    queue.prepare(make, most=8)
    assert [call.args[0].planned.number for call in make.call_args_list] == [1, 2]


def test_what_is_made_of_a_batch_that_is_taken_meanwhile_is_held_by_nobody():
    queue = ReadyQueue(Event())
    queue.offer(host(0))
    queue.offer(host(1))
    made = []

    def taken_meanwhile(batch):
        assert queue.take(queue.first())
        late = PreparedBatch(0)
        made.append(weakref.ref(late))
        return late

    queue.prepare(taken_meanwhile, most=1)
    assert queue.first().prepared is None
    assert made[0]() is None


def readable(*sockets):
    return select.select(sockets, [], [], 0)[0]


def test_a_wakeup_wakes_a_selector_until_it_is_cleared():
    wakeup = Wakeup()
    assert not readable(wakeup)
    wakeup.clear()
    wakeup.wake()
    assert readable(wakeup)
    wakeup.clear()
    assert not readable(wakeup)
    for _ in range(2000):  # more than it has room for
        wakeup.wake()
    wakeup.clear()
    wakeup.clear()
    wakeup.wake()
    assert readable(wakeup)
    wakeup.close()


def test_a_closed_wakeup_does_not_write_into_what_has_its_number_now(monkeypatch):
    wakeup = Wakeup()
    wakeup.close()
    others = [*socket.socketpair(), *socket.socketpair()]
    wakeup.wake()
    assert not readable(*others)
    for other in others:
        other.close()
    written = []
    monkeypatch.setattr(ready_module, "_send", lambda number, *_: written.append(number))
    wakeup.wake()
    assert written[0] < 0


@pytest.mark.parametrize(
    "act",
    [
        lambda queue: queue.offer(host(0)),
        lambda queue: queue.offer(ValueError("an item")),
        lambda queue: queue.end(),
        lambda queue: queue.fail(OSError("the engine")),
    ],
    ids=["batch", "error", "end", "failure"],
)
def test_whatever_comes_wakes_a_consumer_that_waits(act):
    queue = ReadyQueue(Event())
    assert queue.waited == 0
    with ThreadPoolExecutor(1) as consumer:
        waiting = consumer.submit(queue.await_news, 30, notify=never)
        while not queue.waiting:
            time.sleep(0)
        act(queue)
        assert waiting.result() is True
    assert not queue.waiting
    assert queue.waited > 0
    before = queue.waited
    assert queue.await_news(30, notify=never) is True, "what is here needs no wait"
    assert queue.waited > before


def test_the_engine_is_notified_where_it_asked_for_that_while_the_consumer_counts_as_waiting():
    event, seen = Event(), []
    queue = ReadyQueue(event)
    assert queue.await_news(0.0, notify=never) is False
    queue.offer(host(0))
    assert queue.take(queue.first())
    queue.offer(ValueError("an item"))
    with pytest.raises(ValueError, match="an item"):
        queue.first()
    assert event.notified == 1, "for the error; nothing is owed"
    assert queue.await_news(0.0, notify=never) is False
    event.notified -= 1
    assert queue.await_news(0.0, notify=lambda: seen.append(queue.waiting) or True) is False
    assert (seen, event.notified, queue.waiting) == ([True], 1, False)


def test_a_batch_that_came_while_nobody_waited_wakes_nobody_later():
    event = Event()
    queue = ReadyQueue(event)
    queue.offer(host(0))
    assert queue.take(queue.first())
    assert queue.await_news(0.0, notify=never) is False
    assert event.notified == 0


def test_errors_are_raised_in_their_place_once_and_the_last_one_for_ever():
    event = Event()
    queue = ReadyQueue(event)
    assert queue.first() is queue.ready() is None
    queue.offer(host(0))
    queue.offer(ValueError("an item"))
    queue.fail(OSError("the engine"))
    queue.fail(KeyError("what followed from that"))
    assert len(queue) == 2
    assert queue.take(queue.first())
    assert queue.ready() is None
    assert event.notified == 0
    with pytest.raises(ValueError, match="an item"):
        queue.first()
    assert (event.notified, queue.taken, len(queue)) == (1, 1, 0)
    for _ in range(2):
        with pytest.raises(OSError, match="the engine"):
            queue.first()
    assert queue.ready() is None


def test_what_another_thread_took_or_cleared_is_not_taken_twice():
    queue = ReadyQueue(Event())
    for number in range(3):
        queue.offer(host(number))
    first = queue.first()
    assert queue.first_taken is None
    assert queue.take(first)
    when = queue.first_taken
    assert when <= time.perf_counter()
    second = queue.first()
    assert queue.take(second)
    assert queue.first_taken == when
    last = queue.first()
    queue.clear()
    assert not queue.take(last)
    assert queue.first() is None


def test_slots_are_those_of_batches_that_have_one():
    queue = ReadyQueue(Event())
    for slot in (5, None, 2):
        queue.offer(host(0)._replace(slot=slot))
    queue.offer(ValueError("an item"))
    assert queue.slots() == {2, 5}
