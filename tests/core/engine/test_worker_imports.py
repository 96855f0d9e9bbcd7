"""All workers of a run run the code of its start."""

import importlib
import os
import signal
import sys
import time

import pytest

from hydrax_core import DataGroup, Dataloader, LoaderError, WorkerStartError

LOADER = """
import {helper}

def load(item, arrays, seed):
    arrays["x"][...] = {helper}.value()
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes modules, whose names no other test has, and imports those that hold a loader function."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    (tmp_path / "site-packages").mkdir()

    def write(name, text, folder="."):
        (tmp_path / folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    return write


def group(items=64):
    return DataGroup(1, range(items), loader_arrays={"x": ((), "int32")})


def test_a_worker_that_takes_anothers_place_runs_the_code_of_the_start(files):
    files("helper_edited", "def value(): return 1\n")
    files("loader_edited", LOADER.format(helper="helper_edited"))
    load = importlib.import_module("loader_edited").load
    with Dataloader(load, group(), end_at=("epoch", 1), timeout_sec=20) as loader:
        found = [int(next(loader).arrays["x"][0])]
        files("helper_edited", "def value(): return 1000\n")
        files("loader_edited", "raise RuntimeError('in the middle of an edit')\n")
        os.kill(loader.stats().workers[0].pid, signal.SIGKILL)
        found += [int(batch.arrays["x"][0]) for batch in loader]
        assert loader.stats().worker_restarts == 1
    assert found == [1] * 64
    files("loader_edited", LOADER.format(helper="helper_edited"))
    with Dataloader(load, group(1), end_at=("epoch", 1), timeout_sec=20) as loader:
        assert [int(batch.arrays["x"][0]) for batch in loader] == [1000], "a new run runs what is there at its start"


def test_a_changed_module_of_an_installed_package_is_refused_by_name(files):
    files("helper_installed", "def value(): return 1\n", "site-packages")
    files("loader_installed", LOADER.format(helper="helper_installed"))
    load = importlib.import_module("loader_installed").load
    with Dataloader(load, group(), end_at=("epoch", 1), timeout_sec=20) as loader:
        next(loader)
        files("helper_installed", "def value(): return 1000\n", "site-packages")
        os.kill(loader.stats().workers[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerStartError, match=r"helper_installed\.py has changed since the run started"):
            list(loader)


def test_a_module_that_changes_between_the_imports_of_two_workers_is_refused_by_name(files, tmp_path):
    files("helper_late", "VALUE = 1\n")
    path = tmp_path / "helper_late.py"
    roles = {}

    def seen(marker):
        while not (tmp_path / marker).exists():
            time.sleep(0.001)

    def load(item, arrays, seed):
        if not roles:
            try:
                (tmp_path / "first").mkdir()
                roles["first"] = True
            except FileExistsError:
                roles["first"] = False
                (tmp_path / "second").mkdir()
                seen("edited")
            importlib.import_module("helper_late")
            if roles["first"]:
                path.write_text("VALUE = 1000\n")
                (tmp_path / "edited").mkdir()
        elif roles["first"]:
            seen("second")  # or one worker does all of it while the other still starts
        arrays["x"][...] = sys.modules["helper_late"].VALUE

    with (
        Dataloader(load, group(), loader_count=2, end_at=("epoch", 1), timeout_sec=20) as loader,
        pytest.raises((WorkerStartError, LoaderError), match=r"helper_late\.py has changed since the run started"),
    ):
        list(loader)
