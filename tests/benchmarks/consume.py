"""What is done with a batch: a jitted function that reads every byte and is waited for, or a step of a fixed length."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Callable


@jax.jit
def total(arrays: tuple[Any, ...]) -> Any:
    """The sum over all arrays, in float32: on XLA's CPU backend uint8 is added 15 times as fast so as in integers."""
    return sum(jnp.sum(array.reshape(array.shape[0], -1).astype(jnp.float32)) for array in arrays)


@functools.partial(jax.jit, static_argnames=("turns",))
def _busy(arrays: tuple[Any, ...], *, turns: int) -> Any:
    return jax.lax.fori_loop(0, turns, lambda _, value: value * 0.9999 + 0.5, total(arrays))


def step_of(seconds: float, arrays: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], Any]:
    """A jitted step that reads ``arrays`` and keeps one core busy for about ``seconds``."""
    turns = 100_000
    for _ in range(3):
        _busy(arrays, turns=turns).block_until_ready()
        start = time.perf_counter()
        for _ in range(20):
            _busy(arrays, turns=turns).block_until_ready()
        turns = max(1, int(turns * seconds / ((time.perf_counter() - start) / 20)))
    _busy(arrays, turns=turns).block_until_ready()
    return functools.partial(_busy, turns=turns)
