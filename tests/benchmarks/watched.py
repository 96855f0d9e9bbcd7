"""What watching costs a run: ``python tests/benchmarks/watched.py``, about four minutes.

The tiny work (16 float32 an item, batch 256, two workers), as in ``works.py``. In one process two loaders take turns of
a sixth of a second: one that is not offered (``monitor=False``), one that is and is watched as the case says. A ratio
is taken between each turn and its two neighbours, so that what other programs do falls on both; the median of the
ratios is shown, with the quartiles. The first case compares a loader that is not offered with another such one: what
it shows beside 1 is noise. The app is a real one on a terminal of 120x40; while the other loader has its turn it is
stopped (SIGSTOP), so that its own use of the processor counts, too.

Beside that it shows what can be told exactly: the time that the thread of the monitor takes of a core, and what the
calls in ``next()`` take.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import timeit
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import numpy as np
from loads import load_named
from rich.console import Console
from rich.table import Table

from hydrax_core import DataGroup, Dataloader

TURN = 0.16
SETTLE = 0.04
WARM = 2.0
BATCH = 256
APP = "import sys; from hydrax_cli.main import main; sys.argv = ['hydrax', 'inspect', '--attach', sys.argv[1]]; main()"


def loader(*, monitor: bool) -> Dataloader[int]:
    load = load_named("tiny")
    arrays = {name: (shape, dtype, dtype) for name, (shape, dtype) in load.specs.items()}
    group = DataGroup(BATCH, range(10**6), loader_arrays=arrays)
    return Dataloader(load.fill, group, loader_count=2, monitor=monitor)


def take(batches: Dataloader[int], seconds: float) -> float:
    """Items a second; every byte is read."""
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        for array in next(batches).arrays.values():
            float(np.asarray(array).sum())
        count += 1
    return count * BATCH / (now - start)


@contextmanager
def app(*, stopped: bool) -> Iterator[int]:
    """The app in a terminal of its own, watching this process."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    command = [sys.executable, "-c", APP, str(os.getpid())]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    reader = threading.Thread(target=_drain, args=(master,), daemon=True)
    reader.start()
    try:
        yield process.pid
    finally:
        os.kill(process.pid, signal.SIGCONT if stopped else 0)
        process.kill()
        process.wait()
        os.close(slave)
        reader.join()
        os.close(master)


def _drain(master: int) -> None:
    with suppress(OSError):
        while os.read(master, 1 << 16):
            pass


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(plain: Dataloader[int], watched: Dataloader[int], turns: int, pid: int, *, toggled: bool) -> list[float]:
    """The watched loader's rate over the mean of its neighbours', a ratio a turn."""
    before, ratios = _turn(plain, pid, toggled=toggled, on=False), []
    for _ in range(turns):
        rate = _turn(watched, pid, toggled=toggled, on=True)
        after = _turn(plain, pid, toggled=toggled, on=False)
        ratios.append(2 * rate / (before + after))
        before = after
    return ratios


def _turn(batches: Dataloader[int], pid: int, *, toggled: bool, on: bool) -> float:
    if toggled:
        os.kill(pid, signal.SIGCONT if on else signal.SIGSTOP)
    take(batches, SETTLE)  # what the turn before has left in processor and queues
    return take(batches, TURN)


def monitor_seconds() -> float:
    """Time that the threads of monitors in this process have run."""
    names = {thread.native_id for thread in threading.enumerate() if thread.name == "hydrax-monitor"}
    return sum(int(Path(f"/proc/self/task/{name}/schedstat").read_text().split()[0]) for name in names) / 1e9


def call_seconds(batches: Dataloader[int]) -> float:
    """Time that the monitor's two calls take in ``next()``."""
    tap, batch, host = batches._monitor.tap, next(batches), batches._engine.wait(10).batch

    def calls() -> None:
        tap.asked(0.0)
        tap.handed_out(host, 0.0, batch)

    return min(timeit.repeat(calls, number=10_000, repeat=5)) / 10_000


@click.command()
@click.option("--turns", default=150, help="Turns of each loader a case.")
def main(*, turns: int) -> None:
    """Measure what watching costs a run."""
    table = Table("case", "speed, against monitor=False", "quartiles", "monitor's thread, of a core", "app, of a core")

    def case(name: str, one: Dataloader[int], other: Dataloader[int], pid: int = 0, *, toggled: bool = False) -> None:
        used, start = (cpu_seconds(pid) if pid else 0.0, monitor_seconds()), time.perf_counter()
        ratios = measure(one, other, turns, pid, toggled=toggled)
        on = (time.perf_counter() - start) / (2 if toggled else 1)
        low, _, high = statistics.quantiles(ratios, n=4)
        own = f"{100 * (monitor_seconds() - used[1]) / on:.2f} %"
        share = f"{100 * (cpu_seconds(pid) - used[0]) / on:.1f} %" if pid else ""
        table.add_row(name, f"{statistics.median(ratios):.3f}", f"{low:.3f} to {high:.3f}", own, share)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        with loader(monitor=False) as plain, loader(monitor=False) as same, loader(monitor=True) as watched:
            for batches in (plain, same, watched):
                take(batches, WARM)
            case("monitor=False again", plain, same)
            case("monitor=True, nobody looks", plain, watched)
            with app(stopped=False) as pid:
                take(watched, WARM)
                case("the app watches", plain, watched, pid, toggled=True)
            with app(stopped=True) as pid:
                take(watched, WARM)
                os.kill(pid, signal.SIGSTOP)
                case("an app that was stopped (SIGSTOP)", plain, watched, pid)
            seconds = call_seconds(watched)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    console.print(f"in next(): {1e6 * seconds:.2f} µs a batch")


if __name__ == "__main__":
    main()
