"""Which running training ``--attach`` means.

Promise: whatever was asked for and is not there is told with what there is, and with what makes a run watchable.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hydrax_core.monitor import Run

__all__ = ["runs_to_watch"]

_HOW = "start it with HYDRAX_MONITOR=1 in its environment, or make its loader with Dataloader(..., monitor=True)"


def runs_to_watch(wanted: str) -> list[Run]:
    """The runs that fit a pid or a name (of the run or its script, with or without ``.py``); all for an empty text.

    Raises:
        click.UsageError: None fits; the text says what there is.
    """
    from hydrax_core.monitor import find_runs  # noqa: PLC0415  --help needs none of it

    runs = find_runs()
    wanted = wanted.strip()
    if not wanted:
        if not runs:
            raise click.UsageError(f"no training that can be watched is running; {_HOW}")
        return runs
    if wanted.isdecimal():
        found = [run for run in runs if run.pid == int(wanted)]
        if not found:
            raise click.UsageError(_why_no_process(int(wanted)) + _others(runs))
        return found
    found = [run for run in runs if wanted in (run.name, Path(run.name).stem)]
    if not found:
        raise click.UsageError(f"no run that can be watched is called {wanted!r}; {_others(runs, _HOW)}")
    return found


def _why_no_process(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return f"there is no process {pid}; "
    except PermissionError:
        return f"process {pid} belongs to another user, who alone can watch it; "
    return f"process {pid} offers nothing to watch: {_HOW}; "


def _others(runs: list[Run], without: str = "no other run can be watched now") -> str:
    if not runs:
        return without
    return "there are " + ", ".join(f"{run.name} (pid {run.pid})" for run in runs)
