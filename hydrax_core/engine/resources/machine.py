"""What this process may use of the machine: cores and memory.

Promise: the least of what the machine has, what the process is tied to, what any control group above it allows (v1 and
v2: systemd's ``CPUQuota=`` and ``MemoryMax=``, containers, nested ones), and what Slurm gave the task. A limit that
cannot be read is none.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

__all__ = ["memory_budget", "usable_cores", "usable_memory"]

_MEBIBYTE = 1 << 20


def usable_cores(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """Cores that this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _control_groups("cpu", root):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text("ascii").split()
            if quota != "max":
                cores = min(cores, math.ceil(int(quota) / int(period)))
        with contextlib.suppress(OSError, ValueError):
            micros = int((group / "cpu.cfs_quota_us").read_text("ascii"))
            if micros > 0:
                cores = min(cores, math.ceil(micros / int((group / "cpu.cfs_period_us").read_text("ascii"))))
    return max(1, min(cores, int(_positive(environ.get("SLURM_CPUS_PER_TASK"))) or cores))


def usable_memory(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> int:
    """Bytes of memory that this process may use."""
    total = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    for group in _control_groups("memory", root):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                total = min(total, int((group / name).read_text("ascii")))
    per_node = _positive(environ.get("SLURM_MEM_PER_NODE"))
    per_core = _positive(environ.get("SLURM_MEM_PER_CPU"))
    if per_core:
        per_node = min(per_node or math.inf, per_core * (_positive(environ.get("SLURM_CPUS_PER_TASK")) or 1))
    return int(min(total, per_node * _MEBIBYTE)) if per_node else total


def memory_budget() -> int:
    return usable_memory() // 2


def _positive(text: str | None) -> float:
    """A number of Slurm's, 0 for none: it writes 0 for all there is."""
    return float(text) if text and text.isdigit() else 0


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the process's control group and of all above it, in the hierarchies that have the controller."""
    try:
        memberships = (root / "proc/self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for membership in memberships:
        number, controllers, path = membership.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            yield from _folders(controllers, path, mounts, root)


def _folders(controllers: str, path: str, mounts: list[str], root: Path) -> Iterator[Path]:
    for mount in mounts:
        fields, _, tail = mount.partition(" - ")
        shown, place = fields.split()[3:5]
        kind, _, options = tail.split(" ", 2)
        if kind != ("cgroup" if controllers else "cgroup2"):
            continue
        if controllers and controllers.split(",", maxsplit=1)[0] not in options.split(","):
            continue
        # In a container the mount may show the container's group as its top.
        below = PurePosixPath(path)
        below = below.relative_to(shown) if below.is_relative_to(shown) else below.relative_to("/")
        folder = root / place.lstrip("/")
        for part in (*reversed(below.parents), below):
            yield folder / part
