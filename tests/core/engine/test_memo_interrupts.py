"""What is remembered from one batch to the next stays right when Ctrl-C comes between any two steps of Python."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hydrax_core.engine import ready
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.engine.ready import ReadyQueue
from hydrax_core.plan import mixture, order, plan
from hydrax_core.plan.mixture import LeastUsed
from hydrax_core.plan.order import BatchContent, GroupOrder
from hydrax_core.plan.plan import Plan, PlannedBatch

FILES = {ready.__file__, order.__file__, plan.__file__, mixture.__file__}


class Stop:
    """Raises KeyboardInterrupt before an instruction of these files: ``stop`` counts them from 0."""

    def __init__(self, stop):
        self.left = stop

    def __enter__(self):
        sys._getframe().f_trace_opcodes = True  # before Python 3.13, only looked at by settrace()
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, _event, _arg):
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace = self._opcode  # from Python 3.13 on, needed by the next line
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._opcode

    def _opcode(self, _frame, event, _arg):
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return self._opcode


def told(answer):
    """What can be compared: arrays as lists, whatever holds them."""
    if isinstance(answer, np.ndarray):
        return answer.tolist()
    if isinstance(answer, PlannedBatch):
        return answer.number, answer.address, told(answer.content)
    if isinstance(answer, BatchContent):
        return tuple(map(told, answer))
    return answer


def interrupted_everywhere(make, ask, first, second):
    """Ask for ``first``, then for ``second`` with an interrupt at each step in turn, then for both again."""
    truth = [told(ask(make(), first)), told(ask(make(), second))]
    step = 0
    while True:
        made = make()
        ask(made, first)
        try:
            with Stop(step):
                ask(made, second)
        except KeyboardInterrupt:
            assert [told(ask(made, second)), told(ask(made, first))][::-1] == truth, step
            step += 1
        else:
            return step


@pytest.mark.parametrize("later", ["itemwise", "batchwise", "reseed"])
def test_an_order_interrupted_at_any_step_stays_right(later):
    def make():
        return GroupOrder(1000, 8, 125, 7, shuffle_first=True, shuffle_later=later)

    assert interrupted_everywhere(make, lambda made, place: made.batch(*place), (1, 3), (2, 5)) > 100


def test_groups_that_interleave_interrupted_at_any_step_stay_right():
    def make():
        return LeastUsed([2, 5, 9])

    assert interrupted_everywhere(make, LeastUsed.locate, 3, 14) > 10


def test_a_plan_interrupted_at_any_step_stays_right():
    def make():
        groups = [(GroupOrder(n, 2, n // 2, n, shuffle_first=True, shuffle_later="itemwise"), n // 2) for n in (6, 10)]
        return Plan(groups, groups[:1], 5, interleave=True)

    assert interrupted_everywhere(make, Plan.batch, 2, 23) > 100


def test_the_engine_hears_of_every_batch_taken_wherever_ctrl_c_comes():
    step, interrupted = 0, True
    while interrupted:
        woken = []
        made = ReadyQueue(lambda woken=woken: woken.append(True))
        made.offer(HostBatch(SimpleNamespace(number=0), 0, None, {}, [], None, {}, cached=False))
        ready = made.first()
        made.sleeping(1)
        interrupted = False
        try:
            with Stop(step):
                made.take(ready)
        except KeyboardInterrupt:
            interrupted = True
        if len(made) == 0:
            made.ended = True  # so that there is nothing to wait for
            assert made.await_news(None, notify=lambda: False)
            assert woken, step
        step += 1
    assert step > 10
