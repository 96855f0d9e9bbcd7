"""What workers have in common with the main process, and with each other."""

import decimal
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, LoaderError, WorkerDiedError, WorkerStartError

ARRAYS = {"x": ((), "int32")}


class Odd(UserWarning):
    pass


def run(load, items=8, **options):
    """What ``load(item)`` returned for each item."""

    def fill(item, arrays, seed):
        return {"found": load(item)}

    options = {"end_at": ("epoch", 1), "timeout_sec": 20, **options}
    with Dataloader(fill, DataGroup(1, range(items), loader_arrays=ARRAYS), **options) as loader:
        return [batch.additional["found"][0] for batch in loader]


def program(tmp_path, code, *flags, env=None, name="train.py", command=None):
    (tmp_path / name).write_text(textwrap.dedent(code))
    command = command or [*flags, str(tmp_path / name), "--size", "3"]
    environment = {**os.environ, **(env or {})}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )


@pytest.fixture
def _own_decimals():
    with decimal.localcontext():
        yield


@pytest.mark.parametrize("kind", ["process", "thread", "inline"])
@pytest.mark.usefixtures("_own_decimals")
def test_settings_of_the_main_process_hold_in_workers(kind, monkeypatch):
    if kind == "thread" and np.lib.NumpyVersion(np.__version__) < "2.0.0":
        pytest.skip("NumPy 1 keeps its error settings for each thread")

    def look(item):
        try:
            value = np.float32(1) / np.zeros(1, np.float32)
        except FloatingPointError:
            value = "raised"
        return {
            "argv": list(sys.argv),
            "path": list(sys.path),
            "recursion": sys.getrecursionlimit(),
            "division": value,
            "decimal": str(decimal.Decimal(1) / 3),
        }

    monkeypatch.setattr(sys, "argv", ["mine", "--size", "\udce4"])
    monkeypatch.syspath_prepend("/somewhere")
    monkeypatch.setattr(sys, "path", [*sys.path, "/elsewhere"])
    decimal.getcontext().prec = 5
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 7)
    try:
        with np.errstate(divide="raise"):
            found = run(look, items=1, loader_kind=kind)
    finally:
        sys.setrecursionlimit(before)
    assert found == [
        {
            "argv": ["mine", "--size", "\udce4"],
            "path": sys.path,
            "recursion": before + 7,
            "division": "raised",
            "decimal": "0.33333",
        }
    ]


def test_a_decimal_context_that_nobody_changed_costs_workers_no_import():
    context = decimal.getcontext()
    assert str(context.prec) == "28"
    assert run(lambda item: "decimal" in sys.modules, 1) == [False]


def test_warning_filters_hold_in_workers_also_of_categories_that_they_do_not_know():
    def warn(item):
        category = (Odd, DeprecationWarning, UserWarning)[item]
        try:
            with warnings.catch_warnings(record=True) as seen:
                warnings.warn("careful", category, stacklevel=1)
        except Warning as error:
            return type(error).__name__
        return len(seen)

    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("error", category=Odd)
        assert run(warn, 3) == run(warn, 3, loader_kind="thread") == ["Odd", 0, 1]


