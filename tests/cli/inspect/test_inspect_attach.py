"""``hydrax inspect --attach``: a training of another process is watched; it may end, die or stop, and the app lives."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from inspect_support import TIMEOUT, Watcher, asynchronous, shows, table, texts, until
from test_inspect_command import ENVIRONMENT, PROGRAM, Terminal, Tmux
from waiting import wait_until

from hydrax_cli.inspect.app import InspectApp
from hydrax_cli.inspect.command import inspect
from hydrax_cli.inspect.feeds.attached import AttachedFeed
from hydrax_cli.inspect.feeds.capture import LogBuffer
from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.screens.dialogs import FaultScreen, HelpScreen
from hydrax_cli.inspect.screens.main import MainScreen
from hydrax_cli.inspect.screens.runs import RunsScreen
from hydrax_core.monitor import Bye, GroupPlan, Hello, RunPlan
from hydrax_core.monitor.client import Run, find_runs
from hydrax_core.monitor.protocol.messages import VERSION
from hydrax_core.monitor.protocol.wire import encode

EXAMPLE = Path(__file__).parents[3] / "docs/examples/train_digits.py"
TRAINING = """
import sys, time
from hydrax_core import DataGroup, Dataloader, LoaderError

BAD = int(sys.argv[2])

def load(item, arrays, seed):
    arrays["image"][...] = item % 250
    arrays["label"][...] = item % 10
    if item % 100 == 0:
        print("item", item, "is loaded", flush=True)
    if item == BAD:
        raise ValueError("a bad header")
    return {"path": f"photo-{item}.jpg"}

arrays = {"image": ((6, 5, 3), "uint8", "float32"), "label": ((), "int32")}
group = DataGroup(8, range(800), loader_arrays=arrays, labels=("label",))
end = ("batch", int(sys.argv[3])) if sys.argv[3:] else None
validation = ("epoch", 1, group)
with Dataloader(load, group, validation=validation, loader_count=1, monitor=sys.argv[1], end_at=end) as loader:
    while True:
        try:
            for batch in loader:
                time.sleep(0.01)
            break
        except LoaderError:
            pass
