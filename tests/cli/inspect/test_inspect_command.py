"""``hydrax inspect`` from the outside: refusals, pictures, and a real terminal that is left as it was."""

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from waiting import wait_until

from hydrax_cli.inspect.command import inspect
from hydrax_core import DataGroup
from hydrax_core.cache import CacheStore

TIMEOUT = 60
# pytest's readline puts the size of another terminal into the environment of what is started.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
TARGET = """
import os, time
from hydrax_core import DataGroup, Dataloader

def make(sleep: float = 0.0, noise: bool = False):
    def load(item, arrays, seed):
        if noise:
            print("loader says", item, flush=True)
            os.write(2, b"behind the back of Python\\n")
        time.sleep(sleep)
        arrays["x"][...] = item
    group = DataGroup(4, range(400), loader_arrays={"x": ((8, 8), "float32")})
    return Dataloader(load, group, loader_count=2)
"""
PROGRAM = "import sys; from hydrax_cli.inspect.command import inspect; sys.argv[0] = 'hydrax'; inspect()"


@pytest.fixture
def target(tmp_path):
    (tmp_path / "target.py").write_text(TARGET)
    return f"{tmp_path / 'target.py'}:make"


def invoke(*arguments):
    return CliRunner().invoke(inspect, list(arguments))


def test_no_terminal_is_refused_with_what_to_do():
    result = invoke()
    assert result.exit_code == 2
    assert "hydrax run" in result.output
    assert "--screenshot" in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--speed", "-1"], "batches a second"),
        (["--screen", "80", "--screenshot", "x.svg"], "COLUMNSxLINES"),
        (["--screenshot", "/nowhere/at/all.svg"], "its folder does not exist"),
        (["--start", "soon"], "EPOCH:BATCH"),
        (["-p", "nonsense"], "name=value"),
    ],
)
def test_wrong_usage_is_refused_by_name(arguments, text):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert text in result.output


def test_a_picture_needs_no_terminal(tmp_path, target):
    file = tmp_path / "picture.svg"
    arguments = ["--batches", "6", "--screenshot", str(file), "--screen", "100x30", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, target, *arguments], check=True, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    text = file.read_text()
    assert text.startswith("<svg ")
    assert text.count(">done<") == 1
    assert ">last<" in text


def test_keys_can_be_pressed_before_the_picture(tmp_path, target):
    file = tmp_path / "picture.svg"
    result = invoke(target, "--batches", "3", "--screenshot", str(file), "--press", "enter", "--kind", "thread")
    assert result.exit_code == 0, result.output
    assert ">hand<" in file.read_text()


@pytest.mark.parametrize(
    ("broken", "code", "text"),
    [("no_such.py:make", 2, "there is no file no_such.py"), ("{target}r", 2, "has no 'maker'")],
)
def test_a_target_that_cannot_be_had_is_told_after_the_app_too(tmp_path, target, broken, code, text):
    result = invoke(broken.format(target=target), "--screenshot", str(tmp_path / "picture.svg"))
    assert result.exit_code == code
    assert text in result.output
    assert ">opening<" in (tmp_path / "picture.svg").read_text()


class Terminal:
    """A pseudo-terminal with a program in it."""

    def __init__(self, *arguments, size=(30, 100), program=PROGRAM):
        self.output = b""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.before = termios.tcgetattr(slave)
        environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        self.master, self.slave = master, slave

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            self.output += os.read(self.master, 1 << 16)

    def until(self, condition):
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, self.output[-3000:]
            self.read(0.05)

    def shows(self, text):
        self.output = b""
        self.until(lambda: text in self.output)

    def press(self, keys):
        os.write(self.master, keys)

    def end(self):
        self.until(lambda: self.process.poll() is not None)
        self.read(0.1)
        return self.process.returncode

    def hang_up(self):
        for end in (self.master, self.slave):
            os.close(end)
        self.master = self.slave = None

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.master is not None:
            self.hang_up()


@pytest.fixture
def terminal():
    opened = []

    def start(*arguments, **named):
        opened.append(Terminal(*arguments, **named))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def descendants(pid):
    found = {int(c) for file in Path(f"/proc/{pid}/task").glob("*/children") for c in file.read_text().split()}
    return found.union(*map(descendants, found))


def alive(pids):
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in stat_of(pid)}


