"""Data that runs code of the user's: who reads it, when, and what becomes of what it raises."""

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from hydrax_core import BatchTimeoutError, DataGroup, Dataloader, LoaderError, batched
from hydrax_core.data.read_lock import GuardedData, guarded
from hydrax_core.engine.workers import pickling

KINDS = ["inline", "thread"]  # processes read no such data
ARRAYS = {"y": ((), "int32")}


def load(item, arrays, seed):
    arrays["y"][...] = item


@batched
def load_many(items, arrays, seeds):
    arrays["y"][...] = items


class Data:
    """Counts its readers; ``bad`` maps an index to what it raises."""

    def __init__(self, size=20, bad=(), hold=0.0):
        self.size, self.bad, self.hold = size, dict(bad), hold
        self.threads = set()
        self.inside = self.most_inside = 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.threads.add(threading.current_thread().name)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if self.hold:
                time.sleep(self.hold)
            if index in self.bad:
                raise self.bad[index]
            return index
        finally:
            self.inside -= 1


def run(data, loader=load, **more):
    arguments = {"loader_kind": "thread", "end_at": ("epoch", 1), **more}
    return Dataloader(loader, DataGroup(4, data, loader_arrays=ARRAYS), **arguments)


def outcomes(loader):
    found = []
    with loader:
        while True:
            try:
                found.append(next(loader).arrays["y"].tolist())
            except StopIteration:
                return found
            except LoaderError as error:
                found.append(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", [load, load_many])
@pytest.mark.parametrize("raised", [StopIteration(5), SystemExit(3), GeneratorExit(), IndexError("gone")], ids=repr)
def test_whatever_data_raises_is_an_error_of_that_item(kind, loader, raised):
    found = outcomes(run(Data(bad={6: raised}), loader, loader_kind=kind))
    assert [batch for batch in found if isinstance(batch, list)] == [[*range(n, n + 4)] for n in (0, 8, 12, 16)]
    (error,) = (entry for entry in found if not isinstance(entry, list))
    assert found.index(error) == 1
    assert (error.index, error.in_worker) == (6, False)
    assert type(raised).__name__ in error.cause
    assert error.cause.startswith("data[6]: ")


class WordlessError(Exception):
    def __str__(self):
        raise ValueError("nothing to say")


class Unsendable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("raised", [ValueError("x" * 10**7), WordlessError()], ids=["long", "wordless"])
def test_what_errors_in_the_main_process_say_is_bounded_and_may_fail_itself(raised):
    unsendable = [*range(5), Unsendable(raised), *range(6, 12)]
    for loader in (run(Data(size=12, bad={5: raised})), run(unsendable, loader_kind="process")):
        (error,) = (entry for entry in outcomes(loader) if not isinstance(entry, list))
        assert error.index == 5
        assert len(str(error)) < 200_000
        assert type(raised).__name__ in str(error)


def test_the_engines_thread_reads_no_data_of_the_users():
    data = Data()
    assert len(outcomes(run(data))) == 5
    assert data.threads == {"hydrax-data"}
    data = Data()
    assert len(outcomes(run(data, loader_kind="inline"))) == 5
    assert data.threads == {threading.current_thread().name}


def test_a_substitute_is_read_the_same_way():
    data = Data(bad={6: ValueError("bad")})
    found = outcomes(run(data, on_error="substitute"))
    assert len(found) == 5
    assert found[1][:2] == [4, 5]
    assert 6 not in found[1]
    assert data.threads == {"hydrax-data"}


def test_a_list_that_became_shorter_fails_the_items_that_are_gone():
    data = list(range(20))
    with run(data, depth=1) as loader:
        assert next(loader).arrays["y"].tolist() == [0, 1, 2, 3]
        del data[17:]
        found = []
        while len(found) < 4:
            try:
                found.append(next(loader).arrays["y"].tolist())
            except LoaderError as error:
                found.append(error.index)
    assert found == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], 17]


class OneHandle:
    """Reads with a seek and a read on one handle, as a file-backed data set does."""

    def __init__(self, path, count):
        self._count = count
        self._file = path.open("rb")

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        self._file.seek(8 * index)
        time.sleep(0)
        return int.from_bytes(self._file.read(8), "little")


