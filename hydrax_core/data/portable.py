"""Whether the kernel is to be used as if it were no Linux.

Promise: ``HYDRAX_PORTABLE=1`` has every part take the way that works on any POSIX system, so that Linux can test it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["PORTABLE"]

PORTABLE = sys.platform != "linux" or os.environ.get("HYDRAX_PORTABLE", "0") not in {"", "0"}
"""True: no memfd, no pidfd, no signal when a pipe closes, nothing of ``/proc``, no locks of open files."""
