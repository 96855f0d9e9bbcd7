"""How an engine runs."""

from __future__ import annotations

from dataclasses import dataclass

from hydrax_core.engine.resources.autotune import Bounds
from hydrax_core.engine.schedule import OnError

__all__ = ["EngineSettings"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine runs; the names are those of ``Dataloader``.

    Attributes:
        depth: Batches loaded ahead; the least and the most.
        workers: Workers; the least and the most.
        max_held: Batches that the consumer may hold while it asks for another.
        deterministic: Whether batches keep the order of the plan.
        on_error: What to do about a failing item.
        batched: Whether the loader takes many items at once, so that it is not known which of them it is at.
        threaded: Whether a thread drives the engine; else the consumer does, in ``wait()``.
    """

    depth: Bounds
    workers: Bounds
    max_held: int
    deterministic: bool
    on_error: OnError
    batched: bool
    threaded: bool
