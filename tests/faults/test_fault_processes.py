"""Faults of whole processes and of the machine they run on, most of them in a program of their own."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faultkit import contents, group, limit, python, rounds, start_python, undisturbed
from faultloads import fill, socket_of_worker
from waiting import wait_until

from hydrax_core import Dataloader, LoaderError
from hydrax_core.data.portable import PORTABLE

pytestmark = limit(50, 600)

BUSY = """
    import re, time

    def load(item, arrays, seed):
        fault = next(number for number in range(4) if first(f"{folder}/{number}"))
        if fault == 0:
            time.sleep(1000)
        if fault == 1:
            re.match(r"(a+)+$", "a" * 60 + "b")  # for years, without letting go of the interpreter
        while fault == 2:
            pass
        os.kill(os.getpid(), signal.SIGSTOP)

    def first(path):
        try:
            os.mkdir(path)
        except FileExistsError:
            return False
        return True

    folder = sys.argv[1]
    with Dataloader(load, group(32), loader_count=4) as loader:
        threading.Thread(target=lambda: next(loader), daemon=True).start()
        wait_until(lambda: len(os.listdir(folder)) == 4)
        print(*(worker.pid for worker in loader.stats().workers), flush=True)
        while True:
            time.sleep(1)
"""


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_main_process_that_is_killed_takes_every_worker_with_it(name, tmp_path):
    process = start_python(BUSY, arguments=[str(tmp_path)])
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 4
    assert all(alive(pid) for pid in workers)
    process.send_signal(getattr(signal, name))
    process.wait()
    wait_until(lambda: not any(alive(pid) for pid in workers))
    process.communicate()


LEFT = """
def batches():
    with Dataloader(fill, group(), loader_count=1) as own:
        yield from own

left = batches()
next(left)
"""

ENDINGS = {
    "the end of the program": ("", 0, ""),
    "sys.exit": ("sys.exit(3)", 3, ""),
    "an error": ("raise ValueError('mine')", 1, "ValueError: mine"),
    "os._exit": ("os._exit(4)", 4, ""),
    "a generator left inside its with": (LEFT, 0, ""),
    "a thread that goes on": ("threading.Thread(target=lambda: list(loader), daemon=True).start()", 0, ""),
}


@limit(120, 600)
def test_a_program_that_ends_without_leaving_with_ends_at_once_and_silently():
    start = """
