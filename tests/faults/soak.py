"""The soak: the digits example trains while its workers are killed and an inspector comes and goes.

``SOAK_MINUTES`` (30) says how long, ``SOAK_SEED`` (0) which moments. Holds: the digest of every epoch is that of an
undisturbed run, the memory is flat, nothing is left. Shows one screen; exit code 0 when all of it holds.
"""

import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import leaks
from soak_inspector import Inspectors, attach_is_there
from soak_training import digits_loader, epochs

FOLDER = Path(__file__).parent
WARM_UP = 0.2
"""Share of the time before memory counts; half a minute at least, where there is so much."""
GROWTH_BYTES = 8 << 20
"""What main process and workers may take more in the last third of the time than in the first after the warm-up."""
SILENCE_SECONDS = 60
SAMPLE_SECONDS = 1.0
MOST_SHOWN = 300


@dataclass
class Soak:
    """What was seen."""

    digests: list = field(default_factory=list)
    right: float = 0.0
    killed: set = field(default_factory=set)
    memory: list = field(default_factory=list)
    end: dict = field(default_factory=dict)
    error: str = ""
    code: int | None = None
    said: list = field(default_factory=list)
    left: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Memory at a moment: PSS in bytes of the main process, and of each of its workers."""

    seconds: float
    main: int
    workers: tuple

    def a_worker(self):
        return max(self.workers)


def workers_of(pid):
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # a thread that ended
            continue
        for child in children:
            try:
                if b"hydrax_core.engine.workers.child" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found[int(child)] = proportional_memory(child)
            except OSError:  # it ended
                continue
    return found


def proportional_memory(pid):
    """PSS in bytes: own pages, and its part of those that it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return 0


class Agenda:
    """What is due when: each entry says itself when it is due again."""

    def __init__(self):
        self.entries = {}

    def add(self, act, seconds):
        self.entries[act] = time.monotonic() + seconds

    def wait(self):
        return max(0.0, min(self.entries.values()) - time.monotonic())

    def run(self):
        for act, due in list(self.entries.items()):
            if due <= time.monotonic():
                self.entries[act] = time.monotonic() + act()


class Listener:
    """Takes in what the training says."""

    def __init__(self, stream, soak):
        self._descriptor = stream.fileno()
        self._soak = soak
        self._rest = b""
        self._heard = time.monotonic()

    def fileno(self):
        return self._descriptor

    def listen(self):
        """Whether there may be more."""
        data = os.read(self._descriptor, 1 << 16)
        self._heard = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for said in map(json.loads, lines):
            if "digest" in said:
                self._soak.digests.append(said["digest"])
                self._soak.right = said["right"]
            else:
                self._soak.end.update(said)
        return bool(data)

    def wait(self, seconds):
        """Wait for more at most so many seconds; false when it has ended, or has been silent for too long."""
        if select.select([self], [], [], seconds)[0]:
            return self.listen()
        if time.monotonic() - self._heard > SILENCE_SECONDS:
            self._soak.error = f"the training said nothing for {SILENCE_SECONDS} s"
        return not self._soak.error


def disturb(training, seconds, chance, inspectors, soak):
    """Kill workers and start inspectors for so many seconds, and take in what the training says."""
    started = time.monotonic()

    def kill():
        workers = list(workers_of(training.pid))
        if workers:
            pid = chance.choice(workers)
            os.kill(pid, signal.SIGKILL)
            soak.killed.add(pid)  # one that takes its time to die may be hit twice
        return chance.uniform(0.1, 3)

    def sample():
        workers = workers_of(training.pid)
        if workers:  # else all of them are being replaced
            main = proportional_memory(training.pid)
            soak.memory.append(Sample(time.monotonic() - started, main, tuple(workers.values())))
        return SAMPLE_SECONDS

    agenda = Agenda()
    agenda.add(kill, 3)
    agenda.add(sample, 3)
    if inspectors is not None:
        agenda.add(inspectors.turn, 4)
        agenda.add(inspectors.read, 4)
    listener = Listener(training.stdout, soak)
    while time.monotonic() - started < seconds:
        if not listener.wait(agenda.wait()):
            return
        agenda.run()
    if inspectors is not None:
        inspectors.close()
    training.stdin.close()  # it ends with the epoch
    while listener.wait(SILENCE_SECONDS):
        pass


def first_difference(soak):
    """The first epoch whose digest is not that of an undisturbed run, which is made now; ``None`` for none."""
    with digits_loader(loader_kind="inline", end_at=("epoch", len(soak.digests))) as loader:
        for epoch, (truth, found) in enumerate(zip(epochs(loader), soak.digests, strict=True)):
            if truth != found:
                return epoch
    return None