def stat_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize("leave", [b"q", b"\x03", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_however_it_ends_the_terminal_is_sane_and_no_process_is_left(terminal, target, leave):
    started = terminal(target, "-p", "sleep=0.002", "--workers", "2" if leave == b"q" else "1")
    started.shows(b"running")
    workers = descendants(started.process.pid)
    assert workers
    if isinstance(leave, bytes):
        started.press(leave)
    else:
        os.kill(started.process.pid, leave)
    assert started.end() == 0
    assert termios.tcgetattr(started.slave) == started.before
    assert b"\x1b[?1049l" in started.output  # back to the ordinary screen
    assert b"\x1b[?25h" in started.output  # and its cursor
    assert alive(workers) == set()


def test_it_ends_with_its_terminal_and_leaves_nothing(terminal, target):
    program = "from hydrax_cli.main import main; main()"
    started = terminal("inspect", target, "-p", "sleep=0.002", "--workers", "1", program=program)
    started.shows(b"running")
    workers = descendants(started.process.pid)
    started.hang_up()
    assert started.process.wait(TIMEOUT) == 0
    wait_until(lambda: alive(workers) == set(), TIMEOUT)


def test_it_quits_while_an_item_hangs(terminal, target):
    started = terminal(target, "-p", "sleep=3600", "--workers", "1")
    started.shows(b"starting")
    started.until(lambda: descendants(started.process.pid))
    workers = descendants(started.process.pid)
    started.press(b"q")
    assert started.end() == 0
    assert alive(workers) == set()


def test_nothing_that_a_worker_writes_reaches_the_screen_by_itself(terminal, target):
    started = terminal(target, "-p", "noise=true", "-p", "sleep=0.001", "--workers", "1")
    started.shows(b"running")
    started.press(b"l")
    started.until(lambda: b"behind the back of Python" in started.output)
    for written in (b"behind the back of Python\r\n", b"loader says 1\r\n"):
        assert written not in started.output
    started.press(b"q")
    assert started.end() == 0


def test_a_failing_target_shows_its_screen_and_stays_in_the_terminal(terminal, tmp_path):
    (tmp_path / "broken.py").write_text("def make():\n    return 1 / 0\n")
    started = terminal(f"{tmp_path / 'broken.py'}:make")
    started.until(lambda: b"no batch can come" in started.output)
    started.press(b"q")
    assert started.end() == 1
    assert b"ZeroDivisionError" in started.output[started.output.rindex(b"\x1b[?1049l") :]


BROKEN = """
from hydrax_cli.inspect.app import InspectApp
InspectApp.action_error = lambda self: 1 / 0
from hydrax_cli.main import main
import sys
sys.argv[1:1] = ["inspect"]
main()
"""


def test_a_defect_that_ends_the_app_is_shown_and_no_success(terminal, target):
    started = terminal(target, "--paused", "--kind", "thread", program=BROKEN)
    started.shows(b"paused")
    started.press(b"e")
    assert started.end() == 1
    assert b"ZeroDivisionError" in started.output[started.output.rindex(b"\x1b[?1049l") :]


class Tmux:
    """A real terminal without a screen: runs commands of tmux, and waits for what the app shows."""

    def __init__(self, socket):
        self.socket = str(socket)

    def __call__(self, *arguments):
        command = ["tmux", "-S", self.socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout

    def until(self, text):
        """The screen, as soon as it has that text."""

        def screen():
            return self("capture-pane", "-p", "-t", "app")

        return wait_until(lambda: text in (found := screen()) and found, TIMEOUT, screen)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_it_works_in_tmux_and_follows_its_size(tmp_path, target):
    tmux = Tmux(tmp_path / "tmux")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = f"{sys.executable} {program} {target} --speed 20 --workers 1; echo left with $?; cat"
    tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-s", "app", command)
    try:
        screen = tmux.until("► running")
        assert len(max(screen.splitlines(), key=len)) <= 80
        tmux("send-keys", "-t", "app", "Space")
        tmux.until("‖ paused")
        tmux("resize-window", "-t", "app", "-x", "150", "-y", "45")
        for text in ("╭─ progress", "╭─ log"):
            tmux.until(text)
        tmux("send-keys", "-t", "app", "Enter")
        tmux.until("values of x")
        tmux("send-keys", "-t", "app", "Escape")
        tmux.until("╭─ progress")
        tmux("resize-window", "-t", "app", "-x", "40", "-y", "10")
        tmux.until("60x18 at least")
        tmux("send-keys", "-t", "app", "C-c")
        tmux.until("left with 0")
    finally:
        tmux("kill-server")


@pytest.fixture
def cache(tmp_path):
    group = DataGroup(4, range(12), loader_arrays={"x": ((8, 8), "float32")}, cache_location=tmp_path / "c")
    with CacheStore.open(group, kind="training", group_index=0) as store:
        for number in range(3):
            store.write(0, number, {"x": np.full((4, 8, 8), number, np.float32)})
    return str(tmp_path / "c")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cache", "nowhere"], "--cache: nowhere: there is no such folder"),
        (["--cache", "."], "this is no hydrax cache"),
        (["digits", "--cache", "{cache}"], "so TARGET cannot go with it"),
        (["--cache", "{cache}", "--workers", "1", "--speed", "3"], "so --workers, --speed cannot go with it"),
    ],
)
def test_what_is_no_cache_or_has_a_loader_beside_it_is_refused(cache, tmp_path, arguments, text):
    picture = tmp_path / "picture.svg"
    result = invoke(*(argument.format(cache=cache) for argument in arguments), "--screenshot", str(picture))
    assert result.exit_code == 2
    assert text in " ".join(result.output.split())
    assert not picture.exists()


def test_without_a_terminal_a_cache_is_refused_with_what_to_do(cache):
    result = invoke("--cache", cache)
    assert result.exit_code == 2
    assert "hydrax cache info" in result.output


def test_a_picture_of_a_cache_needs_neither_terminal_nor_jax(cache, tmp_path):
    file = tmp_path / "picture.svg"
    program = f"{PROGRAM.replace('inspect()', 'inspect(standalone_mode=False)')}; print('jax' in sys.modules)"
    command = [sys.executable, "-c", program, "--cache", cache, "--screenshot", str(file), "--press", "v"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert ">clean<" in file.read_text()


def test_a_cache_in_a_terminal_that_is_sane_afterwards(terminal, cache):
    started = terminal("--cache", cache)
    started.shows(b"not read")
    started.press(b"v")
    started.until(lambda: b"clean" in started.output)
    started.press(b"\x03")
    assert started.end() == 0
    assert termios.tcgetattr(started.slave) == started.before
    assert b"\x1b[?1049l" in started.output
