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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from hydrax_core.data.group import DataGroup
    from hydrax_core.monitor.server.server import Monitor
    from hydrax_core.monitor.stats import Stats

__all__ = ["ENVIRONMENT", "Watched", "start"]

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
