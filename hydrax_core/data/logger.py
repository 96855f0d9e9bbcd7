"""The logger of the library.

Promise: what a handler or a filter of the user's raises does not reach the code that logs, which may be the thread that
loads: it is reported as ``logging`` reports the errors of handlers (on stderr, while ``logging.raiseExceptions``). In
the main thread a handler may end the program (SystemExit) and Ctrl-C comes through; in others neither would end it.
"""

from __future__ import annotations

import logging
import threading

__all__ = ["logger"]

logger = logging.getLogger("hydrax")
_handle = logger.handle


def _guarded(record: logging.LogRecord) -> None:
    try:
        _handle(record)
    except BaseException as error:  # the user's code
        if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
            raise
        logging.Handler().handleError(record)


logger.handle = _guarded  # type: ignore[method-assign]  # the one place that all of its records pass
