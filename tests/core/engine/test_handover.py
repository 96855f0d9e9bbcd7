import weakref
from types import SimpleNamespace
from unittest import mock

import pytest

from hydrax_core.engine.jobs import HostBatch
from hydrax_core.engine.ready import Handover


def host(number):
    return HostBatch(SimpleNamespace(number=number), 0, None, {}, [], None, {}, cached=False)


class Bell:
    """Wakes nobody, and is interrupted when told to be."""

    def __init__(self):
        self.rung = 0
        self.interrupted = False

    def __call__(self):
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        self.rung += 1


class Made:
    def __init__(self, number):
        self.number = number


def never():
    return False


def test_a_wake_that_ctrl_c_cut_off_is_made_up_for_before_waiting():
    bell = Bell()
    handover = Handover(bell)
    handover.offer(host(0))
    handover.sleeping(1)
    bell.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        handover.take(handover.first())
    assert bell.rung == 0
    assert handover.await_news(0.0, knock=never) is False
    assert bell.rung == 1
    assert handover.await_news(0.0, knock=never) is False
    assert bell.rung == 1


def test_a_wake_behind_an_error_that_ctrl_c_cut_off_is_made_up_for():
    bell = Bell()
    handover = Handover(bell)
    handover.offer(ValueError("an item"))
    bell.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        handover.first()
    handover.await_news(0.0, knock=never)
    assert bell.rung == 1


def test_the_engine_is_woken_below_the_mark_only():
    bell = Bell()
    handover = Handover(bell)
    for number in range(4):
        handover.offer(host(number))
    handover.sleeping(2)
    rung = []
    while (ready := handover.first()) is not None:
        assert handover.take(ready)
        rung.append(bell.rung)
    assert rung == [0, 0, 1, 2]
    assert handover.taken == 4


def test_what_was_prepared_goes_with_its_batch_and_holds_none_that_is_gone():
    handover = Handover(Bell())
    first, second = host(0), host(1)
    handover.offer(first)
    handover.offer(second)
    handover.offer(ValueError("an item"))
    make = mock.Mock(side_effect=lambda batch: Made(batch.planned.number))
    handover.prepare(make, most=1)
    handover.prepare(make, most=1)
    make.assert_called_once_with(first)
    handover.prepare(make, most=8)
    assert handover.first().prepared.number == 0
    assert make.call_count == 2
    made = weakref.ref(handover.first().prepared)
    assert handover.take(handover.first())
    assert made() is None
    assert handover.first().batch is second
    assert handover.first().prepared.number == 1


def test_nothing_is_made_of_a_batch_that_the_consumer_has_in_hand():
    handover = Handover(Bell())
    for number in range(3):
        handover.offer(host(number))
    assert handover.ready() is handover.first()
    make = mock.Mock(return_value="made")
    handover.prepare(make, most=8)
    assert [call.args[0].planned.number for call in make.call_args_list] == [1, 2]


def test_what_is_made_of_a_batch_that_is_taken_meanwhile_is_held_by_nobody():
    handover = Handover(Bell())
    handover.offer(host(0))
    handover.offer(host(1))
    made = []

    def taken_meanwhile(batch):
        assert handover.take(handover.first())
        late = Made(0)
        made.append(weakref.ref(late))
        return late

    handover.prepare(taken_meanwhile, most=1)
    assert handover.first().prepared is None
    assert made[0]() is None
