"""Items that misbehave: what they raise, return and print, and what they do to the worker that loads them."""

import io
import logging
import os
import random
import resource
import signal
import sys
import threading
import time

import numpy as np
import pytest
from faultkit import ARRAYS, KINDS, collect, contents, group, indices, limit, rounds, timed_out, undisturbed
from faultloads import fill
from waiting import wait_until

from hydrax_core import DataGroup, Dataloader, LoaderError, WorkerDiedError, WorkerStartError, batched

pytestmark = limit(60)


def failing_at(bad, fail):
    """The loader ``fill``, but for what ``fail`` does at the item ``bad``."""

    def load(item, arrays, seed):
        result = fill(item, arrays, seed)
        if item == bad:
            fail()
        return result

    return load


def raise_value_error():
    raise ValueError("bad header")


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_item_is_reported_in_the_place_of_its_batch(kind):
    expected = undisturbed(group())
    with Dataloader(failing_at(29, raise_value_error), group(), loader_kind=kind, end_at=("epoch", 1)) as loader:
        found = collect(loader)
    (error,) = (entry for entry in found if isinstance(entry, Exception))
    place = found.index(error)
    assert isinstance(error, LoaderError)
    assert error.index == error.descriptor == 29
    assert error.address.epoch_batch == place
    assert "ValueError: bad header" in str(error)
    assert "in raise_value_error" in error.worker_traceback
    assert [*found[:place], *found[place + 1 :]] == [*expected[:place], *expected[place + 1 :]]


class _UnspeakableError(TypeError):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def __str__(self):
        raise RuntimeError("no text either")

    __repr__ = __str__


class _Odd(BaseException):
    pass


def _recurse():
    _recurse()


def _syntax_error():
    raise SyntaxError("odd", ("file", "line", "column", 7))


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_whatever_an_item_raises_names_the_item(kind):
    def load(item, arrays, seed):
        if callable(item):
            item()
        raise item

    def leave():
        sys.exit(3)

    # Classes of this module travel by value: a worker would import pytest with it.
    unspeakable, odd, syntax, recurse = _UnspeakableError, _Odd, _syntax_error, _recurse
    thrown = [leave, unspeakable, odd, recurse, syntax]
    made = [StopIteration(5), GeneratorExit(), KeyboardInterrupt(), MemoryError(), SystemExit("x"), OSError(5, "no")]

    def call(item, arrays, seed):
        thing = thrown[item] if item < len(thrown) else made[item - len(thrown)]
        if isinstance(thing, BaseException):
            raise thing
        result = thing()
        if isinstance(result, BaseException):
            raise result

    count = len(thrown) + len(made)
    one_each = group(count, 1, shuffle_first=False)
    with Dataloader(call, one_each, loader_kind=kind, end_at=("epoch", 1), timeout_sec=10) as loader:
        found = collect(loader)
    assert [type(error) for error in found] == [LoaderError] * count
    assert [error.index for error in found] == list(range(count))
    assert "SystemExit: 3" in found[0].cause
    assert "RecursionError" in found[3].cause


class _Unloadable:
    def __reduce__(self):
        return eval, ("1/0",)


def test_results_that_cannot_travel_fail_their_item_with_the_fix():
    unloadable = _Unloadable

    def load(item, arrays, seed):
        fill(item, arrays, seed)
        if item == 3:
            return {"lock": threading.Lock()}
        if item == 12:
            return {"odd": unloadable()}
        if item == 21:
            return "done"
        if item == 30:
            return {5: "five"}
        return {"name": f"item {item}", "seed": seed}

    plain = group(40, shuffle_first=False)
    expected = undisturbed(plain)
    with Dataloader(load, plain, end_at=("epoch", 1), timeout_sec=10) as loader:
        found = collect(loader)
    assert [error.index for error in found[:4]] == [3, 12, 21, 30]
    texts = [str(error) for error in found[:4]]
    assert "'lock' cannot be pickled" in texts[0]
    assert "cannot be unpickled" in texts[1]
    assert "fills `arrays` in place" in texts[2]
    assert "names of additional data are strings" in texts[3]
    assert found[4] == expected[4]


class _Descriptor:
    """Pickles, or unpickles, or not."""

    def __init__(self, number, fault=""):
        self.number = number
        self.fault = fault

    def __reduce__(self):
        if self.fault == "pickling":
            raise TypeError("stays at home")
        if self.fault == "unpickling":
            return eval, ("1/0",)
        return _Descriptor, (self.number,)


