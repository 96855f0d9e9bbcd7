"""A digest of a loader's code, to notice that what filled a cache is no longer what loads.

Promise: equal code gives equal digests in every process and run of one version of Python, also where comments, line
numbers or names of local variables changed. Digested are the function, what it is bound to (defaults, closures,
arguments of a partial, attributes of a callable object), and what it names in its own module: functions, classes with
their bases, and constants; of a ``Source`` its class, where that is the user's, and the functions that it was given.
What all these call in other modules, read from files or keep in lists and dicts is not seen; so this may warn, and a
version that the user gives decides.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import xxhash

from hydrax_core.data.source import Source
from hydrax_core.data.value_bytes import UNENCODABLE, value_bytes

__all__ = ["changed_code", "code_digests"]

_VERSION = "python"
_MOST = 1000
"""Parts; what a module that names everything has beyond is not looked at."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def code_digests(function: Any, data: Any = None) -> dict[str, str]:
    """What a loader is made of, by name, each with 16 hexadecimal digits; and the version of Python that it is for.

    Args:
        function: The loader.
        data: What it loads from; of a ``Source`` the code counts, too.
    """
    digests: dict[str, Any] = {}
    try:
        named = [(getattr(function, "__qualname__", type(function).__qualname__), function)]
        for name, part in _parts([*named, *_of_source(data)]):
            digests.setdefault(name, xxhash.xxh3_64()).update(part)
    except Exception:  # noqa: BLE001  attributes of the user's objects may do anything; the loader still loads
        return {}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {_VERSION: version, **{name: digest.hexdigest() for name, digest in sorted(digests.items())}}


def changed_code(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """The names of what differs; nothing where they cannot be compared, as for another version of Python."""
    if not before or not now or before.get(_VERSION) != now.get(_VERSION):
        return ()
    return tuple(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _parts(pending: list[tuple[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """What functions and classes are made of, with names for people, each once."""
    seen: dict[int, Any] = {}  # with the thing itself, so that no other gets its place in memory
    while pending and len(seen) < _MOST:
        name, value = pending.pop()
        plain = _plain_bytes(value)
        if plain is not None:
            yield name, plain
        elif id(value) not in seen:
            seen[id(value)] = value
            if isinstance(value, types.FunctionType):
                yield name, _code_bytes(value.__code__, value.__doc__)
                pending += _of_function(name, value)
            elif isinstance(value, type):
                pending += _of_class(value)
            else:
                pending += _of_object(name, value)


def _of_source(data: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(data, Source):
        return
    kind = type(data)
    if not kind.__module__.startswith("hydrax_core."):
        yield kind.__qualname__, kind
    for key, value in getattr(data, "__dict__", {}).items():
        if isinstance(value, Source):
            yield from _of_source(value)
        elif callable(value) and not isinstance(value, type):
            yield f"{kind.__qualname__}.{key}", value


def _of_function(name: str, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from _numbered(f"{name} default", function.__defaults__ or ())
    yield from ((f"{name} default {key}", one) for key, one in (function.__kwdefaults__ or {}).items())
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{name} closure {key}", cell.cell_contents
        except ValueError:  # not filled yet
            continue
    for key in sorted({*_names(function.__code__)} & function.__globals__.keys()):
        found = function.__globals__[key]
        inner = found.func if isinstance(found, functools.partial) else found
        own = callable(found) and getattr(inner, "__module__", None) == function.__module__
        if own or (_plain_bytes(found) is not None and not key.startswith("__")):
            yield key, found


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    for key, value in vars(kind).items():
        for part in (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),):
            own = isinstance(part, types.FunctionType) and part.__module__ == kind.__module__
            if own or (_plain_bytes(part) is not None and not key.startswith("__")):
                yield f"{kind.__qualname__}.{key}", part
    yield from ((base.__qualname__, base) for base in kind.__bases__ if base.__module__ == kind.__module__)


def _of_object(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, types.MethodType):
        yield value.__qualname__, value.__func__
        yield from _state(value.__self__)
    elif isinstance(value, functools.partial):
        yield f"{name} function", value.func
        yield from _numbered(f"{name} argument", value.args)
        yield from ((f"{name} argument {key}", one) for key, one in value.keywords.items())
    elif hasattr(value, "__wrapped__"):  # functools.lru_cache
        yield name, value.__wrapped__
    elif callable(value):
        yield type(value).__qualname__, type(value)
        yield from _state(value)


def _state(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    slots = [name for base in kind.__mro__ for name in base.__dict__.get("__slots__", ())]
    for key in (*getattr(value, "__dict__", ()), *slots):
        found = getattr(value, key, None)
        # Where our own sources lie is no part of what they give, see files_fingerprint.
        lies = kind.__module__.startswith("hydrax_core.") and isinstance(found, str) and os.path.isabs(found)  # noqa: PTH117
        if _plain_bytes(found) is not None and not lies:
            yield f"{kind.__qualname__}.{key}", found


def _numbered(name: str, values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name} {position}", value) for position, value in enumerate(values))


def _plain_bytes(value: Any) -> bytes | None:
    """A value that cannot change as bytes; ``None`` for all others."""
    if type(value) in _PLAIN or (
        type(value) in (tuple, frozenset) and all(_plain_bytes(one) is not None for one in value)
    ):
        try:
            return value_bytes(value)
        except UNENCODABLE:
            return None
    return None


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _code_bytes(code: types.CodeType, doc: str | None) -> bytes:
    """What code does: neither where it stands nor what its local variables and its text are called."""
    parts: list[Any] = [code.co_code, code.co_names, code.co_flags, getattr(code, "co_exceptiontable", b"")]
    parts += [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount]
    parts.append(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    for position, constant in enumerate(code.co_consts):
        if isinstance(constant, types.CodeType):
            parts.append(_code_bytes(constant, None))
        elif position or constant != doc:
            parts.append(constant)
    return value_bytes(parts)
