"""A terminal that goes away under ``hydrax``, with nobody to send SIGHUP."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

HYDRAX = [sys.executable, "-c", "from hydrax_cli.main import main; main()"]
IGNORING = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]
TARGET = """
import os, time
from pathlib import Path
from hydrax_core import DataGroup, Dataloader

HERE = Path(__file__).parent

def load(item, arrays, seed):
    if item == 0:
        (HERE / f"{os.getpid()}.loads").touch()
        while not (HERE / "go").exists():
            time.sleep(0.002)
    arrays["x"][...] = item

loader = Dataloader(load, DataGroup(4, range(8), loader_arrays={"x": ((), "int32")}), loader_count=1)
"""
LOOP = """
import os
from pathlib import Path
(Path(__file__).parent / f"{os.getpid()}.loads").touch()
while True:
    pass
"""


@pytest.fixture
def terminal(monkeypatch):
    """Starts programs with a pseudo-terminal where nothing else is given; ``hang_up`` lets it go away."""
    monkeypatch.setenv("TERM", "xterm-256color")
    main, other = pty.openpty()
    ends = [main, other]
    processes = []

    class Terminal:
        def start(self, *command, **streams):
            given = {"stdin": other, "stdout": other, "stderr": other, **streams}
            processes.append(subprocess.Popen(command, start_new_session=True, **given))
            return processes[-1]

        def hang_up(self):
            while ends:
                os.close(ends.pop())

    yield Terminal()
    for process in processes:
        process.kill()
        process.wait()
    Terminal().hang_up()


def loads(folder):
    """Who is at the first item, or at the target."""
    return [int(path.stem) for path in folder.glob("*.loads")]


@pytest.mark.parametrize("target", [TARGET, LOOP], ids=["run", "import"])
def test_a_command_ends_with_its_terminal_and_its_workers_with_it(terminal, tmp_path, target):
    (tmp_path / "target.py").write_text(target)
    process = terminal.start(*HYDRAX, "run", f"{tmp_path}/target.py:loader")
    (pid,) = wait_until(lambda: loads(tmp_path))
    terminal.hang_up()
    assert process.wait() == -signal.SIGHUP
    wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes())


@pytest.mark.parametrize("start", [[], IGNORING], ids=["pipe", "nohup"])
def test_what_others_read_goes_on_without_the_terminal(terminal, tmp_path, start):
    """A result that goes to a pipe, and a run that was told to ignore the end of its terminal."""
    (tmp_path / "target.py").write_text(TARGET)
    file = "-" if not start else f"{tmp_path}/result.json"
    stdout = {"stdout": subprocess.PIPE} if not start else {}
    process = terminal.start(*start, *HYDRAX, "run", f"{tmp_path}/target.py:loader", "--json", file, **stdout)
    wait_until(lambda: loads(tmp_path))
    terminal.hang_up()
    wait_until(lambda: Path(f"/proc/{process.pid}/fd/2").readlink() == Path(os.devnull))
    (tmp_path / "go").touch()
    output, _ = process.communicate()
    assert process.returncode == 0
    result = json.loads(output if not start else Path(file).read_text())
    assert (result["training_batches"], result["errors"]) == (2, 0)
