"""What a run of another process says, in the words of the screens.

Promise: what makes no sense (a batch of a group that there is not, an epoch without batches) ends in a
``ConnectionError``, never in a screen that fails.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from hydrax_cli.inspect.run_view import BatchView, Fault, RunChoice, Subject
from hydrax_core.monitor import WireError, arrays_of, dtype_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_core.monitor import BatchRecord, Run, RunPlan, Sample, Trouble

__all__ = ["Translation", "choice_of", "gone_fault", "trouble_fault"]

_COMMAND = "hydrax run TARGET"


class Translation:
    """Says of one run what its messages mean.

    Args:
        first: Serial of the last record that the screens know, of whichever run; those of this run come after it.
    """

    def __init__(self, run: Run, about: RunPlan, first: int) -> None:
        if (
            not about.groups
            or about.batches_per_epoch < 1
            or min(about.validation_interval, about.batches_per_validation) < 0
        ):
            raise ConnectionError("it sent a plan that makes no sense")
        self._first = first
        self.subject = Subject(target=_name(run), command=_COMMAND, plan=about, has_step=True, pid=run.pid)

    def record(self, record: BatchRecord) -> BatchRecord:
        try:
            self.subject.plan.group(record)
        except LookupError as error:
            raise ConnectionError("it speaks of a batch that cannot be") from error
        if min(record.epoch, record.epoch_batch, record.batch_num, record.size) < 0:
            raise ConnectionError("it speaks of a batch that cannot be")
        return record._replace(serial=self._first + record.serial, wait_seconds=max(0.0, record.wait_seconds))

    def view(self, sample: Sample, payload: bytes) -> BatchView:
        """Rows of a batch, in the dtypes that the training gets.

        Raises:
            LookupError: There are no rows, or they are not what was declared.
        """
        record = self.record(sample.record)
        group = self.subject.plan.group(record)
        infos = group.cached if sample.in_cached_layout else group.loaded
        if not sample.rows:
            raise LookupError("a row of this run is too large to be copied")
        try:
            found = arrays_of(sample.arrays, payload)
            arrays = {info.name: found[info.name].astype(dtype_of(info.jax_dtype), copy=False) for info in infos}
        except (WireError, KeyError) as error:
            raise LookupError(f"the rows that came are not those declared: {error}") from error
        counts = {len(array) if array.ndim else 0 for array in arrays.values()} | {len(sample.indices)}
        if counts != {sample.rows} or (sample.seeds is not None and len(sample.seeds) != sample.rows):
            raise LookupError("the rows that came do not fit each other")
        part = "" if sample.rows >= record.size else f", the first {sample.rows:,} of {record.size:,} rows"
        early = " · before placement_func" if self.subject.plan.places_itself else ""
        return BatchView(
            record=record._replace(size=sample.rows),
            arrays=MappingProxyType(arrays),
            infos=infos,
            indices=sample.indices,
            seeds=sample.seeds,
            descriptors=_filled(sample.descriptors, sample.rows) if sample.descriptors else (),
            additional={name: _filled(texts, sample.rows) for name, texts in sample.additional},
            source=f"copied from the live run{part}{early}",
            command=self.subject.command_for(record),
        )


def choice_of(run: Run) -> RunChoice:
    hello = run.hello
    place = ""
    if hello is not None and hello.place is not None:
        kind, epoch, batch = hello.place
        place = f"{'epoch' if kind == 'training' else 'validation'} {epoch}:{batch}"
    return RunChoice(
        path=str(run.path),
        name=_name(run),
        pid=run.pid,
        place="at its end" if hello is not None and hello.ended else place,
        seconds=None if hello is None else max(0.0, time.time() - hello.since),
        command="it does not answer; is the process stopped?" if hello is None else hello.command,
    )


def trouble_fault(trouble: Trouble | None, before: Fault | None) -> Fault | None:
    """The last error of a run; the same object as long as it is the same error."""
    if trouble is None:
        return None
    made = Fault.of(trouble.text)
    return before if before == made else made


def gone_fault(run: Run, how: str) -> Fault:
    what = Fault.of(how)
    title = f"{_name(run)} (pid {run.pid}): {what.title}"
    return Fault(title, title if what.title == how else f"{title}\n\n{how}", fatal=False, gone=True)


def _name(run: Run) -> str:
    return run.name if run.number == 1 else f"{run.name} #{run.number}"


def _filled(texts: Sequence[str], rows: int) -> tuple[str, ...]:
    """A text a row; of many rows only the first come with one."""
    return (*texts[:rows], *[""] * (rows - len(texts)))
