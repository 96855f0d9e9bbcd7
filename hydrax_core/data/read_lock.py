"""Reading items of the user's data: by one thread at a time, and whatever goes wrong is an error of the item.

Promise: one data object is read by one thread at a time in a process, whoever asks: the loader, ``batch.data``, the
digest for a cache or a saved state. So data that moves a file handle needs no lock of its own. Two data objects whose
attributes refer to the same object of a class of its own (two subsets of one data set, say) are read one at a time,
too, down to three levels; what they share in another way, a global file, say, needs a lock of theirs. A ``Source`` has
no such trouble, as each worker has a copy. The lock cannot be left taken by Ctrl-C, and a fork's child finds it free.

``StopIteration`` out of ``data[i]`` becomes a ``RuntimeError``: a loop around it would take it for its own end.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
import weakref
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, Generic, TypeVar, overload

import numpy as np

from hydrax_core.data.fingerprint import IdentifiedItems

__all__ = ["GuardedData", "PlainData", "guarded", "is_plain"]

D = TypeVar("D")

_PLAIN = (list, tuple, range, np.ndarray, np.memmap)
"""Indexing these runs no code of the user's and moves no file handle; other subclasses may do both."""
_DEEPEST, _MOST_TOGETHER = 3, 100
_SHARED_BY_MANY = (type, enum.Enum, logging.Logger, np.ndarray, np.dtype, np.generic, PurePath)
"""Objects of these have no state that reading changes."""


class PlainData(Sequence[D], Generic[D]):
    """Data of ours over plain sequences: indexing it runs no code of the user's, and many items cost less at once."""

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> list[D]: ...


def is_plain(data: Any) -> bool:
    """Whether indexing runs no code of the user's and moves no file handle."""
    return type(data) in _PLAIN or isinstance(data, PlainData)


class GuardedData(Sequence[D], Generic[D]):
    """A data object behind its lock; made by ``guarded()``."""

    def __init__(self, data: Any, lock: Any) -> None:
        self._data = data
        self.lock = lock
        self.wanted = False
        """Whether another thread has asked: the loader reads without a pause, and a lock is not fair."""

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> D: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[D]: ...
    def __getitem__(self, index: int | slice) -> D | Sequence[D]:
        self.wanted = True
        found: D | Sequence[D] = self.read(index)
        return found

    def read(self, index: Any) -> Any:
        """``data[index]``, without a claim to be served next."""
        with self.lock:  # as a `with` of C code, nothing can come between taking it and being sure to give it back
            try:
                item: Any = self._data[index]
            except StopIteration as error:
                raise RuntimeError(f"data[{index}] raised StopIteration") from error
        return item

    def __getattr__(self, name: str) -> Any:
        if name != "fingerprint":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        own = self._data.fingerprint

        def fingerprint() -> Any:
            with self.lock:
                return own()

        return fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        return guarded, (self._data,)


def guarded(data: Sequence[D]) -> Sequence[D]:
    """What reads a data object: the same for all callers, or the object itself where it needs no lock."""
    inside: Any = data
    while type(inside) is IdentifiedItems:
        inside = inside.items
    if is_plain(inside):
        plain: Sequence[D] = inside
        return plain
    with _registry_lock:
        guard = _guards.get(id(data))  # a guard keeps its data alive, so no other object has the id
        if guard is None:
            parts = _parts(data)
            lock = next(filter(None, map(_locks.get, parts)), None) or threading.RLock()
            guard = _guards[id(data)] = GuardedData(data, lock)
            _locks.update(dict.fromkeys(parts, lock))
    return guard


def _parts(data: Any) -> set[int]:
    """The objects that data consists of and others may share: itself, and what its attributes refer to."""
    found, level = {id(data)}, [data]
    for _ in range(_DEEPEST):
        inner = [value for one in level for value in _held(one) if _is_part(value)]
        level = [value for value in inner if id(value) not in found]
        found.update(map(id, level))
    return found


def _held(one: Any) -> Iterator[Any]:
    """What the attributes of an object refer to, alone or a few of them in a list or tuple."""
    for value in getattr(one, "__dict__", {}).values():
        if type(value) in (list, tuple) and len(value) <= _MOST_TOGETHER:
            yield from value
        else:
            yield value


def _is_part(value: Any) -> bool:
    return type(value).__module__ != "builtins" and not isinstance(value, _SHARED_BY_MANY)


_guards: weakref.WeakValueDictionary[int, GuardedData[Any]] = weakref.WeakValueDictionary()
_locks: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Locks by the ids of what the data behind them consists of, which their guards keep alive with them."""
_registry_lock = threading.RLock()


def _after_fork_in_child() -> None:
    global _registry_lock  # noqa: PLW0603  a thread that is not in the child may have held it
    _registry_lock = threading.RLock()
    fresh: dict[Any, Any] = defaultdict(threading.RLock)  # guards that share a lock go on to share one
    for guard in list(_guards.values()):
        guard.lock = fresh[guard.lock]
    for part, lock in list(_locks.items()):
        _locks[part] = fresh[lock]


os.register_at_fork(after_in_child=_after_fork_in_child)