@pytest.mark.parametrize("on_error", ["raise", "skip", "substitute"])
def test_descriptors_that_cannot_travel_fail_their_item(on_error):
    class Data:
        def __len__(self):
            return 32

        def __getitem__(self, index):
            if index == 2:
                raise OSError("the index file is gone")
            return _Descriptor(index, {9: "pickling", 20: "unpickling"}.get(index, ""))

    def load(item, arrays, seed):
        return fill(item.number, arrays, seed)

    data = group(Data(), shuffle_first=False)
    with Dataloader(load, data, end_at=("epoch", 1), on_error=on_error, timeout_sec=10) as loader:
        found = collect(loader)
    if on_error == "raise":
        assert indices(found) == [2, 9, 20, None]
        assert "index file is gone" in str(found[0])
        assert "stays at home" in str(found[1])
        assert "ZeroDivisionError" in str(found[2])
    elif on_error == "skip":
        assert len(found) == 1
        assert loader.stats().skipped_batches == 3
    else:
        assert len(found) == 4
        assert not any(isinstance(entry, Exception) for entry in found)
        assert loader.stats().substituted_items == 3


def test_data_of_which_nothing_can_be_sent_is_no_reason_to_wait():
    locks = group([threading.Lock() for _ in range(32)], loader_arrays={"x": ((), "int32")})
    with Dataloader(fill, locks, end_at=("epoch", 1), timeout_sec=10) as loader:
        found = collect(loader)
    assert [type(error) for error in found] == [LoaderError] * 4
    with Dataloader(fill, locks, end_at=("epoch", 1), timeout_sec=10, on_error="skip") as loader:
        (error,) = collect(loader)
    assert isinstance(error, LoaderError)  # a whole epoch skipped in a row is no way to go on
    assert loader.stats().skipped_batches == 4


def test_a_run_that_skips_everything_ends_with_the_same_error_whatever_is_loaded_by_then():
    failures, waited = [], []

    def load(item, arrays, seed):
        if item == 0 and not waited:
            waited.append(item)
            wait_until(lambda: len(failures) > 9)  # more than an epoch is settled at once with the first batch
            return fill(item, arrays, seed)
        failures.append(item)
        raise ValueError(item)

    data = group(8, 1, shuffle_first=False, shuffle_later="repeat")
    with Dataloader(load, data, loader_kind="thread", loader_count=2, depth=14, on_error="skip") as loader:
        assert next(loader).indices == (0,)
        with pytest.raises(LoaderError, match="8 batches in a row were skipped") as caught:
            next(loader)
        assert caught.value.address.batch_num == loader.stats().skipped_batches == 8


def test_data_that_fails_now_and_then_fails_items_not_the_run():
    class Flaky:
        def __init__(self):
            self.calls = 0

        def __len__(self):
            return 64

        def __getitem__(self, index):
            self.calls += 1
            if self.calls % 3 == 0:
                raise OSError(f"the disk of {index} is away")
            return index

    def load(item, arrays, seed):
        if item % 5 == 0:
            raise ValueError(item)
        return fill(item, arrays, seed)

    with Dataloader(load, group(Flaky(), 4), end_at=("epoch", 1), timeout_sec=10) as loader:
        found = collect(loader)
    assert len(found) == 16
    causes = [error.cause for error in found if isinstance(error, LoaderError)]
    assert len(causes) == len([error for error in found if isinstance(error, Exception)])
    assert {cause.partition(":")[0].partition("[")[0] for cause in causes} == {"data", "ValueError"}
    for error in found:
        if isinstance(error, LoaderError):
            assert ("In the main process:" in str(error)) == (not error.in_worker) == error.cause.startswith("data[")


def test_failures_do_not_race_ahead_of_the_consumer(tmp_path):
    calls = []

    def load(item, arrays, seed):
        calls.append(item)
        raise ValueError(item)

    endless = group(100_000)
    with Dataloader(load, endless, loader_kind="thread", depth=2) as loader:
        with pytest.raises(LoaderError):
            next(loader)
        wait_until(lambda: loader.stats().workers[0].state == "idle")
        assert loader.stats().errors <= 3 * 8  # two batches are loaded ahead, and one was taken


