"""What the engine asks of a worker, whatever it is."""

from __future__ import annotations

from typing import Protocol

from hydrax_core.engine.workers.wire import Chunk, ChunkResult, Garbled, Ready, StartFailure

__all__ = ["Report", "Worker", "WorkerGoneError"]

Report = ChunkResult | Garbled | Ready | StartFailure


class WorkerGoneError(Exception):
    """The worker has ended; the text says how."""


class Worker(Protocol):
    """A worker that chunks can be sent to; nothing here blocks.

    Attributes:
        number: Zero-based; a replacement gets the number of its predecessor.
        pid: Process id; ``None`` where it is no process.
        replaceable: Whether another can be started instead when it fails.
        ending: Whether it takes nothing more, as its end is under way.
        descriptors: What to watch; each becomes readable when ``reports()`` of it has something new. Empty where the
            work is done in ``reports()`` itself.
    """

    number: int
    pid: int | None
    status: memoryview
    replaceable: bool
    ending: bool
    descriptors: tuple[int, ...]

    @property
    def unsent(self) -> int | None:
        """A descriptor that becomes writable when ``flush()`` can send (more); ``None`` when all is sent."""

    def send(self, chunk: Chunk) -> None:
        """Hand over a chunk, which leaves with the next ``flush()``; results come in the order of the chunks.

        Raises:
            TypeError: A descriptor cannot be sent.
            WorkerGoneError: The worker has ended.
        """

    def flush(self) -> None:
        """Send what waits, as far as that is possible without blocking."""

    def reports(self, descriptor: int) -> list[Report]:
        """What the worker has reported since the last call, after ``descriptor`` became readable (-1: any).

        Raises:
            WorkerGoneError: The worker has ended and nothing is left to report.
        """

    def stop(self) -> None:
        """Ask the worker to end."""

    def join(self, seconds: float) -> None:
        """Wait until it has ended, at most ``seconds``; then end it by force and free what belongs to it."""

    def abandon(self) -> None:
        """Let go of it without ending it: this process is a fork of the one that it belongs to."""
