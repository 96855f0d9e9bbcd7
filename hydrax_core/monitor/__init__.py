"""What is shown of a run, and a running loader seen from another process of the same user.

Promise: nothing in the training waits for an inspector. Without ``monitor=True`` (or ``HYDRAX_MONITOR=1`` in the
environment) a training imports nothing for it but this file. The names below are public; they are imported when they
are first used.

``run.py`` and ``stats.py`` are the words: the plan of a run, its batches, passes, log and counts, as frozen values.
``server/`` is the training's side, ``client.py`` is the inspector's side, ``protocol/`` is what goes between them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hydrax_core.data.lazy_names import lazy

if TYPE_CHECKING:
    from hydrax_core.data.group import DataGroup
    from hydrax_core.engine.counters import FirstBatch as FirstBatch, WorkerStats as WorkerStats
    from hydrax_core.monitor.client import (
        Connection as Connection,
        Run as Run,
        check_version as check_version,
        find_runs as find_runs,
    )
    from hydrax_core.monitor.protocol.messages import (
        Ask as Ask,
        Bye as Bye,
        Hello as Hello,
        Moment as Moment,
        Refusal as Refusal,
        Sample as Sample,
        Trouble as Trouble,
    )
    from hydrax_core.monitor.protocol.wire import WireError as WireError, arrays_of as arrays_of, dtype_of as dtype_of
    from hydrax_core.monitor.run import (
        ArrayPlan as ArrayPlan,
        BatchRecord as BatchRecord,
        GroupPlan as GroupPlan,
        Kind as Kind,
        Level as Level,
        LogLine as LogLine,
        Pass as Pass,
        Passes as Passes,
        RunPlan as RunPlan,
        device_of as device_of,
        one_line as one_line,
        plan_of as plan_of,
    )
    from hydrax_core.monitor.server.server import Monitor
    from hydrax_core.monitor.stats import Stats as Stats

_HOMES = {
    "engine.counters": "FirstBatch WorkerStats",
    "monitor.client": "Connection Run check_version find_runs",
    "monitor.protocol.messages": "Ask Bye Hello Moment Refusal Sample Trouble",
    "monitor.protocol.wire": "WireError arrays_of dtype_of",
    "monitor.run": "ArrayPlan BatchRecord GroupPlan Kind Level LogLine Pass Passes RunPlan device_of one_line plan_of",
    "monitor.stats": "Stats",
}
__all__, _find = lazy(__name__, _HOMES)
__all__ += ["ENVIRONMENT", "start"]

if not TYPE_CHECKING:  # a name that is not above is a mistake
    __getattr__ = _find


ENVIRONMENT = "HYDRAX_MONITOR"
_logger = logging.getLogger("hydrax")
_OFF = frozenset({"", "0", "false", "no", "off"})


def start(
    owner: object,
    wanted: bool | str | None,
    groups: Sequence[DataGroup[Any]],
    plan: Callable[[], RunPlan],
    snapshot: Callable[[], Stats],
) -> Monitor | None:
    """Offer a loader that starts to inspectors, where that is asked for.

    Args:
        owner: The loader; it is not kept, and when it is gone it is no longer offered.
        wanted: The argument ``monitor`` of ``Dataloader``.
        groups: Its groups, training before validation.
        plan: Gives what is shown of it, once somebody looks. Like ``snapshot`` it is called in the monitor's thread,
            and must not refer to the loader, which would then live on.
        snapshot: Gives its counts.
    """
    if wanted is None:
        wanted = os.environ.get(ENVIRONMENT, "").strip().lower() not in _OFF
    if wanted is False:
        return None
    from hydrax_core.monitor.server.server import Monitor  # noqa: PLC0415  only a run that is watched pays for it

    try:
        monitor = Monitor(groups, plan, snapshot, "" if wanted is True else wanted)
        monitor.start(owner)
    except (OSError, RuntimeError) as error:  # no descriptor, or no thread, is left for it
        _logger.warning("this run cannot be watched: %s", str(error))
        return None
    return monitor
