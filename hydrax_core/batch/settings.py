"""The settings of jax under which the batches of a run are placed: those of the thread that starts it.

Promise: whichever thread places a batch, whatever its settings are by then, it is placed like all others of the run. A
mesh in use, checks for NaN and guards against transfers are for the user's own computations and play no part.
"""

from __future__ import annotations

import contextlib
import importlib
from contextlib import AbstractContextManager
from typing import Any

import jax

__all__ = ["Settings", "own_transfers"]

_NOTHING: AbstractContextManager[Any] = contextlib.nullcontext()
_UNGUARDED = {None, "allow"}


class Settings:
    """What ``with jax.default_device(...)`` and ``with jax.enable_x64(...)`` said where this was made."""

    def __init__(self) -> None:
        config: Any = jax.config
        self.x64: bool = config.jax_enable_x64
        self.device: Any = config.jax_default_device

    def applied(self, *, neutral: bool = True) -> AbstractContextManager[Any]:
        """Have them apply to this thread.

        Args:
            neutral: Whether a mesh, checks for NaN and guards against transfers are off meanwhile.
        """
        config: Any = jax.config
        entered: list[Any] = []
        if config.jax_enable_x64 != self.x64:
            entered.append(_enable_x64(self.x64))
        if config.jax_default_device is not self.device:
            entered.append(jax.default_device(self.device))
        if neutral:
            if config.jax_debug_nans or config.jax_debug_infs:
                entered += [jax.debug_nans(False), jax.debug_infs(False)]
            if config.jax_transfer_guard_host_to_device not in _UNGUARDED:
                entered.append(jax.transfer_guard_host_to_device("allow"))
            if not _mesh_is_empty():
                entered.append(jax.set_mesh(None))
        if not entered:
            return _NOTHING
        stack = contextlib.ExitStack()
        for context in entered:
            stack.enter_context(context)
        return stack


def own_transfers() -> AbstractContextManager[Any]:
    """Let transfers pass that a method of ours was asked for."""
    return jax.transfer_guard("allow")


def _enable_x64(on: bool) -> AbstractContextManager[Any]:
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")  # before jax 0.8
    context: AbstractContextManager[Any] = home.enable_x64(on)
    return context


def _mesh_is_empty() -> bool:
    found: Any = getattr(jax.sharding, "get_abstract_mesh", None)
    return found is None or not hasattr(jax, "set_mesh") or bool(found().empty)
