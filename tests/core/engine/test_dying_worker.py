"""A worker that closes its socket and lives on: the engine waits for no worker's end."""

import os
import threading
import time

import pytest

from hydrax_core import DataGroup, Dataloader
from hydrax_core.engine.workers import process


def load(item, arrays, seed):
    if item == 5 and not os.path.exists(os.environ["HYDRAX_TEST_ONCE"]):  # noqa: PTH110  in a worker
        open(os.environ["HYDRAX_TEST_ONCE"], "w").close()  # noqa: PTH123  same
        os.closerange(3, 256)  # its socket among them; it works on an item that never ends
        threading.Event().wait()
    time.sleep(0.001)
    arrays["y"][...] = item


def test_the_engine_goes_on_while_a_worker_is_ending(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HYDRAX_TEST_ONCE", str(tmp_path / "once"))
    monkeypatch.setattr(process, "_END_SECONDS", 20.0)
    group = DataGroup(4, range(800), loader_arrays={"y": ((), "int32")})
    options = {"loader_count": 2, "deterministic": False, "depth": 16, "timeout_sec": 40, "end_at": ("epoch", 1)}
    with Dataloader(load, group, **options) as loader:
        found, meanwhile = [], 0
        for batch in loader:
            found.append(batch.batch_num)
            ending = [handle.worker for handle in loader._engine.loop._workers.handles if handle.worker.ending]
            meanwhile += len(ending)
            if ending and meanwhile == 20:
                ending[0]._kill_late()  # as the timer does, whose time a busy machine may need for twenty batches
    assert sorted(found) == list(range(200))
    assert meanwhile >= 20
    assert loader.stats().worker_restarts == 1
    assert "it closed its socket" in caplog.text


@pytest.mark.parametrize(
    ("end", "text"), [("os._exit(3)", "it exited with code 3"), ("os.kill(os.getpid(), 9)", "SIGKILL")]
)
def test_how_a_worker_ended_is_said(end, text, tmp_path, monkeypatch, caplog):
    def once(item, arrays, seed):
        if item == 5 and not os.path.exists(os.environ["HYDRAX_TEST_ONCE"]):  # noqa: PTH110  in a worker
            open(os.environ["HYDRAX_TEST_ONCE"], "w").close()  # noqa: PTH123  same
            exec(end, {"os": os})

    monkeypatch.setenv("HYDRAX_TEST_ONCE", str(tmp_path / "once"))
    group = DataGroup(4, range(20), loader_arrays={"y": ((), "int32")})
    with Dataloader(once, group, timeout_sec=20, end_at=("epoch", 1)) as loader:
        assert len(list(loader)) == 5
    assert text in caplog.text
