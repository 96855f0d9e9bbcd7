"""A running loader seen from another process of the same user: what ``hydrax inspect --attach`` shows.

Promise: nothing in the training waits for whoever looks. Without ``monitor=True`` (or ``HYDRAX_MONITOR=1`` in the
environment) nothing of this package is imported but this file.

``server.py`` is the training's side, with ``sample.py``, which copies from batches, and ``listen.py``, which hears log
lines; ``client.py`` is the other side. Between them: ``place.py`` (where the socket is), ``wire.py`` (frames),
``messages.py`` (what is said).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrax_core.arguments import Arguments
    from hydrax_core.monitor.server import Monitor
    from hydrax_core.stats import Stats

__all__ = ["ENVIRONMENT", "start"]

ENVIRONMENT = "HYDRAX_MONITOR"
_logger = logging.getLogger("hydrax")
_OFF = frozenset({"", "0", "false", "no", "off"})


def start(owner: object, arguments: Arguments, snapshot: Callable[[], Stats]) -> Monitor | None:
    """Offer a loader that starts to whoever looks, where that is asked for.

    Args:
        owner: The loader; it is not kept, and when it is gone it is no longer offered.
        arguments: The loader's.
        snapshot: Gives its counts; called in the monitor's thread. It must not refer to the loader, which would then
            live on.
    """
    wanted = arguments.monitor
    if wanted is None:
        wanted = os.environ.get(ENVIRONMENT, "").strip().lower() not in _OFF
    if wanted is False:
        return None
    from hydrax_core.monitor.server import Monitor  # noqa: PLC0415  only who is watched pays for it

    try:
        monitor = Monitor(arguments, snapshot, "" if wanted is True else wanted)
        monitor.start(owner)
    except (OSError, RuntimeError) as error:  # no descriptor, or no thread, is left for it
        _logger.warning("this run cannot be watched: %s", str(error))
        return None
    return monitor
