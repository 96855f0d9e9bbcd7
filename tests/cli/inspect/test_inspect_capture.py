"""What others write goes into the log, in whole lines, and nowhere else."""

import logging
import subprocess
import sys
import threading
import warnings
from contextlib import redirect_stderr, redirect_stdout

from hydrax_cli.inspect.feeds.capture import Capture, LogBuffer


def test_prints_come_in_whole_lines_though_threads_write_at_once():
    log = LogBuffer()
    with Capture(log, descriptors=False) as capture, redirect_stdout(None), redirect_stderr(None):
        capture.take_streams()

        def write(name):
            for number in range(50):
                sys.stdout.write(f"{name} ")
                sys.stdout.write(f"{number}\n")

        threads = [threading.Thread(target=write, args=(name,), name=f"hydrax-worker-{name}") for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines, missed = log.drain()
    assert missed == 0
    assert [line.text for line in lines if line.source == "worker a"] == [f"a {number}" for number in range(50)]
    assert [line.text for line in lines if line.source == "worker b"] == [f"b {number}" for number in range(50)]
    assert [line.serial for line in lines] == list(range(1, 101))


def test_streams_and_handlers_are_given_back():
    before = sys.stdout, sys.stderr, logging.getLogger().handlers[:], warnings.showwarning
    with Capture(LogBuffer(), descriptors=False) as capture, redirect_stdout(None), redirect_stderr(None):
        capture.take_streams()  # Textual redirects them around this, as here
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr, logging.getLogger().handlers[:], warnings.showwarning) == before


def test_logging_and_warnings_come_with_their_level():
    log = LogBuffer()
    with Capture(log, descriptors=False):
        logging.getLogger("hydrax").warning("worker %d ended", 3)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("deprecated thing", UserWarning, stacklevel=1)
    lines, _ = log.drain()
    assert lines[0][2:] == ("hydrax", "warning", "worker 3 ended")
    assert any(line.source == "py.warnings" and "deprecated thing" in line.text for line in lines)


def test_lines_that_come_too_fast_are_counted_and_the_last_are_kept():
    log = LogBuffer()
    for number in range(2500):
        log.add("loader", "info", f"line {number}")
    lines, missed = log.drain()
    assert missed == 1500
    assert [line.text for line in lines] == [f"line {number}" for number in range(1500, 2500)]
    assert log.drain() == ((), 0)


PROGRAM = """
import os, subprocess, sys
from hydrax_cli.inspect.feeds.capture import Capture, LogBuffer
log = LogBuffer()
print("before", flush=True)
with Capture(log, descriptors=True):
    os.write(1, b"from C\\n")
    os.write(2, b"an error ")
    os.write(2, b"in two parts\\n")
    subprocess.run(["echo", "a grandchild"], check=True)
    print("drawn", file=sys.__stderr__, flush=True)
    lines = []
    while len(lines) < 3:
        lines += [line.text for line in log.drain()[0]]
print("after", lines)
"""


def test_not_even_what_is_written_behind_pythons_back_reaches_the_terminal():
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["before", "drawn", "after ['from C', 'an error in two parts', 'a grandchild']"]
    assert done.stderr == ""


def test_no_descriptor_is_left_open():
    count = "print(len(os.listdir('/proc/self/fd')))"
    program = f"import os\nfrom hydrax_cli.inspect.feeds.capture import Capture, LogBuffer\n{count}\n"
    program += "with Capture(LogBuffer(), descriptors=True): pass\nimport threading\n"
    program += f"for thread in threading.enumerate()[1:]: thread.join()\n{count}\n"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    first, last = done.stdout.split()
    assert first == last