loader = Dataloader(fill, group(), loader_count=2)
loader.__enter__()
kept = [next(loader), next(loader)]
"""
    programs = {
        name: start_python(start + code, flags=["-W", "error::ResourceWarning"])
        for name, (code, _, _) in ENDINGS.items()
    }
    for name, process in programs.items():
        _, errors = process.communicate()
        assert process.returncode == ENDINGS[name][1], (name, errors)
        said = ENDINGS[name][2]
        assert said in errors if said else errors == "", (name, errors)


WRITES_NOTHING = '''
    def forbid(event, arguments):
        """Fails whoever writes to the file system, also where nobody would hear of it."""
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            if arguments[0] != os.devnull and not isinstance(arguments[0], int):  # a number is of an open file
                os.write(2, f"opened {arguments[0]!r} for writing\\n".encode())
        if event in ("os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp", "os.rename", "os.symlink"):
            os.write(2, f"{event} {arguments!r}\\n".encode())
'''


def test_an_odd_machine_makes_no_difference(tmp_path):
    """A folder whose name is no text, with Python's own names in it; no HOME; nothing that can be written to."""
    folder = os.fsencode(tmp_path) + b"/two words\nand \xff\xfe"
    os.mkdir(folder)
    for name in (b"selectors", b"numpy", b"cloudpickle", b"typing"):
        Path(os.fsdecode(folder + b"/" + name + b".py")).write_text("raise RuntimeError('not the real one')\n")
    Path(os.fsdecode(folder + b"/data \xe4.bin")).write_bytes(bytes(range(64)))
    program = (
        WRITES_NOTHING
        + """
    import jax, tempfile
    jax.numpy.zeros(1)
    sys.addaudithook(forbid)
    here = os.getcwd()

    def load(path, arrays, seed):
        with open(path[0], "rb") as file:
            file.seek(path[1])
            arrays["x"][...] = ord(file.read(1))
        return {"path": path[0]}

    items = [(f"{here}/data \\udce4.bin", number) for number in range(64)]
    training = group(items, loader_arrays={"x": ((), "uint8")})
    start = lambda: sys.addaudithook(forbid)
    with Dataloader(load, training, startup_func=start, loader_count=2, end_at=("epoch", 2), timeout_sec=10) as loader:
        for batch in loader:
            assert [item[1] for item in batch.data] == np.asarray(batch.arrays["x"]).tolist()
            assert batch.additional["path"][0] == items[0][0]
    missing = [(f"{here}/nothing \\udce4.bin", 0)]
    with Dataloader(load, group(missing, 1, loader_arrays={"x": ((), "uint8")}), timeout_sec=10) as loader:
        try:
            next(loader)
        except LoaderError as error:
            print(error)
    """
    )
    environment = {"HOME": None, "TMPDIR": "/proc/self", "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    result = python(program, env=environment, cwd=folder, flags=["-P"])
    assert "nothing \\udce4.bin" in result.stdout
    assert "FileNotFoundError" in result.stdout
    if not PORTABLE:  # elsewhere the batches lie in a file of the temporary folder
        assert result.stderr == ""


def test_a_tiny_dev_shm_makes_no_difference():
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    code = """
import os
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 65536
import sys; sys.path.insert(0, os.environ["HYDRAX_FAULTS_FOLDER"])
from faultkit import *
from faultloads import fill, socket_of_worker
big = group(64, 8, loader_arrays={"x": ((1 << 18,), "uint8")})
def load(item, arrays, seed): arrays["x"][...] = item
with Dataloader(load, big, end_at=("epoch", 1), timeout_sec=10) as loader:
    kept = list(loader)
assert all((np.asarray(b.arrays["x"]).max(1) == b.indices).all() for b in kept)
"""
    environment = {**os.environ, "HYDRAX_FAULTS_FOLDER": str(Path(__file__).parent)}
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    command = [unshare, "-m", "sh", "-c", mount, "sh", sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=80, check=False)
    assert (done.returncode, done.stderr.replace("\n", "")[-300:].count("Traceback")) == (0, 0), done.stderr


def test_few_open_files_are_enough_for_few_workers_and_told_for_many():
    result = python("""
        import gc, jax, resource
        jax.numpy.zeros(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        expected = undisturbed(group(400))
        with Dataloader(fill, group(400), end_at=("epoch", 1), loader_count=4, timeout_sec=10) as loader:
            kept = list(loader)
        assert contents(kept) == expected
        del kept
        before = len(os.listdir("/proc/self/fd"))
        with Dataloader(fill, group(), loader_count=30, timeout_sec=10) as loader:
            for _ in range(2):
                try:
                    next(loader)
                except WorkerStartError as error:
                    print(error)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before
        with Dataloader(fill, group(400), end_at=("epoch", 1), loader_count=2, timeout_sec=10) as loader:
            first = next(loader)
            kept = []
            try:
                while True:
                    kept.append(open(os.devnull))
            except OSError:
                pass
            os.kill(loader.stats().workers[0].pid, signal.SIGKILL)
            try:
                rest = contents(loader)
            except WorkerStartError as error:
                print(error)
        for file in kept:
            file.close()
        with Dataloader(fill, group(400), end_at=("epoch", 1), loader_count=2, timeout_sec=10) as loader:
            assert contents(loader) == expected
        """)
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all("Too many open files" in line and "ulimit -n" in line for line in lines)


def test_a_limit_of_memory_is_told():
    result = python("""
        import jax, resource
        jax.numpy.zeros(1)
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), used + (200 << 20)))
        huge = group(64, 8, loader_arrays={"x": ((8 << 20,), "uint8")})
        with Dataloader(fill, huge, timeout_sec=10) as loader:
            try:
                next(loader)
            except (MemoryError, WorkerError) as error:
                print(type(error).__name__, error)
        """)
    assert "cannot be mapped" in result.stdout


def test_a_program_without_standard_streams_is_served():
    # As a daemon has it: the first files opened get the numbers 0 to 2.
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", DAEMON],
        env={**os.environ, "HYDRAX_FAULTS_FOLDER": str(Path(__file__).parent)},
        timeout=80,
        check=False,
    )
    assert result.returncode == 0


DAEMON = """
import os, sys
sys.path.insert(0, os.environ["HYDRAX_FAULTS_FOLDER"])
from faultkit import *
from faultloads import fill, socket_of_worker
from hydrax_core.data.portable import PORTABLE
def load(item, arrays, seed):
    print("heard by nobody")
    return fill(item, arrays, seed)
with Dataloader(load, group(), end_at=("epoch", 1), timeout_sec=10) as loader:
    low = loader._engine._pool.memory.fd < 3 + PORTABLE
    found = contents(loader)
sys.exit(not low or found != undisturbed(group()))
"""


def test_a_message_cut_in_the_middle_is_as_none(tmp_path):
    folder = str(tmp_path)

    def load(item, arrays, seed):
        if item % 16 == 5:
            try:
                os.mkdir(f"{folder}/{item}")
            except FileExistsError:
                pass
            else:
                os.write(socket_of_worker(), (1000).to_bytes(8, "little") + b"half a message")
                os.kill(os.getpid(), signal.SIGKILL)
        return fill(item, arrays, seed)

    expected = undisturbed(group())
    with Dataloader(load, group(), end_at=("epoch", 1), loader_count=2, timeout_sec=15) as loader:
        assert contents(loader) == expected
        assert loader.stats().worker_restarts == 4


