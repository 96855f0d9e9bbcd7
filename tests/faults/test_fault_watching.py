"""A run that is watched: what is told is true, and whoever watches, however, changes nothing."""

import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import stat
import subprocess
import threading

import numpy as np
import pytest
from faultkit import ARRAYS, LARGE, content, contents, group, limit, python, start_python, undisturbed
from faultloads import fill
from waiting import wait_until
from watchkit import Watch, only_run

from hydrax_core import DataGroup, Dataloader, LoaderError
from hydrax_core.monitor import Ask, Bye, Refusal, RunPlan, Sample
from hydrax_core.monitor.client import Run, find_runs
from hydrax_core.monitor.protocol import address
from hydrax_core.monitor.server import server

pytestmark = limit(60)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    folder = tmp_path / "runtime"
    folder.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.delenv("HYDRAX_MONITOR", raising=False)


def watched(function=fill, data=None, **options):
    return Dataloader(function, data or group(), **{"monitor": True, "loader_kind": "thread", **options})


def chatty(item, arrays, seed):
    fill(item, arrays, seed)
    print("loading", item, flush=True)  # noqa: T201  a worker's print is what is told


def failing(item, arrays, seed):
    fill(item, arrays, seed)
    if item == 20:
        raise ValueError("a bad item")


def test_what_is_told_of_a_watched_run_is_what_happens(caplog):
    validation = ("epoch", 1, group(16, shuffle_first=False))
    with watched(chatty, validation=validation, monitor="mine", loader_kind="process") as loader, Watch() as watch:
        assert watch.got[0][0].name == "mine"
        assert watch.got[0][0].pid == os.getpid()
        about = watch.ask(RunPlan, "about")
        assert (about.batches_per_epoch, about.validation_interval) == (8, 8)
        assert [(plan.kind, plan.items) for plan in about.groups] == [("training", 64), ("validation", 16)]
        assert {plan.name: plan.shape for plan in about.groups[0].loaded} == {"x": (8, 5), "seed": (8,), "item": (8,)}
        batches = [next(loader) for _ in range(12)]
        logging.getLogger("hydrax").warning("said %s", "so")
        moment = watch.moment()
        assert [(r.kind, r.epoch, r.epoch_batch, r.batch_num, r.size) for r in moment.records] == [
            (b.address.kind, b.address.epoch, b.address.epoch_batch, b.address.batch_num, b.size) for b in batches
        ]
        assert [record.seed for record in moment.records[:8]] == [batch.seed for batch in batches[:8]]
        assert [record.load_seconds for record in moment.records] == [batch.load_seconds for batch in batches]
        assert all(record.load_seconds > 0 for record in moment.records)
        assert (moment.stats.training_batches, moment.stats.validation_batches) == (10, 2)
        assert moment.device.startswith("cpu")
        lines = list(moment.lines)
        wait_until(lambda: lines.extend(watch.moment(after=12, lines_after=lines[-1].serial).lines) or len(lines) > 60)
        assert ("hydrax", "warning", "said so") in {(line.source, line.level, line.text) for line in lines}
        assert ("worker 0", "info", "loading 3") in {(line.source, line.level, line.text) for line in lines}
        assert watch.moment(after=12, lines_after=lines[-1].serial).records == ()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("arrays", [ARRAYS, LARGE], ids=["small", "large"])
def test_rows_that_are_copied_are_those_of_the_batch_and_hold_nothing(whole, arrays):
    data = group(loader_arrays=arrays, batch_size=8, remainder="pad", items=60)
    with watched(data=data) as loader, Watch() as watch:
        sample, copied, batch = watch.sample(loader, whole=whole)
        assert sample.rows == sample.record.size == batch.size
        assert (sample.indices, sample.seeds) == (batch.indices, batch.seeds)
        assert sample.descriptors == tuple(map(str, batch.data))
        assert dict(sample.additional)["name"] == tuple(batch.additional["name"][: batch.size])
        for name, array in copied.items():
            np.testing.assert_array_equal(array, batch.arrays[name][: batch.size])
        del batch
        wait_until(lambda: gc.collect(0) is not None and next(loader) and loader.stats().held_batches <= 1)


