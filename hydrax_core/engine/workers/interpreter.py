"""What a worker process takes over from the main process, so that it is as much like it as a fresh process can be.

Promise: all workers of a run, replacements included, have the interpreter's flags, ``sys.argv``, ``sys.path``, warning
filters, logging to the terminal and numeric settings (NumPy's errors, the decimal context) of the main process at the
run's start, and one hash seed: that of ``PYTHONHASHSEED``, or 0 where there is none, so that sets of strings have one
order in all workers and in every run. What is not here is not taken over; docs/workers.md has the table.

Nothing is imported for it: a warning category is known by its name, and of logging go levels and the handlers that
write to ``sys.stdout`` or ``sys.stderr``.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = ["JOB_SIGNALS", "WORKER_MARK", "Interpreter", "apply", "interpreter_here"]

WORKER_MARK = "HYDRAX_WORKER"
"""Set in the environment of a worker until it serves: a program that finds it there was started instead of a worker."""

JOB_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
"""Signals that terminals and schedulers send to all processes of a job."""

_FLAGS = {
    "bytes_warning": "b",
    "debug": "d",
    "dont_write_bytecode": "B",
    "no_site": "S",
    "no_user_site": "s",
    "optimize": "O",
    "quiet": "q",
    "safe_path": "P",
    "verbose": "v",
}
_SYS = ("argv", "warnoptions", "dont_write_bytecode", "pycache_prefix")
_LAST_HASH_SEED = 2**32 - 1
_logger = logging.getLogger("hydrax")


class Interpreter(NamedTuple):
    """The main process's interpreter at the start of a run.

    Attributes:
        environment: Environment to start workers in.
        hidden: Variables that an interpreter which ignores its environment must not see; the worker gets them later.
        settings: pickle of each of ``_SETTINGS`` by name.
    """

    flags: list[str]
    path: list[Any]
    environment: dict[str, str]
    hidden: dict[str, str]
    settings: dict[str, bytes]


def interpreter_here() -> Interpreter:
    settings = {}
    for name, (get, _) in _SETTINGS.items():
        try:
            settings[name] = pickle.dumps(get(), protocol=5)
        except Exception as error:  # noqa: BLE001  whatever the user has put there
            _logger.warning("workers start without the main process's %s, which cannot be sent: %s", name, error)
    environment = dict(os.environ)
    hidden = {}
    # -E and -I would have a worker ignore its hash seed, too.
    if sys.flags.ignore_environment:
        hidden = {name: environment.pop(name) for name in list(environment) if name.startswith("PYTHON")}
    seed = environment.get("PYTHONHASHSEED", "")
    if not (seed.isascii() and seed.isdecimal() and int(seed) <= _LAST_HASH_SEED):
        environment["PYTHONHASHSEED"] = "0"
    return Interpreter(list(_flags()), list(sys.path), environment, hidden, settings)


def apply(interpreter: Interpreter) -> None:
    sys.path[:] = interpreter.path
    os.environ.update(interpreter.hidden)
    for name, value in interpreter.settings.items():
        _SETTINGS[name][1](pickle.loads(value))


def _flags() -> Iterator[str]:
    for name, letter in _FLAGS.items():
        count = int(getattr(sys.flags, name))
        if count:
            yield f"-{letter * count}"
    for name, value in sys._xoptions.items():  # noqa: SLF001  documented, with its underscore
        yield "-X"
        yield name if value is True else f"{name}={value}"


def _sys_values() -> dict[str, Any]:
    return {name: getattr(sys, name) for name in _SYS}


def _set_sys_values(values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(sys, name, value)


class _NamedCategory(type):
    """A warning category that is known by its name: its module need not be imported for that."""

    named: tuple[str, str]

    def __subclasscheck__(cls, category: type) -> bool:
        return any((known.__module__, known.__qualname__) == cls.named for known in category.__mro__)


def _warning_filters() -> list[tuple[Any, ...]]:
    filters: Any = warnings.filters
    return [
        (action, message, (category.__module__, category.__qualname__), module, line)
        for action, message, category, module, line in filters
    ]


def _set_warning_filters(filters: list[tuple[Any, ...]]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = [  # type: ignore[index]  # typeshed has it as a sequence; it is a list
        (action, message, _NamedCategory(named[1], (Warning,), {"named": named}), module, line)
        for action, message, named, module, line in filters
    ]


def _decimal_context() -> Any:
    decimal = sys.modules.get("decimal")
    if decimal is None:
        return None
    context = decimal.getcontext().copy()
    context.clear_flags()
    # To import the module takes a worker a tenth of its start.
    return None if repr(context) == _PLAIN_DECIMALS else context


def _set_decimal_context(context: Any) -> None:
    if context is not None:  # its pickle has imported the module
        sys.modules["decimal"].setcontext(context)


_PLAIN_DECIMALS = (
    "Context(prec=28, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, capitals=1, clamp=0, flags=[], "
    "traps=[InvalidOperation, DivisionByZero, Overflow])"
)
"""What a fresh interpreter has."""


class _LoggerSettings(NamedTuple):
    name: str
    level: int
    propagate: bool
    disabled: bool
    handlers: list[tuple[str, int, logging.Formatter | None]]
    """Of each handler that writes to a standard stream: the stream's name, level, formatter."""


def _logging() -> tuple[int, list[_LoggerSettings]]:
    manager = logging.root.manager
    found = [_logger_settings("", logging.root)]
    for name, logger in list(manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            settings = _logger_settings(name, logger)
            if settings[1:] != (logging.NOTSET, True, False, []):
                found.append(settings)
    return manager.disable, found


def _logger_settings(name: str, logger: logging.Logger) -> _LoggerSettings:
    handlers = []
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        for standard in ("stdout", "stderr"):
            if stream is not None and any(stream is getattr(sys, name) for name in (standard, f"__{standard}__")):
                formatter = handler.formatter
                if type(formatter) not in {logging.Formatter, type(None)}:
                    formatter = logging.Formatter(logging.BASIC_FORMAT)  # a worker need not import other classes
                handlers.append((standard, handler.level, formatter))
                break
    return _LoggerSettings(name, logger.level, logger.propagate, logger.disabled, handlers)


def _set_logging(settings: tuple[int, list[_LoggerSettings]]) -> None:
    logging.disable(settings[0])
    for found in settings[1]:
        logger = logging.getLogger(found.name or None)
        logger.setLevel(found.level)
        logger.propagate, logger.disabled = found.propagate, found.disabled
        for stream, level, formatter in found.handlers:
            handler = logging.StreamHandler(getattr(sys, stream))
            handler.setLevel(level)
            handler.setFormatter(formatter)
            logger.addHandler(handler)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "sys": (_sys_values, _set_sys_values),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "socket timeout": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "NumPy errors": (np.geterr, lambda kinds: np.seterr(**kinds)),
    "decimal context": (_decimal_context, _set_decimal_context),
    "logging": (_logging, _set_logging),
    "warning filters": (_warning_filters, _set_warning_filters),
}
"""What is taken over, in this order: the name, what reads it here, what sets it in a worker."""
