"""From checked arguments to a running engine: slots, workers of the chosen kind, settings."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import mmap
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

from hydrax_core.cache import CacheStore
from hydrax_core.cache.store.writer import MOST_BACKLOG
from hydrax_core.data.function import is_batched, items_a_call
from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import WHOLE, Layouts, Parts, aligned, block_size, resized, shifted
from hydrax_core.data.logger import logger
from hydrax_core.data.read_lock import guarded
from hydrax_core.data.source import Source
from hydrax_core.engine.admission import Admission
from hydrax_core.engine.engine import Engine
from hydrax_core.engine.group_caches import GroupCaches
from hydrax_core.engine.jobs import JobGroup
from hydrax_core.engine.loop import EngineSettings, Loop
from hydrax_core.engine.ready import ReadyQueue, Wakeup
from hydrax_core.engine.resources.autotune import Bounds, Setting
from hydrax_core.engine.resources.machine import memory_budget, usable_cores, usable_memory
from hydrax_core.engine.resources.slots import SlotPool
from hydrax_core.engine.workers import pickling
from hydrax_core.engine.workers.local import InlineWorker, ThreadWorker
from hydrax_core.engine.workers.process import ProcessWorkers
from hydrax_core.engine.workers.protocol import Worker
from hydrax_core.engine.workers.runner import ChunkRunner
from hydrax_core.engine.workers.wire import Functions, GroupLoader, GroupSetup, WorkerSetup
from hydrax_core.loader.arguments import Arguments
from hydrax_core.plan.permutation import Indices
from hydrax_core.plan.plan import Position
from hydrax_core.plan.position import Consumed

__all__ = ["close_from_anywhere", "first_setting", "launch", "slot_bytes"]

_LARGE_FUNCTION = 64 << 20
_MOST_SLOTS = 1 << 20
_LEAST_AHEAD, _LEAST_TINY, _MOST_AHEAD = 3, 32, 64
"""Bounds of ``depth="auto"``; what a deeper queue evens out looks like a lack of workers."""
_TINY_BYTES = 1 << 20
"""Memory that is not worth saving: so many batches are loaded ahead anyway, up to ``_LEAST_TINY``."""


def slot_bytes(arguments: Arguments) -> int:
    """Bytes of a slot: the largest batch of any group that lies in one, in whole pages."""
    sizes: list[int] = []
    for group, job in zip((*arguments.training, *arguments.validation), _job_groups(arguments), strict=True):
        cached = job.cache_layouts if job.augmented or group.cache_by == "item" else {}
        sizes += [block_size(job.layouts, job.parts), block_size(job.augmented), block_size(cached)]
    return aligned(max(1, *sizes), mmap.PAGESIZE)


def _job_groups(arguments: Arguments) -> list[JobGroup]:
    share, groups = arguments.share, (*arguments.training, *arguments.validation)
    return [
        _job_group(group, rows, parts, _loader_of(group, arguments))
        for group, rows, parts in zip(groups, share.rows, share.parts, strict=True)
    ]


def _layouts(group: DataGroup[Any], rows: int, parts: Parts) -> tuple[Layouts, Layouts, Layouts]:
    """Layouts of what is loaded, cached and augmented of a group, in a slot with so many rows."""
    augmented = {} if group.augment_func is None else resized(group.batch_layouts[False], rows)
    behind = block_size(augmented)
    loaded, cached = resized(group.loader_layouts, rows, parts), resized(group.cache_layouts, rows)
    return shifted(loaded, behind), shifted(cached, behind), augmented


def launch(arguments: Arguments, consumed: Consumed) -> Engine:
    """The engine for a position of the run, not started yet.

    Raises:
        TypeError: ``loader_func`` or ``startup_func`` cannot be sent to a worker process.
        CacheError: A cache cannot be opened, or holds something else than its group asks for.
        MemoryError: Not even the slots of ordinary use fit into memory.
    """
    depth, workers = _bounds(arguments)
    size = slot_bytes(arguments)
    max_held = arguments.max_held
    if max_held is None:
        max_held = max(depth.most + 2, min(memory_budget() // size, _MOST_SLOTS))
    _check_size(size, depth.least)
    packed = _packed(_functions(arguments, own_sources=False)) if arguments.loader_kind == "process" else b""
    groups = _job_groups(arguments)
    plan, last = arguments.plan, arguments.last_batch
    end = None if last is None else plan.number(Position(last, plan.batches_per_validation))
    if end is not None and last is not None and consumed.next_number >= end and arguments.first_batch >= last:
        logger.warning(
            "start_at, end_at: the run is empty, as it starts at training batch %d of all and stops before %d "
            "(an epoch has %d)",
            arguments.first_batch,
            last,
            plan.batches_per_epoch,
        )
    settings = EngineSettings(
        depth=depth,
        workers=workers,
        max_held=max_held,
        deterministic=arguments.deterministic,
        on_error=arguments.on_error,
        threaded=arguments.loader_kind != "inline",
    )
    with contextlib.ExitStack() as undo:
        caches = _open_caches(arguments, groups, undo)
        wakeup = Wakeup()
        undo.callback(wakeup.close)
        limit = 2 * depth.most + 2 + min(max_held, _MOST_SLOTS) + _slots_of_caches(arguments, size)
        pool = SlotPool(size, limit, workers.most, depth.least + 2)
        undo.callback(pool.close)
        start_worker = _worker_starter(arguments, groups, pool, packed)
        first, ahead = consumed.next_number, frozenset(consumed.ahead)
        training = len(arguments.training)
        admission = Admission(plan, groups, training, pool, caches, first=first, end=end, skipped=ahead)
        queue = ReadyQueue(wakeup.wake)
        loop = Loop(plan, groups, admission, caches, pool, wakeup, queue, start_worker, settings)
        engine = Engine(loop, queue, caches, pool, wakeup, threaded=settings.threaded)
        undo.pop_all()
    return engine


def _job_group(
    group: DataGroup[Any], rows: Indices | None, wanted: Parts, function: Callable[..., Any] | None
) -> JobGroup:
    functions = [called for called in (function, group.augmenting()) if is_batched(called)]
    least, most = zip(*map(items_a_call, functions), strict=True) if functions else ((0,), (0,))
    size = group.batch_size if rows is None else len(rows)
    parts = WHOLE if functions else wanted  # rows that are loaded in one call have to lie together
    loaded, cached, augmented = _layouts(group, size, parts)
    return JobGroup(
        data=guarded(group.items),
        layouts=loaded,
        cache_layouts=cached,
        augmented=augmented,
        trims=group.trims,
        stores_itself=group.cache_location is not None and group.cache_layouts == group.loader_layouts,
        batch_size=size,
        batch_count=group.batch_count,
        zeroed=group.zeroed,
        batched=bool(functions),
        items_a_call=(max(least), min(filter(None, most), default=0)),
        indexed=isinstance(group.items, Source) or _is_count(guarded(group.items)),
        rows=rows,
        parts=parts,
        shards=group.shards,
        drops_short=group.remainder == "drop",
    )


def first_setting(arguments: Arguments) -> Setting:
    depth, workers = _bounds(arguments)
    return Setting(depth.least, workers.least)


def _bounds(arguments: Arguments) -> tuple[Bounds, Bounds]:
    if arguments.loader_kind == "inline":
        return Bounds(1, 1), Bounds(1, 1)
    depth, count = arguments.depth, arguments.loader_count
    if depth == "auto":
        size = max(slot_bytes(arguments), mmap.PAGESIZE)
        least = max(_LEAST_AHEAD, min(_LEAST_TINY, _TINY_BYTES // size))
        depths = Bounds(least, max(least, min(_MOST_AHEAD, memory_budget() // 4 // size)))
    else:
        depths = Bounds(depth, depth)
    return depths, Bounds(1, usable_cores()) if count == "auto" else Bounds(count, count)


def close_from_anywhere(engine: Engine, pid: int) -> None:
    """Close the engine of process ``pid`` from a finalizer, which may run in any thread, and in a fork's child."""
    if os.getpid() != pid:
        return
    if threading.current_thread() is threading.main_thread():
        engine.close()
    else:  # a garbage collection may run in one of the engine's own threads, which cannot wait for themselves
        threading.Thread(target=engine.close, name="hydrax-close").start()


