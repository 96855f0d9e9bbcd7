"""How often to draw: as often as a small share of one core allows.

Promise: on a slow machine or a large screen the picture moves less often, instead of taking the time of the loader.
"""

from __future__ import annotations

import time

__all__ = ["Pace"]


class Pace:
    """Says when something may be drawn again; for the thread that draws.

    Args:
        share: Share of one core that the thread may take, whatever it does; 0 to 1.
        longest: Seconds after which it is drawn all the same.
    """

    def __init__(self, *, share: float, longest: float) -> None:
        self._share = share
        self._longest = longest
        self._at = -longest
        self._used = 0.0

    def due(self) -> bool:
        """Whether to draw now; if so, the time counts from now on."""
        now, used = time.monotonic(), time.thread_time()
        passed = now - self._at
        if used - self._used > self._share * passed and passed < self._longest:
            return False
        self._at, self._used = now, used
        return True
