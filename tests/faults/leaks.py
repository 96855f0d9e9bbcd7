"""What this process and all that it started hold of the operating system, to compare before and after a test."""

import gc
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "HYDRAX_FAULTS_SESSION"
"""An environment variable that every process started by the tests inherits, also one whose parent is gone."""

_SETTLE_SECONDS = 5.0


@dataclass(frozen=True)
class Holdings:
    processes: frozenset
    threads: frozenset
    descriptors: frozenset
    mappings: int
    shared_memory: frozenset
    temporary_files: frozenset

    def beyond(self, before):
        """What is here and was not there before, by kind; empty when nothing is."""
        found = {
            name: sorted(map(str, getattr(self, name) - getattr(before, name)))
            for name in ("processes", "threads", "descriptors", "shared_memory", "temporary_files")
        }
        found["mappings of batch memory"] = ["one"] * (self.mappings - before.mappings)
        return {name: entries for name, entries in found.items() if entries}


def holdings():
    return Holdings(
        processes=frozenset(_processes()),
        threads=frozenset(threading.enumerate()),
        descriptors=frozenset(_descriptors()),
        mappings=Path("/proc/self/maps").read_text().count("memfd:hydrax"),
        shared_memory=frozenset(_shared_memory()),
        temporary_files=frozenset(str(path) for path in Path(tempfile.gettempdir()).rglob("*")),
    )


def leaked_since(before):
    """What is left of a test when all that may take a moment (ends of processes, jax's late releases) had one."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        gc.collect()
        left = holdings().beyond(before)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.005)


def _processes():
    """Children, dead ones that nobody waited for included, and descendants whose parent may be gone."""
    own = os.getpid()
    mark = f"{MARK}={os.environ[MARK]}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == own:
            continue
        try:
            status = (process / "stat").read_text(errors="replace")
            parent = int(status.rpartition(")")[2].split()[1])
            marked = mark in (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ")[:80]
        except (OSError, ValueError):  # it ended meanwhile, or is another user's
            continue
        if parent == own or marked:
            yield int(process.name), command


def _descriptors():
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            yield int(entry.name), str(entry.readlink())
        except OSError:  # the listing's own
            continue


def _shared_memory():
    """Without what Python's multiprocessing makes, as other programs of this machine may use that; hydrax does not."""
    folder = Path("/dev/shm")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return [name for name in names if not name.startswith(("sem.mp-", "psm_"))]
