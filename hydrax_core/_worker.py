"""Whether this is a worker: set by the workers themselves, read by ``is_worker()``."""

from __future__ import annotations

import threading

__all__ = ["active", "is_worker", "local"]

active = False
"""True in a worker process."""

local = threading.local()
"""``local.active`` is true in a worker thread."""


def is_worker() -> bool:
    """Whether the calling code runs in a worker process or a worker thread of a loader."""
    return active or getattr(local, "active", False)
