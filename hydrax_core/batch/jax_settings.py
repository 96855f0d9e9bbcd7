"""The settings of jax under which the batches of a run are placed: those of the thread that starts it.

Promise: whichever thread places a batch, whatever its settings are by then, it is placed like all others of the run.
"""

from __future__ import annotations

import contextlib
import importlib
from contextlib import AbstractContextManager
from typing import Any

import jax

__all__ = ["Settings", "own_transfers", "without_mesh"]

_NOTHING: AbstractContextManager[Any] = contextlib.nullcontext()


class Settings:
    """What ``with jax.default_device(...)``, ``jax.enable_x64(...)`` and the like said where this was made.

    Args:
        users: Whether code of the user's runs under them. Else a mesh, checks for NaN and guards against transfers are
            off: they are for the user's own computations.
    """

    def __init__(self, *, users: bool) -> None:
        config: Any = jax.config
        self._x64: bool = config.jax_enable_x64
        self._device: Any = config.jax_default_device
        self._nans = (config.jax_debug_nans, config.jax_debug_infs) if users else (False, False)
        self._guard: str = (config.jax_transfer_guard_host_to_device if users else None) or "allow"
        self._mesh: Any = _mesh() if users else None

    def applied(self) -> AbstractContextManager[Any]:
        config: Any = jax.config
        entered: list[Any] = []
        if config.jax_enable_x64 != self._x64:
            entered.append(_enable_x64(self._x64))
        if config.jax_default_device is not self._device:
            entered.append(jax.default_device(self._device))
        if (config.jax_debug_nans, config.jax_debug_infs) != self._nans:
            entered += [jax.debug_nans(self._nans[0]), jax.debug_infs(self._nans[1])]
        if (config.jax_transfer_guard_host_to_device or "allow") != self._guard:
            entered.append(jax.transfer_guard_host_to_device(self._guard))
        if _mesh() != self._mesh:
            entered.append(jax.set_mesh(self._mesh))
        if not entered:
            return _NOTHING
        stack = contextlib.ExitStack()
        for context in entered:
            stack.enter_context(context)
        return stack


def own_transfers() -> AbstractContextManager[Any]:
    """Let transfers pass that a method of ours was asked for."""
    return jax.transfer_guard("allow")


def without_mesh() -> AbstractContextManager[Any]:
    """For what is computed with arrays of this host alone: under a mesh of several hosts, jax takes them for copies."""
    context: AbstractContextManager[Any] = _NOTHING if _mesh() is None else jax.set_mesh(None)
    return context


def _enable_x64(on: bool) -> AbstractContextManager[Any]:
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")  # before jax 0.8
    context: AbstractContextManager[Any] = home.enable_x64(on)
    return context


def _mesh() -> Any:
    """The mesh in use, ``None`` for none, or where jax (before 0.7) has no ``set_mesh``."""
    if not hasattr(jax, "set_mesh") or jax.sharding.get_abstract_mesh().empty:
        return None
    return jax.sharding.get_mesh()
