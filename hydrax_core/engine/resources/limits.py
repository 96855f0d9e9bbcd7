"""How many batches the consumer holds: a warning for many, an error for a consumer that waits for memory it holds.

Promise: computations in flight do not count as holders; they give their memory back by themselves.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Sequence
from types import CodeType
from typing import TypeAlias

from hydrax_core.data.logger import logger
from hydrax_core.engine.resources.slots import SlotPool
from hydrax_core.errors import BatchesHeldError

__all__ = ["CallSite", "HeldBatches"]

CallSite: TypeAlias = tuple[CodeType, int]
"""Where a batch was handed out: the caller's code, and the offset in it (``frame.f_lasti``). The line is looked up for
who asks, as that takes as long as handing out."""

_STARVED_SECONDS = 2.0


class HeldBatches:
    """Looks at the leases of a pool.

    Args:
        depth: Batches that may be held without remark.
        most: Batches that may be held at all, beside the one that the consumer is about to let go of.
    """

    def __init__(self, pool: SlotPool, depth: int, most: int) -> None:
        self._pool = pool
        self._most = most
        self.depth = depth
        """Batches that may be held without remark."""
        self._warned = False
        self._starved_since: float | None = None

    def look(self) -> None:
        """Log once that more batches are held than ``depth``."""
        if self._warned or self._pool.count <= 2 * self.depth + 1:
            return
        notes = self._pool.held()
        if len(notes) > self.depth + 1:  # the one that the consumer works on is none too many
            self._warned = True
            logger.warning(
                "%d batches are held, more than depth=%d: the loader takes more memory for new ones and gives it back "
                "later; they were handed out: %s",
                len(notes),
                self.depth,
                _call_sites(notes),
            )

    def excess(self) -> BatchesHeldError | None:
        if self._pool.count <= self._most or len(self._pool.held()) <= self._most:
            return None
        gc.collect()  # batches in reference cycles are garbage
        notes = self._pool.held()
        return self._error(notes) if len(notes) > self._most else None

    def starve(self, *, waiting: bool) -> BatchesHeldError | None:
        """No slot is left: the error for a consumer that waits for what cannot come, or ``None`` while it may.

        Args:
            waiting: Whether the consumer waits and nothing else is on the way.
        """
        if not waiting:
            self._starved_since = None
            return None
        now = time.monotonic()
        self._starved_since = self._starved_since or now
        # Arrays that only computations in flight still need come free by themselves; NumPy views of them may not.
        if len(self._pool.held()) < self._pool.limit and now - self._starved_since < _STARVED_SECONDS:
            return None
        gc.collect()
        return self._error(self._pool.notes())

    def _error(self, sites: Sequence[CallSite]) -> BatchesHeldError:
        return BatchesHeldError(
            f"{len(sites)} batches are held, more than max_held={self._most} and the one in use; they were handed out: "
            f"{_call_sites(sites)}. Drop the arrays (or call batch.close()), or raise max_held"
        )


def _call_sites(sites: Sequence[CallSite]) -> str:
    return "; ".join(f"{count} at {site}" for site, count in Counter(map(_call_site, sites)).items())


def _call_site(site: CallSite) -> str:
    code, instruction = site
    lines = (line for start, end, line in code.co_lines() if start <= instruction < end)
    return f"{code.co_filename}:{next(lines, None) or code.co_firstlineno}"