def test_an_endless_item_is_named_with_its_worker_and_its_end_is_not_waited_for():
    def load(item, arrays, seed):
        while item == 11:
            pass
        return fill(item, arrays, seed)

    plain = group(shuffle_first=False)
    with Dataloader(load, plain, end_at=("epoch", 1), timeout_sec=0.5, loader_count=2) as loader:
        text = timed_out(loader, "busy with item 11 of training group 0, epoch 0, batch 1 for")
        assert any(f"worker {w.number} (pid {w.pid}) is busy with item 11" in text for w in loader.stats().workers)


def test_an_endless_item_of_a_thread_is_named_and_can_end_later():
    release = threading.Event()

    def load(item, arrays, seed):
        if item == 11:
            release.wait()
        return fill(item, arrays, seed)

    plain = group(shuffle_first=False)
    expected = undisturbed(plain)
    with Dataloader(load, plain, end_at=("epoch", 1), timeout_sec=0.2, loader_kind="thread") as loader:
        timed_out(loader, "worker 0 is busy with item 11")
        release.set()
        assert contents(loader) == expected[1:]


def test_a_thread_left_behind_with_its_item_leaves_nothing_once_that_ends(caplog):
    release = threading.Event()

    def load(item, arrays, seed):
        if item == 11:
            release.wait()
        return fill(item, arrays, seed)

    with Dataloader(load, group(shuffle_first=False), timeout_sec=0.2, loader_kind="thread") as loader:
        timed_out(loader, "worker 0 is busy with item 11")
    assert "it is left behind" in caplog.text
    caplog.clear()
    release.set()  # the check after the test looks for its thread and its sockets


def test_megabytes_of_prints_arrive_whole_and_hinder_nothing(monkeypatch):
    def load(item, arrays, seed):
        if item == 5:
            print("o" * 1_000_000)  # noqa: T201  what is tested
            print("e" * 500_000, end="", file=sys.stderr)  # noqa: T201  same
        print(f"line {item}")  # noqa: T201  same
        return fill(item, arrays, seed)

    output, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    expected = undisturbed(group())
    with Dataloader(load, group(), end_at=("epoch", 1), loader_count=2) as loader:
        assert contents(loader) == expected
    lines = output.getvalue().splitlines()
    assert sorted(lines) == sorted(["o" * 1_000_000, *(f"line {item}" for item in range(64))])
    assert errors.getvalue().strip() == "e" * 500_000


def test_an_item_that_prints_for_ever_hinders_no_other_and_can_be_left(monkeypatch):
    def load(item, arrays, seed):
        while item == 8:
            os.write(1, b"again and again\n" * 4096)
        return fill(item, arrays, seed)

    plain = group(shuffle_first=False)
    expected = undisturbed(plain)
    with open(os.devnull, "w") as nowhere:
        monkeypatch.setattr(sys, "stdout", nowhere)
        with Dataloader(load, plain, timeout_sec=5, loader_count=2, depth=2) as loader:
            assert contents([next(loader)]) == expected[:1]
            wait_until(lambda: 8 in [worker.item for worker in loader.stats().workers])


def test_what_an_item_does_to_its_process_stays_there():
    def load(item, arrays, seed):
        os.chdir("/")
        os.environ["TMPDIR"] = "/nowhere"
        os.umask(0o777)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if item % 9 == 0:
            sys.stdout.close()
            sys.stdin.close()
            sys.path.clear()
        if item % 9 == 1:
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        if item == 33:  # not a daemon: it would keep the interpreter from ending
            threading.Thread(target=time.sleep, args=(1000,)).start()
        return fill(item, arrays, seed)

    where, temporary = os.getcwd(), os.environ["TMPDIR"]
    expected = undisturbed(group())
    with Dataloader(load, group(), end_at=("epoch", 1), loader_count=2, timeout_sec=10) as loader:
        assert contents(loader) == expected
    assert (os.getcwd(), os.environ["TMPDIR"]) == (where, temporary)