def warm(soak, seconds):
    """The samples after the warm-up."""
    begin = max(WARM_UP * seconds, min(30, seconds / 2))
    return [sample for sample in soak.memory if sample.seconds > begin] or soak.memory


def growth(soak, seconds, value):
    """Median of the last third less that of the first, after the warm-up."""
    values = [value(sample) for sample in warm(soak, seconds)]
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) - statistics.median(values[:third]) if values else 0


def soaked(seconds, chance):
    """What was seen, what is left of it on the machine, and the inspectors."""
    soak = Soak()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        tempfile.tempdir = folder
        before = leaks.holdings()
        environment = {**os.environ, "TMPDIR": folder, "JAX_PLATFORMS": "cpu", "HYDRAX_MONITOR": "1"}
        training = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", FOLDER / "soak_training.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
        inspectors = Inspectors(training.pid, chance, environment) if attach_is_there() else None
        try:
            disturb(training, seconds, chance, inspectors, soak)
        except BaseException:
            training.kill()
            raise
        finally:
            if inspectors is not None:
                inspectors.close()
            if soak.error:
                training.kill()
            training.stdin.close()
            soak.code = training.wait()
            training.stdout.close()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
        soak.said = [line for line in lines if "is replaced" not in line]
        soak.left = leaks.leaked_since(before)
        tempfile.tempdir = None
    return soak, inspectors


def judged(seconds, soak, inspectors):
    """What was to hold, whether it does, and what was found."""
    different = first_difference(soak)
    main_growth = growth(soak, seconds, lambda sample: sample.main)
    worker_growth = growth(soak, seconds, Sample.a_worker)
    restarts, kills = soak.end.get("restarts", -1), len(soak.killed)
    checks = {
        "the training ends by itself": (not soak.error and soak.code == 0, soak.error or f"exit code {soak.code}"),
        "it says only that workers are replaced": (not soak.said, "; ".join(soak.said) or "yes"),
        "the digests are those of an undisturbed run": (
            different is None and len(soak.digests) > 0,
            f"{len(soak.digests)} epochs" if different is None else f"epoch {different} differs",
        ),
        "every killed worker is replaced": (kills - 2 <= restarts <= kills, f"{restarts} of {kills}"),
        "the main process's memory is flat": (main_growth < GROWTH_BYTES, f"{main_growth / 1e6:+.1f} MB"),
        "a worker's memory is flat": (worker_growth < GROWTH_BYTES, f"{worker_growth / 1e6:+.1f} MB"),
        "the training leaves nothing behind": (soak.end.get("left") == {}, str(soak.end.get("left"))),
        "nor does the machine keep anything": (not soak.left, str(soak.left)),
    }
    if inspectors is not None:
        checks["inspectors show it and go when asked"] = (inspectors.hold(), inspectors.report())
    return checks


def show(seconds, seed, soak, checks, inspectors):
    level = warm(soak, seconds)
    coming_and_going = "no inspector, as `hydrax inspect` has no --attach" if inspectors is None else "inspectors came"
    batches = soak.end.get("batches")
    print(f"soak of {seconds / 60:g} minutes, seed {seed}: {len(soak.digests)} epochs, {batches} batches of the digits")  # noqa: T201  a program
    print(f"{len(soak.killed)} workers killed, {coming_and_going}; {soak.right:.1%} of the digits right at the end")  # noqa: T201  same
    for name, values in (("main process", [s.main for s in level]), ("a worker", [s.a_worker() for s in level])):
        if values:
            print(f"PSS of {name} after the warm-up: {min(values) / 1e6:.1f} to {max(values) / 1e6:.1f} MB")  # noqa: T201  same
    width = max(map(len, checks))
    for name, (holds, text) in checks.items():
        print(f"{name:{width}}  {'holds ' if holds else 'FAILED'}  {text[:MOST_SHOWN]}")  # noqa: T201  same


def main():
    seconds = float(os.environ.get("SOAK_MINUTES", "30")) * 60
    seed = int(os.environ.get("SOAK_SEED", "0"))
    os.environ[leaks.MARK] = uuid.uuid4().hex
    soak, inspectors = soaked(seconds, random.Random(seed))
    checks = judged(seconds, soak, inspectors)
    show(seconds, seed, soak, checks, inspectors)
    return 0 if all(holds for holds, _ in checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
