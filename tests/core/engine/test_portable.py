"""The ways that work on any POSIX system, forced on Linux."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from waiting import wait_until

ENVIRONMENT = {**os.environ, "HYDRAX_PORTABLE": "1"}


def start(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processes_with(mark):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if alive(pid)]


def test_a_worker_that_holds_the_interpreter_ends_with_the_main_process(tmp_path, monkeypatch):
    code = """
        import os, re, sys, threading, time
        from hydrax_core import DataGroup, Dataloader

        def load(item, arrays, seed):
            open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
            re.match(r"(a+)+$", "a" * 60 + "b")  # for years

        group = DataGroup(1, range(8), loader_arrays={"x": ((), "int32")})
        with Dataloader(load, group, loader_count=2) as loader:
            next(loader)
    """
    mark = f"HYDRAX_TEST={tmp_path}"
    monkeypatch.setitem(ENVIRONMENT, "HYDRAX_TEST", str(tmp_path))
    with start(code, tmp_path) as process:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        assert len(processes_with(mark)) >= 5, "a watcher beside each worker"
        process.kill()
    wait_until(lambda: not processes_with(mark))


def test_a_worker_whose_fork_keeps_its_socket_open_is_replaced_and_leaves_nothing(tmp_path, monkeypatch):
    code = """
        import os, signal, sys, time
        import numpy as np
        from hydrax_core import DataGroup, Dataloader

        def load(item, arrays, seed):
            arrays["x"][...] = item
            if item == 5:
                try:
                    os.mkdir(f"{sys.argv[1]}/forked")
                except FileExistsError:
                    return
                pid = os.fork()
                if pid == 0:
                    time.sleep(1000)
                with open(f"{sys.argv[1]}/forked/{pid}", "w"):
                    os.kill(os.getpid(), signal.SIGKILL)

        group = DataGroup(1, range(16), loader_arrays={"x": ((), "int32")})
        with Dataloader(load, group, end_at=("epoch", 1), timeout_sec=20) as loader:
            print([int(batch.arrays["x"][0]) for batch in loader], loader.stats().worker_restarts)
            maps = open("/proc/self/maps").read()
            assert "memfd:hydrax" not in maps
            assert sys.argv[2] in maps
    """
    monkeypatch.setitem(ENVIRONMENT, "HYDRAX_TEST", str(tmp_path))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(temporary))
    with start(code, tmp_path, temporary) as process:
        output, errors = process.communicate(timeout=100)
    assert output == f"{list(range(16))} 1\n", errors
    assert not list(temporary.iterdir())
    (forked,) = (tmp_path / "forked").iterdir()
    os.kill(int(forked.name), signal.SIGKILL)
    wait_until(lambda: not processes_with(f"HYDRAX_TEST={tmp_path}"))


def test_windows_is_refused_at_import_with_what_works():
    code = "import sys; sys.platform = 'win32'; import hydrax_core"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: hydrax does not run on Windows" in result.stderr
    assert "WSL" in result.stderr