def test_an_item_may_fork_and_even_let_the_child_come_back():
    def load(item, arrays, seed):
        if item % 10 == 3:
            pid = os.fork()
            if pid == 0 and item % 20 == 3:
                raise RuntimeError("in the child")
            if pid:
                os.waitpid(pid, 0)
        return fill(item, arrays, seed)

    expected = undisturbed(group())
    with Dataloader(load, group(), end_at=("epoch", 1), loader_count=2, timeout_sec=10) as loader:
        assert contents(loader) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_that_keeps_its_arrays_is_told_once(kind, caplog):
    kept = []

    def load(item, arrays, seed):
        kept.append(arrays["x"])
        return fill(item, arrays, seed)

    with caplog.at_level(logging.WARNING, "hydrax"):
        with Dataloader(load, group(), loader_kind=kind, end_at=("epoch", 1)) as loader:
            assert contents(loader) == undisturbed(group())
        kept.clear()
    told = [record.message for record in caplog.records if "keeps a reference" in record.message]
    assert len(told) == 1
    assert "array.copy()" in told[0]


def test_writing_beyond_its_row_fails_the_item():
    def load(item, arrays, seed):
        result = fill(item, arrays, seed)
        if item == 1:
            arrays["x"][5] = 1
        if item == 9:
            arrays["x"][...] = np.zeros(6)
        if item == 17:
            arrays["x"].resize(10, refcheck=False)
        if item == 25:
            arrays["x"].flat[5] = 1
        if item == 33:
            arrays["new"] = np.zeros(5)
        if item == 41:
            arrays["x"] = np.zeros(5)
        return result

    plain = group(shuffle_first=False)
    expected = undisturbed(plain)
    with Dataloader(load, plain, end_at=("epoch", 1)) as loader:
        found = collect(loader)
    assert [error.index for error in found[:6]] == [1, 9, 17, 25, 33, 41]
    assert "arrays[name][...] = value" in str(found[5])
    assert found[6:] == expected[6:]


