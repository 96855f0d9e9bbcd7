"""Consumers that keep, leave, raise, come back, fork, and read from many threads."""

import contextlib
import gc
import logging
import os
import random
import signal
import threading
import time
import warnings
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faultkit import KINDS, LARGE, contents, group, limit, rounds, undisturbed
from faultloads import fill
from waiting import wait_until

from hydrax_core import BatchesHeldError, BatchTimeoutError, Dataloader, HydraxError, PlacementError

pytestmark = limit(60)


@pytest.mark.parametrize("kind", KINDS)
def test_all_batches_kept_stay_what_they_were(kind, caplog):
    many = group(800, loader_arrays=LARGE)
    with (
        caplog.at_level(logging.WARNING, "hydrax"),
        Dataloader(fill, many, loader_kind=kind, end_at=("epoch", 1), loader_count=2) as loader,
    ):
        kept = list(loader)
        assert loader.stats().held_batches >= len(kept)
    assert contents(kept) == undisturbed(many)
    held = [record.message for record in caplog.records if "batches are held, more than depth=" in record.message]
    assert len(held) == 1
    assert __file__ in held[0]


TAKES = {
    "slice": lambda x: x[2:5],
    "identity": jax.jit(lambda x: x),
    "computed": jax.jit(lambda x: x * 2),
    "donated": jax.jit(lambda x: x + 1, donate_argnums=0),
    "transposed": lambda x: x.T,
    "flat": lambda x: x.reshape(-1),
    "numpy": np.asarray,
    "dlpack": np.from_dlpack,
    "buffer": lambda x: memoryview(np.asarray(x)),
    "jnp": jnp.asarray,
    "placed": jax.device_put,
    "shard": lambda x: x.addressable_shards[0].data,
    "bits": lambda x: x.view(jnp.int32),
    "cut short": lambda x: np.asarray(x)[::2, 1:],
}


def test_whatever_is_made_of_an_array_stays_what_it_was():
    many = group(8 * len(TAKES) * 20, shuffle_first=False, loader_arrays=LARGE)
    kept = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jax says that it cannot use donated memory of others
        with Dataloader(fill, many, end_at=("epoch", 1), loader_count=2) as loader:
            for number, batch in enumerate(loader):
                name = [*TAKES][number % len(TAKES)]
                truth = np.sin(np.arange(1, 4097) * (np.array(batch.indices)[:, None] + 1)).astype("float32")
                kept.append((name, TAKES[name](batch.arrays["x"]), np.array(TAKES[name](jnp.array(truth)))))
                del batch
    wrong = {name for name, value, truth in kept if not np.array_equal(np.asarray(value), truth)}
    assert not wrong
    assert len(kept) == len(TAKES) * 20


@pytest.mark.parametrize("view", [np.asarray, np.from_dlpack])
def test_views_taken_before_close_stay_what_they_were(view):
    many = group(1600, loader_arrays=LARGE)
    kept = []
    with Dataloader(fill, many, end_at=("epoch", 1)) as loader:
        for batch in loader:
            kept.append((view(batch.arrays["x"]), view(batch.arrays["item"]), batch.indices))
            batch.close()
            del batch
    for x, item, indices in kept:
        assert tuple(item.tolist()) == indices
        assert x[:, 0].tolist() == np.sin(np.array(indices) + 1.0).astype("float32").tolist()


@pytest.mark.parametrize("way", ["close", "delete", "drop"])
def test_arrays_deleted_while_computed_with_change_no_result(way):
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 60, lambda _, a: a + jnp.sin(x) * 0, x).sum())
    big = group(480, 4, loader_arrays={"x": ((128, 128), "float32")}, shuffle_first=False)

    def load(item, arrays, seed):
        arrays["x"][...] = item

    found = []
    with Dataloader(load, big, end_at=("epoch", 1)) as loader:
        for batch in loader:
            found.append((slow(batch.arrays["x"]), sum(batch.indices) * 128 * 128))
            if way == "close":
                batch.close()
            elif way == "delete":
                batch.arrays["x"].delete()
            del batch
    assert [float(result) for result, _ in found] == [float(truth) for _, truth in found]


