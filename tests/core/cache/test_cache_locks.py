"""Locks of a cache: those of open files, and those that stand in for them, keep the same promise."""

import fcntl
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.cache.store import record_locks
from hydrax_core.cache.store.locks import OpenFileLocks
from hydrax_core.cache.store.record_locks import RecordLocks

READ, WRITE, FREE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
KINDS = [OpenFileLocks, RecordLocks]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "lock").touch()
    return tmp_path / "lock"


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([READ, WRITE, FREE, "is taken", "close"]), st.integers(0, 1)),
    max_size=20,
)


@given(STEPS)
def test_within_a_process_both_kinds_say_the_same(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("locks") / "lock"
    path.touch()
    users = {kind: [kind(path, os.O_RDWR) for _ in range(3)] for kind in KINDS}
    for number, what, place in steps:
        said = []
        for kind, made in users.items():
            place_of_kind = place + 10 * KINDS.index(kind)
            if what == "close":
                made[number].close()
                made[number] = kind(path, os.O_RDWR)
            elif what == "is taken":
                said.append(made[number].is_taken(place_of_kind))
            else:
                said.append(made[number].take(what, place_of_kind))
        assert len(set(said)) <= 1, (number, what, place)
    for user in (user for made in users.values() for user in made):
        user.close()
    assert not record_locks._files


OTHER = """
import fcntl, os, pathlib, sys
from hydrax_core.cache.store.locks import OpenFileLocks
from hydrax_core.cache.store.record_locks import RecordLocks
kinds = {"OpenFileLocks": OpenFileLocks, "RecordLocks": RecordLocks}
locks = kinds[sys.argv[1]](pathlib.Path(sys.argv[2]), os.O_RDWR)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


@pytest.fixture
def other(path, request):
    command = [sys.executable, "-c", OTHER, request.param.__name__, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(text):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            return process.stdout.readline().strip() == "True"

        ask.process = process
        yield ask
        process.kill()


@pytest.mark.parametrize(("kind", "other"), [(kind, kind) for kind in KINDS], indirect=["other"])
def test_processes_exclude_each_other_byte_by_byte_until_they_end(kind, other, path):
    first, second = kind(path, os.O_RDWR), kind(path, os.O_RDWR)
    assert first.take(READ, 0)
    assert second.take(READ, 0)
    assert other(f"locks.take({READ}, 0)")
    assert not first.take(WRITE, 0)
    assert other(f"locks.take({FREE}, 0)")
    second.close()
    assert not other(f"locks.take({WRITE}, 0)"), "what one user gave back the other still has"
    assert other("locks.is_taken(0)")
    reader = kind(path, os.O_RDONLY)
    assert reader.is_taken(0)
    reader.close()
    assert not other("locks.is_taken(1)")
    assert other(f"locks.take({WRITE}, 64)")
    assert first.is_taken(64)
    assert not first.take(WRITE, 64)
    other.process.kill()
    other.process.wait()
    assert first.take(WRITE, 64)
    first.close()


def test_a_user_who_reads_is_joined_by_one_who_writes(path):
    reader = RecordLocks(path, os.O_RDONLY)
    assert reader.take(READ, 0)
    writer = RecordLocks(path, os.O_RDWR)
    assert not writer.take(WRITE, 0)
    assert writer.is_taken(0)
    assert not reader.is_taken(0)
    reader.close()
    assert writer.take(WRITE, 0)
    writer.close()
    writer.close()
    assert not record_locks._files


def test_a_file_that_took_anothers_place_is_another(path):
    first = RecordLocks(path, os.O_RDWR)
    assert first.take(WRITE, 0)
    path.unlink()
    second = RecordLocks(path, os.O_RDWR | os.O_CREAT)
    assert second.take(WRITE, 0)
    assert second.status().st_ino == path.stat().st_ino != first.status().st_ino
    first.close()
    second.close()
