"""What a loader function asks hydrax for: the mark ``batched``, and whether it runs in a worker.

Promise: a worker that imports the user's loader gets these names without anything of the consumer's side.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from hydrax_core.data.checks import call

__all__ = ["active", "batched", "check_loader_func", "is_batched", "is_worker", "local"]

F = TypeVar("F", bound=Callable[..., Any])

active = False
"""True in a worker process."""

local = threading.local()
"""``local.active`` is true in a worker thread."""


def is_worker() -> bool:
    """Whether the calling code runs in a worker process or a worker thread of a loader."""
    return active or getattr(local, "active", False)


def batched(loader_func: F) -> F:
    """Mark a loader that loads several items at once.

    It is called as ``load(items, arrays, seeds)``: the items of a part of a batch (a list, or ``Items`` of a
    ``Source``), arrays with the leading dimension ``len(items)``, and a list of seeds (``None`` in validation). It
    returns ``None`` or a list of dicts, one an item. How many items a call gets varies; the result must not depend on
    it. Methods and other callables that take no attributes come back as a ``functools.partial`` that has the mark.

    Raises:
        TypeError: ``loader_func`` cannot be called.
    """
    if not callable(loader_func):
        raise TypeError(f"batched: expected a function of (items, arrays, seeds), got {loader_func!r}")
    try:
        loader_func.__hydrax_batched__ = True  # type: ignore[attr-defined]  # a mark that travels with the function
    except (AttributeError, TypeError):
        marked = functools.partial(loader_func)
        marked.__hydrax_batched__ = True  # type: ignore[attr-defined]  # same
        return cast("F", marked)
    return loader_func


def is_batched(loader_func: Any) -> bool:
    """Whether a loader, or what a partial calls, is marked with ``batched``."""
    while not getattr(loader_func, "__hydrax_batched__", False):
        if not isinstance(loader_func, functools.partial):
            return False
        loader_func = loader_func.func
    return True


def check_loader_func(argument: str, loader_func: Any) -> None:
    """Refuse what cannot be called as a loader.

    Raises:
        TypeError: It cannot.
    """
    call(argument, loader_func, 3, "(items, arrays, seeds)" if is_batched(loader_func) else "(item, arrays, seed)")