ENDS = {
    "it exited with code 7": lambda: os._exit(7),
    "SIGABRT (aborted)": os.abort,
    "SIGSEGV (segmentation fault)": lambda: __import__("ctypes").string_at(0),
    "SIGKILL (killed)": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def test_an_item_that_kills_three_workers_is_named_with_the_signal_in_words():
    ends = list(ENDS.values())

    def start():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def load(item, arrays, seed):
        if item % 8 == 5 and item < 32:
            ends[item // 8]()
        return fill(item, arrays, seed)

    plain = group(40, shuffle_first=False)
    expected = undisturbed(group(40, shuffle_first=False))
    with Dataloader(load, plain, end_at=("epoch", 1), startup_func=start, timeout_sec=10) as loader:
        for end, index in zip(ENDS, (5, 13, 21, 29), strict=True):
            with pytest.raises(WorkerDiedError) as caught:
                next(loader)
            assert end in str(caught.value)
            assert (caught.value.index, caught.value.descriptor) == (index, index)
            assert "killed 3 workers" in str(caught.value)
        assert contents(loader) == expected[4:]
        assert loader.stats().worker_restarts == 12


@limit(60)  # twelve starts, one after the other
def test_an_item_that_kills_two_workers_is_loaded_by_the_third(tmp_path):
    folder = str(tmp_path)

    def load(item, arrays, seed):
        result = fill(item, arrays, seed)
        for attempt in range(2):
            if item % 30 == 7:
                try:
                    os.mkdir(f"{folder}/{item} {seed} {attempt}")
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    # Over two epochs each of these items ends four workers; only those of one loading count.
    expected = undisturbed(group(), end_at=("epoch", 2))
    with Dataloader(load, group(), end_at=("epoch", 2), loader_count=2, timeout_sec=15) as loader:
        assert contents(loader) == expected
        assert loader.stats().worker_restarts == 8


@pytest.mark.parametrize("on_error", ["raise", "substitute"])
def test_of_the_items_of_a_batched_loader_the_killer_is_found(on_error):
    @batched
    def load(items, arrays, seeds):
        if 13 in items or 14 in items:
            os.kill(os.getpid(), signal.SIGKILL)
        for position, item in enumerate(items):
            fill(item, {name: array[position, ...] for name, array in arrays.items()}, seeds[position])

    plain = group(24, shuffle_first=False)
    with Dataloader(load, plain, end_at=("epoch", 1), on_error=on_error, timeout_sec=15) as loader:
        found = collect(loader)
    if on_error == "raise":
        assert indices(found) == [None, 13, None]
    else:
        assert not any(isinstance(entry, Exception) for entry in found)
        assert loader.stats().substituted_items == 2


def test_workers_that_end_while_they_start_are_given_up_with_the_reason():
    with (
        Dataloader(fill, group(), startup_func=lambda: os._exit(9), timeout_sec=15) as loader,
        pytest.raises(WorkerDiedError, match=r"before they do any work.*exited with code 9"),
    ):
        next(loader)


@pytest.mark.parametrize("kind", KINDS)
def test_a_startup_that_raises_is_reported_again_and_again_at_no_cost(kind):
    with Dataloader(fill, group(), startup_func=raise_value_error, loader_kind=kind, timeout_sec=15) as loader:
        for _ in range(3):
            with pytest.raises(WorkerStartError, match="bad header"):
                next(loader)
        thread = loader._engine._thread
        wait_until(lambda: thread is None or not thread.is_alive())  # it has nothing left to do


def test_a_startup_that_never_ends_is_told():
    with Dataloader(fill, group(), startup_func=lambda: time.sleep(1000), timeout_sec=0.5) as loader:
        timed_out(loader, "still starting")


def test_an_item_that_takes_all_memory_fails_alone():
    def start():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    def load(item, arrays, seed):
        result = fill(item, arrays, seed)
        if item == 11:
            kept = []
            while True:
                kept.append(np.empty(1 << 29))
        return result

    plain = group(shuffle_first=False)
    expected = undisturbed(plain)
    with Dataloader(load, plain, end_at=("epoch", 1), startup_func=start, timeout_sec=15) as loader:
        found = collect(loader)
    assert isinstance(found[1], LoaderError)
    assert "MemoryError" in str(found[1])
    assert [found[0], *found[2:]] == [expected[0], *expected[2:]]


def test_an_old_value_of_a_slot_never_shows_in_a_substitute_or_padding():
    def load(item, arrays, seed):
        arrays["x"][: item % 5] = item + 1
        if item % 7 == 3:
            raise ValueError(item)

    padded = DataGroup(8, range(61), loader_arrays=ARRAYS, remainder="pad", shuffle_first=True)
    with Dataloader(load, padded, end_at=("epoch", 4), on_error="substitute", loader_count=2) as loader:
        for batch in loader:
            x = np.asarray(batch.arrays["x"])
            for row, item in enumerate(batch.indices):
                assert (x[row, item % 5 :] == 0).all()
            assert (x[batch.size :] == 0).all()


def test_a_worker_thread_that_ends_is_told(monkeypatch, caplog):
    def broken(self, chunk):
        raise RuntimeError("a defect of hydrax itself")

    monkeypatch.setattr("hydrax_core.engine.workers.runner.ChunkRunner.run", broken)
    with (
        Dataloader(fill, group(), loader_kind="thread", timeout_sec=10) as loader,
        pytest.raises(WorkerDiedError, match="a defect of hydrax itself"),
    ):
        next(loader)
    caplog.clear()  # its records keep the traceback, and that what the thread had


@pytest.mark.parametrize("on_error", ["raise", "skip", "substitute"])
@limit(30, 900)
def test_failing_items_give_the_same_batches_whoever_loads_them(on_error, record_property):
    count = rounds(1, 30)
    record_property("rounds", count * 5)
    for seed in range(count):
        chance = random.Random(seed)
        bad = frozenset(index for index in range(61) if chance.random() < 0.12)
        deadly = frozenset(chance.sample(sorted(bad), min(2, len(bad))))

        def load(item, arrays, seed, bad=bad):
            if item in bad:
                raise ValueError(item)
            return fill(item, arrays, seed)

        def kill(item, arrays, seed, deadly=deadly, load=load):
            if item in deadly:
                os._exit(1)
            return load(item, arrays, seed)

        @batched
        def load_many(items, arrays, seeds, load=load):
            rows = range(len(items))
            return [
                load(items[row], {name: array[row, ...] for name, array in arrays.items()}, seeds[row]) for row in rows
            ]

        data = group(61, remainder="pad", seed=seed)
        found = []
        for loader_func, options in (
            (load, {"loader_kind": "inline"}),
            (load, {"loader_kind": "thread", "loader_count": 2}),
            (load, {"loader_count": 2}),
            (kill, {"loader_count": 2}),
            (load_many, {"loader_count": 2}),
        ):
            with Dataloader(
                loader_func, data, end_at=("epoch", 2), on_error=on_error, timeout_sec=15, **options
            ) as loader:
                entries = collect(loader)
            found.append([(entry.index, entry.address) if isinstance(entry, Exception) else entry for entry in entries])
        for other in found[1:]:
            assert other == found[0], f"seed {seed}"
