"""What a loader function asks hydrax for: the mark ``batched``, and whether it runs in a worker.

Promise: a worker that imports the user's loader gets these names without anything of the consumer's side.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, overload

from hydrax_core.data.checks import call, integer

__all__ = [
    "active",
    "batched",
    "cache_advice",
    "check_loader_func",
    "is_batched",
    "is_worker",
    "items_a_call",
    "local",
    "random_in_each_epoch",
]

F = TypeVar("F", bound=Callable[..., Any])

active = False
"""True in a worker process."""

local = threading.local()
"""``local.active`` is true in a worker thread."""


def is_worker() -> bool:
    """Whether the calling code runs in a worker process or a worker thread of a loader."""
    return active or getattr(local, "active", False)


@overload
def batched(loader_func: F) -> F: ...
@overload
def batched(*, least: int = 1, most: int | None = None) -> Callable[[F], F]: ...
def batched(loader_func: Any = None, *, least: int = 1, most: int | None = None) -> Any:
    """Mark a loader that loads several items at once; as ``@batched`` or as ``@batched(least=16, most=256)``.

    It is called as ``load(items, arrays, seeds)``: the items of a part of a batch (a list, or ``Items`` of a
    ``Source``), arrays with the leading dimension ``len(items)``, and a list of seeds (``None`` in validation). It
    returns ``None`` or a list of dicts, one an item. How many items a call gets varies, as what a call and what an item
    cost is learned; the result must not depend on it. Methods and other callables that take no attributes come back as
    a ``functools.partial`` that has the mark.

    Args:
        loader_func: The loader.
        least: A call gets at least so many items, where that many rows of the batch are left to load; after a failure,
            single items.
        most: A call gets at most so many; ``None`` for up to a batch.

    Raises:
        TypeError: ``loader_func`` cannot be called.
        ValueError: ``least`` or ``most`` is below 1, or ``least`` above ``most``.
    """
    integer("least", least, 1)
    if most is not None and integer("most", most, 1) < least:
        raise ValueError(f"most: expected an int of at least least={least}, got {most}")
    if loader_func is None:
        return functools.partial(batched, least=least, most=most)
    if not callable(loader_func):
        raise TypeError(f"batched: expected a function of (items, arrays, seeds), got {loader_func!r}")
    bounds = least, most or 0
    try:
        loader_func.__hydrax_batched__ = bounds
    except (AttributeError, TypeError):
        marked: Any = functools.partial(loader_func)
        marked.__hydrax_batched__ = bounds
        return marked
    return loader_func


def is_batched(loader_func: Any) -> bool:
    """Whether a loader, or what a partial calls, is marked with ``batched``."""
    return _mark(loader_func) is not None


def items_a_call(loader_func: Any) -> tuple[int, int]:
    """The least and the most items of a call, as given to ``batched``; 0 for no bound."""
    return _mark(loader_func) or (0, 0)


def _mark(loader_func: Any) -> tuple[int, int] | None:
    while not (mark := getattr(loader_func, "__hydrax_batched__", None)):
        if not isinstance(loader_func, functools.partial):
            return None
        loader_func = loader_func.func
    return mark if isinstance(mark, tuple) else (0, 0)


def random_in_each_epoch(loader_func: Any, advice: str) -> Any:
    """A loader of a source whose rows are meant to be others in each epoch, which a cache of one epoch would end.

    Args:
        advice: What the user does instead, for the error.
    """
    marked: Any = functools.partial(loader_func)
    marked.__hydrax_random__ = advice
    return marked


def cache_advice(loader_func: Any) -> str:
    """What ``random_in_each_epoch`` advises; ``""`` for a loader without that mark."""
    return str(getattr(loader_func, "__hydrax_random__", ""))


def check_loader_func(argument: str, loader_func: Any) -> None:
    """Refuse what cannot be called as a loader."""
    call(argument, loader_func, 3, "(items, arrays, seeds)" if is_batched(loader_func) else "(item, arrays, seed)")