def test_a_batch_that_is_too_large_is_not_copied_whole(monkeypatch):
    monkeypatch.setattr(server, "MOST_PAYLOAD", 1 << 16)
    monkeypatch.setattr(server, "_SAMPLE_BYTES", 1 << 16)
    with watched(data=group(loader_arrays=LARGE)) as loader, Watch() as watch:
        assert "batches of at most 0 MiB" in watch.ask(Refusal, "batch").text
        sample, copied, _ = watch.sample(loader, whole=False)
        assert sample.rows == len(copied["x"]) == 3


def test_an_error_is_told_with_its_batch_and_goes_with_the_next_one():
    with watched(failing, group(shuffle_first=False)) as loader, Watch() as watch:
        with pytest.raises(LoaderError):
            contents(loader)
        moment = watch.moment()
        assert [record.epoch_batch for record in moment.records if record.error] == [2]
        assert "a bad item" in moment.trouble.text
        next(loader)
        assert watch.moment(after=3).trouble is None


def test_how_a_run_ends_is_its_last_word():
    with watched(end_at=("epoch", 1)) as loader, Watch() as watch:
        contents(loader)
        assert watch.moment().ended
        assert "no further batch" in watch.ask(Refusal, "batch").text
        loader.close()
        assert watch.until(Bye) == Bye("the run has ended", failed=False)
    with contextlib.suppress(ZeroDivisionError), watched() as loader:
        watch = Watch()
        next(loader)
        _ = 1 / 0
    with watch:
        bye = watch.until(Bye)
    assert bye.failed
    assert "ZeroDivisionError" in bye.text
    with contextlib.suppress(KeyboardInterrupt), watched():
        watch = Watch()
        raise KeyboardInterrupt
    with watch:
        assert watch.until(Bye) == Bye("the run was ended by KeyboardInterrupt", failed=False)


def test_a_loader_is_offered_while_it_runs_and_wherever_it_is_asked_for(monkeypatch):
    def offered(**options):
        with Dataloader(fill, group(), loader_kind="inline", **options) as loader:
            next(loader)
            return [thread.name for thread in threading.enumerate()].count("hydrax-monitor")

    assert [offered(), offered(monitor=False), offered(monitor=True), offered(monitor="name")] == [0, 0, 1, 1]
    for value, count in (("1", 1), ("yes", 1), ("0", 0), ("", 0), ("off", 0)):
        monkeypatch.setenv("HYDRAX_MONITOR", value)
        assert (offered(), offered(monitor=False), offered(monitor=True)) == (count, 0, 1), value
    assert find_runs() == []


def test_loaders_of_one_process_are_told_apart_and_one_can_be_entered_again():
    with watched(monitor="one") as first, watched(monitor="two"):
        wait_until(lambda: len(find_runs()) == 2)
        assert {(run.name, run.pid) for run in find_runs()} == {("one", os.getpid()), ("two", os.getpid())}
        assert {run.number for run in find_runs()} == {1, 2}
        state = first.state_dict()
        first.load_state_dict(state)
        next(first)
        assert only_run("one")
    assert find_runs() == []
    with first:
        assert only_run().name == "one"
    assert find_runs() == []


def test_the_socket_is_the_users_alone(tmp_path):
    before = os.umask(0)
    try:
        with watched():
            _check_modes(only_run().path, tmp_path / "runtime" / "hydrax")
    finally:
        os.umask(before)
    assert not (tmp_path / "runtime" / "hydrax").exists()


def _check_modes(path, folder):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert path.parent == folder


def test_another_user_is_refused(monkeypatch, caplog):
    with watched(end_at=("epoch", 1)) as loader:
        path = only_run().path
        monkeypatch.setattr(address, "peer_user", lambda connection: os.geteuid() + 1)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            with address._short(path) as name:
                connection.connect(name)
            assert connection.recv(100) == b""
        with pytest.raises(ConnectionError, match="offered by another user"):
            Watch(type("Run", (), {"path": path}))
        assert len(contents(loader)) == 8
    assert "was refused" in caplog.text


def spoil_with_file(folder):
    folder.write_text("")


def spoil_with_link(folder):
    folder.symlink_to(folder.parent)


def spoil_with_mode(folder):
    folder.mkdir()
    folder.chmod(0o755)


