"""The tests of tests/core that the machine at hand can run, in as many processes as it has room for, within a limit.

Promise: every test of every file is counted: as passed, failed, skipped, left out with its file (which says what is
missing), or not reached in time. A failure is never taken for a lack of time.
"""

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
ROOMS = ("batch", "engine", "loader", "plan", "data", "monitor", "cache", "sources")
"""Those that are about devices first: they are reached whatever the time."""
NEEDED = ("pytest", "pytest_timeout", "hypothesis")


def run(seconds):
    """What came of the tests, as lines of the table; ``seconds`` is all the time that they have."""
    deadline = time.monotonic() + seconds
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return {"tests": f"not run: {', '.join(missing)} missing"}, True
    files, left_out = _files()
    count = max(1, min(8, (os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) // 2))
    with tempfile.TemporaryDirectory() as folder:
        runs = [_start(files[number::count], Path(folder) / str(number)) for number in range(count)]
        for process, _ in runs:
            _end(process, deadline)
        totals = [_counts(at) for _, at in runs]
        for _, at in runs:
            text = at.with_suffix(".out").read_text()
            sys.stdout.write("".join(f"{line}\n" for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))))
    found = {name: sum(counts[name] for counts in totals) for name in totals[0]}
    failed, reached = found["failures"] + found["errors"], found["tests"]
    good = reached - failed - found["skipped"]
    lines = {
        "tests": f"{good} passed, {failed} failed, {found['skipped']} skipped, "
        f"{max(0, found['collected'] - reached)} not reached in {seconds:.0f} s on {count} x 2 cores",
    }
    if left_out:
        lines["files left out"] = ", ".join(f"{file.name} ({name})" for file, name in left_out.items())
    return lines, not failed and good > 0


def _files():
    """The files whose imports are there, and of each other one the first that is not."""
    files, left_out = [], {}
    for room in (*(f"{name}/" for name in ROOMS), ""):
        for file in sorted((ROOT / "tests/core").glob(f"{room}test_*.py")):
            missing = _missing(file)
            if missing:
                left_out[file] = missing
            else:
                files.append(str(file.relative_to(ROOT)))
    return files, left_out


def _missing(file):
    """What a file, or a file of its folder that it imports, needs and is not there."""
    for node in ast.parse(file.read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in {name.partition(".")[0] for name in names}:
            beside = file.with_name(f"{name}.py")
            found = _missing(beside) if beside.exists() else name if importlib.util.find_spec(name) is None else None
            if found:
                return found
    return None


def _start(files, at):
    options = ["-p", "no:cacheprovider", "-o", "junit_family=xunit1", f"--junitxml={at}.xml"]
    with at.with_suffix(".out").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *files], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    return process, at


def _end(process, deadline):
    """Wait for a run; when its time is over, have it say what it has."""
    for number in (None, signal.SIGINT, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
            deadline = time.monotonic() + 10
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue
        return


def _counts(at):
    """Numbers of tests, as pytest wrote them down."""
    names = ("tests", "failures", "errors", "skipped")
    words = next(
        (line for line in at.with_suffix(".out").read_text().splitlines() if line.startswith("collected ")), ""
    )
    counts = {"collected": int(words.split()[1]) if words else 0}
    report = Path(f"{at}.xml")
    if not report.exists():  # killed before it could say anything
        return {**counts, **dict.fromkeys(names, 0), "errors": 1, "tests": 1}
    (suite,) = ET.parse(report).getroot()
    return {**counts, **{name: int(suite.get(name)) for name in names}}
