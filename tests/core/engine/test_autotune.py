import math
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hydrax_core
from hydrax_core import DataGroup, Dataloader
from hydrax_core.engine.resources.autotune import Bounds, Load, Tuner


@dataclass
class World:
    """A run in which everything is even: what depth and workers give can be calculated."""

    step: float
    load: float
    depth_wanted: int = 1
    most_rate: float = math.inf

    def rate(self, depth, workers):
        fed = min(workers / self.load, self.most_rate)
        if depth < self.depth_wanted:
            fed = min(fed, 0.5 * depth / self.depth_wanted / self.step)
        return min(1 / self.step, fed)

    def run(self, tuner, seconds):
        now, batches, waited, busy = 0.0, 0.0, 0.0, 0.0
        settings = []
        while now < seconds:
            rate = self.rate(tuner.setting.depth, tuner.setting.workers)
            now += 0.05
            batches += 0.05 * rate
            waited += 0.05 * (1 - rate * self.step)
            busy += 0.05 * rate * self.load
            changed = tuner.look(Load(now, int(batches), waited, busy))
            if changed is not None and (changed.depth, changed.workers) != (settings or [(0, 0)])[-1][:2]:
                settings.append((changed.depth, changed.workers))
        return settings


def tuner(depth=(2, 64), workers=(1, 16)):
    return Tuner(Bounds(*depth), Bounds(*workers))


def test_numbers_that_were_given_stay():
    fixed = tuner(depth=(3, 3), workers=(2, 2))
    assert not fixed.tunes
    assert World(step=0.001, load=0.1).run(fixed, 20) in ([], [(3, 2)])
    assert (fixed.setting.depth, fixed.setting.workers) == (3, 2)


def test_a_loader_that_keeps_up_is_left_alone():
    lazy = tuner()
    World(step=0.01, load=0.005).run(lazy, 20)
    assert (lazy.setting.depth, lazy.setting.workers) == (2, 1)
    assert "1 worker, depth 2 keep up: a batch takes 5 ms of loading and 10 ms of the consumer" in lazy.setting.why


@pytest.mark.parametrize(("step", "load", "workers"), [(0.003, 0.010, 4), (0.01, 0.011, 2), (0.001, 0.0125, 14)])
def test_as_many_workers_as_the_loading_takes(step, load, workers):
    busy = tuner()
    World(step, load).run(busy, 30)
    assert busy.setting.workers in (workers, workers + 1)
    assert busy.setting.depth == 2


def test_where_all_cores_are_busy_that_is_said():
    short = tuner(workers=(1, 2))
    World(step=0.001, load=0.1).run(short, 60)
    assert short.setting.workers == 2
    assert "as many workers as there may be (2)" in short.setting.why


def test_uneven_batches_get_depth():
    uneven = tuner()
    World(step=0.01, load=0.005, depth_wanted=8).run(uneven, 30)
    assert 8 <= uneven.setting.depth <= 12
    assert uneven.setting.workers == 1


def test_where_the_workers_have_no_pause_no_depth_is_tried():
    short = tuner(workers=(2, 2))
    settings = World(step=0.001, load=0.1).run(short, 60)
    assert {depth for depth, _ in settings} <= {2}


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_taken_for_no_gain(seed):
    chance = np.random.default_rng(seed)
    restless = tuner(workers=(2, 2))
    now, batches, waited, busy = 0.0, 0.0, 0.0, 0.0
    while now < 120:
        now, rate = now + 0.25, 100 * (1 + 0.04 * chance.standard_normal())
        batches, waited, busy = batches + 0.25 * rate, waited + 0.1, busy + 0.25
        restless.look(Load(now, int(batches), waited, busy))
    assert restless.setting.depth <= 5


def test_windows_in_which_nobody_waits_say_nothing_of_a_setting():
    restless = tuner(depth=(3, 64), workers=(2, 2))
    now, batches, waited, busy, depths = 0.0, 0.0, 0.0, 0.0, []
    while now < 240:
        slow = int(now / 3) % 2  # seconds of validation, say, in which the loader keeps up
        now, rate = now + 0.25, 50 if slow else 100
        batches, busy = batches + 0.25 * rate, busy + 0.3
        waited += 0 if slow else 0.1
        restless.look(Load(now, int(batches), waited, busy))
        depths.append(restless.setting.depth)
    assert restless.setting.depth == 3
    assert max(depths) > 3


def test_what_does_not_help_is_taken_back_and_tried_ever_more_rarely():
    disk = tuner()
    settings = World(step=0.001, load=0.01, most_rate=100).run(disk, 600)
    assert (disk.setting.depth, disk.setting.workers) == (2, 1)
    assert len(settings) < 60
    assert "help" in disk.setting.why


