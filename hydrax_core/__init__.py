"""hydrax: deterministic, zero-copy batches of jax arrays from worker processes.

The names below are imported when they are first used, so that ``import hydrax_core`` costs nothing and workers never
import jax.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "hydrax does not run on Windows: its workers inherit sockets and memory by descriptors, which Windows does not "
        "have; use the Windows Subsystem for Linux (WSL), where it works"
    )

if TYPE_CHECKING:
    from hydrax_core.batch.batch import Batch, TrainingBatch, ValidationBatch
    from hydrax_core.batch.references import debug_batch_references
    from hydrax_core.data.function import batched, is_worker
    from hydrax_core.data.group import DataGroup
    from hydrax_core.data.layout import ArrayLayout, ArraySpec, Ragged
    from hydrax_core.data.source import Items, Source
    from hydrax_core.engine.counters import FailedItem, FirstBatch, WorkerStats
    from hydrax_core.engine.resources.machine import usable_cores
    from hydrax_core.errors import (
        BatchAddress,
        BatchClosedError,
        BatchesHeldError,
        BatchTimeoutError,
        CacheBusyError,
        CacheError,
        CacheMismatchError,
        HostMismatchError,
        HydraxError,
        LoaderError,
        NotACacheError,
        PlacementError,
        StateMismatchError,
        WorkerDiedError,
        WorkerError,
        WorkerStartError,
    )
    from hydrax_core.loader import checkpoint as checkpoint
    from hydrax_core.loader import state as state
    from hydrax_core.loader.dataloader import Dataloader
    from hydrax_core.monitor.stats import GroupShare, Stats
    from hydrax_core.plan.mixing import buckets, class_balanced, mix
    from hydrax_core.plan.packed import concat, pack

__all__ = [
    "ArrayLayout",
    "ArraySpec",
    "Batch",
    "BatchAddress",
    "BatchClosedError",
    "BatchTimeoutError",
    "BatchesHeldError",
    "CacheBusyError",
    "CacheError",
    "CacheMismatchError",
    "DataGroup",
    "Dataloader",
    "FailedItem",
    "FirstBatch",
    "GroupShare",
    "HostMismatchError",
    "HydraxError",
    "Items",
    "LoaderError",
    "NotACacheError",
    "PlacementError",
    "Ragged",
    "Source",
    "StateMismatchError",
    "Stats",
    "TrainingBatch",
    "ValidationBatch",
    "WorkerDiedError",
    "WorkerError",
    "WorkerStartError",
    "WorkerStats",
    "__version__",
    "batched",
    "buckets",
    "class_balanced",
    "concat",
    "debug_batch_references",
    "is_worker",
    "mix",
    "pack",
    "usable_cores",
]

__version__ = "0.1.0"

_HOMES = {
    "data.function": ("batched", "is_worker"),
    "batch.batch": ("Batch", "TrainingBatch", "ValidationBatch"),
    "loader.dataloader": ("Dataloader",),
    "errors": (
        "BatchAddress",
        "BatchClosedError",
        "BatchTimeoutError",
        "BatchesHeldError",
        "CacheBusyError",
        "CacheError",
        "CacheMismatchError",
        "HostMismatchError",
        "HydraxError",
        "LoaderError",
        "NotACacheError",
        "PlacementError",
        "StateMismatchError",
        "WorkerDiedError",
        "WorkerError",
        "WorkerStartError",
    ),
    "data.group": ("DataGroup",),
    "data.source": ("Items", "Source"),
    "data.layout": ("ArrayLayout", "ArraySpec", "Ragged"),
    "plan.mixing": ("buckets", "class_balanced", "mix"),
    "plan.packed": ("concat", "pack"),
    "batch.references": ("debug_batch_references",),
    "engine.resources.machine": ("usable_cores",),
    "engine.counters": ("FailedItem", "FirstBatch", "WorkerStats"),
    "monitor.stats": ("GroupShare", "Stats"),
}
_MODULES = {"checkpoint": "loader.checkpoint", "state": "loader.state"}
"""Modules that are public under a shorter name."""
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
