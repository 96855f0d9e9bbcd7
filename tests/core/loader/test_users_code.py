"""What code of the user's does to the run that calls it: handlers of logs and signals, data, placement."""

import importlib.util
import itertools
import logging
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader
from hydrax_core.engine.admission import Admission
from hydrax_core.engine.loop import Loop
from hydrax_core.engine.ready import ReadyQueue
from hydrax_core.engine.schedule import Schedule
from hydrax_core.engine.workers.local import InlineWorker

ARRAYS = {"y": ((), "int32")}


def load(item, arrays, seed):
    arrays["y"][...] = item


def group(data=range(20), **more):
    return DataGroup(4, data, loader_arrays=ARRAYS, **more)


def run(loader=load, data=range(20), **more):
    return Dataloader(loader, group(data), **{"loader_kind": "thread", "end_at": ("epoch", 1), **more})


class Raising(logging.Handler):
    def emit(self, _record):
        raise ZeroDivisionError("a handler")


class Leaving(logging.Handler):
    def emit(self, _record):
        raise SystemExit(3)


def test_a_handler_of_logs_that_would_end_the_program_ends_no_thread(monkeypatch):
    def failing(item, arrays, seed):
        if item == 5:
            raise ValueError(item)
        load(item, arrays, seed)

    monkeypatch.setattr(logging.getLogger("hydrax"), "handlers", [Leaving()])
    with run(failing, on_error="substitute", timeout_sec=20) as loader:  # said in the engine's thread
        assert len(list(loader)) == 5
    with pytest.raises(SystemExit), run(failing, on_error="substitute", loader_kind="inline") as loader:
        list(loader)


def raising_filter(record):
    raise ZeroDivisionError("a filter")


@pytest.mark.parametrize("kind", ["inline", "thread", "process"])
@pytest.mark.parametrize("what", ["handler", "filter"])
def test_a_handler_or_filter_of_logs_that_raises_ends_nothing(kind, what, monkeypatch, capsys):
    def failing(item, arrays, seed):
        if item in (5, 6):
            raise ValueError(item)
        load(item, arrays, seed)

    logger = logging.getLogger("hydrax")
    monkeypatch.setattr(logger, "handlers", [Raising()] if what == "handler" else [])
    monkeypatch.setattr(logger, "filters", [raising_filter] if what == "filter" else [])
    with run(failing, loader_kind=kind, on_error="skip", timeout_sec=20) as loader:
        assert [batch.batch_num for batch in loader] == [0, 2, 3, 4]
        assert loader.stats().skipped_batches == 1
    assert "ZeroDivisionError: a " in capsys.readouterr().err


GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    arrays["y"][...] = item

group = DataGroup(4, range(20), loader_arrays={"y": ((), "int32")})
with Dataloader(load, group, loader_kind=sys.argv[1], end_at=("epoch", 1), timeout_sec=20) as loader:
    print([batch.arrays["y"].tolist() for batch in loader][-1])
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.parametrize("kind", ["inline", "thread", "process"])
def test_a_program_that_gevent_has_patched_is_served(kind):
    program = [sys.executable, "-c", GEVENT, kind]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.returncode) == ("[16, 17, 18, 19]\n", 0), done.stderr


class NamelessData:
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return index

    def fingerprint(self):
        raise StopIteration


def test_stop_iteration_of_any_code_of_the_users_is_no_end_of_the_run(tmp_path):
    training = group(NamelessData(), cache_location=tmp_path / "c")
    loader = Dataloader(load, training, loader_kind="inline", end_at=("epoch", 1))
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        list(loader)


class Stops:
    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index == 6:
            raise StopIteration
        return index


def test_stop_iteration_of_data_that_a_cache_names_is_no_end_of_the_run(tmp_path):
    training = group(Stops(), cache_location=tmp_path / "c")
    with Dataloader(load, training, loader_kind="inline", end_at=("epoch", 1), on_error="skip") as loader:
        assert [batch.batch_num for batch in loader] == [0, 2, 3, 4]


def test_a_state_of_data_with_an_unreadable_item_is_saved_where_the_run_skips_it():
    with run(data=Stops(), on_error="skip") as loader:
        assert [batch.batch_num for batch in loader] == [0, 2, 3, 4]
        state = loader.state_dict()
    again = run(data=Stops(), on_error="skip")
    again.load_state_dict(state)
    with again:
        assert list(again) == []


class AlarmError(Exception):
    pass


INSIDE = [
    (Schedule, "accept"),
    (Schedule, "next_chunk"),
    (InlineWorker, "reports"),
    (InlineWorker, "send"),
    (Admission, "take"),
    (ReadyQueue, "offer"),
    (Loop, "_settle"),
]


@pytest.mark.parametrize(("where", "name"), INSIDE, ids=lambda value: getattr(value, "__name__", value))
def test_an_exception_of_a_signal_handler_loses_nothing_and_is_raised_once(where, name, monkeypatch):
    """It comes right after a function of the engine, which runs in the caller's thread, has done its work."""
    real = getattr(where, name)
    calls = itertools.count()

    def interrupted(self, *arguments, **named):
        found = real(self, *arguments, **named)
        if next(calls) == 3:
            raise AlarmError
        return found

    monkeypatch.setattr(where, name, interrupted)
    found, alarms = [], 0
    with run(loader_kind="inline") as loader:
        while True:
            try:
                found.append(next(loader).batch_num)
            except StopIteration:
                break
            except AlarmError:
                alarms += 1
    assert (found, alarms) == ([0, 1, 2, 3, 4], 1)


STOPPED = """
import sys, time
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    if item == 4:
        print("waiting", flush=True)
        time.sleep(1.0)

group = DataGroup(4, range(8), loader_arrays={"y": ((), "int32")})
with Dataloader(load, group, loader_kind="thread", end_at=("epoch", 1), depth=1, timeout_sec=3) as loader:
    print(*(batch.batch_num for batch in loader), flush=True)
"""


def test_time_in_which_the_process_was_stopped_does_not_count():
    program = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.3)  # it waits in next() by now
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)  # longer than the timeout
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=100)
    assert (out, err) == ("0 1\n", "")


class NoLength:
    def __getitem__(self, index):
        return index


class Table:
    __module__ = "pyarrow.lib"
    column_names = ("a",)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (NoLength(), "data: a NoLength has __getitem__ but no __len__"),
        (Table(), r"data: a pyarrow.Table indexes its columns; give range\(len\(table\)\)"),
        (5, "data: expected a sequence or a finite iterable, got int"),
    ],
)
def test_data_that_is_no_sequence_of_items_is_refused_by_name(data, message):
    with pytest.raises(TypeError, match=message):
        group(data)


def test_an_iterable_without_an_end_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("hydrax_core.data.group._MOST_LISTED", 10_000)
    with pytest.raises(ValueError, match=r"data: this count has given 10,\d+ items, more than 10,000"):
        group(itertools.count())
    monkeypatch.undo()
    monkeypatch.setattr("hydrax_core.data.group.os", type("os", (), {"sysconf": staticmethod(lambda _: 4 * 1000)}))
    with pytest.raises(ValueError, match=r"data: this generator has given [\d,]+ items, more than .* of the memory"):
        group(np.ones(1 << 12) for _ in itertools.count())


def test_a_finite_iterable_is_read_whole():
    assert group(iter(range(1000))).items == list(range(1000))
    with pytest.raises(ZeroDivisionError):
        group(1 / (3 - item) for item in range(5))
