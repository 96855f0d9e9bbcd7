"""The facade: arguments, ``with``, iteration, state.

Promise: leaving the ``with`` block, however, ends every worker within two seconds; so do the end of the run, garbage
collection of the loader and the end of the interpreter. The library prints nothing and installs no signal handler.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Never, Self, TypeVar

from hydrax_core.batch.batch import TrainingBatch, ValidationBatch
from hydrax_core.data.group import DataGroup
from hydrax_core.data.logger import logger
from hydrax_core.engine.engine import Engine
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.engine.ready import ReadyBatch
from hydrax_core.engine.resources.autotune import Setting
from hydrax_core.engine.schedule import OnError
from hydrax_core.errors import HydraxError
from hydrax_core.loader.arguments import Arguments, Auto, LoaderKind, check_arguments
from hydrax_core.loader.build import close_from_anywhere, first_setting, launch, slot_bytes
from hydrax_core.loader.epochs import NO_LENGTH, Epochs, Stream
from hydrax_core.monitor import start as start_monitor
from hydrax_core.monitor.stats import Counters, Stats
from hydrax_core.plan.mixture import Interleave, Stop
from hydrax_core.plan.plan import PlannedBatch, Position
from hydrax_core.plan.position import Consumed, restore, save
from hydrax_core.state import read, write

if TYPE_CHECKING:
    from hydrax_core.batch.agreement import Agreement
    from hydrax_core.batch.placement import Placement
    from hydrax_core.monitor import RunPlan
    from hydrax_core.monitor.server.server import Monitor

__all__ = ["Dataloader"]

D = TypeVar("D")


class Dataloader(Generic[D]):
    """Deterministic, zero-copy batches of jax arrays, filled by workers.

    Use it as a context manager and iterate over it; entering again goes on behind the last batch handed out.

    Args:
        loader_func: ``load(item, arrays, seed)`` fills ``arrays`` (name -> NumPy view of one row) for one item and may
            return a dict of additional data. ``seed`` is an int in [0, 2**32), ``None`` in validation. It runs in the
            workers; lambdas, closures and notebook cells are fine. See ``batched`` for loaders of many items at once.
            ``None``, or left out as in ``Dataloader(group)``, where every group brings its own.
        training: One DataGroup or several; a pass over all of them is an epoch.
        validation: ``("epoch" | "batch", interval, groups)``: after every so many epochs or training batches, one
            validation run over these groups.
        depth: Batches loaded ahead of the consumer, half of it at least; ``"auto"`` for the least that keeps it from
            waiting, within a quarter of the memory that loaders may use.
        loader_count: Workers; ``"auto"`` for the least that keep the consumer from waiting, at most one a core.
        loader_nice: Niceness of worker processes, 0 to 19 (negative ones need privileges).
        cacher_count: Threads that write the cache.
        start_at: ``(epoch, batches)`` to start at; batches beyond an epoch's length carry over into later epochs.
        end_at: ``("epoch" | "batch", n)``: stop before that epoch or training batch, counted from the start of the
            first epoch; ``None`` for an endless run.
        interleave_groups: How groups without weights follow one another: ``True``: the batches of each spread evenly
            over the epoch; ``"least_used"``: the group that gave the fewest comes next; ``False``: one after the other.
        weights: In which proportion training groups give batches: a number for each, or a dict of the group's number ->
            weight; or stages, ``[(0, weights), (10_000, weights)]``, each from a training batch on. A group whose
            batches all came begins its next epoch.
        stop: With weights, when an epoch of the run ends: with the ``"first"`` group whose batches all came; with the
            last (``"all"``); after as many batches as the groups have (``"restart"``, the default).
        batches_per_epoch: The length of an epoch of the run, instead.
        deterministic: ``False`` hands out batches as they become ready.
        timeout_sec: Longest wait for a batch, in seconds; ``None`` or 0 for no limit.
        startup_func: Called once in each worker before it loads.
        placement_func: ``place(arrays, layouts, additional, group)`` returns a dict of jax arrays; by default arrays
            are placed uncommitted on jax's default device. The NumPy arrays must not be kept.
        loader_kind: ``"process"``; ``"thread"`` for loaders that release the GIL; ``"inline"`` in the caller, for
            debuggers. All give the same batches bit for bit.
        on_error: What a failing item does: ``"raise"`` a ``LoaderError`` from ``next()``; ``"skip"`` its batch;
            ``"substitute"`` another item of the group, chosen by the seed.
        max_held: Most batches that the consumer may hold when it asks for another, the one before not counted; by
            default what half of the memory has room for.
        monitor: Whether ``hydrax inspect --attach`` of the same user may watch the run, or a name to be found by;
            ``None`` asks the environment (``HYDRAX_MONITOR=1``). The run never waits for an inspector.
        sharding: Where arrays go: a ``jax.sharding.Sharding``, a dict of array name -> Sharding, or ``(mesh, axis
            names)``, of which the first is that of the rows. It may span several hosts: ``batch_size`` is that of all
            of them, and each loads the rows that its devices need. See docs/hosts.md.
        hosts: ``(index, count)`` for hosts that jax does not know of each other: each gets its rows of every batch as
            arrays of its own.
        verify_hosts_every: After how many batches the hosts compare what they were handed, besides before the first;
            0 for never.
        evaluation: Groups to go through once, every item, as a validation run that stands alone: no training groups.
        validate_first: Whether a validation run comes before the first training batch, too.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value.
    """

    def __init__(
        self,
        loader_func: Callable[..., Any] | DataGroup[D] | Iterable[DataGroup[D]] | None,
        training: DataGroup[D] | Iterable[DataGroup[D]] | None = None,
        *,
        validation: tuple[str, int, DataGroup[D] | Iterable[DataGroup[D]]] | None = None,
        depth: int | Auto = 3,
        loader_count: int | Auto = 1,
        loader_nice: int = 0,
        cacher_count: int = 1,
        start_at: tuple[int, int] = (0, 0),
        end_at: tuple[str, int] | None = None,
        interleave_groups: Interleave = True,
        weights: Any = None,
        stop: Stop | None = None,
        batches_per_epoch: int | None = None,
        deterministic: bool = True,
        timeout_sec: float | None = 60,
        startup_func: Callable[[], Any] | None = None,
        placement_func: Callable[..., Mapping[str, Any]] | None = None,
        loader_kind: LoaderKind = "process",
        on_error: OnError = "raise",
        max_held: int | None = None,
        monitor: bool | str | None = None,
        sharding: Any = None,
        hosts: tuple[int, int] | None = None,
        verify_hosts_every: int = 0,
        evaluation: DataGroup[D] | Iterable[DataGroup[D]] | None = None,
        validate_first: bool = False,
    ) -> None:
        given: dict[str, Any] = {name: value for name, value in locals().items() if name not in {"self", "__class__"}}
        self._arguments = check_arguments(given)
        # Iterables are used up by now: what replace() starts from is what was read from them.
        given["loader_func"] = self._arguments.loader_func
        given["training"] = self._arguments.training
        if validation is not None:
            given["validation"] = (*validation[:2], self._arguments.validation)
        if self._arguments.evaluates:
            given |= {"training": None, "evaluation": self._arguments.validation}
        self._given = given
        self._groups = (*self._arguments.training, *self._arguments.validation)
        plan = self._arguments.plan
        first = self._arguments.first_batch
        before = self._arguments.evaluates or (plan.validated_first and first == 0)  # of the validation run
        self._consumed = Consumed(plan.number(Position(first, 0 if before else plan.batches_per_validation)))
        self._engine: Engine | None = None
        self._monitor: Monitor | None = None
        self._setting = first_setting(self._arguments)
        self._placement: Placement | None = None
        self._agreement: Agreement | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._lock = threading.Lock()
        self._entered = self._interrupted = self._ended = False
        self._asked_after_end = 0
        self._counters = Counters(self._groups, plan.mixture)
        self._last_stats: Stats | None = None

    def replace(self, **changes: Any) -> Dataloader[D]:
        """A new loader, not started, with the same arguments but for the changes."""
        return type(self)(**{**self._given, **changes})

    def __reduce__(self) -> Never:
        raise TypeError("a Dataloader cannot be copied or pickled; replace() makes another one with its arguments")

    # --- what was asked for

    @property
    def training(self) -> tuple[DataGroup[D], ...]:
        """The training groups; none in a loader that evaluates."""
        return () if self._arguments.evaluates else self._arguments.training

    @property
    def validation(self) -> tuple[DataGroup[D], ...]:
        """The validation groups."""
        return self._arguments.validation

    @property
    def validation_interval(self) -> int:
        """Training batches between two validation runs; 0 without validation."""
        return self._arguments.validation_interval

    @property
    def validates_first(self) -> bool:
        """Whether a validation run comes before the first training batch."""
        return self._arguments.validates_first

    @property
    def batches_per_epoch(self) -> int:
        """Training batches in an epoch; of a stream, what there is room for: see ``streams``."""
        return self._arguments.batches_per_epoch

    @property
    def streams(self) -> bool:
        """Whether training is a stream, whose length nobody knows before its end."""
        return any(group.shards for group in self._arguments.training)

    @property
    def batches_per_validation(self) -> int:
        """Batches in a validation run; 0 without validation."""
        return self._arguments.batches_per_validation

    @property
    def first_batch(self) -> int:
        """Number of the first training batch, as ``start_at`` says."""
        return self._arguments.first_batch

    @property
    def last_batch(self) -> int | None:
        """Number of the training batch to stop before, as ``end_at`` says; ``None`` for an endless run."""
        return self._arguments.last_batch

    @property
    def depth(self) -> int:
        """Batches loaded ahead; with ``"auto"``, what is in use now."""
        depth = self._arguments.depth
        return self._in_use.depth if depth == "auto" else depth

    @property
    def loader_count(self) -> int:
        """Workers; with ``"auto"``, how many are in use now."""
        count = self._arguments.loader_count
        return self._in_use.workers if count == "auto" else count

    @property
    def tuned(self) -> tuple[str, ...]:
        """Which of ``depth`` and ``loader_count`` are ``"auto"``; ``stats().tuning`` says why they are as they are."""
        if self.loader_kind == "inline":
            return ()
        given = {"depth": self._arguments.depth, "loader_count": self._arguments.loader_count}
        return tuple(name for name, value in given.items() if value == "auto")

    @property
    def _in_use(self) -> Setting:
        engine = self._engine
        return self._setting if engine is None else engine.loop.setting

    @property
    def loader_kind(self) -> LoaderKind:
        """What the workers are."""
        return self._arguments.loader_kind

    @property
    def deterministic(self) -> bool:
        """Whether batches keep the order of the plan."""
        return self._arguments.deterministic

    @property
    def slot_bytes(self) -> int:
        """Bytes of a place for one batch in memory; about ``depth + 2`` of them are in use."""
        return slot_bytes(self._arguments)

    # --- running

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this loader is in use by another `with` block; make a second loader with replace()")
        self._entered = True
        try:
            if self._engine is None:
                with self._lock:  # a thread in next() may be starting it, too
                    self._start()
        except BaseException:
            self._entered = False
            raise
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._entered = False
        if self._monitor is not None:
            self._monitor.tap.left(error)
        if self._agreement is not None and error is not None:
            self._agreement.failed(error)
        self.close()

    def __iter__(self) -> Iterator[TrainingBatch[D] | ValidationBatch[D]]:
        return self

    def __next__(self) -> TrainingBatch[D] | ValidationBatch[D]:
        batch = self._step(sys._getframe(1))  # noqa: SLF001  the only way to say where a held batch was handed out
        if batch is None:
            raise StopIteration
        return batch

    def _step(self, caller: FrameType) -> TrainingBatch[D] | ValidationBatch[D] | None:
        try:
            return self._next(caller)
        except StopIteration as error:  # placement_func or the data: a `for` would take it for the end of the run
            raise RuntimeError("the user's code raised StopIteration while a batch was made") from error

    def _next(self, caller: FrameType) -> TrainingBatch[D] | ValidationBatch[D] | None:
        with self._lock:
            if self._interrupted or self._ended:
                self._tell_that_it_is_over()
                return None
            found = self._first()
            if found is None:
                return None
            engine, ready, waited = found
            assert self._placement is not None
            host = ready.batch
            batch = ready.prepared or self._placement.make(host)
            holders = tuple(map(weakref.ref, batch.arrays.values()))
            if not engine.take(ready, (caller.f_code, caller.f_lasti), holders):
                return None  # another thread closed the loader meanwhile
            batch.made_ahead = False
            self._pass(engine, host)
            self._counters.handed_out(host)
            if (monitor := self._monitor) is not None:
                monitor.tap.handed_out(host, waited, batch)
            if (agreement := self._agreement) is not None:
                agreement.handed_out(host, whole=self._arguments.share.rows[host.group] is None)
            return batch

    def _first(self) -> tuple[Engine, ReadyBatch, float] | None:
        """The next batch, which stays where it is, and the seconds that it took; ``None`` at the end of the run."""
        engine = self._engine
        if engine is None:
            engine = self._start()
            if self.interrupted:  # while it started
                return None
        if (agreement := self._agreement) is not None:
            agreement.check()
        ready, waited = engine.ready(), 0.0
        if ready is None:
            ready, waited = self._wait(engine)
        if ready is None:
            self._finish(engine)
            return None
        return engine, ready, waited

    def _peek(self) -> PlannedBatch | None:
        with self._lock:
            try:
                found = None if self._interrupted or self._ended else self._first()
            except StopIteration as error:
                raise RuntimeError("the user's code raised StopIteration while a batch was made") from error
            return None if found is None else found[1].batch.planned

    def epochs(self) -> Epochs[D]:
        """The run as epochs: ``for epoch in loader.epochs(): for batch in epoch: ...``, see ``Epoch``.

        Raises:
            ValueError: With ``deterministic=False`` batches of several epochs may come mixed.
        """
        if not self._arguments.deterministic:
            raise ValueError("epochs(): with deterministic=False, batches of several epochs may come mixed")
        plan = self._arguments.plan
        return Epochs(Stream(self._peek, self._step, plan, self._arguments.last_batch, self.streams))

    def __len__(self) -> int:
        """How many batches of the run are left.

        Raises:
            TypeError: The run is endless, or a stream.
        """
        last, plan = self._arguments.last_batch, self._arguments.plan
        if any(group.shards for group in self._groups):
            raise TypeError(f"len(): {NO_LENGTH}")
        if last is None:
            raise TypeError("len(): the run is endless; give end_at, or ask batches_per_epoch")
        end = plan.number(Position(last, plan.batches_per_validation))
        return max(0, end - self._consumed.next_number - len(self._consumed.ahead))

    def __bool__(self) -> bool:
        return True  # whatever is left of it

    def _wait(self, engine: Engine) -> tuple[ReadyBatch | None, float]:
        monitor = self._monitor
        started = time.perf_counter()
        if monitor is not None:
            monitor.tap.asked(started)
        try:
            ready = engine.wait(self._arguments.timeout_sec)
        except BaseException as error:
            if monitor is not None:
                monitor.tap.failed(error)
            if self._agreement is not None:
                self._agreement.failed(error)
            if self.loader_kind == "inline" and not isinstance(error, HydraxError):
                self.close()  # Ctrl-C or another signal may have left the engine half way: the next call begins anew
            raise
        finally:
            waited = time.perf_counter() - started
            self._counters.waited(waited)
        return ready, waited

    def interrupt(self) -> None:
        """Hand out no further batch: ``next()`` ends the iteration. Safe in threads and signal handlers."""
        self._interrupted = True
        if self._engine is not None:
            self._engine.interrupt()

    @property
    def interrupted(self) -> bool:
        """Whether ``interrupt()`` was called."""
        return self._interrupted

    def close(self) -> None:
        """End the workers; batches in hand stay valid. Closing twice is fine."""
        if self._finalizer is not None and not self._finalizer.alive:
            return  # the program has ended, which closed all, and its modules are being taken apart
        beside, self._monitor, self._agreement = (self._monitor, self._agreement), None, None
        for part in beside:
            if part is not None:
                part.close()
        engine = self._engine
        if engine is not None:
            snapshot = self._counters.snapshot(engine.loop.stats())
            self._setting = engine.loop.setting
            engine.close()
            # Closing the caches may have brought more to light.
            self._last_stats = replace(snapshot, running=False, **engine.caches.stats())
            self._engine = None
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None

    def _start(self) -> Engine:
        if self._engine is None:
            self._counters.start(self._arguments.plan.mixture)
            engine = launch(self._arguments, self._consumed)
            self._finalizer = weakref.finalize(self, close_from_anywhere, engine, os.getpid())
            self._engine = engine
            try:
                if self._arguments.share.talking:
                    from hydrax_core.batch.agreement import Agreement  # noqa: PLC0415  it imports jax

                    every = self._arguments.verify_hosts_every
                    self._agreement = Agreement(self._arguments.timeout_sec, engine.fail, every)
                self._monitor = start_monitor(
                    self,
                    self._arguments.monitor,
                    self._groups,
                    functools.partial(_shown_plan, self._arguments),
                    _snapshots(self._counters, engine),
                )
                engine.start()
                self._prepare_placement(engine)
                if self._agreement is not None:
                    self._agreement.watch()
                    self._agreement.compare(self._intent(), "before the first batch")
            except BaseException as error:
                if self._agreement is not None:
                    self._agreement.failed(error)
                self.close()
                raise
        return self._engine

    def _tell_that_it_is_over(self) -> None:
        """Say once that another pass over an ended run gives nothing: its epochs are all in one iteration."""
        self._asked_after_end += 1
        if self._ended and self._asked_after_end == 1:
            logger.warning(
                "this loader has handed out its whole run, all epochs up to end_at, in one iteration; for another run "
                "make another loader with replace()"
            )

    def _finish(self, engine: Engine) -> None:
        self._ended = engine.loop.at_end  # else interrupted, or closed by another thread
        if (monitor := self._monitor) is not None:  # another thread may close the loader
            monitor.tap.ended = True
        if not self._entered:
            self.close()

    def _prepare_placement(self, engine: Engine) -> None:
        from hydrax_core.batch.placement import Placement, Share  # noqa: PLC0415  jax is imported while the workers start

        own = self._arguments
        totals = [own.batches_per_epoch] * len(own.training) + [own.batches_per_validation] * len(own.validation)
        shares = list(map(Share, own.share.rows, own.share.shardings))
        self._placement = Placement(self._groups, totals, own.placement_func, shares)
        self._placement.store = engine.caches.store
        engine.loop.make_ahead(self._placement.ahead, self._placement.most_ahead)

    def _intent(self) -> dict[str, Any]:
        """What this host is about to do, for the others to compare."""
        arguments, share = self._arguments, self._arguments.share
        return {
            "hydrax_version": sys.modules["hydrax_core"].__version__,
            "hosts": share.count,
            "sharding": [{name: _spelled(found) for name, found in each.items()} for each in share.shardings],
            "arrays": [
                {name: f"{layout.shape} {layout.numpy_dtype} {layout.jax_dtype}" for name, layout in layouts.items()}
                for group in self._groups
                for layouts in group.batch_layouts
            ],
            "end": arguments.last_batch,
            "on_error": arguments.on_error,
            "verify_hosts_every": arguments.verify_hosts_every,
            **self.state_dict(),
        }

    def _pass(self, engine: Engine, host: HostBatch) -> None:
        if self._arguments.deterministic:
            self._consumed.pass_all_up_to(host.planned.number)
            engine.loop.dropped.clear()  # each is behind, or comes to be with a later batch
            return
        self._consumed.pass_one(host.planned.number)
        while engine.loop.dropped:
            self._consumed.pass_one(engine.loop.dropped.popleft())

    # --- looking at it

    def idle_usec(self) -> int:
        """Microseconds that ``next()`` has waited for batches since the last call of this method."""
        return self._counters.idle_usec()

    def stats(self) -> Stats:
        """A snapshot of counts, workers and slots; cheap enough to take ten times a second."""
        engine = self._engine
        if engine is None:
            last = self._last_stats
            return last or Stats(depth=self.depth, loader_count=self.loader_count, slot_bytes=self.slot_bytes)
        return self._counters.snapshot(engine.loop.stats())

    # --- state

    @property
    def _stateful(self) -> tuple[Any, ...]:
        """What a saved state is made of, beside the position."""
        arguments = self._arguments
        return arguments.plan, arguments.training, arguments.validation, arguments.validation_interval

    async def save(self, directory: Any) -> Awaitable[None]:
        """Save the position into a folder, as orbax's v1 API asks its checkpointables; see ``state_dict()``.

        Args:
            directory: A path, or orbax's promise of one.

        Returns:
            What writes the file, on the first of several hosts; the position is that of the call.
        """
        return write(self.state_dict(), directory, here=self._arguments.share.index == 0)

    async def load(self, directory: Any) -> Awaitable[None]:
        """Go on behind the position saved in a folder, as orbax's v1 API asks; see ``load_state_dict()``."""

        async def reading() -> None:
            self.load_state_dict(read(directory))

        return reading()

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out, as JSON values; save it with the model's checkpoint."""
        state = save(self._consumed, *self._stateful, interleave=bool(self._arguments.interleave_groups))
        return {**state, "turns": self._arguments.plan.saved()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the last batch of a saved state.

        The number and kind of workers, ``depth`` and ``end_at`` may differ from those of the loader that was saved; so
        may ``weights``: the run goes on under those of this loader, each group where it was, and that is logged.

        Raises:
            TypeError: ``state`` is not what ``state_dict()`` returned.
            StateMismatchError: It belongs to another dataset, batch size, seed or shuffle; the text shows what differs.
        """
        arguments = self._arguments
        consumed = restore(state, *self._stateful, interleave=bool(arguments.interleave_groups))
        # Batches that were handed out already keep the turns that they had.
        plan = arguments.plan.resumed(
            state.get("turns"), max((number + 1 for number in consumed.ahead), default=consumed.next_number)
        )
        self.close()  # which ends a wait of another thread in next(), too
        with self._lock:
            self.close()
            self._arguments = dataclasses.replace(arguments, plan=plan)
            self._consumed = consumed
            self._ended = False

    def __repr__(self) -> str:
        state = "running" if self._engine is not None else "not running"
        workers = f"{self.loader_count} {self.loader_kind} workers"
        epoch = "of a stream" if self.streams else f"{self.batches_per_epoch} batches an epoch"
        return f"<Dataloader {state}, {epoch}, {workers}>"


def _shown_plan(arguments: Arguments) -> RunPlan:
    """What a monitor shows of a run before it starts."""
    from hydrax_core.monitor.run import plan_of  # noqa: PLC0415  only a run that is watched pays for it

    return plan_of(arguments, places_itself=arguments.placement_func is not None)


def _snapshots(counters: Counters, engine: Engine) -> Callable[[], Stats]:
    """What gives the stats of a running loader without keeping it alive."""
    return lambda: counters.snapshot(engine.loop.stats())


def _spelled(sharding: Any) -> str:
    """A sharding as text that is equal on all hosts."""
    return str(getattr(sharding, "spec", type(sharding).__name__))
