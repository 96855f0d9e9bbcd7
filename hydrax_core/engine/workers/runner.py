"""What every worker does: it runs chunks of items through the user's loader, which fills a slot's rows.

Where a group augments, the loaded rows lie in the slot behind those that are handed out, which are made of them: of
rows that were just loaded, or that the engine put there from a cache.

Promise: whatever the loader raises becomes a failure with an address, never the end of the worker. Views are made once
for each slot and row and kept, as making them costs more than a trivial item. A loader that keeps its arrays, or sends
them back, is found and reported.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hydrax_core.data.augment import Augmentation
from hydrax_core.data.function import is_worker
from hydrax_core.data.layout import Layouts, Parts, clear_rows, row_at, views
from hydrax_core.data.source import Items
from hydrax_core.engine.resources.slots import SlotMemory
from hydrax_core.engine.workers.wire import Chunk, ChunkResult, GroupLoader, GroupSetup, ItemFailure
from hydrax_core.errors import error_texts, shorten

__all__ = ["BUSY_CHUNK", "BUSY_ROW", "BUSY_SINCE", "ITEMS", "ChunkRunner"]

BUSY_ROW = 0
"""Status word: row in work + 1, 0 when idle."""
BUSY_CHUNK = 1
"""Status word: number of the chunk in work."""
BUSY_SINCE = 2
"""Status word: when the chunk was taken up, ``time.monotonic_ns()``."""
ITEMS = 3
"""Status word: items loaded."""

_MOST_VIEWS = 65_536
"""Views kept; beyond it they are made anew, so that memory stays bounded with many slots, rows and arrays."""

_CLEARED_AT_ONCE = 1 << 17
"""Bytes of rows that are zeroed together, right before they are filled: the processor's cache still holds them then, so
that large rows do not cross memory twice."""

_CHECKED_CHUNKS = 2
"""Chunks whose every row is checked for references the loader keeps; later ones on their first row only."""


_Which: TypeAlias = Literal["loaded", "read", "augmented"]
"""Rows of a slot: those that the loader fills, the same as ``augment_func`` gets them, and what that fills."""

_SAMPLE = MappingProxyType({"": np.empty(1)})
_OWN_REFERENCES = sys.getrefcount(_SAMPLE[""])


class _SlotViews:
    """The arrays of a slot in one group's layout, and the views of its rows, made as they are asked for."""

    def __init__(self, memory: SlotMemory, slot: int, layouts: Layouts, parts: Parts, *, writeable: bool) -> None:
        mapping, start = memory.locate(slot)
        self.arrays = views(mapping, layouts, start, parts)
        for array in self.arrays.values():
            array.flags.writeable = writeable
        batch_size = next(iter(layouts.values())).shape[0]
        self.row_bytes = sum(layout.nbytes // batch_size for layout in layouts.values())
        self._rows: list[Mapping[str, npt.NDArray[Any]] | None] = [None] * batch_size
        self.made = 0
        """Rows that there are views of."""
        self._references = self._count_references()

    def rows(self, first: int, end: int) -> list[Mapping[str, npt.NDArray[Any]]]:
        if self.made < len(self._rows):
            for row in range(first, end):
                if self._rows[row] is None:
                    self._rows[row] = MappingProxyType({n: row_at(array, row) for n, array in self.arrays.items()})
                    self.made += 1
        return self._rows[first:end]  # type: ignore[return-value]  # none of these is None now

    def clear(self, first: int, end: int) -> None:
        for array in self.arrays.values():
            clear_rows(array, first, end)

    def kept(self, first: int, end: int) -> bool:
        """Whether other objects refer to the views of these rows, or to views made from any."""
        views = iter(self.rows(first, end))
        if any(sys.getrefcount(row[name]) > _OWN_REFERENCES for row in views for name in row):
            return True
        # Each row's view refers to the array of the slot, and so does each view made from one.
        return any(
            now > before + self.made for now, before in zip(self._count_references(), self._references, strict=True)
        )

    def _count_references(self) -> list[int]:
        return [sys.getrefcount(array) for array in self.arrays.values()]


class _LoadedRows(Sequence[Any]):
    """Loaded rows that a batched function is given in the place of items: arrays by name."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.arrays = MappingProxyType(dict(arrays))

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, rows: Any) -> _LoadedRows:
        return _LoadedRows({name: array[rows] for name, array in self.arrays.items()})


class ChunkRunner:
    """Runs chunks.

    Args:
        stop_at_failure: Leave the rest of a chunk when an item fails, because its batch is lost anyway.
    """

    def __init__(
        self,
        loaders: Sequence[GroupLoader | None],
        groups: Sequence[GroupSetup],
        memory: SlotMemory,
        status: memoryview,
        *,
        stop_at_failure: bool,
    ) -> None:
        self._loaders = loaders
        self._groups = groups
        self._memory = memory
        self._status = status
        self._stop_at_failure = stop_at_failure
        self._slots: dict[tuple[int, int, _Which], _SlotViews] = {}
        self._view_count = 0
        self._chunks = 0
        self._logged: set[str] = set()
        self._notices: list[str] = []

    def run(self, chunk: Chunk) -> ChunkResult:
        status = self._status
        loader = self._loaders[chunk.group]
        assert loader is not None
        status[BUSY_CHUNK] = chunk.number
        status[BUSY_SINCE] = time.monotonic_ns()
        started = time.perf_counter()
        additional, failures = (None, []) if chunk.filled else self._load(loader, chunk, "loaded")
        if loader.augment is not None and not (failures and self._stop_at_failure):
            failures += self._augment(loader.augment, chunk, {failure.row for failure in failures})
        seconds = time.perf_counter() - started
        status[BUSY_ROW] = 0
        loaded = chunk.size - len(failures)
        status[ITEMS] += loaded
        self._chunks += 1
        notices, self._notices = tuple(self._notices), []
        return ChunkResult(chunk.number, seconds, loaded, additional, tuple(failures), notices)

    def _load(
        self, loader: GroupLoader, chunk: Chunk, which: _Which
    ) -> tuple[list[dict[str, Any] | None] | None, list[ItemFailure]]:
        views = self._views(chunk.slot, chunk.group, which)
        cleared = 0
        if self._groups[chunk.group].zeroed:
            cleared = chunk.size if loader.batched else max(1, _CLEARED_AT_ONCE // max(1, views.row_bytes))
        if not loader.batched:
            return self._run_items(loader, chunk, views, cleared)
        if cleared:
            views.clear(chunk.first_row, chunk.first_row + cleared)
        return self._run_batched(loader, chunk, views)

    def _augment(self, augment: Augmentation, chunk: Chunk, failed: Collection[int]) -> list[ItemFailure]:
        loader = GroupLoader(augment, augment.batched, None)
        views = self._views(chunk.slot, chunk.group, "read")
        failures: list[ItemFailure] = []
        first, after = chunk.first_row, chunk.first_row + chunk.size
        for end in [*sorted(failed), after]:
            if first < end:
                own = slice(first - chunk.first_row, end - chunk.first_row)
                seeds = None if chunk.fresh is None else np.frombuffer(chunk.fresh, np.uint32)[own].tobytes()
                part = chunk._replace(first_row=first, size=end - first, seeds=seeds)
                rows: Any = self._rows(part, views)
                if augment.batched:
                    rows = _LoadedRows({name: array[first:end] for name, array in views.arrays.items()})
                failures += self._load(loader, part._replace(items=rows), "augmented")[1]
            first = end + 1
        return failures

    def _views(self, slot: int, group: int, which: _Which) -> _SlotViews:
        views = self._slots.get((slot, group, which))
        if views is None:
            setup = self._groups[group]
            layouts = setup.augmented if which == "augmented" else setup.layouts
            views = _SlotViews(self._memory, slot, layouts, setup.parts, writeable=which != "read")
            self._slots[slot, group, which] = views
            self._memory.prefault(slot)
        return views

    def _run_items(
        self, loader: GroupLoader, chunk: Chunk, views: _SlotViews, cleared: int
    ) -> tuple[list[dict[str, Any] | None] | None, list[ItemFailure]]:
        load, status = loader.function, self._status
        assert load is not None
        results: list[dict[str, Any] | None] | None = None
        failures: list[ItemFailure] = []
        rows = self._rows(chunk, views)
        seeds: Sequence[int | None] = chunk.unpacked_seeds() or [None] * chunk.size
        row = chunk.first_row
        status[BUSY_ROW] = row + 1
        items = _each(loader, chunk)
        for offset, (arrays, seed) in enumerate(zip(rows, seeds, strict=True)):
            if cleared and (row - chunk.first_row) % cleared == 0:
                views.clear(row, min(row + cleared, chunk.first_row + chunk.size))
            row += 1
            status[BUSY_ROW] = row
            try:
                result = load(items(offset), arrays, seed)
                if result is not None:
                    result = self._checked(result, arrays)
            except BaseException as error:  # noqa: BLE001  SystemExit and the like fail the item, not the worker
                _pass_interrupt(error)
                failures.append(_failure(row - 1, error))
                if self._stop_at_failure:
                    break
            else:
                if result is not None:
                    if results is None:
                        results = [None] * chunk.size
                    results[row - 1 - chunk.first_row] = result
        del arrays
        self._look_for_kept(chunk, views)
        return results, failures

    def _rows(self, chunk: Chunk, views: _SlotViews) -> list[Mapping[str, npt.NDArray[Any]]]:
        before = views.made
        rows = views.rows(chunk.first_row, chunk.first_row + chunk.size)
        self._view_count += (views.made - before) * len(views.arrays)
        if self._view_count > _MOST_VIEWS:
            self._slots.clear()
            self._view_count = 0
        return rows

    def _run_batched(
        self, loader: GroupLoader, chunk: Chunk, views: _SlotViews
    ) -> tuple[list[dict[str, Any] | None] | None, list[ItemFailure]]:
        seeds = chunk.unpacked_seeds()
        items = _items(loader, chunk)
        try:
            return self._call_batched(loader, chunk.first_row, items, seeds, views), []
        except BaseException as error:  # noqa: BLE001  see _run_items
            _pass_interrupt(error)
            if chunk.size == 1:
                return None, [_failure(chunk.first_row, error)]
            first_error = error
        # Which item is it? Each is loaded alone.
        results: list[dict[str, Any] | None] = []
        failures: list[ItemFailure] = []
        for offset in range(chunk.size):
            row = chunk.first_row + offset
            seed = None if seeds is None else [seeds[offset]]
            if self._groups[chunk.group].zeroed:
                views.clear(row, row + 1)
            try:
                results.append(
                    (self._call_batched(loader, row, _items(loader, chunk, offset), seed, views) or [None])[0]
                )
            except BaseException as error:  # noqa: BLE001  see _run_items
                _pass_interrupt(error)
                results.append(None)
                failures.append(_failure(row, error))
        if not failures:
            failures.append(_failure(chunk.first_row, first_error))
        return (results if any(result is not None for result in results) else None), failures

    def _call_batched(
        self, loader: GroupLoader, first_row: int, items: Sequence[Any], seeds: list[int] | None, views: _SlotViews
    ) -> list[dict[str, Any] | None] | None:
        count = len(items)
        self._status[BUSY_ROW] = first_row + 1
        arrays = MappingProxyType({name: array[first_row : first_row + count] for name, array in views.arrays.items()})
        references = [sys.getrefcount(array) for array in arrays.values()]
        assert loader.function is not None
        results = loader.function(items.arrays if isinstance(items, _LoadedRows) else items, arrays, seeds)
        if [sys.getrefcount(array) for array in arrays.values()] != references:
            self._say(_KEPT)
        if results is None:
            return None
        if not isinstance(results, list | tuple) or len(results) != count:
            raise TypeError(
                f"a batched loader_func returns None or a list of {count} dicts, one for each item; "
                f"got {shorten(results, 80)}"
            )
        return [None if result is None else self._checked(result, arrays, row) for row, result in enumerate(results)]

    def _checked(
        self, result: Any, arrays: Mapping[str, npt.NDArray[Any]], row: int | None = None
    ) -> dict[str, Any] | None:
        """The additional data of an item, refused if it is no dict and copied where it is a view of the arrays."""
        if not isinstance(result, Mapping):
            raise TypeError(
                "loader_func fills `arrays` in place and returns None or a dict of additional data; "
                f"it returned a {type(result).__name__}: {shorten(result, 80)}"
            )
        if not result:
            return None
        for name, value in result.items():
            if not isinstance(name, str):
                raise TypeError(f"names of additional data are strings, got {name!r}")
            shared = isinstance(value, np.ndarray) and any(np.may_share_memory(value, a) for a in arrays.values())
            if name in arrays and not shared and _is_instead(value, arrays[name] if row is None else arrays[name][row]):
                raise TypeError(
                    f"loader_func returned {name!r}, which is an array of the batch, with another value: "
                    f"fill it in place, arrays[{name!r}][...] = value; what is returned is additional data"
                )
            if shared:
                self._say(
                    f"loader_func returns one of its arrays as the additional data {name!r}: the batch has them anyway "
                    "(batch.arrays), without the copy; leave it out of the returned dict"
                )
                return {key: np.copy(kept) if isinstance(kept, np.ndarray) else kept for key, kept in result.items()}
        return dict(result)

    def _look_for_kept(self, chunk: Chunk, views: _SlotViews) -> None:
        if _KEPT in self._logged:
            return
        rows = chunk.first_row, chunk.first_row + (chunk.size if self._chunks < _CHECKED_CHUNKS else 1)
        if views.kept(*rows):
            gc.collect()  # a reference cycle that the loader left behind is no intent to keep
            if views.kept(*rows):
                self._say(_KEPT)

    def _say(self, notice: str) -> None:
        if notice not in self._logged:
            self._logged.add(notice)
            self._notices.append(notice)


def _items(loader: GroupLoader, chunk: Chunk, offset: int | None = None) -> Sequence[Any]:
    """What a batched loader is called with, for all items of a chunk or one."""
    part = slice(None) if offset is None else slice(offset, offset + 1)
    if loader.source is None:
        return chunk.descriptors()[part]
    assert isinstance(chunk.items, bytes)
    return Items(loader.source, np.frombuffer(chunk.items, np.int64)[part])


def _each(loader: GroupLoader, chunk: Chunk) -> Callable[[int], Any]:
    """What gives the item at an offset in a chunk, to a loader of single items.

    A source is asked for all at once; where that fails, each is read alone, to find which it is.
    """
    items = _items(loader, chunk)
    if isinstance(items, Items):
        source, indices = items.source, items.indices.tolist()
        try:
            items = items.read()
        except BaseException as error:  # noqa: BLE001  the user's source may raise anything
            _pass_interrupt(error)
            return lambda offset: source[indices[offset]]
    return items.__getitem__


def _is_instead(value: Any, array: npt.NDArray[Any]) -> bool:
    """Whether a value that is returned under an array's name could stand in the array, and is not what stands there."""
    if not isinstance(value, bool | int | float | np.number | np.ndarray) or np.shape(value) != array.shape:
        return False
    with np.errstate(all="ignore"):
        return not np.array_equal(np.asarray(value).astype(array.dtype), array, equal_nan=array.dtype.kind == "f")


_KEPT = (
    "loader_func (or augment_func) keeps a reference to its arrays after it returned: their memory is used again for "
    "other batches, so what it holds will change, and writing to it would damage them; keep a copy (array.copy()) "
    "instead"
)


def _pass_interrupt(error: BaseException) -> None:
    """Let Ctrl-C through where the loader runs in the caller; workers do not get it."""
    if isinstance(error, KeyboardInterrupt) and not is_worker():
        raise error


def _failure(row: int, error: BaseException) -> ItemFailure:
    own = __file__
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == own and frames.tb_next is not None:
        frames = frames.tb_next
    if (
        isinstance(error, TypeError)
        and "mappingproxy" in (cause := error_texts(error)[0])
        and "item assignment" in cause
    ):
        error.add_note("hydrax: fill the arrays in place: arrays[name][...] = value")
    return ItemFailure(row, *error_texts(error, frames))
