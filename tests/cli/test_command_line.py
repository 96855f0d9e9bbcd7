"""The console script as a process of its own."""

import contextlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from hydrax_cli.main import COMMANDS, hydrax, run_command_line

HYDRAX = [sys.executable, "-c", "from hydrax_cli.main import main; main()"]
ENDLESS = """
import signal, threading, time
import jax
from hydrax_core import DataGroup, Dataloader

def load(item, arrays, seed):
    arrays["x"][...] = item

said = []

def say_when_interrupted():
    while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        time.sleep(0.01)
    print("interrupted once", flush=True)

def place(arrays, layouts, additional, group):
    if not said:
        said.append(True)
        threading.Thread(target=say_when_interrupted, daemon=True).start()
        print("a batch is out", flush=True)
    return jax.device_put(dict(arrays))

group = DataGroup(4, range(16), loader_arrays={"x": ((), "int32")})
loader = Dataloader(load, group, placement_func=place, loader_kind="thread")
"""


@pytest.fixture
def start():
    """Starts processes that end with the test, also with a failing one."""
    processes = []

    def start(*arguments):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        processes.append(subprocess.Popen([*HYDRAX, *arguments], **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def read_until(process, text):
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"the output ended without {text!r}: {process.stderr.read()}")


@pytest.fixture
def endless(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    return f"{tmp_path}/endless.py:loader"


def test_help_imports_neither_a_command_nor_what_commands_need():
    program = (
        "import sys\nfrom hydrax_cli.main import run_command_line\ncode = run_command_line(['--help'])\n"
        "print(code, *sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    text, _, modules = output.rpartition("\n0 ")
    for line in (r"run +Run a loader", r"inspect +Watch a loader", r"cache +Look into"):
        assert re.search(f"^  {line}", text, re.MULTILINE)
    heavy = {"jax", "numpy", "rich", "textual", "sqlite3", "hydrax_core.loader.dataloader"}
    loaded = set(modules.split())
    assert not heavy & loaded
    assert not [name for name in loaded if name.startswith("hydrax_cli.commands.")]


def test_every_command_that_is_listed_can_be_had_and_says_the_same_of_itself(capsys):
    assert [command.name for command in COMMANDS] == ["run", "inspect", "cache"]
    for command in COMMANDS:
        found = hydrax.get_command(None, command.name)
        assert (found.name, found.get_short_help_str(100)) == (command.name, command.summary)
        assert run_command_line([command.name, "--help"]) == 0
        assert f"hydrax {command.name}" in capsys.readouterr().out


def test_the_digits_on_a_pipe(start, tmp_path):
    process = start("run", "--json", str(tmp_path / "result.json"))
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "\x1b" not in out
    assert "\r" not in out
    assert json.loads((tmp_path / "result.json").read_text())["epochs"] == 3


def test_the_digits_on_a_terminal():
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    process = subprocess.Popen([*HYDRAX, "run"], stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    output = b""
    try:
        with os.fdopen(master, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
            while data := terminal.read(65_536):  # an error is how Linux says that the other side is closed
                output += data
        assert process.wait() == 0
    finally:
        process.kill()  # it must not outlive a time-out
        process.wait()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert b"\x1b[" in output
    assert "whole run" in text
    assert text.rindex("whole run") < text.index("first batch") < text.index("●")
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80


def test_the_first_ctrl_c_finishes_the_batch_and_shows_the_result(start, endless):
    process = start("run", endless, "--step-time", "20ms", "--epochs", "100000", "--digest")
    read_until(process, "epoch 0:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert re.search(r"^interrupted: --start \d+:\d goes on from here$", out, re.MULTILINE)
    assert "verdict: " in out
    assert "digest" not in out


def test_the_second_ctrl_c_stops_at_once(start, endless):
    process = start("run", endless, "--step-time", "1000s")
    read_until(process, "a batch is out")
    process.send_signal(signal.SIGINT)
    read_until(process, "interrupted once")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err.strip()) == (130, "interrupted")
    assert "verdict" not in out


def test_a_reader_that_has_had_enough_gets_no_traceback(start):
    process = start("run", "--kind", "inline", "--epochs", "50")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_told_in_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*HYDRAX, "run", "--kind", "inline"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "Error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["rnu"], "there is no command 'rnu'; did you mean run?"),
        (["xyz"], "there are run, inspect, cache"),
        (["run", "--epcohs", "3"], "--epochs"),
        (["cache", "verfy", "x"], "verify"),
    ],
)
def test_a_slip_of_the_keys_is_answered_with_what_may_be_meant(arguments, hint, capsys):
    assert run_command_line(arguments) == 2
    assert hint in capsys.readouterr().err


def test_what_loads_an_item_is_told_from_what_makes_a_loader(tmp_path, capsys):
    (tmp_path / "it.py").write_text("def load(item, arrays, seed):\n    pass\n")
    assert run_command_line(["run", f"{tmp_path}/it.py:load"]) == 2
    assert "seems to be what loads an item" in capsys.readouterr().err