def spoil_with_owner(folder):
    folder.mkdir(0o700)
    address.os = type("Os", (), {**vars(os), "geteuid": staticmethod(lambda: os.geteuid() + 1)})


@pytest.mark.parametrize("spoil", [spoil_with_file, spoil_with_link, spoil_with_mode, spoil_with_owner])
def test_a_folder_that_cannot_be_trusted_is_not_used_and_the_run_goes_on(spoil, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.delenv("XDG_RUNTIME_DIR")
        patch.setattr("tempfile.tempdir", str(tmp_path))
        user = os.geteuid() + (spoil is spoil_with_owner)
        patch.setattr(address, "os", os)
        spoil(tmp_path / f"hydrax-{user}")
        with watched(end_at=("epoch", 1)) as loader:
            found = contents(loader)
            wait_until(lambda: "this run cannot be watched" in caplog.text)
        assert find_runs() == []
    assert found == undisturbed(group())
    assert caplog.text.count("cannot be watched") == 1


def test_a_path_that_is_too_long_for_a_socket_is_no_hindrance(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with watched() as loader, Watch() as watch:
        next(loader)
        assert watch.moment().stats.training_batches == 1
    assert list(folder.iterdir()) == []


STARE = """
    import socket, struct, json, time
    connection = socket.socket(socket.AF_UNIX)
    folder = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)
    connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(sys.argv[1])}")
    connection.recv(10)
    for question in (["about", 0, 0, False], ["batch", 0, 0, False], ["moment", 0, 0, True])[: int(sys.argv[2])]:
        text = json.dumps(["Ask", question]).encode()
        connection.sendall(struct.pack("<4sII", b"hydx", len(text), 0) + text)
    print("there", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_who_watches_and_is_stopped_or_killed_holds_up_nothing(how, monkeypatch):
    """With batches of a megabyte, more than a socket takes: it is left with a part of an answer."""
    monkeypatch.setattr("hydrax_core.monitor.server.peer._TIMEOUT_SECONDS", 0.2)
    large = group(loader_arrays={"x": ((1 << 15,), "float32"), "seed": ((), "uint32"), "item": ((), "int32")})
    with watched(data=large, end_at=("epoch", 4)) as loader:
        process = start_python(STARE, arguments=[str(only_run().path), "2"])
        try:
            assert process.stdout.readline() == "there\n"
            monitor = loader._monitor
            wait_until(lambda: any(peer.wants_batch for peer in monitor._peers))
            process.send_signal(how)
            found = contents(loader)
            wait_until(lambda: not monitor._peers)
            with Watch() as watch:
                assert watch.moment().ended
        finally:
            process.kill()
            process.communicate()
    assert found == undisturbed(large, end_at=("epoch", 4))


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\n\r\n", b"hydx" + b"\xff" * 8, b"hydx\x02\0\0\0\0\0\0\0[]", b"hydx\x01\0\0\0\0\0\0\0[" * 99],
)
def test_who_says_nonsense_is_dropped_and_others_are_served(noise):
    with watched(end_at=("epoch", 1)) as loader, Watch() as watch:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            with address._short(only_run().path) as name:
                connection.connect(name)
            connection.sendall(noise)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1 << 16):
                    pass
        assert len(contents(loader)) == 8
        assert watch.moment().stats.training_batches == 8


def test_only_so_many_may_watch_and_each_that_leaves_makes_room():
    with watched(), contextlib.ExitStack() as stack:
        run = only_run()
        watches = [stack.enter_context(Watch(run)) for _ in range(server._MOST_CLIENTS)]
        with contextlib.closing(server.socket.socket(socket.AF_UNIX)) as late:
            late.settimeout(20)
            with address._short(run.path) as name:
                late.connect(name)
            assert b"others watch this run already" in late.recv(1000)
        watches[0].connection.close()
        wait_until(lambda: only_run().hello is not None)
        assert watches[-1].moment().stats.running


def test_a_process_without_a_descriptor_to_spare_serves_who_comes_when_it_has_one(monkeypatch):
    accept, refused = socket.socket.accept, []

    def accept_late(listening):
        if len(refused) < 2:
            refused.append(1)
            raise OSError(errno.EMFILE, "too many open files")
        return accept(listening)

    monkeypatch.setattr(server, "_DEAF_SECONDS", 0.1)
    monkeypatch.setattr(socket.socket, "accept", accept_late)
    with watched() as loader:
        wait_until(lambda: any(address.in_use(found.path) for found in address.listed()))
        with Watch(Run(address.listed()[0].path, os.getpid(), 1, None)) as watch:
            next(loader)
            assert watch.moment().stats.training_batches == 1
    assert len(refused) == 2


@pytest.mark.filterwarnings("ignore:.*fork.*")  # what this is about
def test_a_forked_child_lets_go_of_who_watches_its_parent():
    reader, writer = os.pipe()
    with watched() as loader, Watch() as watch:
        next(loader)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                loader.close()
                os.close(writer)
                os.read(reader, 1)  # until the parent is done
            os._exit(0)
        assert watch.moment().stats.training_batches == 1
        assert only_run().path.exists()
        loader.close()
        assert not watch.until(Bye).failed
        with pytest.raises(ConnectionError, match="cut"):
            watch.until(type(None))  # nobody else holds the other end
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)


def test_a_loader_that_is_dropped_is_no_longer_offered():
    loader = watched()
    next(loader)
    with Watch() as watch:
        del loader
        gc.collect()
        assert not watch.until(Bye).failed
    wait_until(lambda: find_runs() == [])


LEFT = """
    loader = Dataloader(fill, group(), monitor=True)
    next(loader)
    print("up", flush=True)
    sys.stdin.readline()
"""


def test_a_program_that_ends_takes_its_socket_with_it_and_what_a_killed_one_leaves_is_swept(tmp_path):
    for killed in (False, True):
        process = start_python(LEFT, stdin=subprocess.PIPE)
        assert process.stdout.readline() == "up\n"
        run = only_run()
        assert run.pid == process.pid
        if killed:
            process.kill()
        output, errors = process.communicate()
        assert (output, errors) == ("", "")
        assert run.path.exists() == killed
        assert find_runs() == []
        assert not run.path.parent.exists()
    assert list((tmp_path / "runtime").iterdir()) == []


def test_what_a_program_logs_is_the_same_whoever_listens():
    program = """
        from watchkit import Watch
        import logging
        with Dataloader(fill, group(), monitor=True) as loader, Watch() as watch:
            next(loader)
            logging.getLogger("hydrax").warning("heard by the last resort")
            print(*(line.text for line in watch.moment().lines))
    """
    done = python(program)
    assert done.stdout == "heard by the last resort\n"
    assert done.stderr == "heard by the last resort\n"


def test_content_and_leases_of_a_run_are_the_same_watched_or_not():
    large = group(loader_arrays=LARGE)
    options = {"end_at": ("epoch", 1), "depth": 2}
    with watched(data=large, **options) as loader, Watch() as watch:
        found, most = [], 0
        for batch in loader:
            watch.moment(after=len(found), sample=True)
            found.append(content(batch))
            del batch
            most = max(most, len(loader.stats().slots))
        assert most <= options["depth"] + 2
        assert any(isinstance(message, Sample) for message, _ in watch.got)
    with Dataloader(fill, large, loader_kind="inline", **options) as loader:
        assert found == [content(batch) for batch in loader]


def test_arguments_that_name_no_run_are_refused():
    for value, error in ((3, TypeError), ("", ValueError), ("42", ValueError), ("n" * 61, ValueError)):
        with pytest.raises(error, match="monitor: expected True, False, a name, or None"):
            Dataloader(fill, DataGroup(8, range(8), loader_arrays=ARRAYS), monitor=value)


def test_who_reads_slowly_waits_for_itself_alone(monkeypatch):
    monkeypatch.setattr("hydrax_core.monitor.server.peer._TIMEOUT_SECONDS", 1000.0)
    data = group(loader_arrays={**ARRAYS, "x": ((1 << 16,), "float32")}, batch_size=8)
    with watched(data=data) as loader, Watch() as slow, Watch() as quick:
        slow.connection.ask(Ask("batch"))  # 2 MiB, which no socket holds; none of it is read
        for _ in range(3):
            sample, _, _ = quick.sample(loader, whole=False)
            assert sample.rows
            quick.got.clear()