"""


@pytest.fixture(scope="module", autouse=True)
def _runtime(tmp_path_factory):
    """A folder for sockets of our own: other trainings of this machine are not ours to watch."""
    folder = tmp_path_factory.mktemp("runtime")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", str(folder))
        patch.setitem(ENVIRONMENT, "XDG_RUNTIME_DIR", str(folder))
        patch.setitem(ENVIRONMENT, "TMPDIR", str(folder))
        for place in (
            "app._FRAME_SECONDS",
            "app._PREVIEW_SECONDS",
            "feeds.conversation._ASK_SECONDS",
        ):  # for an impatient user
            patch.setattr(f"hydrax_cli.inspect.{place}", 0.1)
        patch.setattr("hydrax_cli.inspect.base_app.Throttle.due", lambda pace: True)
        yield


@contextmanager
def training(*arguments, program=("-c", TRAINING), **environment):
    """A process that trains."""
    command = [sys.executable, *program, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**ENVIRONMENT, **environment}
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def runs_of(*processes):
    """The runs of these processes, as soon as all of them have come to a batch."""

    def found():
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        runs = [run for run in find_runs() if run.pid in {process.pid for process in processes}]
        return len(runs) == len(processes) and all(run.hello and run.hello.place for run in runs) and runs

    return wait_until(found, TIMEOUT)


@pytest.fixture(scope="module")
def flowers():
    """A training that runs as long as the tests of this file."""
    with training("flowers", "-1") as process:
        yield process


@asynccontextmanager
async def watching(runs, size=(120, 40)):
    feed = AttachedFeed(runs, LogBuffer())
    app = InspectApp(feed)
    try:
        async with app.run_test(size=size, notifications=True) as pilot:
            yield app, pilot
    finally:
        feed.close()


@contextmanager
def feed_of(*runs):
    feed = AttachedFeed(runs, LogBuffer())
    feed.start()
    try:
        yield Watcher(feed)
    finally:
        feed.close()


async def goes_on(app, pilot):
    """The table gets further batches."""
    newest = max((record.serial for record in table(app).shown), default=0)
    await until(pilot, lambda: table(app).shown and table(app).shown[0].serial > newest + 3)


@asynchronous
async def test_the_screen_shows_the_live_run_and_no_key_drives_it(flowers):
    async with watching(runs_of(flowers)) as (app, pilot):
        await until(pilot, lambda: table(app).count() > 5 and app.frame.stats is not None)
        for text in (
            "flowers",
            f"◉ live · pid {flowers.pid}",
            "► running",
            "cpu:0",
            "items/s",
            "worker 0",
            "is loaded",
        ):
            await shows(app, pilot, text)
        for text in ("play", "step", "epoch  g go"):
            assert text not in texts(app)[-1]
        assert "r runs" in texts(app)[-1]
        await shows(app, pilot, "image (8, 6, 5, 3)")  # the picture of a sample
        await pilot.press("space", "s", "n", "g", "plus", "0")
        assert isinstance(app.screen, MainScreen)
        await goes_on(app, pilot)
        assert app.frame.state == "running"
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await shows(app, pilot, "A run of another process")
        await pilot.press("escape", "c")
        assert app.clipboard.startswith("hydrax run TARGET --start ")
        await pilot.press("r")
        await shows(app, pilot, "there is no other run to watch")


@asynchronous
async def test_batches_are_looked_into_as_copies_and_the_newest_whole(flowers):
    async with watching(runs_of(flowers)) as (app, pilot):
        await until(pilot, lambda: any(map(app._feed.has, table(app).shown)))
        kept = next(record for record in table(app).shown if app._feed.has(record))
        table(app).choose(table(app).shown.index(kept))
        await shows(app, pilot, "◆")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        assert app.screen.record.serial == kept.serial
        await pilot.press("escape", "home", "enter")
        await until(pilot, lambda: isinstance(app.screen, BatchScreen) and app.screen.settled)
        for text in ("copied from the live run", "photo-", "label *", "float32"):
            await shows(app, pilot, text)
        first = app.screen.record  # may have been handed out after what the frame shows
        await until(pilot, lambda: app.frame.current.serial > first.serial)
        await pilot.press("n")
        await until(pilot, lambda: app.screen.record.serial > first.serial and app.screen.settled)
        last = app.screen.record
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: app.screen.record.serial < last.serial and app.screen.settled)
        await pilot.press("escape")
        gone = table(app).shown[0]._replace(serial=-1)
        with pytest.raises(LookupError, match=r"are sampled.*\nhydrax run TARGET --start \d+:\d+ --batches 1"):
            app._feed.open(gone)


@asynchronous
async def test_runs_are_chosen_from_stop_die_and_come_again(flowers, monkeypatch):
    monkeypatch.setattr("hydrax_cli.inspect.feeds.attached._SILENT_SECONDS", 0.6)

    async def choose(name):
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        await shows(app, pilot, name)
        while not any(f"▸ {name}" in line for line in texts(app)):
            await pilot.press("down")
            await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: app.frame.subject is not None and app.frame.subject.target == name)
        await goes_on(app, pilot)

    with training("birds", "-1") as birds:
        async with watching(runs_of(flowers, birds)) as (app, pilot):
            await shows(app, pilot, "2 runs to watch")
            await choose("flowers")
            await pilot.press("r")
            await choose("birds")
            serials = [record.serial for record in table(app).shown]
            assert serials == sorted(set(serials), reverse=True)

            birds.send_signal(signal.SIGSTOP)
            await shows(app, pilot, "◌ no answer for")
            with pytest.raises(LookupError, match="does not answer now"):
                app._feed.open(app.frame.current._replace(serial=10**6))
            birds.send_signal(signal.SIGCONT)
            await shows(app, pilot, "► running")

            birds.kill()
            await until(pilot, lambda: isinstance(app.screen, FaultScreen))
            await shows(app, pilot, f"birds (pid {birds.pid}): its process has ended without a word")
            await pilot.press("escape")
            await shows(app, pilot, "✗ failed")
            with training("birds", "-1") as again:
                runs_of(flowers, again)
                await pilot.press("r")
                await shows(app, pilot, f"pid {again.pid}")
                await goes_on(app, pilot)


def test_failing_items_and_the_end_of_a_run_are_told():
    with training("short", "20", "60") as short, feed_of(*runs_of(short)) as watch:
        watch.until(lambda frame: any(record.error for record in watch.records))
        failed = next(record for record in watch.records if record.error)
        assert failed.epoch_batch == 2
        assert "a bad header" in failed.error
        assert failed.error.startswith("item 20 (20) of training group 0, epoch 0, batch 2 failed")
        watch.until(lambda frame: any("the run has ended; r looks" in line.text for line in watch.lines))
        assert [record.batch_num for record in watch.records] == list(range(60))
        short.wait(TIMEOUT)
        assert watch.look().state == "done"


HELLO = Hello(VERSION, os.getpid(), "odd", "odd.py", 0.0, None, ended=False)
ABOUT = RunPlan((GroupPlan("training", 0, 8, 8, 1, 0, False, "repeat", "pad", (), ()),), 0, 0, 0, 0, None, "process")


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ([b"\0" * 100], "what it says cannot be understood"),
        ([Hello(VERSION + 1, 1, "", "", 0.0, None, ended=True)], f"protocol {VERSION + 1}"),
        ([HELLO, ABOUT], "makes no sense"),
        ([HELLO, b"".join(encode(ABOUT))[:-9]], "the connection is cut"),
        ([HELLO, Bye("no room", failed=True)], "no room"),
        ([], "the connection is cut"),
    ],
    ids=["garbage", "version", "nonsense", "cut", "refused", "nothing"],
)
def test_whatever_stands_at_the_other_end_is_a_fault_not_a_failure(said, text, tmp_path, flowers, monkeypatch):
    monkeypatch.setattr("hydrax_cli.inspect.feeds.attached._DEATH_SECONDS", 0.01)
    monkeypatch.chdir(tmp_path)  # a path that is short enough for a socket
    runs_of(flowers)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        listening.listen()

        def serve():
            connection, _ = listening.accept()
            with connection:
                for one in said:
                    connection.sendall(one if isinstance(one, bytes) else b"".join(encode(one)))

        thread = threading.Thread(target=serve)
        thread.start()
        with feed_of(Run(tmp_path / "s", os.getpid(), 1, HELLO)) as watch:
            frame = watch.until(lambda frame: frame.fault is not None)
            assert text in frame.fault.text
            assert frame.fault.gone
            watch.feed.look_again()
            watch.until(lambda frame: frame.state == "running" and frame.subject.target == "flowers")
        thread.join()


def invoke(*arguments):
    result = CliRunner().invoke(inspect, [*arguments, "--screenshot", "x.svg"])
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_what_cannot_be_watched_is_told_with_what_can(flowers, monkeypatch, tmp_path):
    runs_of(flowers)
    assert f"'roses'; there are flowers (pid {flowers.pid})" in invoke("--attach", "roses")
    assert f"process {os.getpid()} offers nothing to watch: start it with HYDRAX_MONITOR=1" in invoke(
        "--attach", str(os.getpid())
    )
    assert "there is no process 999999999" in invoke("--attach", "999999999")
    assert "--attach: it runs no loader, so TARGET cannot go with it" in invoke("target.py:make", "--attach", "flowers")
    assert "--attach: it runs no loader, so --workers cannot go with it" in invoke("--attach", "--workers", "2")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert "no training that can be watched is running; start it with HYDRAX_MONITOR=1" in invoke("--attach")


def test_a_picture_of_a_run_needs_neither_terminal_nor_jax(flowers, tmp_path):
    runs_of(flowers)
    file = tmp_path / "picture.svg"
    heavy = {"jax", "cloudpickle", "hydrax_core.loader.dataloader", "hydrax_cli.inspect.app"}
    imported = f"print(*sorted({heavy} & set(sys.modules)))"
    program = f"import sys, atexit; atexit.register(lambda: {imported}); {PROGRAM}"
    command = [sys.executable, "-c", program, "--attach", "flowers", "--screenshot", str(file), "--after", "300ms"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.stdout.split(), done.stderr) == (["hydrax_cli.inspect.app"], "")
    assert ">running<" in file.read_text()


def test_the_digits_are_trained_on_when_an_app_is_killed_and_an_app_outlives_them():
    with training(program=(str(EXAMPLE), "--epochs", "100000"), HYDRAX_MONITOR="1") as digits:
        runs_of(digits)
        app = Terminal("--attach", str(digits.pid))
        try:
            app.until(lambda: b"running" in app.output)
            app.process.kill()
            before = find_runs()[0].hello.place[1]
            wait_until(lambda: find_runs()[0].hello.place[1] >= before + 3)
        finally:
            app.close()
        app = Terminal("--attach", "train_digits")
        try:
            app.until(lambda: b"running" in app.output)
            digits.kill()
            app.until(lambda: b"the run is gone" in app.output)
            app.press(b"q")
            assert app.end() == 0
        finally:
            app.close()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_beside_a_training_in_a_real_terminal(flowers, tmp_path):
    runs_of(flowers)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    tmux = Tmux(tmp_path / "tmux")
    app = f"{sys.executable} {program} --attach {flowers.pid}"
    shell = f"for key in 1 2; do {app}; echo $key: left with $?; read line; done; cat"
    tmux("-f", "/dev/null", "new-session", "-d", "-x", "110", "-y", "35", "-s", "app", shell)
    try:
        for key, after in (("C-c", "1: left with 0"), ("q", "2: left with 0")):
            tmux.until(f"◉ live · pid {flowers.pid}")
            tmux.until("► running")
            tmux("send-keys", "-t", "app", key)
            tmux.until(after)
            tmux("send-keys", "-t", "app", "typed and read", "Enter")
    finally:
        tmux("kill-server")
    assert flowers.poll() is None
