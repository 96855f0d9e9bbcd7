"""What refers to the batches that are alive: for finding out what holds memory.

Promise: each holder is named by what a reader can find in the code: variable, attribute, key, index. What the garbage
collector does not know (a variable of C code, say) cannot be named.
"""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from hydrax_core.batch.batch import Batch
from hydrax_core.errors import shorten

__all__ = ["debug_batch_references"]

_PLACES_SHOWN = 5
_KEY_LENGTH = 60


def debug_batch_references() -> str:
    """Which batches are alive and what refers to them, as text."""
    lines = []
    batches = [found for found in gc.get_objects() if isinstance(found, Batch) and not found.made_ahead]
    for batch in batches:
        lines.append(repr(batch))
        lines.extend(f"  {text}" for text in (*_variables(batch), *_containers(batch, batches)))
    return "\n".join(lines) or "no batch is alive"


def _variables(value: Any) -> Iterator[str]:
    """Local variables of running functions: these are no objects that the garbage collector knows."""
    for thread_frame in sys._current_frames().values():  # noqa: SLF001  the documented way to all threads' frames
        frame: types.FrameType | None = thread_frame
        while frame is not None:
            yield from _locals(frame, value)
            frame = frame.f_back


def _locals(frame: types.FrameType, value: Any) -> Iterator[str]:
    code = frame.f_code
    for name, other in frame.f_locals.items() if code.co_filename != __file__ else ():
        if other is value:
            yield f"variable {name} in {code.co_name}, {code.co_filename}:{frame.f_lineno}"


def _containers(batch: Batch[Any], batches: list[Batch[Any]]) -> Iterator[str]:
    for referrer in _referrers(batch):
        if referrer is batches:
            continue
        named = _in_named(referrer, batch)
        if named is not None:
            yield named
            continue
        owner = _owner(referrer)
        yield f"{_in(referrer, batch)}{f' ({owner})' if owner else ''}"


def _referrers(value: Any) -> Iterator[Any]:
    """What refers to ``value``, frames left out; an object in the place of the dict of its attributes."""
    for referrer in gc.get_referrers(value):
        if isinstance(referrer, dict) and "__name__" not in referrer:
            owners = gc.get_referrers(referrer)
            yield next((owner for owner in owners if getattr(owner, "__dict__", None) is referrer), referrer)
        elif not isinstance(referrer, types.FrameType) and not _ours(referrer):
            yield referrer


def _ours(referrer: Any) -> bool:
    """Whether this is a generator of this file, which Python 3.13 finds, too."""
    return isinstance(referrer, types.GeneratorType) and referrer.gi_code.co_filename == __file__


def _in_named(referrer: Any, value: Any) -> str | None:
    """Where ``value`` stands in something that has a name of its own: a module or a generator that waits."""
    if isinstance(referrer, dict) and isinstance(module := referrer.get("__name__"), str):
        return f"{_keys(referrer, value)} of module {module}"
    frame = getattr(referrer, "gi_frame", None) or getattr(referrer, "cr_frame", None)
    return next(_locals(frame, value), None) if isinstance(frame, types.FrameType) else None


def _in(referrer: Any, value: Any) -> str:
    kind = type(referrer).__name__
    if isinstance(referrer, dict):
        return f"a {kind}, at {_keys(referrer, value)}"
    if isinstance(referrer, list | tuple | deque):
        return f"a {kind}, at {_places([str(place) for place, entry in enumerate(referrer) if entry is value])}"
    attribute = _attribute(referrer, value)
    return f"a {kind}" if attribute is None else f"a {kind}, at .{attribute}"


def _owner(container: Any) -> str | None:
    """What the container itself is called, one step away."""
    variable = next(_variables(container), None)
    if variable is not None:
        return variable
    for referrer in _referrers(container):
        if isinstance(container, types.CellType) and isinstance(referrer, tuple):
            return _captured(container, referrer)
        named = _in_named(referrer, container)
        if named is not None:
            return named
        attribute = _attribute(referrer, container)
        if attribute is not None:
            return f"attribute {attribute} of a {type(referrer).__name__}"
        if isinstance(referrer, dict):
            return f"in a dict, at {_keys(referrer, container)}"
    return None


def _captured(cell: types.CellType, closure: tuple[Any, ...]) -> str | None:
    for function in gc.get_referrers(closure):
        if isinstance(function, types.FunctionType) and function.__closure__ is closure:
            name = function.__code__.co_freevars[[entry is cell for entry in closure].index(True)]
            return f"variable {name} that {function.__qualname__} uses"
    return None


def _attribute(owner: Any, value: Any) -> str | None:
    try:
        attributes = vars(owner)
    except TypeError:
        return None
    return next((name for name, other in attributes.items() if other is value), None)


def _keys(mapping: dict[Any, Any], value: Any) -> str:
    return _places([shorten(key, _KEY_LENGTH) for key, other in mapping.items() if other is value])


def _places(places: Sequence[str]) -> str:
    shown = ", ".join(places[:_PLACES_SHOWN])
    return shown if len(places) <= _PLACES_SHOWN else f"{shown} and {len(places) - _PLACES_SHOWN} more"
