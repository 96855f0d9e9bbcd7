import weakref
from types import SimpleNamespace
from unittest import mock

import pytest

from hydrax_core.engine.jobs import HostBatch
from hydrax_core.engine.ready import ReadyQueue


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
