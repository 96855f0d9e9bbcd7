"""One case, measured: a fresh process a measurement, again where others disturbed it, never longer than its limit."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import system
from loads import FOLDER

if TYPE_CHECKING:
    from job import Job

CHILD = Path(__file__).with_name("child.py")
DISTURBED = 0.1
"""Share of the machine that others may use while a measurement runs."""
TIMEOUT = 20.0
"""Seconds to wait for a quiet machine before a measurement, at most."""


def measure(job: Job, folder: str, tries: int) -> dict[str, Any]:
    """One measurement, or the least disturbed one of ``tries``; with one try the machine may be as busy as it is."""
    best: dict[str, Any] = {}
    for _ in range(tries):
        if tries > 1:
            _await_quiet()
        found = run_child(job, folder)
        if not best or found.get("others", 1.0) < best.get("others", 1.0):
            best = found
        if found.get("others", 0.0) <= DISTURBED:  # a failure, too: it would fail again
            break
    return best


def _await_quiet() -> None:
    end = time.perf_counter() + TIMEOUT
    while time.perf_counter() < end:
        neighbours = system.Neighbours()
        time.sleep(0.3)
        if neighbours.share() <= DISTURBED:
            return


def run_child(job: Job, folder: str) -> dict[str, Any]:
    """What ``child.py`` printed; ``{"error": text}`` where it failed, ``{"unsupported": text}`` where it could not."""
    environment = {**os.environ, FOLDER: folder, "JAX_PLATFORMS": "cpu"}
    if job.package:
        environment["PYTHONPATH"] = job.package
    command = [sys.executable, str(CHILD), job.dump()]
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = child.communicate(timeout=job.limit)
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {job.limit:g} s"}
    finally:
        if child.poll() is None:  # workers of a peer that stalls would outlive their parent, and disturb what follows
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[0])) if lines else {"error": errors[-2000:] or f"exit code {child.returncode}"}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import jax  # noqa: PLC0415  nothing else here needs it
    import numpy as np  # noqa: PLC0415

    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "jax": jax.__version__,
    }


def commit() -> str:
    """The last commit that changed ``hydrax_core``, ``-dirty`` with changes on top; ``""`` where git does not tell."""
    root = Path(__file__).parents[2]
    answers = []
    for question in (["log", "-1", "--format=%h"], ["status", "--porcelain"]):
        try:
            asked = subprocess.run(
                ["git", *question, "--", "hydrax_core"], cwd=root, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return ""
        answers.append(asked.stdout.strip())
    return answers[0] + ("-dirty" if answers[0] and answers[1] else "")
