"""What a run of another process says, in the words of the screens.

Promise: what makes no sense (a batch of a group that there is not, an epoch without batches) ends in a
``ConnectionError``, never in a screen that fails.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING

from hydrax_cli.inspect.values import ArrayInfo, BatchRecord, BatchView, Fault, GroupInfo, RunChoice, Subject
from hydrax_core.monitor.protocol.wire import WireError, arrays_of, dtype_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_core.monitor.client import Run
    from hydrax_core.monitor.protocol.messages import About, ArrayPlan, GroupPlan, Record, Sample, Trouble

__all__ = ["Translation", "choice_of", "gone_fault", "trouble_fault"]

_COMMAND = "hydrax run TARGET"


class Translation:
    """Says of one run what its messages mean.

    Args:
        run: The run.
        about: What it says of itself.
        first: Serial of the last record that the screens know, of whichever run; those of this run come after it.
    """

    def __init__(self, run: Run, about: About, first: int) -> None:
        if about.batches_per_epoch < 1 or min(about.validation_interval, about.batches_per_validation) < 0:
            raise ConnectionError("what it says of itself makes no sense")
        self._about = about
        self._first = first
        self._plans: dict[tuple[str, int], GroupPlan] = {(plan.kind, plan.index): plan for plan in about.groups}
        groups = tuple(
            GroupInfo(
                kind=plan.kind,
                index=plan.index,
                items=plan.items,
                batch_size=plan.batch_size,
                batches=plan.batches,
                seed=plan.seed,
                arrays=_infos(plan.loaded or plan.cached),
            )
            for plan in about.groups
        )
        self._groups: dict[tuple[str, int], GroupInfo] = {(group.kind, group.index): group for group in groups}
        self.subject = Subject(
            target=_name(run),
            command=_COMMAND,
            groups=groups,
            batches_per_epoch=about.batches_per_epoch,
            batches_per_validation=about.batches_per_validation,
            validation_interval=about.validation_interval,
            first_batch=about.first_batch,
            last_batch=about.last_batch,
            kind=about.workers_are,
            has_step=True,
            pid=run.pid,
        )

    def record(self, record: Record) -> BatchRecord:
        """A batch."""
        if (record.kind, record.group) not in self._groups or min(record[3:7]) < 0:
            raise ConnectionError("it speaks of a batch that cannot be")
        return BatchRecord(
            serial=self._first + record.serial,
            kind=record.kind,
            group=record.group,
            epoch=record.epoch,
            epoch_batch=record.epoch_batch,
            batch_num=record.batch_num,
            size=record.size,
            seed=record.seed,
            wait_seconds=max(0.0, record.wait_seconds),
            load_seconds=record.load_seconds,
            cached=record.cached,
            fault=_fault(record.error) if record.error else None,
        )

    def view(self, sample: Sample, payload: bytes) -> BatchView:
        """Rows of a batch, in the dtypes that the training gets.

        Raises:
            LookupError: There are no rows, or they are not what was declared.
        """
        record = self.record(sample.record)
        plan = self._plans[record.kind, record.group]
        infos = _infos(plan.cached if sample.in_cached_layout else plan.loaded)
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
        early = " · before placement_func" if self._about.places_itself else ""
        return BatchView(
            record=record._replace(size=sample.rows),
            group=self._groups[record.kind, record.group],
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
    """A run as a line to choose."""
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
    made = _fault(trouble.text)
    return before if before == made else made


def gone_fault(run: Run, how: str) -> Fault:
    """A run that is gone, or cannot be watched."""
    what = _fault(how)
    title = f"{_name(run)} (pid {run.pid}): {what.title}"
    return Fault(title, title if what.title == how else f"{title}\n\n{how}", fatal=False, gone=True)


def _name(run: Run) -> str:
    return run.name if run.number == 1 else f"{run.name} #{run.number}"


def _fault(text: str) -> Fault:
    """An error; hydrax's own texts begin with what happened, a traceback ends with it."""
    lines = text.strip().splitlines() or [""]
    return Fault(lines[-1] if lines[0].startswith(("Traceback", "  +")) else lines[0], text, fatal=False)


def _infos(plans: Sequence[ArrayPlan]) -> tuple[ArrayInfo, ...]:
    return tuple(ArrayInfo(*plan) for plan in plans)


def _filled(texts: Sequence[str], rows: int) -> tuple[str, ...]:
    """A text a row; of many rows only the first come with one."""
    return (*texts[:rows], *[""] * (rows - len(texts)))
