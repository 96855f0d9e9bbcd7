"""What is shown of a run, and a running loader seen from another process of the same user.

Promise: nothing in the training waits for whoever looks. Without ``monitor=True`` (or ``HYDRAX_MONITOR=1`` in the
environment) a training imports nothing for it but this file. The names below are public; they are imported when they
are first used.

``run.py`` and ``stats.py`` are the words: the plan of a run, its batches, passes, log and counts, as frozen values.
``server/`` is the training's side, ``client.py`` is the side of whoever looks, ``protocol/`` what they say.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from hydrax_core.data.group import DataGroup
    from hydrax_core.engine.counters import FirstBatch, WorkerStats
    from hydrax_core.monitor.client import Connection, Run, check_version, find_runs
    from hydrax_core.monitor.protocol.messages import Ask, Bye, Hello, Moment, Refusal, Sample, Trouble
    from hydrax_core.monitor.protocol.wire import WireError, arrays_of, dtype_of
    from hydrax_core.monitor.run import (
        ArrayPlan,
        BatchRecord,
        GroupPlan,
        Kind,
        Level,
        LogLine,
        Pass,
        Passes,
        RunPlan,
        device_of,
        one_line,
        plan_of,
    )
    from hydrax_core.monitor.server.server import Monitor
    from hydrax_core.monitor.stats import Stats

__all__ = [
    "ENVIRONMENT",
    "ArrayPlan",
    "Ask",
    "BatchRecord",
    "Bye",
    "Connection",
    "FirstBatch",
    "GroupPlan",
    "Hello",
    "Kind",
    "Level",
    "LogLine",
    "Moment",
    "Pass",
    "Passes",
    "Refusal",
    "Run",
    "RunPlan",
    "Sample",
    "Stats",
    "Trouble",
    "Watched",
    "WireError",
    "WorkerStats",
    "arrays_of",
    "check_version",
    "device_of",
    "dtype_of",
    "find_runs",
    "one_line",
    "plan_of",
    "start",
]
_HOMES = (
    "monitor.run",
    "monitor.stats",
    "monitor.client",
    "monitor.protocol.messages",
    "monitor.protocol.wire",
    "engine.counters",
)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for home in _HOMES if name in __all__ else ():
        module = importlib.import_module(f"hydrax_core.{home}")
        if name in module.__all__:
            found = globals()[name] = getattr(module, name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


ENVIRONMENT = "HYDRAX_MONITOR"
_logger = logging.getLogger("hydrax")
_OFF = frozenset({"", "0", "false", "no", "off"})


class Watched(NamedTuple):
    """What is known of a loader before it runs; the names are those of ``Dataloader``."""

    training: tuple[DataGroup[Any], ...]
    validation: tuple[DataGroup[Any], ...]
    batches_per_epoch: int
    batches_per_validation: int
    validation_interval: int
    first_batch: int
    last_batch: int | None
    loader_kind: Literal["process", "thread", "inline"]
    places_itself: bool


def start(owner: object, wanted: bool | str | None, watched: Watched, snapshot: Callable[[], Stats]) -> Monitor | None:
    """Offer a loader that starts to whoever looks, where that is asked for.

    Args:
        owner: The loader; it is not kept, and when it is gone it is no longer offered.
        wanted: The argument ``monitor`` of ``Dataloader``.
        watched: What is shown of it.
        snapshot: Gives its counts; called in the monitor's thread. It must not refer to the loader, which would then
            live on.
    """
    if wanted is None:
        wanted = os.environ.get(ENVIRONMENT, "").strip().lower() not in _OFF
    if wanted is False:
        return None
    from hydrax_core.monitor.server.server import Monitor  # noqa: PLC0415  only who is watched pays for it

    try:
        monitor = Monitor(watched, snapshot, "" if wanted is True else wanted)
        monitor.start(owner)
    except (OSError, RuntimeError) as error:  # no descriptor, or no thread, is left for it
        _logger.warning("this run cannot be watched: %s", str(error))
        return None
    return monitor
