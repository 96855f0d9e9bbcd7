"""Everything hydrax raises on purpose.

Every error says what happened, where (group, epoch, batch, item) and what to do about it::

    HydraxError
    ├── LoaderError            loader_func failed on an item; carries the worker's traceback
    ├── WorkerError            worker processes, apart from the items they load
    │   ├── WorkerStartError   a worker could not start: startup_func raised, loader_func could not be sent
    │   └── WorkerDiedError    one item killed several workers, or workers die without doing any work
    ├── StreamError            an epoch of a stream gave no batch
    ├── BatchTimeoutError      no batch within timeout_sec (also a TimeoutError)
    ├── BatchesHeldError       the consumer holds more batches than allowed (also a MemoryError)
    ├── BatchClosedError       a batch was used after close() (also a RuntimeError)
    ├── PlacementError         arrays cannot be placed as declared (also a ValueError)
    ├── HostMismatchError      the hosts of a run differ, or one of them failed
    ├── StateMismatchError     load_state_dict() of another dataset or other settings (also a ValueError)
    └── CacheError             the cache on disk
        ├── CacheMismatchError   the cache holds something else than the group asks for
        ├── NotACacheError       the folder exists and is no cache
        └── CacheBusyError       the folder is being written by a run

Wrong arguments raise plain ``ValueError`` and ``TypeError`` that name the argument.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any

__all__ = [
    "BatchAddress",
    "BatchClosedError",
    "BatchTimeoutError",
    "BatchesHeldError",
    "CacheBusyError",
    "CacheError",
    "CacheMismatchError",
    "HostMismatchError",
    "HydraxError",
    "LoaderError",
    "NotACacheError",
    "PlacementError",
    "StateMismatchError",
    "StreamError",
    "WorkerDiedError",
    "WorkerError",
    "WorkerStartError",
]


@dataclass(frozen=True, slots=True)
class BatchAddress:
    """Where a batch stands in the run; all numbers are zero-based.

    Attributes:
        kind: ``"training"`` or ``"validation"``.
        group_index: Position of the group among the groups of its kind.
        epoch: Training epoch, or the number of the validation run.
        epoch_batch: Position within that epoch or validation run.
        batch_num: Position among all batches of the kind.
    """

    kind: str
    group_index: int
    epoch: int
    epoch_batch: int
    batch_num: int

    def __str__(self) -> str:
        run = "epoch" if self.kind == "training" else "validation run"
        return f"{self.kind} group {self.group_index}, {run} {self.epoch}, batch {self.epoch_batch}"


class HydraxError(Exception):
    """Base of every error that hydrax raises on purpose, wrong arguments apart."""


class LoaderError(HydraxError):
    """``loader_func`` failed on an item.

    Attributes:
        address: The batch that the item belongs to.
        index: Index of the item in its group's data.
        descriptor: The item; its index where only workers read it (a ``Source``), ``None`` where it is not known.
        cause: The exception in one line, ``"ValueError: bad header"``.
        worker_traceback: The worker's own traceback, as text; the main process's where ``data[index]`` fails.
        in_worker: Which of the two.
    """

    def __init__(
        self,
        address: BatchAddress,
        index: int,
        descriptor: Any,
        cause: str,
        worker_traceback: str,
        in_worker: bool = True,
    ) -> None:
        self.address = address
        self.index = index
        self.descriptor = descriptor
        self.cause = cause
        self.worker_traceback = worker_traceback
        self.in_worker = in_worker
        super().__init__(address, index, descriptor, cause, worker_traceback, in_worker)

    def __str__(self) -> str:
        where = "worker" if self.in_worker else "main process"
        trace = f"\n\nIn the {where}:\n{self.worker_traceback}" if self.worker_traceback else ""
        return f"item {self.index} ({shorten(self.descriptor)}) of {self.address} failed: {self.cause}{trace}"


class WorkerError(HydraxError):
    """Something is wrong with the worker processes, apart from the items they load."""


class WorkerStartError(WorkerError):
    """A worker could not start: ``startup_func`` raised, or ``loader_func`` could not be sent or imported."""


class WorkerDiedError(WorkerError):
    """Workers die: one item killed several of them, or they die without doing any work.

    Attributes:
        address: The batch in work, ``None`` where no item was in work.
        index: Index of the item in its group's data, ``None`` likewise.
        descriptor: The item.
        how: How the last worker ended, in words, ``"killed by SIGSEGV (segmentation fault)"``.
    """

    def __init__(
        self, message: str, address: BatchAddress | None, index: int | None, descriptor: Any, how: str
    ) -> None:
        self.message = message
        self.address = address
        self.index = index
        self.descriptor = descriptor
        self.how = how
        super().__init__(message, address, index, descriptor, how)

    def __str__(self) -> str:
        return self.message


class StreamError(HydraxError):
    """An epoch of a stream gave no batch: its factory returned what was used up, or every shard is short of a batch."""


class BatchTimeoutError(HydraxError, TimeoutError):
    """No batch arrived within ``timeout_sec``; the text says what every worker is busy with."""


class BatchesHeldError(HydraxError, MemoryError):
    """The consumer holds more batches than ``max_held`` allows; the text says where they were handed out."""


class BatchClosedError(HydraxError, RuntimeError):
    """A batch was used after ``close()``."""


class PlacementError(HydraxError, ValueError):
    """Arrays cannot be placed as declared, or ``placement_func`` returned something else than declared."""


class HostMismatchError(HydraxError, RuntimeError):
    """The hosts of a run are about to do different things, or one failed; the text names host, field and values."""


class StateMismatchError(HydraxError, ValueError):
    """A saved state belongs to another dataset or to other settings; the text shows both sides."""


class CacheError(HydraxError):
    """The cache on disk."""


class CacheMismatchError(CacheError, ValueError):
    """The cache holds something else than the group asks for; the text shows both sides."""


class NotACacheError(CacheError, ValueError):
    """The folder exists, is not empty and is no hydrax cache."""


class CacheBusyError(CacheError):
    """The folder is being written by a run."""


def shorten(value: Any, limit: int = 200) -> str:
    """``repr(value)`` of bounded length, also where the repr itself fails."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  a descriptor's broken repr must not hide the error it belongs to
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def bounded(text: str, limit: int = 1 << 16) -> str:
    """A text of bounded length: of a longer one, its begin and its end."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out]\n{text[-half:]}"


def error_texts(error: BaseException, frames: TracebackType | None = None) -> tuple[str, str]:
    """An exception in one line and its traceback (or from ``frames`` on), both of bounded length.

    The text of an exception may raise anything, and there may be no memory left for it.
    """
    try:
        cause = bounded("".join(traceback.format_exception_only(error)).strip(), 1 << 13)
        text = "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
        return cause, bounded(text.rstrip())
    except Exception as own:  # noqa: BLE001  see above
        return f"{type(error).__name__}, whose text cannot be made: {type(own).__name__}", ""
