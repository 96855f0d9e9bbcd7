"""Who refers to the batches that are alive: for finding out what holds memory."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterator
from typing import Any

from hydrax_core.batch import Batch

__all__ = ["debug_batch_references"]


def debug_batch_references() -> str:
    """Which batches are alive and what refers to them, as text."""
    lines = []
    batches = [found for found in gc.get_objects() if isinstance(found, Batch)]
    for batch in batches:
        lines.append(repr(batch))
        lines.extend(f"  {text}" for text in (*_variables(batch), *_containers(batch, batches)))
    return "\n".join(lines) or "no batch is alive"


def _variables(batch: Batch[Any]) -> Iterator[str]:
    """Local variables of running functions: these are no objects that the garbage collector knows."""
    for thread_frame in sys._current_frames().values():  # noqa: SLF001  the documented way to all threads' frames
        frame: types.FrameType | None = thread_frame
        while frame is not None:
            code = frame.f_code
            if code.co_filename != __file__:
                for name, value in frame.f_locals.items():
                    if value is batch:
                        yield f"variable {name} in {code.co_name}, {code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back


def _containers(batch: Batch[Any], batches: list[Batch[Any]]) -> Iterator[str]:
    for referrer in gc.get_referrers(batch):
        if isinstance(referrer, types.FrameType) or referrer is batches:
            continue
        if isinstance(referrer, dict):
            keys = ", ".join(repr(key) for key, value in referrer.items() if value is batch)
            module = referrer.get("__name__")
            yield f"{keys} of module {module}" if isinstance(module, str) else f"a dict, at {keys}"
        else:
            yield f"a {type(referrer).__name__}"