def test_a_worker_that_cannot_be_started_ends_the_search_for_more():
    confined = tuner()
    confined.confine(3)
    World(step=0.001, load=0.1).run(confined, 30)
    assert confined.setting.workers == 3


def test_what_was_before_a_restart_counts_for_nothing():
    compiling = tuner()
    compiling.look(Load(0.0, 0, 0.0, 0.0))
    compiling.restart()
    assert compiling.look(Load(100.0, 1000, 99.0, 99.0)) is None
    assert compiling.setting.why == ""


@given(
    st.integers(1, 8), st.integers(0, 64), st.integers(1, 4), st.integers(0, 30),
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50), st.floats(0, 5), st.floats(0, 50)), max_size=60),
)  # fmt: skip
def test_the_bounds_hold_whatever_is_seen(depth, more_depth, workers, more_workers, steps):
    some = tuner((depth, depth + more_depth), (workers, workers + more_workers))
    now, batches, waited, busy = 0.0, 0, 0.0, 0.0
    for seconds, count, wait, load in steps:
        now, batches, waited, busy = now + seconds, batches + count, waited + wait, busy + load
        some.look(Load(now, batches, waited, busy))
        assert depth <= some.setting.depth <= depth + more_depth
        assert workers <= some.setting.workers <= workers + more_workers


def slow(item, arrays, seed):
    time.sleep(0.002)
    arrays["x"][...] = item + seed % 7


def test_auto_gives_the_same_batches_and_takes_more_workers(monkeypatch):
    monkeypatch.setattr("hydrax_core.loader.build.usable_cores", lambda: 3)
    group = DataGroup(8, range(8 * 400), loader_arrays={"x": ((), np.float32)}, shuffle_first=True)
    wanted = Dataloader(slow, group, loader_kind="thread", loader_count=8, end_at=("epoch", 1))
    truth = [np.array(batch.arrays["x"]) for batch in wanted]
    loader = wanted.replace(loader_kind="process", loader_count="auto", depth="auto")
    assert (loader.loader_count, loader.depth) == (1, 32)
    with loader:
        for position, batch in enumerate(loader):
            assert np.array_equal(batch.arrays["x"], truth[position])
            workers = loader.stats().workers
            if len(workers) == 3 and workers[-1].items:
                break
        stats = loader.stats()
    assert [worker.number for worker in stats.workers] == [0, 1, 2]
    assert "worker" in stats.tuning
    assert loader.loader_count == 3


def test_workers_that_did_not_help_end_and_leave_nothing(monkeypatch):
    monkeypatch.setattr("hydrax_core.loader.build.usable_cores", lambda: 2)
    group = DataGroup(4, range(1 << 20), loader_arrays={"x": ((), np.float32)})

    def load(item, arrays, seed):
        arrays["x"][...] = item

    with Dataloader(load, group, loader_count="auto") as loader:
        next(loader)
        loop = loader._engine.loop
        choices = iter([2, 1])
        seen = []

        def look(_):
            number = next(choices, None)
            if number is None:
                return None
            loop._tuner.setting = hydrax_core.engine.resources.autotune.Setting(3, number)
            return loop._tuner.setting

        monkeypatch.setattr(loop._tuner, "look", look)
        for batch in loader:
            seen.append(float(batch.arrays["x"][0]))
            if len(loader.stats().workers) == 1 and next(choices, None) is None and not loop._workers._leaving:
                break
        assert seen == [4.0 * (position + 1) for position in range(len(seen))]
        assert loader.stats().loaded_items >= 4 * len(seen)


@pytest.mark.parametrize(("bytes_a_row", "depth"), [(1, 32), (64 << 10, 4), (1 << 20, 3)])
def test_depth_begins_with_what_takes_next_to_no_memory(bytes_a_row, depth):
    group = DataGroup(4, range(8), loader_arrays={"x": ((bytes_a_row,), np.uint8)})
    assert Dataloader(slow, group, depth="auto").depth == depth


@pytest.mark.parametrize("argument", ["depth", "loader_count"])
def test_another_word_than_auto_is_refused(argument):
    group = DataGroup(4, range(8), loader_arrays={"x": ((), np.float32)})
    with pytest.raises(ValueError, match=f"{argument}: expected an int or 'auto', got 'many'"):
        Dataloader(slow, group, **{argument: "many"})


def test_in_line_there_is_nothing_to_choose():
    group = DataGroup(4, range(8), loader_arrays={"x": ((), np.float32)})
    with Dataloader(
        slow, group, loader_kind="inline", depth="auto", loader_count="auto", end_at=("epoch", 1)
    ) as loader:
        assert len(list(loader)) == 2
        assert loader.stats().tuning is None
