"""Ctrl-C at any line of hydrax in the main thread: nothing comes twice, at most the batch in hand is lost.

Python raises KeyboardInterrupt between two bytecodes of the main thread. Here a trace function raises it before a
chosen line, so that every line gets its turn, in seeded order; also lines that a real Ctrl-C could not hit. Left out
are those that begin with a NOP (``try:``) or POP_EXCEPT (a ``return`` in an ``except``): Python does not look for
signals there, nor do its tables of exceptions cover them, so that a lock would stay locked, or an exception alive.
"""

import contextlib
import dis
import gc
import linecache
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faultkit import KINDS, content, group, limit, rounds, start_python
from faultloads import fill

import hydrax_core
from hydrax_core import Dataloader

_CORE = str(Path(hydrax_core.__file__).parent)
EPOCHS = ("epoch", 2)
_NEVER_INTERRUPTED = {dis.opmap["NOP"], dis.opmap["POP_EXCEPT"]}

# A socket whose maker was interrupted is closed by the garbage collector, with a warning.
pytestmark = [limit(30, 900), pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]


class _Lines:
    """Counts the lines of hydrax that this thread runs, and raises at one of them."""

    def __init__(self, stop=None):
        self.stop = stop
        self.count = 0
        self.where = None

    def __enter__(self):
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, _event, _arg):
        ours = frame.f_code.co_filename.startswith(_CORE) and not self._in_callback(frame)
        return self._line if ours else None

    @staticmethod
    def _in_callback(frame):
        """Python throws away what a finalizer raises, and goes on; little is done there."""
        while frame is not None and frame.f_code.co_name not in ("_tell", "_close_engine", "__del__"):
            frame = frame.f_back
        return frame is not None

    def _line(self, frame, event, _arg):
        # The line of a `with` runs once more when it is left; no Ctrl-C can come between that and the release.
        if event == "line" and "with self." not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            self.count += 1
            if self.count == self.stop and frame.f_code.co_code[frame.f_lasti] in _NEVER_INTERRUPTED:
                self.stop += 1
            if self.count == self.stop:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line


def read(loader, found):
    with loader:
        for batch in loader:
            found.append(content(batch))


def lines_of_a_run(loader):
    lines = _Lines()
    with lines:
        read(loader, [])
    return lines.count


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_anywhere_leaves_a_state_to_go_on_from(kind, record_property):
    small = group(40)
    expected = undisturbed_contents(small)
    total = lines_of_a_run(Dataloader(fill, small, end_at=EPOCHS, loader_kind=kind))
    count = rounds(*((4, 300) if kind == "process" else (16, 1500)))
    record_property("rounds", count)
    chance = random.Random(7)
    for _ in range(count):
        loader = Dataloader(fill, small, end_at=EPOCHS, loader_kind=kind)
        lines = _Lines(chance.randrange(1, total + 1))
        found = []
        try:
            with lines:
                read(loader, found)
        except KeyboardInterrupt:
            pass
        state = loader.state_dict()
        in_hand = state["training_batches"] - len(found)
        assert in_hand in (0, 1), lines.where
        assert found == expected[: len(found)], lines.where
        resumed = loader.replace()
        del loader
        resumed.load_state_dict(state)
        rest = []
        read(resumed, rest)
        assert found + expected[len(found) : len(found) + in_hand] + rest == expected, lines.where
    gc.collect()


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_interrupt_in_next_the_same_loader_goes_on(kind, record_property):
    small = group(40)
    expected = undisturbed_contents(small)
    total = lines_of_a_run(Dataloader(fill, small, end_at=EPOCHS, loader_kind=kind))
    count = rounds(*((2, 60) if kind == "process" else (6, 500)))
    record_property("rounds", 5 * count)
    chance = random.Random(8)
    for _ in range(count):
        found, places, interrupts = [], [], 0
        with Dataloader(fill, small, end_at=EPOCHS, loader_kind=kind) as loader:
            for _ in range(5):
                lines = _Lines(chance.randrange(1, total // 5))
                try:
                    with lines:
                        found.extend(content(batch) for batch in loader)
                except KeyboardInterrupt:
                    interrupts += 1
                    places.append(lines.where)
            found.extend(content(batch) for batch in loader)
        order = [expected.index(entry) for entry in found]
        assert order == sorted(set(order)), places
        assert len(expected) - len(found) <= interrupts, places


def undisturbed_contents(training):
    with Dataloader(fill, training, end_at=EPOCHS, loader_kind="inline") as loader:
        return [content(batch) for batch in loader]


@pytest.mark.parametrize("kind", ["process", "inline"])
def test_control_c_in_a_terminal_ends_all_without_noise(kind, record_property):
    count = rounds(3, 60)
    record_property("rounds", count)
    chance = random.Random(9)
    process = start_python(
        f"""
        import gc, jax
        # Two ways in which jax itself loses a Ctrl-C: in the middle of its own first imports, of which it cannot make
        # a second attempt, and in its callback of the garbage collector, from which Python passes no exception on.
        jax.jit(lambda x: x + 1)(1)
        gc.disable()
        for line in sys.stdin:
            loader = Dataloader(fill, group(), loader_kind={kind!r}, loader_count=2)
            print("go", flush=True)
            found = []
            try:
                with loader:
                    for batch in loader:
                        found.append(batch.batch_num)
                        del batch
            except KeyboardInterrupt:
                pass
            state = loader.state_dict()["training_batches"]
            assert len(found) <= state <= len(found) + 1, (state, len(found))
            print("done", found == list(range(len(found))), flush=True)
        """,
        start_new_session=True,
        stdin=subprocess.PIPE,
    )
    answers = []
    for _ in range(count):
        process.stdin.write("again\n")
        process.stdin.flush()
        assert process.stdout.readline() == "go\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.random() * 0.3)  # any moment of the start and the first batches
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
        answers.append(process.stdout.readline())
    output, errors = process.communicate()
    assert answers == ["done True\n"] * count, errors
    assert (output, errors) == ("", "")
