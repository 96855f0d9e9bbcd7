"""Every row of a batch is loaded, substituted or failed once, whatever order results come in and whoever dies."""

import random
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.engine.data_reader import DataReader
from hydrax_core.engine.jobs import BatchJob, JobGroup
from hydrax_core.engine.schedule import MOST_DEATHS, Schedule
from hydrax_core.engine.workers.wire import ChunkResult, Garbled, ItemFailure
from hydrax_core.errors import LoaderError, WorkerDiedError
from hydrax_core.plan.order import GroupOrder
from hydrax_core.plan.plan import Plan

SIZE, BATCH = 24, 6
HOW = st.sampled_from(["raises", "kills", "garbles", "cannot be sent"])
ORDER = GroupOrder(SIZE, BATCH, SIZE // BATCH, 7, shuffle_first=True, shuffle_later="itemwise")
PLAN = Plan([(ORDER, SIZE // BATCH)], [], 0, interleave=True)


class World:
    """Two workers and what comes of their work; ``bad`` says which items fail and how."""

    def __init__(self, bad, on_error, source, *, batched, indexed):
        self.bad, self.on_error, self.source, self.batched = bad, on_error, source, batched
        sizes = {"batch_size": BATCH, "batch_count": SIZE // BATCH, "batched": batched, "indexed": indexed}
        group = JobGroup(range(SIZE), {"y": None}, {}, stores_itself=False, zeroed=True, **sizes)
        reader = DataReader(lambda: None, threaded=False)
        self.schedule = Schedule([group], 2, on_error, PLAN.substitute, reader)
        self.hands = [deque(), deque()]
        self.rows, self.deaths, self.calls = {}, Counter(), 0

    def run(self, jobs):
        for job in jobs:
            self.schedule.add(job)
        accident = self.source.randrange(10)
        while self.schedule.has_uncut or any(self.hands):
            hand = self.source.choice(self.hands)
            if len(hand) < 2 and self.source.random() < 0.6:
                self.hand_out(hand)
            elif hand and accident == 0:
                self.die(hand, None)
            elif hand:
                self.work(hand)
            accident -= 1

    def hand_out(self, hand):
        chunk = self.schedule.next_chunk()
        if chunk is None:
            return
        for row, item in enumerate(chunk.descriptors(), chunk.first_row):
            if self.bad.get(item) == "cannot be sent":
                self.schedule.refuse(chunk, row, "cannot be sent")
                return
        hand.append(chunk)

    def die(self, hand, busy):
        self.schedule.lose([chunk.number for chunk in hand], busy, "SIGKILL")
        hand.clear()

    def work(self, hand):
        chunk, failures, additional = hand[0], [], []
        for row, (item, seed) in enumerate(
            zip(chunk.descriptors(), chunk.unpacked_seeds(), strict=True), chunk.first_row
        ):
            how = self.bad.get(item)
            if how == "kills":
                self.deaths[item] += 1
                self.die(hand, (chunk.number, chunk.first_row if self.batched else row))
                return
            if how == "garbles":
                hand.popleft()
                self.schedule.reject(chunk.number, Garbled("garbles", ""))
                return
            if how == "raises":
                failures.append(ItemFailure(row, "raises", ""))
                if self.on_error != "substitute":
                    break
            else:
                self.rows[chunk.slot, row] = (item, seed)
            additional.append(None if how else {"item": item})
        hand.popleft()
        loaded = sum(values is not None for values in additional)
        self.calls += loaded > 0
        result = ChunkResult(chunk.number, 1e-3 * loaded, loaded, additional, tuple(failures), ())
        assert self.schedule.accept(result).slot == chunk.slot


def expected(planned, bad, on_error):
    """Per row the items that are tried, the last of which is given, or failed as well."""
    most = 9 if on_error == "substitute" else 1
    tried = []
    for index in planned.content.indices.tolist():
        tried.append([index])
        while tried[-1][-1] in bad and len(tried[-1]) < most:
            tried[-1].append(PLAN.substitute(planned.address, index, len(tried[-1]) - 1).item)
    return tried


@given(
    st.dictionaries(st.integers(0, SIZE - 1), HOW, max_size=SIZE - 4),
    st.sampled_from(["raise", "substitute"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_row_is_loaded_substituted_or_failed_once(bad, on_error, batched, indexed, seed):
    world = World(bad, on_error, random.Random(seed), batched=batched, indexed=indexed)
    jobs = [
        BatchJob(planned, 0, planned.number, planned.content.indices, planned.content.seeds)
        for planned in map(PLAN.batch, range(6))
    ]
    world.run(jobs)
    assert world.schedule.next_chunk() is None
    listed, whole, tries = {item.index for item in world.schedule.failed_items}, True, 0
    assert listed <= bad.keys()
    for job in jobs:
        assert job.complete
        assert job.open == 0
        tried = expected(job.planned, bad, on_error)
        lost = [row for row, items in enumerate(tried) if items[-1] in bad]
        tries += sum(len(items) - 1 for items in tried)
        if lost:
            whole = False
            index = tried[lost[0]][0]
            assert job.error.index == index in listed
            kind = WorkerDiedError if bad[index] == "kills" else LoaderError
            assert type(job.error) is kind
            assert (f"killed {MOST_DEATHS} workers" if kind is WorkerDiedError else bad[index]) in str(job.error)
            assert ("8 substitutes failed" in str(job.error)) == (on_error == "substitute")
            continue
        assert job.error is None
        given_items = [items[-1] for items in tried]
        assert job.indices.tolist() == job.additional["item"] == given_items
        seeds = [
            int(seed) if len(items) == 1 else PLAN.substitute(job.address, items[0], len(items) - 2).seed
            for items, seed in zip(tried, job.planned.content.seeds, strict=True)
        ]
        assert job.seeds.tolist() == seeds
        assert [world.rows[job.slot, row] for row in range(BATCH)] == list(zip(given_items, seeds, strict=True))
    if whole:
        assert world.schedule.errors == world.schedule.substituted == tries
        assert all(count % MOST_DEATHS == 0 or batched for count in world.deaths.values())
    assert world.schedule.calls == (world.calls if batched else 0)
