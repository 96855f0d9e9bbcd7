"""Groups, batches and folders for the tests of the cache; every batch follows from its key alone."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np

from hydrax_core.cache import CacheStore, clear, info, verify
from hydrax_core.data.group import DataGroup
from hydrax_core.errors import HydraxError

__all__ = ["CacheStore", "HydraxError", "clear", "info", "sys", "textwrap", "verify"]  # for scripts

HERE = Path(__file__).parent
ARRAYS = {"x": ((4, 4), "float32"), "label": ((), "int64"), "half": ((3,), "bfloat16")}
BATCH, ITEMS = 8, 100
BATCHES = ITEMS // BATCH


def group(folder, **changes):
    settings = {"batch_size": BATCH, "data": range(ITEMS), "loader_arrays": ARRAYS, "cache_location": folder}
    settings |= changes
    return DataGroup(settings.pop("batch_size"), settings.pop("data"), **settings)


def open_store(folder, *, kind="training", group_index=0, cacher_count=1, **changes):
    return CacheStore.open(group(folder, **changes), kind=kind, group_index=group_index, cacher_count=cacher_count)


def batch(number, epoch=0, salt=0):
    random = np.random.default_rng((salt, epoch, number))
    return {
        "x": random.random((BATCH, 4, 4), np.float32),
        "label": random.integers(-(2**40), 2**40, BATCH),
        "half": random.random((BATCH, 3)).astype(ml_dtypes.bfloat16),
    }


def additional(number, epoch=0):
    return {"name": [f"{epoch}-{number}-{row}" for row in range(BATCH)]} if number % 2 else {}


def item(index):
    random = np.random.default_rng(index)
    return {
        "x": random.random((4, 4), np.float32),
        "label": np.int64(index),
        "half": random.random(3).astype(ml_dtypes.bfloat16),
    }


def items(indices):
    rows = [item(int(index)) for index in indices]
    return {name: np.stack([row[name] for row in rows]) for name in ARRAYS}


def equal(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and left[name].tobytes() == right[name].tobytes() for name in left
    )


def fill(folder, *, epochs=(0,), batches=range(BATCHES), **changes):
    """A cache with these batches in it."""
    with open_store(folder, **changes) as store:
        for epoch in epochs:
            for number in batches:
                store.write(epoch, number, batch(number, epoch), additional(number, epoch))
    assert store.counters().written == len(epochs) * len(batches)
    return folder


def served(folder, *, epoch=0, **changes):
    """Which batches a new store serves; each is compared with the truth."""
    with open_store(folder, **changes) as store:
        found = [number for number in range(BATCHES) if serve(store, number, epoch)]
    return found, store.counters()


def serve(store, number, epoch=0):
    """Whether the batch is served; it must then be the true one."""
    found = store.read(epoch, number)
    if found is None:
        return False
    assert equal(found.arrays, batch(number, epoch)), (epoch, number)
    assert dict(found.additional) == additional(number, epoch), (epoch, number)
    return True


def snapshot(folder):
    """Every file's bytes and times."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(Path(folder).rglob("*"))
    }


def files_of(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size)


STARTED = []
"""Children that a test started; ``conftest.py`` ends those that are left, as after a time-out."""


@dataclasses.dataclass(frozen=True)
class Child:
    """A Python process that runs a script which has ``cachekit`` as ``kit`` and its arguments as ``arguments``."""

    process: subprocess.Popen

    def line(self):
        text = self.process.stdout.readline()
        assert text, f"the process ended: {self.process.stderr.read()}"
        return text.strip()

    def tell(self, text):
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def result(self):
        output, errors = self.process.communicate(timeout=100)
        assert self.process.returncode == 0, errors
        return output

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


def start(script, *arguments):
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import cachekit as kit; arguments = sys.argv[1:]\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    STARTED.append(Child(process))
    return STARTED[-1]


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))
