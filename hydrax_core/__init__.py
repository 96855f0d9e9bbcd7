"""hydrax: deterministic, zero-copy batches of jax arrays from worker processes.

The names below are imported when they are first used, so that ``import hydrax_core`` costs nothing and workers never
import jax.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hydrax_core.data.lazy_names import lazy

if sys.platform == "win32":
    raise ImportError(
        "hydrax does not run on Windows: its workers inherit sockets and memory by descriptors, which Windows does not "
        "have; use the Windows Subsystem for Linux (WSL), where it works"
    )

if TYPE_CHECKING:
    from hydrax_core.batch.batch import (
        Batch as Batch,
        TrainingBatch as TrainingBatch,
        ValidationBatch as ValidationBatch,
    )
    from hydrax_core.batch.references import debug_batch_references as debug_batch_references
    from hydrax_core.data.function import batched as batched, is_worker as is_worker
    from hydrax_core.data.group import DataGroup as DataGroup
    from hydrax_core.data.layout import ArrayLayout as ArrayLayout, ArraySpec as ArraySpec, Ragged as Ragged
    from hydrax_core.data.source import Items as Items, Source as Source
    from hydrax_core.engine.counters import (
        FailedItem as FailedItem,
        FirstBatch as FirstBatch,
        WorkerStats as WorkerStats,
    )
    from hydrax_core.engine.resources.machine import usable_cores as usable_cores
    from hydrax_core.errors import *  # noqa: F403  its __all__ is the public tree
    from hydrax_core import checkpoint as checkpoint, state as state
    from hydrax_core.loader.dataloader import Dataloader as Dataloader
    from hydrax_core.monitor.stats import GroupShare as GroupShare, Stats as Stats
    from hydrax_core.plan.mixed_groups import buckets as buckets, class_balanced as class_balanced, mix as mix
    from hydrax_core.plan.packed_groups import concat as concat, pack as pack

_HOMES = {
    "data.function": "batched is_worker",
    "batch.batch": "Batch TrainingBatch ValidationBatch",
    "loader.dataloader": "Dataloader",
    "errors": "BatchAddress BatchClosedError BatchTimeoutError BatchesHeldError CacheBusyError CacheError "
    "CacheMismatchError HostMismatchError HydraxError LoaderError NotACacheError PlacementError "
    "StateMismatchError StreamError WorkerDiedError WorkerError WorkerStartError",
    "data.group": "DataGroup",
    "data.source": "Items Source",
    "data.layout": "ArrayLayout ArraySpec Ragged",
    "plan.mixed_groups": "buckets class_balanced mix",
    "plan.packed_groups": "concat pack",
    "batch.references": "debug_batch_references",
    "engine.resources.machine": "usable_cores",
    "engine.counters": "FailedItem FirstBatch WorkerStats",
    "monitor.stats": "GroupShare Stats",
}
__version__ = "0.1.0"
__all__, _find = lazy(__name__, _HOMES, "checkpoint", "state")
__all__ += ["__version__"]

if not TYPE_CHECKING:  # a name that is not above is a mistake
    __getattr__ = _find


def __dir__() -> list[str]:
    return sorted(__all__)
