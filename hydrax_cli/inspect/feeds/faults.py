"""What went wrong, as a value for a screen: errors in, ``Fault`` out."""

from __future__ import annotations

import traceback

from click import ClickException

from hydrax_cli.inspect.values import BatchRecord, Fault
from hydrax_cli.shared.errors import TargetError
from hydrax_core.errors import (
    BatchAddress,
    BatchesHeldError,
    BatchTimeoutError,
    HydraxError,
    LoaderError,
    WorkerDiedError,
)

__all__ = ["batch_fault", "failed_record", "open_fault"]


def open_fault(error: Exception) -> Fault:
    """A target that cannot be had."""
    if isinstance(error, ClickException):
        return Fault(_first_line(error.message), error.message, fatal=True, usage=error.exit_code != 1)
    text = str(error) if isinstance(error, TargetError) else "".join(traceback.format_exception(error))
    return Fault(_first_line(text), text, fatal=True)


def batch_fault(error: Exception) -> tuple[Fault, BatchAddress | None]:
    """A batch that did not come, and which one it was; the fault is fatal where no later one will come either."""
    address = error.address if isinstance(error, LoaderError | WorkerDiedError) else None
    goes_on = address is not None or isinstance(error, BatchTimeoutError | BatchesHeldError)
    text = str(error) if isinstance(error, HydraxError) else "".join(traceback.format_exception(error))
    title = _first_line(str(error)) or type(error).__name__
    return Fault(title, text, fatal=not goes_on), address


def failed_record(serial: int, address: BatchAddress, fault: Fault) -> BatchRecord:
    """The line of the table for a batch that failed."""
    return BatchRecord(
        serial=serial,
        kind=address.kind,
        group=address.group_index,
        epoch=address.epoch,
        epoch_batch=address.epoch_batch,
        batch_num=address.batch_num,
        size=0,
        seed=None,
        wait_seconds=0.0,
        load_seconds=None,
        cached=False,
        fault=fault,
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
