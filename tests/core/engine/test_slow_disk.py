"""A disk that takes for ever: nobody waits for it, and what it did not get is known."""

import threading
import time

import numpy as np
import pytest
from waiting import wait_until

from hydrax_core import DataGroup, Dataloader
from hydrax_core.cache.format.arrays import EpochWriter

LARGE = {"x": ((1 << 17,), "float32")}  # 2 MiB a batch: these are not copied for the disk


@pytest.fixture
def stuck_writes(monkeypatch):
    """Writes wait until it is set."""
    release = threading.Event()
    write = EpochWriter.write

    def late(self, *arguments):
        release.wait(30)
        return write(self, *arguments)

    monkeypatch.setattr(EpochWriter, "write", late)
    yield release
    release.set()
    # what was left behind ends
    wait_until(lambda: not any(thread.name.startswith("hydrax-cach") for thread in threading.enumerate()))


@pytest.fixture
def stuck(stuck_writes, monkeypatch):
    """The same, and leaving ``with`` waits a quarter of a second for them instead of two."""
    monkeypatch.setattr("hydrax_core.engine.engine._CLOSE_SECONDS", 0.25)
    return stuck_writes


def load(item, arrays, seed):
    arrays["x"][...] = item


def group(folder, count=400, arrays=LARGE, **more):
    return DataGroup(4, range(count), loader_arrays=arrays, cache_location=folder, **more)


def run(training, **more):
    return Dataloader(load, training, **{"loader_kind": "thread", "end_at": ("epoch", 1), "timeout_sec": 10, **more})


@pytest.mark.parametrize("cache_by", ["batch", "item"])
@pytest.mark.parametrize("arrays", [LARGE, {"x": ((), "float32")}], ids=["large", "small"])
def test_a_stuck_disk_holds_back_no_batch_and_what_it_missed_is_counted_and_said_once(
    tmp_path, stuck, monkeypatch, caplog, arrays, cache_by
):
    monkeypatch.setattr("hydrax_core.cache.store.writer.MOST_BACKLOG", 8 << 20)
    monkeypatch.setattr("hydrax_core.cache.store.writer._LEAST_JOB", 1 << 20)
    with run(group(tmp_path / "c", arrays=arrays, cache_by=cache_by), max_held=1, depth=2) as loader:
        for number, batch in enumerate(loader):
            assert batch.batch_num == number
            assert np.asarray(batch.arrays["x"]).reshape(4, -1)[:, 0].tolist() == list(batch.data)
        seen = loader.stats().cache_unstored
    unit = 1 if cache_by == "batch" else 4
    assert 80 * unit < seen < 100 * unit
    assert loader.stats().cache_unstored > seen  # what waited when it was closed
    assert sum("the disk is slower than the loader" in text for text in caplog.messages) == 1
    assert sum("did not take everything in time" in text for text in caplog.messages) == 1
    assert loader.stats().cache_error == ""


def test_leaving_waits_for_a_stuck_disk_less_than_it_would_take(tmp_path, stuck_writes):
    before = time.monotonic()
    with run(group(tmp_path / "c")) as loader:
        next(loader)
    assert time.monotonic() - before < 20  # it is 30 s where leaving waits for it
    assert not stuck_writes.is_set()


def test_several_caches_share_the_time_to_close(tmp_path, stuck):
    groups = [group(tmp_path / str(number), count=8) for number in range(8)]
    before = time.monotonic()
    with run(groups) as loader:
        assert sum(1 for _ in loader) == 16
    assert time.monotonic() - before < 20


def test_what_a_slow_disk_missed_is_loaded_and_stored_later(tmp_path, stuck, monkeypatch):
    monkeypatch.setattr("hydrax_core.cache.store.writer.MOST_BACKLOG", 8 << 20)
    with run(group(tmp_path / "c")) as loader:
        assert sum(1 for _ in loader) == 100
        assert loader.stats().cache_unstored
    stuck.set()
    deadline = time.monotonic() + 20
    missed = 1
    while missed:
        assert time.monotonic() < deadline
        with run(group(tmp_path / "c")) as loader:
            for batch in loader:
                assert np.asarray(batch.arrays["x"])[:, 0].tolist() == list(batch.data)
            missed = loader.stats().cache_misses


def test_batch_cache_does_not_wait_either(tmp_path, stuck, monkeypatch):
    monkeypatch.setattr("hydrax_core.cache.store.writer.MOST_BACKLOG", 1 << 20)
    training = group(tmp_path / "c", cache_arrays={"x": ((4,), "float32")}, count=80)
    monkeypatch.setattr("hydrax_core.cache.store.writer._LEAST_JOB", 1 << 20)
    with run(training) as loader:
        for batch in loader:
            batch.cache({"x": batch.arrays["x"][:, :4]})
        assert loader.stats().cache_unstored > 10


def test_values_whose_pickling_fails_are_not_cached_and_end_nothing(tmp_path, caplog):
    class Odd:
        def __reduce__(self):
            raise ZeroDivisionError("odd")

    def load_odd(item, arrays, seed):
        return {"odd": Odd()}

    training = group(tmp_path / "c", count=16, arrays={"x": ((), "float32")}, cache_pickle=True)
    with Dataloader(load_odd, training, loader_kind="thread", end_at=("epoch", 1)) as loader:
        assert len(list(loader)) == 4
    assert sum("a batch is not cached" in text for text in caplog.messages) == 1
