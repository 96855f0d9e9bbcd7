"""Standard output for a result alone.

Promise: whatever else is written to standard output meanwhile, by this process, the user's code, its native libraries
or the workers, goes to standard error, so that what reads the result reads nothing else.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["own_output"]

_STDOUT, _STDERR = 1, 2


@contextmanager
def own_output() -> Iterator[TextIO]:
    """Standard output, which is the caller's alone within the ``with`` block."""
    with ExitStack() as undo:
        output = sys.stdout
        if output is sys.__stdout__ and output is not None and output.fileno() == _STDOUT:
            output.flush()
            output = undo.enter_context(os.fdopen(os.dup(_STDOUT), "w", encoding=output.encoding))
            kept = os.dup(_STDOUT)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, _STDOUT)
            os.dup2(_STDERR, _STDOUT)
        undo.enter_context(redirect_stdout(sys.stderr))
        yield output
