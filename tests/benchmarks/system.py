"""What the kernel says about a tree of processes: its memory, and how much of the machine others used meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """``root`` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def proportional_bytes(root: int) -> int:
    """Proportional set size of the tree: each page counted once, shared pages by their share."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _own_seconds(root: int) -> float:
    ticks = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, values[11:15]))  # user and system time, its own and of the children it reaped
    return ticks / _TICKS


def _busy_seconds() -> float:
    values = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = values[3] + values[4]
    return (sum(values[:8]) - idle) / _TICKS


class Neighbours:
    """How much of the machine everybody but this process and its descendants used since this was made."""

    def __init__(self) -> None:
        self._time, self._busy, self._own = time.perf_counter(), _busy_seconds(), _own_seconds(os.getpid())

    def share(self) -> float:
        """Share of all cores, 0 to 1; exact to a few ticks of 10 ms."""
        elapsed = time.perf_counter() - self._time
        others = _busy_seconds() - self._busy - (_own_seconds(os.getpid()) - self._own)
        return max(0.0, others / elapsed / (os.cpu_count() or 1))
