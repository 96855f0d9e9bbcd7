"""Runs a loader the way a training loop would, and measures it.

Promise: between two batches nothing is done but what was asked for: wait for the arrays, hash them with a digest, sleep
for a pretended step. The first Ctrl-C lets the batch in hand be finished, the second raises ``KeyboardInterrupt``.
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydrax_cli.run.summary import PlannedRun, RunResult
from hydrax_cli.shared.errors import TargetError
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.verdict import pace, verdict
from hydrax_core import usable_cores
from hydrax_core.errors import HydraxError
from hydrax_core.monitor import Passes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydrax_cli.run.digest import RunDigest
    from hydrax_cli.run.reporters import Reporter
    from hydrax_core import Dataloader, Stats

__all__ = ["drive"]


def drive(
    loader: Dataloader[Any],
    plan: PlannedRun,
    reporter: Reporter,
    *,
    step_seconds: float,
    digest: RunDigest | None,
    check: bool,
) -> tuple[RunResult, HydraxError | None]:
    """Run a loader to its end.

    Args:
        loader: The loader, not started.
        reporter: Told of every batch, and of the result of a run that did not fail.
        step_seconds: How long to sleep for each batch; 0 for not at all.
        check: Whether to look for mistakes of the loader function, once all is measured.

    Returns:
        The result, and what the run failed with.
    """
    run = _Run(loader, reporter, step_seconds, digest)
    failure: HydraxError | None = None
    reporter.start(plan)
    try:
        started = time.perf_counter()
        with _entered(loader, plan.target), _interruptible(loader):
            try:
                run.consume(started)
            except HydraxError as error:
                failure = error
            stats = loader.stats()
        closed = loader.stats()  # the last entries of a cache are written when the loader is closed
        stats = replace(stats, cache_corrupt=closed.cache_corrupt, cache_error=closed.cache_error)
        result = _result(plan, run, stats, failure)
        served = stats.cache_hits and not stats.cache_misses  # then nothing is loaded, and the data may not be there
        if check and not served and failure is None and not result.interrupted:
            result = replace(result, findings=_findings(loader))
        if failure is None:
            reporter.finish(result, run.passes.end())
    finally:
        reporter.abandon()
    return result, failure


class _Run:
    """The loop and what it leaves: the passes, and the snapshot after the first batch."""

    def __init__(
        self, loader: Dataloader[Any], reporter: Reporter, step_seconds: float, digest: RunDigest | None
    ) -> None:
        self.loader = loader
        self.digest = digest
        self.step_seconds = step_seconds
        self.passes = Passes(ordered=loader.deterministic)
        self.first: Stats | None = None
        self.last: tuple[int, int] | None = None
        """Epoch and batch behind the last training batch."""
        self._reporter = reporter

    def consume(self, before: float) -> None:
        for batch in self.loader:
            idle_seconds = self.loader.idle_usec() / 1e6 if self.first is not None else time.perf_counter() - before
            for array in batch.arrays.values():
                array.block_until_ready()
            if self.digest is not None:
                self.digest.update(batch)
            if self.step_seconds:
                time.sleep(self.step_seconds)
            now = time.perf_counter()
            ended = self.passes.add(batch, now - before, idle_seconds)
            if batch.address.kind == "training":
                self.last = batch.address.epoch, batch.progress
            self._reporter.batch(batch, self.passes, ended)
            if self.first is None:
                self.first = self.loader.stats()
                self.loader.idle_usec()
            before = now
            # A trainer drops a batch before it takes the next one; holding it would take another slot.
            del array, batch


def _result(planned: PlannedRun, run: _Run, stats: Stats, failure: HydraxError | None) -> RunResult:
    plan = planned.plan
    epoch, batch = divmod(plan.first_batch + stats.training_batches, plan.batches_per_epoch)
    if plan.streams() and run.last is not None:
        epoch, batch = run.last
    interrupted = run.loader.interrupted
    if failure is not None:
        line = f"failed: {_first_line(failure)}"
    elif run.first is None:
        line = "no batch was handed out"
    else:
        cores = usable_cores()
        inline = plan.loader_kind == "inline"
        measured, has_step = pace(run.first, stats), run.step_seconds > 0
        line = verdict(measured, has_step=has_step, inline=inline, cores=cores, tuned=planned.tuned)
    return RunResult(
        target=planned.target,
        passes=run.passes.snapshot(),
        stats=stats,
        interrupted=interrupted,
        resume=f"{epoch}:{batch}",
        digest=None if run.digest is None or failure is not None or interrupted else run.digest.hexdigest(),
        verdict=line,
        classes=planned.classes,
    )


@contextmanager
def _entered(loader: Dataloader[Any], target: str) -> Iterator[None]:
    """Within the loader's ``with``; what it refuses at its start is the target's fault."""
    with ExitStack() as stack:
        try:
            stack.enter_context(loader)
        except (TypeError, ValueError, MemoryError) as error:
            raise TargetError(f"{target}: {error}") from error
        yield


@contextmanager
def _interruptible(loader: Dataloader[Any]) -> Iterator[None]:
    """The first Ctrl-C interrupts the loader, the next one the program."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loader.interrupt()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _findings(loader: Dataloader[Any]) -> tuple[str, ...] | None:
    from hydrax_core.testing import check_run  # noqa: PLC0415  a run of data of ours needs none of it

    try:
        return tuple(check_run(loader))
    except KeyboardInterrupt:
        return None  # the result is there, and is shown


def _first_line(error: Exception) -> str:
    return clean(str(error).partition("\n")[0])