def test_data_is_read_by_one_thread_at_a_time(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(np.arange(400, dtype="<u8").tobytes())
    data = OneHandle(path, 400)
    wrong = []
    with run(data, depth=8) as loader:
        for batch in loader:
            wrong += [pair for pair in zip(batch.data, batch.indices, strict=True) if pair[0] != pair[1]]
            wrong += [
                pair for pair in zip(batch.arrays["y"].tolist(), batch.indices, strict=True) if pair[0] != pair[1]
            ]
            if batch.batch_num % 10 == 0:
                loader.replace(training=DataGroup(4, data, loader_arrays=ARRAYS)).state_dict()
    assert not wrong
    data._file.close()


def test_all_groups_of_one_data_object_share_its_guard_and_it_dies_with_them():
    data = Data()
    first, second = DataGroup(4, data, loader_arrays=ARRAYS), DataGroup(2, data, loader_arrays=ARRAYS)
    assert guarded(first.items) is guarded(second.items)
    assert isinstance(guarded(data), GuardedData)
    alive = weakref.ref(data)
    copied = pickle.loads(pickling.dumps(DataGroup(4, data, loader_arrays=ARRAYS)))
    assert copied[3] == 3
    del data, first, second
    gc.collect()
    assert alive() is None


class Subset:
    def __init__(self, dataset, indices):
        self.dataset, self.indices = dataset, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, place):
        return self.dataset[self.indices[place]]


def test_subsets_of_one_data_set_are_read_one_at_a_time_whichever_is_asked():
    data = Data(hold=0.002)
    training, validation = Subset(data, range(12)), Subset(Subset(data, range(8, 20)), range(12))
    groups = DataGroup(4, training, loader_arrays=ARRAYS), DataGroup(4, validation, loader_arrays=ARRAYS)
    with run(training, validation=("epoch", 1, groups[1]), end_at=("epoch", 3)) as loader:
        for batch in loader:
            assert [len(list(group)) for group in groups] == [12, 12]
            assert len(batch.data) == 4
    assert len(data.threads) == 2
    assert data.most_inside == 1


def test_data_that_shares_nothing_but_values_is_read_at_the_same_time():
    def made():
        data = Data()
        data.dtype, data.kind, data.rows = np.dtype("int32"), Data, np.arange(3)
        return data

    first, second = made(), made()
    guards = guarded(first), guarded(second), guarded(Subset(first, [1]))
    assert len({id(guard.lock) for guard in guards}) == 2


@pytest.mark.parametrize("data", [[1, 2], (1, 2), range(2), np.arange(2)], ids=lambda data: type(data).__name__)
def test_plain_sequences_are_read_as_they_are(data):
    assert guarded(data) is data


def test_ctrl_c_in_the_middle_of_an_item_leaves_the_lock_free():
    data = Data(hold=5.0)
    group = DataGroup(4, data, loader_arrays=ARRAYS)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        group[3]
    timer.join()
    assert guarded(data).lock.acquire(blocking=False)
    guarded(data).lock.release()


FORK = """
import os, threading
from hydrax_core import DataGroup

reading, go_on = threading.Event(), threading.Event()

class Data:
    def __len__(self):
        return 9

    def __getitem__(self, index):
        if index == 0:
            reading.set()
            go_on.wait(20)
        return index

group = DataGroup(3, Data(), loader_arrays={"y": ((), "int32")})
reader = threading.Thread(target=group.__getitem__, args=(0,))
reader.start()
reading.wait(20)
pid = os.fork()
if not pid:
    os._exit(group[3])
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go_on.set()
reader.join()
"""


def test_a_forks_child_may_read_though_another_thread_was_reading():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "3\n"


def test_reading_is_counted_and_lists_count_for_nothing():
    with run(Data(hold=0.001)) as loader:
        batches = [batch.size for batch in loader]
        stats = loader.stats()
    assert stats.read_items == sum(batches)
    assert stats.read_seconds >= 0.001 * stats.read_items
    with run(list(range(20))) as loader:
        assert len(list(loader)) == 5
        assert (loader.stats().read_items, loader.stats().read_seconds) == (0, 0.0)


def test_a_late_batch_is_blamed_on_the_data_that_is_being_read():
    data = Data(hold=0.002)
    release = threading.Event()

    class Stuck(Data):
        def __getitem__(self, index):
            if index == 9:
                release.wait(20)
            return data[index]

    with run(Stuck(), timeout_sec=0.3) as loader:
        next(loader)
        next(loader)
        with pytest.raises(BatchTimeoutError) as caught:
            next(loader)
        release.set()
        assert next(loader).batch_num == 2
    text = str(caught.value)
    assert re.search(r"reading data\[i\] in the main process takes [\d.]+ ms an item; give a Source", text)
    assert re.search(r"data\[9\] of training group 0, epoch 0, batch 2 has been read for 0\.\d s", text)


def test_leaving_does_not_wait_for_an_item_that_is_being_read(caplog):
    release = threading.Event()

    class Stuck(Data):
        def __getitem__(self, index):
            release.wait(20)
            return index

    before = time.monotonic()
    with run(Stuck(), timeout_sec=0.1) as loader, pytest.raises(BatchTimeoutError):
        next(loader)
    assert time.monotonic() - before < 10  # it is 20 s where leaving waits
    release.set()