def test_a_filter_does_not_import_the_module_of_its_category(tmp_path, monkeypatch):
    (tmp_path / "heavy_module.py").write_text("class HeavyWarning(UserWarning): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import heavy_module  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("error", heavy_module.HeavyWarning)
        assert run(lambda item: "heavy_module" in sys.modules, 1) == [False]


def test_what_workers_log_comes_to_the_terminal_in_the_form_and_from_the_level_of_the_main_process(capsys, monkeypatch):
    def log(item):
        logging.getLogger("mine.loud").debug("debugging %d", item)
        logging.getLogger("mine.quiet").warning("not to be seen")

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("mine %(name)s %(message)s"))
    logger = logging.getLogger("mine")
    monkeypatch.setattr(logger, "handlers", [handler, logging.NullHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    monkeypatch.setattr(logging.getLogger("mine.quiet"), "level", logging.ERROR)
    run(log, 2)
    assert sorted(capsys.readouterr().err.splitlines()) == ["mine mine.loud debugging 0", "mine mine.loud debugging 1"]


def test_strings_have_one_hash_in_all_workers_and_runs(tmp_path):
    def look(item):
        (folder / str(os.getpid())).touch()
        while len(list(folder.iterdir())) < 2:  # or one worker does it all
            time.sleep(0.002)
        return os.getpid(), hash("x"), list({"a", "b", "c", "d", "e"})

    found = []
    for run_number in range(2):
        folder = tmp_path / str(run_number)
        folder.mkdir()
        found += run(look, 16, loader_count=2, depth=8)
    assert len({pid for pid, *_ in found}) == 4
    assert len({str(values) for _, *values in found}) == 1


HASHES = """
    import json, os, sys
    from hydrax_core import DataGroup, Dataloader

    def load(item, arrays, seed):
        flags = sys.flags
        look = [flags.optimize, flags.bytes_warning, flags.dev_mode, flags.utf8_mode, flags.no_user_site]
        mine = {name: value for name, value in os.environ.items() if name.startswith(("PYTHONSOME", "HYDRAX_WORKER"))}
        return {"found": [hash("x"), *look, sys.flags.safe_path, sys._xoptions, mine, __debug__, sys.argv[1:]]}

    def show(kind):
        group = DataGroup(1, range(2), loader_arrays={"x": ((), "int32")})
        with Dataloader(load, group, loader_kind=kind, end_at=("epoch", 1), timeout_sec=20) as loader:
            print(json.dumps([batch.additional["found"][0] for batch in loader][0]))

    show("process")
    show("inline")
"""


@pytest.mark.parametrize(
    ("flags", "seed"),
    [(["-O", "-b", "-X", "utf8=0", "-X", "mine=1", "-s", "-P"], "7"), (["-I", "-OO", "-X", "dev"], None)],
)
def test_flags_of_the_interpreter_reach_workers(tmp_path, flags, seed):
    where = f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
    environment = {"PYTHONHASHSEED": seed, "PYTHONSOME": "thing", "HYDRAX_WORKER": None}
    result = program(tmp_path, where + textwrap.dedent(HASHES), *flags, "-W", "ignore", env=environment)
    worker, main = (json.loads(line) for line in result.stdout.splitlines())
    if seed is None:  # of a main process whose hashes are random
        assert worker[0] != main[0]
        worker[0] = main[0]
    assert worker == main, result.stderr
    assert worker[-1] == ["--size", "3"]


SCRIPT = """
    import dataclasses, enum, functools, sys, collections
    import numpy as np
    from hydrax_core import DataGroup, Dataloader

    ROOT = None
    Point = collections.namedtuple("Point", "x y")

    class Kind(enum.Enum):
        EVEN = 0
        ODD = 1

    class Item:
        shared = None

        def __init__(self, number):
            self.number = number

        def decode(self):
            return f"{ROOT}/{self.number}/{Item.shared}"

        @functools.cached_property
        def half(self):
            return self.number // 2

    @dataclasses.dataclass(frozen=True)
    class Result:
        kind: Kind
        point: Point

    def start():
        global ROOT
        ROOT = "set by startup"
        Item.shared = "class"

    @functools.cache
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    @functools.singledispatch
    def describe(value):
        return "thing"

    @describe.register
    def _(value: Item):
        return f"item {value.number}"

    def load(item, arrays, seed):
        arrays["x"][...] = fibonacci(item.number)
        Local = collections.namedtuple("Local", "a")
        return {
            "decoded": item.decode(),
            "described": describe(item) + describe(3),
            "half": item.half,
            "result": Result(Kind(item.number % 2), Point(1, item.number)),
            "local": tuple(Local(5)) if item.number else Local(5),
        }

    for kind in ("inline", "thread", "process"):
        group = DataGroup(2, [Item(n) for n in range(6)], loader_arrays={"x": ((), "int32")})
        options = {"startup_func": start, "end_at": ("epoch", 1), "timeout_sec": 20}
        with Dataloader(load, group, loader_kind=kind, **options) as loader:
            found = []
            for batch in loader:
                found.append([np.asarray(batch.arrays["x"]).tolist(), sorted(batch.additional.items())])
                assert isinstance(batch.additional["result"][0], Result)
                assert batch.additional["result"][0].kind in (Kind.EVEN, Kind.ODD)
        print(found)
        ROOT = Item.shared = None
"""


@pytest.mark.parametrize("way", ["script", "command"])
def test_what_a_script_defines_works_in_processes_as_it_does_in_threads(tmp_path, way):
    command = ["-c", textwrap.dedent(SCRIPT)] if way == "command" else None
    result = program(tmp_path, SCRIPT, command=command)
    lines = result.stdout.splitlines()
    assert len(lines) == 3, result.stderr
    assert lines[0] == lines[1] == lines[2]
    assert "set by startup/5/class" in lines[0]


def test_classes_made_in_a_function_come_back_as_they_were():
    class Mine:
        def __init__(self, value):
            self.value = value

        def double(self):
            return 2 * self.value

    double = Mine.double
    found = run(Mine, 3)
    assert [type(value) for value in found] == [Mine] * 3
    assert Mine.double is double
    assert found[2].double() == 4


def test_a_script_that_trains_as_it_is_imported_starts_no_workers_in_its_workers(tmp_path):
    code = """
        import os
        from hydrax_core import DataGroup, Dataloader

        def load(item, arrays, seed):
            arrays["x"][...] = item

        open(f"started-{os.getpid()}", "w").close()
        with Dataloader(load, DataGroup(2, range(4), loader_arrays={"x": ((), "int32")}), timeout_sec=20) as loader:
            next(loader)
    """
    result = program(tmp_path, code, name="train.py", command=["-c", "import train"])
    assert "WorkerStartError" in result.stderr
    assert "if __name__ == '__main__':" in result.stderr
    assert len(list(tmp_path.glob("started-*"))) == 2


def test_a_program_that_is_its_own_interpreter_starts_no_workers_without_end(tmp_path, monkeypatch, capsys):
    app = tmp_path / "app"
    start = "from hydrax_core.engine.workers.process import ProcessWorkers; ProcessWorkers(None, None)"
    app.write_text(f'#!/bin/sh\necho x >> {tmp_path}/starts\nexec {sys.executable} -c "{start}"\n')
    app.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(app))
    with pytest.raises(WorkerDiedError):
        run(lambda item: None, 1)
    assert "was started as a worker of itself" in capsys.readouterr().err
    assert (tmp_path / "starts").read_text().count("x") < 10


@pytest.mark.parametrize(("name", "value"), [("frozen", True), ("executable", "")])
def test_a_program_without_an_interpreter_is_refused(monkeypatch, name, value):
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(WorkerStartError, match=r"sys\.executable.*loader_kind='thread'"):
        run(lambda item: None, 1)
    assert run(lambda item: item, 1, loader_kind="thread") == [0]


def test_a_default_timeout_of_sockets_ends_no_worker():
    import socket  # noqa: PLC0415

    def look(item):
        time.sleep(0.3 if item == 0 else 0)  # longer than the timeout
        return socket.getdefaulttimeout()

    socket.setdefaulttimeout(0.05)
    try:
        assert run(look, 3) == run(look, 3, loader_kind="thread") == [0.05] * 3
    finally:
        socket.setdefaulttimeout(None)


class NoFlush:
    def __init__(self):
        self.texts = []

    def write(self, text):
        self.texts.append(text)


class Raising:
    def write(self, *_):
        raise RuntimeError("mine")

    flush = write


@pytest.mark.parametrize("stream", [NoFlush, Raising])
def test_any_object_may_stand_in_the_place_of_stdout(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream())
    assert run(lambda item: bool(sys.stdout.write("hello\n")) and item, 3) == [0, 1, 2]
    if stream is NoFlush:
        assert "".join(sys.stdout.texts) == "hello\n" * 3


def test_signals_to_the_job_end_no_worker():
    numbers = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT
    group = DataGroup(1, range(200), loader_arrays=ARRAYS)
    with Dataloader(lambda item, arrays, seed: None, group, loader_count=2, timeout_sec=20) as loader:
        for number in numbers:
            for worker in loader.stats().workers:
                os.kill(worker.pid, number)
            for _ in range(30):
                next(loader)
        assert loader.stats().worker_restarts == 0


def test_forks_and_programs_of_the_loader_obey_signals():
    def start(item):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.kill(pid, signal.SIGTERM)
        program = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        program.terminate()
        return os.WTERMSIG(os.waitpid(pid, 0)[1]), program.wait()

    assert run(start, 1) == [(signal.SIGTERM, -signal.SIGTERM)]


def test_a_mapped_file_travels_as_its_name(tmp_path):
    numbers = np.arange(1 << 20, dtype=np.int64)
    np.save(tmp_path / "numbers.npy", numbers)
    mapped = np.load(tmp_path / "numbers.npy", mmap_mode="r")
    views = {
        "whole": mapped,
        "part": mapped[1000:900_000],
        "every third, backwards": mapped[::-3],
        "folded": mapped[: 1 << 19].reshape(512, -1).T,
        "plain": np.asarray(mapped),
        "copy on write": np.load(tmp_path / "numbers.npy", mmap_mode="c"),
    }
    from hydrax_core.engine.workers import pickling  # noqa: PLC0415

    sizes = {name: len(pickling.dumps(view)) for name, view in views.items()}
    assert [name for name, size in sizes.items() if size > 10_000] == ["copy on write"]

    def look(item):
        return {name: (type(view).__name__, int(view.sum()), view.flags.writeable) for name, view in views.items()}

    assert run(look, 1) == [look(0)]


def test_of_a_mapped_file_that_others_cannot_open_the_numbers_travel(tmp_path):
    np.save(tmp_path / "numbers.npy", np.ones(1 << 18))
    mapped = np.load(tmp_path / "numbers.npy", mmap_mode="r")
    (tmp_path / "numbers.npy").unlink()
    np.save(tmp_path / "numbers.npy", np.zeros(1 << 18))
    assert run(lambda item: float(mapped.sum()), 1) == [1 << 18]


@pytest.mark.parametrize("kind", ["process", "thread", "inline"])
def test_what_an_exception_says_of_itself_is_bounded(kind):
    def fail(item):
        raise ValueError("x" * 20_000_000 + "the end")

    with pytest.raises(LoaderError) as found:
        run(fail, 1, loader_kind=kind)
    text = str(found.value)
    assert len(text) < 200_000
    assert "the end" in text
    assert "characters left out" in text