def _open_caches(arguments: Arguments, groups: list[JobGroup], undo: contextlib.ExitStack) -> GroupCaches:
    stores: list[CacheStore | None] = []
    for kind, members in (("training", arguments.training), ("validation", arguments.validation)):
        for index, group in enumerate(members):
            store = None
            if group.cache_location is not None:
                store = CacheStore.open(
                    group,
                    kind=kind,
                    group_index=index,
                    cacher_count=arguments.cacher_count,
                    loader_func=arguments.loader_func,
                )
                undo.callback(store.close)
            stores.append(store)
    return GroupCaches(stores, groups)


def _slots_of_caches(arguments: Arguments, size: int) -> int:
    """Slots that caches may hold while their disks are behind."""
    caching = sum(group.cache_location is not None for group in (*arguments.training, *arguments.validation))
    return caching * (3 * arguments.cacher_count + MOST_BACKLOG // size + 1)


def _check_size(size: int, depth: int) -> None:
    memory = usable_memory()
    size = max(size, mmap.PAGESIZE)
    if (depth + 2) * size > memory:
        raise MemoryError(
            f"batch_size, depth: a batch takes {size:,} bytes and depth={depth} needs {depth + 2} slots, "
            f"{(depth + 2) * size:,} bytes in all; this machine (or its control group) has {memory:,}"
        )


def _loader_of(group: DataGroup[Any], arguments: Arguments) -> Callable[..., Any] | None:
    function = group.loader_func or arguments.loader_func
    return None if function is None or not group.loader_layouts else group.loading(function)


def _is_count(items: Any) -> bool:
    """Whether items are their own indices: then there is nothing to look up."""
    return isinstance(items, range) and items == range(len(items))


def _functions(arguments: Arguments, *, own_sources: bool) -> Functions:
    """What workers have from the user.

    Args:
        own_sources: Whether sources are copied, as they are not pickled on the way.
    """
    loaders: list[GroupLoader | None] = []
    for group in (*arguments.training, *arguments.validation):
        function = _loader_of(group, arguments)
        items: Any = group.items
        source: Source[Any] | None = items if isinstance(items, Source) else None
        if source is not None and own_sources:
            source = _copied(source)
        augment = group.augmenting()
        works = function is not None or augment is not None
        loaders.append(GroupLoader(function, is_batched(function), source, augment) if works else None)
    return Functions(tuple(loaders), arguments.startup_func, arguments.on_error != "substitute")


def _copied(source: Source[Any]) -> Source[Any]:
    try:
        copied: Source[Any] = pickle.loads(pickling.dumps(source))
    except Exception as error:
        raise TypeError(
            f"data: a {type(source).__name__} cannot be copied for each worker ({type(error).__name__}: {error}); "
            "a Source must not hold open files, locks and the like when it is pickled"
        ) from error
    return copied


def _packed(functions: Functions) -> bytes:
    try:
        packed: bytes = pickling.dumps(functions)
    except Exception as error:
        raise TypeError(
            f"loader_func: it cannot be sent to worker processes ({type(error).__name__}: {error}); it, and a Source "
            "given as data, must not capture open files, locks, sockets and the like: open them in startup_func (a "
            "Source: at its first read), or use loader_kind='thread'"
        ) from error
    if len(packed) > _LARGE_FUNCTION:
        logger.warning(
            "loader_func carries %d MiB of data with it, a copy of which goes to each of the workers; "
            "open large arrays inside the workers instead, such as numpy.load(path, mmap_mode='r') in startup_func",
            len(packed) >> 20,
        )
    return packed


def _worker_starter(
    arguments: Arguments, groups: list[JobGroup], pool: SlotPool, packed: bytes
) -> Callable[[int], Worker]:
    setups = [
        GroupSetup(dict(group.layouts or group.cache_layouts), group.zeroed, dict(group.augmented), dict(group.parts))
        for group in groups
    ]
    memory = pool.memory
    if arguments.loader_kind == "process":
        setup = WorkerSetup(
            number=0,
            nice=arguments.loader_nice,
            slot_size=memory.slot_size,
            workers=memory.workers,
            base=memory.base,
            groups=pickle.dumps(setups, protocol=5),
            functions=packed,
        )
        return ProcessWorkers(setup, memory).start
    own_sources = arguments.loader_kind == "thread"
    _functions(arguments, own_sources=own_sources)  # what cannot be copied is refused here, in the caller's thread
    kind: Callable[..., Worker] = InlineWorker
    if arguments.loader_kind == "thread":
        kind = functools.partial(ThreadWorker, context=contextvars.copy_context())

    def start(number: int) -> Worker:
        status = memory.status(number)
        functions = _functions(arguments, own_sources=own_sources)
        runner = ChunkRunner(functions.loaders, setups, memory, status, stop_at_failure=functions.stop_at_failure)
        return kind(number, runner, status, functions.startup)

    return start