def test_a_consumer_that_never_calls_jax_gets_everything():
    many = group(4000, loader_arrays=LARGE)
    with Dataloader(fill, many, end_at=("epoch", 1), max_held=3, depth=2, timeout_sec=5) as loader:
        assert sum(batch.size for batch in loader) == 4000


@pytest.mark.parametrize("kind", KINDS)
def test_past_the_bound_the_holders_are_named_and_letting_go_helps(kind):
    many = group(256, loader_arrays=LARGE)
    expected = undisturbed(many)
    kept = []
    with Dataloader(fill, many, end_at=("epoch", 1), loader_kind=kind, max_held=3, timeout_sec=10) as loader:
        with pytest.raises(BatchesHeldError, match=r"batches are held.*test_fault_consumers.py:\d+") as caught:
            kept.extend(loader)
        assert isinstance(caught.value, MemoryError)
        with pytest.raises(BatchesHeldError):
            next(loader)
        found = contents(kept)
        kept.clear()
        found += contents(loader)
    assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_many_threads_share_the_batches(kind):
    many = group(1200)
    found, lock = [], threading.Lock()

    def read(loader):
        for batch in loader:
            with lock:
                found.append((batch.batch_num, contents([batch])[0]))

    with Dataloader(fill, many, end_at=("epoch", 1), loader_kind=kind) as loader:
        threads = [threading.Thread(target=read, args=(loader,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [digest for _, digest in sorted(found)] == undisturbed(many)


def test_leaving_while_another_thread_waits_ends_its_wait_and_loses_nothing():
    begun, go = threading.Event(), threading.Event()

    def load(item, arrays, seed):
        if item >= 8 and not go.is_set():
            begun.set()
            go.wait(10)
        return fill(item, arrays, seed)

    plain = group(shuffle_first=False)
    expected = undisturbed(plain)
    loader = Dataloader(load, plain, end_at=("epoch", 1), loader_kind="thread", timeout_sec=10)
    found = []
    reader = threading.Thread(target=lambda: found.extend(contents(loader)))
    with loader:
        reader.start()
        begun.wait()
        wait_until(lambda: loader._engine._queue.waiting)
        go.set()
    reader.join()
    with loader:
        found += contents(loader)
    assert found == expected


def test_the_last_batch_is_not_lost_to_the_end_that_follows_it(monkeypatch):
    from hydrax_core.engine.ready import ReadyQueue  # noqa: PLC0415  the fault is injected there

    few = group(24)
    expected = undisturbed(few)
    look = ReadyQueue.first

    def look_and_dawdle(self):
        found = look(self)
        if found is None and not self.ended:  # the engine loads everything between two steps of the consumer
            wait_until(lambda: self.ended)
        return found

    monkeypatch.setattr(ReadyQueue, "first", look_and_dawdle)
    with Dataloader(fill, few, end_at=("epoch", 1), depth=4, loader_kind="thread") as loader:
        assert contents(loader) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_at_any_point_and_coming_back_loses_nothing(kind, record_property, capfd):
    expected = undisturbed(group(), end_at=("epoch", 3))
    count = rounds(*((1, 40) if kind == "process" else (3, 100)))
    record_property("rounds", count)
    for seed in range(count):
        chance = random.Random(seed)
        loader = Dataloader(fill, group(), end_at=("epoch", 3), loader_kind=kind, loader_count=2)
        found = []
        while len(found) < len(expected):
            with loader:
                for batch in loader:
                    found += contents([batch])
                    if chance.random() < 0.2:
                        break
        assert found == expected, f"seed {seed}"
        assert loader.stats().running is False
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_consumer_passes_and_leaves_nothing_running():
    loader = Dataloader(fill, group(), end_at=("epoch", 1), loader_count=2)

    def train():
        with loader:
            return [1 / (batch.epoch_batch - 3) for batch in loader]

    with pytest.raises(ZeroDivisionError):
        train()
    assert loader.state_dict()["training_batches"] == 4


def test_entering_twice_is_refused_and_the_first_goes_on():
    expected = undisturbed(group())
    loader = Dataloader(fill, group(), end_at=("epoch", 1))
    with loader:
        found = contents([next(loader)])
        with pytest.raises(RuntimeError, match="in use by another"), loader:
            pass
        found += contents(loader)
        assert next(loader, None) is None
    assert found == expected
    loader.close()
    loader.close()


def test_two_loaders_at_once_do_not_meet():
    first, second = group(seed=1), group(seed=2)
    with Dataloader(fill, first, end_at=("epoch", 2)) as one, Dataloader(fill, second, end_at=("epoch", 2)) as other:
        pairs = list(zip(one, other, strict=True))
        found = contents(pair[0] for pair in pairs), contents(pair[1] for pair in pairs)
    assert found == (undisturbed(first, end_at=("epoch", 2)), undisturbed(second, end_at=("epoch", 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_dropped_in_the_middle_ends_by_itself_and_its_batches_stay(kind):
    many = group(loader_arrays=LARGE)
    loader = Dataloader(fill, many, loader_kind=kind)
    batches = [next(loader), next(loader)]
    gone = weakref.ref(loader)
    del loader
    gc.collect()
    assert gone() is None
    assert contents(batches) == undisturbed(many)[:2]


def test_a_loader_dropped_in_a_cycle_ends_by_itself():
    class Trainer:
        pass

    trainer = Trainer()
    trainer.loader = Dataloader(fill, group(), placement_func=None)
    trainer.loader.owner = trainer
    trainer.batch = next(trainer.loader)
    del trainer
    gc.collect()


@limit(30, 600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_an_epoch_for_many_epochs_grows_nothing(kind, record_property):
    count = rounds(*((5, 200) if kind == "process" else (60, 2000)))
    record_property("rounds", count)
    expected = undisturbed(group(), end_at=("epoch", 1))

    def epoch():
        with Dataloader(fill, group(), end_at=("epoch", 1), loader_kind=kind, loader_count=2) as loader:
            assert contents(loader) == expected

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def files_and_mappings():
        return [len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("fd", "map_files")]

    for _ in range(4 if kind == "process" else 20):  # allocators reach their level
        epoch()
    before = resident(), threading.active_count(), files_and_mappings()
    for _ in range(count):
        epoch()
    assert resident() - before[0] < 4 << 20
    assert threading.active_count() == before[1]
    files, mappings = files_and_mappings()
    assert files == before[2][0]
    assert mappings <= before[2][1] + 4  # of the allocator's own


def test_interrupt_in_a_signal_handler_ends_the_iteration():
    endless = group()
    loader = Dataloader(fill, endless, loader_count=2)
    before = signal.signal(signal.SIGUSR1, lambda *_: loader.interrupt())
    try:
        with loader:
            for batch in loader:
                if batch.batch_num == 5:
                    os.kill(os.getpid(), signal.SIGUSR1)
        assert loader.interrupted
        assert loader.state_dict()["training_batches"] == 6
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_interrupt_wakes_a_thread_that_waits_for_a_batch():
    def load(item, arrays, seed):
        time.sleep(1000)

    with Dataloader(load, group(), loader_count=2) as loader:
        reader = threading.Thread(target=lambda: next(loader, None))
        reader.start()
        wait_until(lambda: loader._engine is not None and loader._engine._queue.waiting)
        loader.interrupt()
        reader.join()


@pytest.mark.parametrize("failing", [StopIteration, ValueError, KeyboardInterrupt])
def test_a_placement_that_raises_loses_no_batch(failing):
    chance = random.Random(5)

    def place(arrays, layouts, additional, group):
        if chance.random() < 0.3:
            raise failing("not now")
        return {name: jnp.array(array) for name, array in arrays.items()}

    expected = undisturbed(group(), end_at=("epoch", 3))
    found = []
    failures = []
    with Dataloader(fill, group(), placement_func=place, end_at=("epoch", 3)) as loader:
        while len(found) < len(expected):
            try:
                found += contents([next(loader)])
            except (failing, PlacementError) as error:
                failures.append(type(error))
    assert found == expected
    assert set(failures) == {PlacementError if failing is StopIteration else failing}


def text_of(descriptor):
    with open(descriptor, encoding="ascii") as pipe:
        return pipe.read()


def test_a_fork_after_the_start_gets_a_clear_error_and_the_parent_goes_on():
    expected = undisturbed(group())
    readable, writable = os.pipe()
    with Dataloader(fill, group(), end_at=("epoch", 1), loader_count=2) as loader:
        found = contents([next(loader)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jax and Python advise against forks
            pid = os.fork()
        if pid == 0:
            try:
                next(loader)
            except HydraxError as error:
                os.write(writable, str(error).encode())
            loader.close()
            os._exit(0)
        os.waitpid(pid, 0)
        found += contents(loader)
    os.close(writable)
    assert "before a fork" in text_of(readable)
    assert found == expected


def test_a_forked_child_that_lives_on_does_not_keep_workers_alive():
    # The child inherits the lifelines; it must let go of them, or the workers would survive a killed parent.
    with Dataloader(fill, group(), loader_count=2) as loader:
        next(loader)
        lifelines = [handle.worker._lifeline.fileno() for handle in loader._engine.loop._workers.handles]
        pipes = {Path(f"/proc/self/fd/{fd}").readlink() for fd in lifelines}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            readable, writable = os.pipe()
            pid = os.fork()
        if pid == 0:
            held = set()
            for path in list(Path("/proc/self/fd").iterdir()):
                with contextlib.suppress(OSError):  # the listing's own
                    held.add(path.readlink())
            os.write(writable, b"kept" if held & pipes else b"free")
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(writable)
        assert text_of(readable) == "free"


def test_a_stopped_worker_is_named_goes_on_and_can_be_left():
    expected = undisturbed(group(160))
    found = []
    with Dataloader(fill, group(160), end_at=("epoch", 1), timeout_sec=3, depth=1) as loader:
        found += contents([next(loader)])
        (worker,) = loader.stats().workers
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(BatchTimeoutError, match=f"pid {worker.pid}"):
            found.extend(digest for batch in loader for digest in contents([batch]))
        os.kill(worker.pid, signal.SIGCONT)
        found += contents([next(loader), next(loader)])
        os.kill(worker.pid, signal.SIGSTOP)
    assert found == expected[: len(found)]


@limit(30, 900)
def test_workers_killed_at_random_moments_change_nothing(record_property):
    count, kills = rounds((1, 15), (5, 100))
    record_property("rounds", count * kills)

    def load(item, arrays, seed):
        time.sleep(0.0003)
        return fill(item, arrays, seed)

    items = 80 * kills
    expected = undisturbed(group(items))
    for seed in range(count):
        chance = random.Random(seed)
        killed = set()
        found = []
        with Dataloader(load, group(items), end_at=("epoch", 1), loader_count=2, timeout_sec=20) as loader:
            for batch in loader:
                found += contents([batch])
                alive = [worker for worker in loader.stats().workers if worker.state in ("busy", "idle")]
                alive = [worker.pid for worker in alive if worker.pid not in killed]
                if len(killed) < kills and alive and chance.random() < 0.5:
                    until = time.perf_counter() + chance.random() * 0.002
                    while time.perf_counter() < until:  # so that it hits anywhere in an item's life
                        pass
                    pid = chance.choice(alive)
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)
            assert loader.stats().worker_restarts >= len(killed) - 2  # the last ones may not have been missed yet
        assert found == expected, f"seed {seed}"
        assert len(killed) == kills, f"seed {seed}"
