"""What the fault tests share: rounds, batches that tell everything about themselves, digests, programs of their own."""

import contextlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import xxhash
from faultloads import fill

from hydrax_core import BatchTimeoutError, DataGroup, Dataloader

LONG = os.environ.get("HYDRAX_FAULTS") == "long"
KINDS = ("process", "thread", "inline")

ARRAYS = {"x": ((5,), "float32"), "seed": ((), "uint32"), "item": ((), "int32")}
LARGE = {**ARRAYS, "x": ((4096,), "float32")}
"""Batches of these are handed over without a copy; small ones are copied."""


def rounds(everyday, long):
    """How many seeded rounds a test makes: few in the everyday suite, many with ``make faults``."""
    return long if LONG else everyday


def limit(everyday, long=None):
    """The time limit of a test: seconds that it may take on a quiet machine; a busy one may take three times that."""
    import pytest  # noqa: PLC0415  programs of their own use this module, too

    return pytest.mark.timeout((long or 10 * everyday) if LONG else 3 * everyday)


def group(items=64, batch_size=8, **options):
    data = range(items) if isinstance(items, int) else items
    options = {"loader_arrays": ARRAYS, "shuffle_first": True, "seed": 3, **options}
    return DataGroup(batch_size, data, **options)


def content(batch):
    """All that there is to know about a batch, as bytes."""
    parts = [repr((batch.address, batch.indices, batch.size, sorted(batch.additional.items())))]
    if batch.is_training:
        parts.append(repr((batch.seed, batch.seeds)))
    parts.extend(f"{name} {xxhash.xxh3_64_hexdigest(np.asarray(a).tobytes())}" for name, a in batch.arrays.items())
    return "\n".join(parts).encode()


def contents(loader):
    """One digest a batch of the run."""
    return [xxhash.xxh3_64_hexdigest(content(batch)) for batch in loader]


def undisturbed(training, **options):
    """The digests of a run in which nothing goes wrong."""
    options = {"loader_kind": "inline", "end_at": ("epoch", 1), **options}
    with Dataloader(fill, training, **options) as loader:
        return contents(loader)


def collect(loader):
    """Digests and errors of a run, in order; an error stands in the place of its batch, one that stays ends it."""
    found = []
    while True:
        try:
            found.append(xxhash.xxh3_64_hexdigest(content(next(loader))))
        except StopIteration:
            return found
        except Exception as error:  # noqa: BLE001  whatever comes is for the test to judge
            if error in found:
                return found
            found.append(error)


def indices(found):
    """Of what ``collect`` gave: the index of the item of each error, ``None`` for a batch."""
    return [entry.index if isinstance(entry, Exception) else None for entry in found]


def damaged(data, chance):
    """The bytes with some flipped, cut out, doubled or put in."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 5, 20])):
        place = chance.randrange(len(found) + 1) if found else 0
        what = chance.random()
        if what < 0.5 and place < len(found):
            found[place] ^= 1 << chance.randrange(8)
        elif what < 0.65:
            del found[place:]
        elif what < 0.75:
            del found[place : place + chance.randrange(1, 64)]
        elif what < 0.85:
            found[place:place] = chance.randbytes(chance.randrange(1, 64))
        else:
            found[place : place + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"])
    return bytes(found)


def timed_out(loader, text):
    """The error of a ``next()`` that waits for a worker of which this is said; at first it may have been starting."""
    while True:
        try:
            next(loader)
        except BatchTimeoutError as error:
            if text in str(error):
                return str(error)


PREAMBLE = """
import os, signal, sys, threading
folder = os.environ["HYDRAX_FAULTS_FOLDER"]
sys.path[:0] = [folder, os.path.dirname(folder)]
from faultkit import *
from waiting import wait_until
from faultloads import fill
from hydrax_core import *
"""


def python(code, *, seconds=30.0, check=True, **options):
    """Run a program of its own with this module's names at hand; its output and exit code."""
    process = start_python(code, **options)
    try:
        output, errors = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    result = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        assert result.returncode == 0, f"exit code {result.returncode}\n{output}\n{errors}"
    return result


STARTED = []
"""Programs that a test started; what still runs when it ends, as after a time-out, is killed then."""


def kill_started():
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # what is still to be written to a dead program
                    stream.close()


def start_python(code, *, arguments=(), env=None, flags=(), **options):
    environment = {**os.environ, "HYDRAX_FAULTS_FOLDER": str(Path(__file__).parent), **(env or {})}
    environment = {name: value for name, value in environment.items() if value is not None}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    program = PREAMBLE + textwrap.dedent(code)
    STARTED.append(subprocess.Popen([sys.executable, *flags, "-c", program, *arguments], env=environment, **options))
    return STARTED[-1]
