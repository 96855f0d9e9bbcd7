"""What the training's thread leaves for inspectors.

Promise: each call takes about a microsecond, waits for nothing and raises nothing. No batch, array or exception is
kept: a reference to one would hold a lease. Where rows are wanted they are copied, into memory that is made beforehand.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hydrax_core.batch.batch import Batch
from hydrax_core.data.layout import joined
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.errors import HydraxError, LoaderError, WorkerDiedError
from hydrax_core.monitor.protocol.messages import ArrayHead, Trouble
from hydrax_core.monitor.run import BatchRecord, device_of

__all__ = ["MOST_RECORDS", "Copied", "RowsRequest", "Tap"]

MOST_RECORDS = 500
_SAMPLE_ROWS = 128
_LONGEST_ERROR = 20_000
_logger = logging.getLogger("hydrax")


class RowsRequest(NamedTuple):
    """Rows that are wanted, and memory for them; ``whole`` is for all rows of the batch."""

    memory: npt.NDArray[np.uint8]
    whole: bool


class Copied(NamedTuple):
    """Rows of a batch in the memory of a request.

    Attributes:
        group: Ordinal of its group, training before validation.
        rows: Rows copied; 0 where not even one has room.
        arrays: The arrays in it, one behind the other.
        in_cached_layout: Whether they are as the cache keeps them.
        indices: Index in the group's data of each of the rows.
        additional: Additional data of each by name.
    """

    record: BatchRecord
    group: int
    rows: int
    bytes: int
    arrays: tuple[ArrayHead, ...]
    in_cached_layout: bool
    indices: Sequence[int]
    seeds: Sequence[int] | None
    additional: Mapping[str, Sequence[Any]]
    needed: int
    whole: bool


class Tap:
    """Where the training's thread writes and the monitor's thread reads.

    Args:
        notify: Called when rows were copied; wakes the monitor's thread.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._serial = 0
        self.records: deque[BatchRecord] = deque(maxlen=MOST_RECORDS)
        self.waiting_since: float | None = None
        """When the training began to wait for a batch, on the clock of ``time.perf_counter()``."""
        self.request: RowsRequest | None = None
        """Written by the monitor's thread while ``copied`` is ``None``; the training's thread fills and clears it."""
        self.copied: Copied | None = None
        self.trouble: Trouble | None = None
        self.ended = False
        self.left_by = ""
        """What ended the run where that was no error, such as ``"KeyboardInterrupt"``."""
        self.device = ""

    def asked(self, now: float) -> None:
        self.waiting_since = now

    def handed_out(self, host: HostBatch, waited: float, batch: Batch[Any]) -> None:
        """The training gets a batch, after so many seconds; ``host`` is what it was made of."""
        self.waiting_since = self.trouble = None
        self._serial += 1
        address = host.planned.address
        record = BatchRecord.at(
            address,
            self._serial,
            size=len(host.indices),
            seed=host.planned.content.seed if address.kind == "training" else None,
            wait_seconds=waited,
            load_seconds=host.load_seconds,
            cached=host.from_cache,
        )
        self.records.append(record)
        request = self.request
        if request is not None:
            self._copy(request, host, record)
        if not self.device:
            self.device = device_of(batch)

    def failed(self, error: BaseException) -> None:
        now, since = time.perf_counter(), self.waiting_since
        self.waiting_since = None
        if not isinstance(error, Exception):
            return  # Ctrl-C says nothing about the loader
        text = _error_text(error)
        self.trouble = Trouble(text, left=False)
        address = error.address if isinstance(error, LoaderError | WorkerDiedError) else None
        if address is not None:
            self._serial += 1
            waited = now - since if since is not None else 0.0
            self.records.append(BatchRecord.at(address, self._serial, wait_seconds=waited, error=text))

    def left(self, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self.trouble = Trouble(_error_text(error), left=True)
        elif error is not None:  # Ctrl-C, say: nothing is wrong with the run
            self.left_by = type(error).__name__

    def _copy(self, request: RowsRequest, host: HostBatch, record: BatchRecord) -> None:
        try:
            self.copied = _copied(request, host, record)
        except Exception as error:  # noqa: BLE001  no memory, say: the training goes on, and the request is made again
            _logger.debug("rows of %s could not be copied: %s", record.title, error)
        finally:
            self.request = None
        self._notify()


def _copied(request: RowsRequest, host: HostBatch, record: BatchRecord) -> Copied:
    memory, size = request.memory, len(host.indices)
    arrays = {name: joined(array) for name, array in host.arrays.items()}
    needed = sum(array.nbytes // len(array) for array in arrays.values())
    room = memory.size // max(1, needed)
    rows = size if request.whole and size <= room else min(size, _SAMPLE_ROWS, room)
    heads, start = [], 0
    for name, array in arrays.items() if rows else ():
        taken = np.ascontiguousarray(array[:rows])
        end = start + taken.nbytes
        memory[start:end] = taken.reshape(-1).view(np.uint8)
        heads.append(ArrayHead(name, str(array.dtype), taken.shape))
        start = end
    return Copied(
        record=record,
        group=host.group,
        rows=rows,
        bytes=start,
        arrays=tuple(heads),
        in_cached_layout=host.cached,
        indices=host.indices[:rows].tolist(),
        seeds=None if host.seeds is None else host.seeds[:rows].tolist(),
        additional={name: list(values[:rows]) for name, values in host.additional.items()},
        needed=needed,
        whole=request.whole,
    )


def _error_text(error: BaseException) -> str:
    """What is shown of an error: its own text where hydrax wrote it, else the traceback."""
    try:
        text = str(error) if isinstance(error, HydraxError) else "".join(traceback.format_exception(error))
    except Exception as own:  # noqa: BLE001  an exception's text is anybody's code
        text = f"{type(error).__name__}, whose text cannot be made: {type(own).__name__}"
    return text[:_LONGEST_ERROR]