def test_messages_cut_at_any_byte_are_as_none(record_property):
    count = rounds(12, 500)
    record_property("rounds", count)

    def cut_messages():
        from hydrax_core.engine.workers.wire import Channel  # noqa: PLC0415  in the worker

        send = Channel.send

        def send_or_die(self, payload):
            if random.random() < 0.1:
                frame = len(payload).to_bytes(8, "little") + payload
                os.write(self.fileno(), frame[: random.randrange(len(frame))])
                os.kill(os.getpid(), signal.SIGKILL)
            send(self, payload)

        Channel.send = send_or_die

    def load(item, arrays, seed):
        return {**fill(item, arrays, seed), "long": bytes([item % 256]) * 30_000}

    many, cuts = group(400), 0
    with Dataloader(load, many, end_at=("epoch", 1), loader_kind="inline") as loader:
        expected = contents(loader)
    while cuts < count:
        with Dataloader(
            load, many, end_at=("epoch", 1), loader_count=2, timeout_sec=20, startup_func=cut_messages
        ) as loader:
            assert contents(loader) == expected
        cuts += loader.stats().worker_restarts


def test_a_worker_whose_socket_is_closed_is_replaced(tmp_path):
    folder = str(tmp_path)

    def load(item, arrays, seed):
        if item in (5, 40):
            try:
                os.mkdir(f"{folder}/{item}")
            except FileExistsError:
                return fill(item, arrays, seed)
            socket.socket(fileno=os.dup(socket_of_worker())).shutdown(socket.SHUT_RDWR)
            time.sleep(1000 if item == 5 else 0)
        return fill(item, arrays, seed)

    expected = undisturbed(group())
    with Dataloader(load, group(), end_at=("epoch", 1), loader_count=2, timeout_sec=15) as loader:
        assert contents(loader) == expected
        assert loader.stats().worker_restarts == 2


def test_a_worker_that_closes_every_file_is_told_not_waited_for():
    def load(item, arrays, seed):
        if item == 5:
            os.closerange(3, 256)
        return fill(item, arrays, seed)

    with Dataloader(load, group(), end_at=("epoch", 1), timeout_sec=15) as loader:
        errors = []
        while True:
            try:
                next(loader)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001  which one is the question
                errors.append(error)
                break
    assert "exited with code 1" in str(errors[0])


def test_a_clock_that_jumps_makes_no_difference(monkeypatch):
    chance = random.Random(4)

    def jump():
        monkeypatch.setattr(time, "time", lambda: chance.uniform(-1e9, 4e9))
        monkeypatch.setattr(time, "time_ns", lambda: chance.randrange(-(10**18), 10**18))

    def jump_in_worker():
        time.time = lambda: random.uniform(-1e9, 4e9)
        time.time_ns = lambda: random.randrange(10**18)

    expected = undisturbed(group())
    jump()
    with Dataloader(
        fill, group(), end_at=("epoch", 1), loader_count=2, timeout_sec=10, startup_func=jump_in_worker
    ) as loader:
        assert contents(loader) == expected


def test_a_folder_changed_after_the_start_is_not_that_of_the_workers(tmp_path, monkeypatch):
    (tmp_path / "here").write_text("yes")
    monkeypatch.chdir(tmp_path)
    marks = str(tmp_path)

    def load(item, arrays, seed):
        result = fill(item, arrays, seed)
        with open("here") as file:
            assert file.read() == "yes"
        if item == 9:
            try:
                os.mkdir(f"{marks}/killed")
            except FileExistsError:
                return result
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    expected = undisturbed(group())
    with Dataloader(load, group(), end_at=("epoch", 1), timeout_sec=15) as loader:
        found = contents([next(loader)])
        monkeypatch.chdir("/")
        try:
            found += contents(loader)
        except LoaderError:
            pytest.fail("a replaced worker looks for files elsewhere than its predecessor")
    assert found == expected


def test_a_dead_worker_is_no_sigpipe_for_a_program_that_dies_of_those():
    result = python("""
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as programs do that write to pipes

        def load(item, arrays, seed):
            if item % 16 == 0 and first(item):
                os.kill(os.getpid(), signal.SIGKILL)
            return fill(item, arrays, seed)

        def first(item):
            try:
                os.mkdir(f"{folder}/{item}")
            except FileExistsError:
                return False
            return True

        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            large = group([("x" * 300_000, number) for number in range(64)])
            plain = lambda item, arrays, seed: load(item[1], arrays, seed)
            with Dataloader(plain, large, end_at=("epoch", 1), loader_count=2, timeout_sec=10) as loader:
                print(len(list(loader)), loader.stats().worker_restarts)
        """)
    assert result.stdout.split() == ["8", "4"]
