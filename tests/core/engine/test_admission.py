from types import SimpleNamespace

import numpy as np
import pytest

from hydrax_core.engine.admission import Admission
from hydrax_core.engine.group_caches import GroupCaches
from hydrax_core.engine.jobs import BatchJob, JobGroup
from hydrax_core.engine.resources.slots import SlotPool
from hydrax_core.errors import BatchAddress
from hydrax_core.plan.order import BatchContent

ADDRESS = BatchAddress("training", 0, 0, 0, 0)
CONTENT = BatchContent(np.arange(2), None, None, 0, 0)
GROUP = JobGroup(
    range(8), {}, {}, stores_itself=False, batch_size=2, batch_count=4, zeroed=True, batched=False, indexed=True
)


class Plan:
    """Numbers only."""

    def batch(self, number):
        return SimpleNamespace(number=number, address=ADDRESS, content=CONTENT)


@pytest.fixture
def admission():
    pools = []

    def make(limit=8, **more):
        pools.append(SlotPool(64, limit, 1, limit))
        arguments = {"first": 0, "end": None, "skipped": (), **more}
        return Admission(Plan(), [GROUP], 1, pools[-1], GroupCaches([None], [GROUP]), **arguments)

    yield make
    for pool in pools:
        pool.close()


def numbers(made):
    found = []
    while not made.at_end:
        job = made.take(soft_limit=8)
        assert isinstance(job, BatchJob)
        assert made.last == job.planned.number
        found.append(made.last)
    return found


def test_numbers_handed_out_before_are_left_out_and_the_end_is_known_behind_them(admission):
    assert numbers(admission(end=6, skipped=(0, 2, 5))) == [1, 3, 4]
    assert admission(end=3, skipped=(0, 1, 2)).at_end
    assert admission(first=3, end=3).at_end


def test_without_a_free_slot_the_same_batch_comes_later(admission):
    made = admission(limit=2)
    jobs = [made.take(soft_limit=2) for _ in range(2)]
    assert made.take(soft_limit=2) == "no free slot"
    assert made.last == 1
    made._pool.release(jobs[0].slot)
    assert made.take(soft_limit=2).planned.number == 2
