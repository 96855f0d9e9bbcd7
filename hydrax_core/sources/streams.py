"""Data without a length: generators, IterableDatasets, anything that can be iterated over anew for each epoch.

Promise: the stream is read in ``shards`` parts, each by one worker; a batch is of one shard, and the shards take turns.
So the batches are a function of the shards, the seed and the epoch, whatever the number of workers: each item of each
shard once an epoch, in the shard's order, shuffled within a buffer. A shard that runs dry ends with a short batch,
padded (or left out, ``remainder="drop"``); an epoch ends when all are dry. One that never ends is welcome.

A worker that dies, and a run that goes on from a saved state, open the iterable anew and pass over the items that were
handed out: nothing is loaded of these, but the iterable makes them again. That gives the same batches where the
iterable gives the same items in the same order each time, which nobody checks.

How it fits a plan that is a function of n: an epoch has room for ``ROOM`` rows, more than anybody reads. Batch ``b`` of
it is batch ``b // shards`` of shard ``b % shards``; what lies behind the end of a shard is no batch, and the first
batch of the next epoch follows when all have ended. So ``batch.epoch`` and ``batch.epoch_batch`` tell where a batch
stands, and ``batch.batch_num`` leaps from one epoch to the next.
"""

from __future__ import annotations

import inspect
import itertools
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hydrax_core.data.checks import choice, integer
from hydrax_core.data.function import batched
from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import ArraySpec, array_specs
from hydrax_core.data.rows import ENDED, DrawnRows, RowOrder, value_digest
from hydrax_core.data.source import Source
from hydrax_core.errors import shorten
from hydrax_core.plan.permutation import Indices, derive_key
from hydrax_core.sources.row_source import Columns, choose
from hydrax_core.sources.wrapped import fill_items, leaf_specs, leaves_of

__all__ = ["Streamed", "stream"]

ROOM = 1 << 40
"""Rows of an epoch, at most."""

_WHOLE = 1 << 31
"""Rows of a call of the loader: all of the batch."""


class Streamed(NamedTuple):
    """A stream, ready for a ``Dataloader``.

    Attributes:
        loader_func: What loads it; the group carries it, too.
        training: Its group, the last batch of each shard padded; for validation as well: then it is not shuffled.
        left_out: Parts of an item that are no arrays and not in the additional data -> why.
    """

    loader_func: Any
    training: DataGroup[Any]
    left_out: Mapping[str, str]


def stream(
    iterable_factory: Any,
    columns: Columns = None,
    *,
    shards: int = 1,
    shuffle_buffer: int = 0,
    load: Callable[[Any, Any, int | None], Any] | None = None,
    arrays: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    name: str = "",
    remainder: str = "pad",
    batch_size: int = 64,
    seed: int = 0,
    labels: Iterable[str] = (),
    additional: Iterable[str] = (),
) -> Streamed:
    """Data that is iterated over: a generator, an IterableDataset of torch or Hugging Face.

    What an item holds is found out by the first one, as in ``torch_dataset``; or ``load`` fills the ``arrays``. Both
    run in the workers, as does the iterable.

    Args:
        iterable_factory: ``make(index, count)``, called for each epoch and shard, returns an iterable of the items of
            shard ``index`` of ``count``; ``make()`` will do for one shard, and so will an iterable that can be iterated
            over anew. One with ``shard(num_shards=, index=)``, as those of Hugging Face, is sharded by that.
        columns: Names of the values to load, or name -> dtype or (shape, dtype[, jax dtype]); all by default.
        shards: Parts that are read side by side, each by one worker, so give as many as workers, or a multiple. Another
            number gives other batches.
        shuffle_buffer: Items of each shard among which the next one is chosen at random, by seed, epoch and shard; each
            worker keeps that many of each of its shards in memory. 0 keeps the order; so does validation.
        load: ``load(item, arrays, seed)`` fills the arrays of one row, as in ``Dataloader``.
        arrays: Its arrays, as ``loader_arrays`` of a ``DataGroup``.
        names: Names of the parts of an item that is a tuple, or of the single value.
        name: What names the data for a saved state: one of another name is refused.
        remainder: ``"pad"`` the last batch of each shard, or ``"drop"`` it.
        batch_size: Rows in a batch.
        seed: Chooses the order within the buffer.
        labels: Names of the arrays that ``batch.labels`` shows.
        additional: Names of the values that go to the additional data.

    Raises:
        TypeError: It is no such factory or iterable.
        ValueError: It yields nothing, nothing in its first item becomes an array, or an argument has a wrong value.
    """
    integer("shards", shards, 1, ROOM)
    integer("shuffle_buffer", shuffle_buffer, 0)
    integer("batch_size", batch_size, 1, ROOM)
    choice("remainder", remainder, ("pad", "drop"))
    if (load is None) != (arrays is None):
        raise ValueError("load, arrays: give both, a function and the arrays that it fills, or neither")
    factory = _factory(iterable_factory, shards)
    left_out: Mapping[str, str] = {}
    texts: tuple[str, ...] = ()
    if arrays is None:
        found = leaf_specs(leaves_of(_first(factory, shards), tuple(names)))
        specs, texts, left_out = choose("columns", found, columns, additional)
    else:
        specs = dict(array_specs("arrays", arrays))
        for argument, value in (("columns", columns), ("names", tuple(names)), ("additional", tuple(additional))):
            if value:
                raise ValueError(f"{argument}: load and arrays say what an item becomes; leave it out")
    reading = _Reading(shards, batch_size, shuffle_buffer, derive_key(seed, "stream"), tuple(names), texts)
    source = StreamItems(factory, specs, reading, load, name or getattr(iterable_factory, "__qualname__", ""))
    group: DataGroup[Any] = DataGroup(
        batch_size,
        source,
        loader_func=load_stream,
        loader_arrays=specs,
        seed=seed,
        shuffle_later="itemwise",
        shuffle_first=True,
        remainder="pad" if remainder == "pad" else "drop",
        labels=labels,
        zeroed=load is not None,
        rows=StreamRows(shards, batch_size),
    )
    return Streamed(load_stream, group, left_out)


@batched(least=_WHOLE)
def load_stream(
    items: Any, arrays: Mapping[str, npt.NDArray[Any]], seeds: Sequence[int] | None
) -> list[dict[str, Any]] | None:
    """Fill the arrays with the next items of a shard; rows behind its end are zeros, and are message."""
    source = items.source
    assert isinstance(source, StreamItems)
    found = source.take(items.indices, shuffled=seeds is not None)
    extra = source.put(found, {name: array[: len(found)] for name, array in arrays.items()}, seeds)
    if len(found) < len(items):
        for array in arrays.values():
            array[len(found) :] = 0
        extra = [*(extra or [{}] * len(found)), *({ENDED: True} for _ in range(len(items) - len(found)))]
    return extra


class StreamRows(RowOrder):
    """The rows of an epoch: its number, and the place of each, in one index."""

    def __init__(self, shards: int, batch_size: int) -> None:
        self._shards, self._batch_size = shards, batch_size

    @property
    def size(self) -> int:
        return ROOM

    @property
    def shards(self) -> int:
        return self._shards

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def digest(self) -> str:
        return value_digest("stream", self._shards, self._batch_size)

    def draw(self, key: int, epoch: int, first: int, end: int, *, shuffled: bool) -> DrawnRows:
        del key, shuffled
        indices = np.arange(first, end, dtype=np.int64) + epoch * ROOM
        return DrawnRows(indices, indices)

    def alike(self, index: int) -> tuple[Sequence[int], int]:
        return [index], 0


class _Reading(NamedTuple):
    shards: int
    batch_size: int
    buffer: int
    key: int
    names: tuple[str, ...]
    additional: tuple[str, ...]


class StreamPlace(NamedTuple):
    """Where an item of a stream stands: what ``batch.data`` has of it."""

    epoch: int
    shard: int
    item: int


class StreamItems(Source[StreamPlace]):
    """The items of a stream by epoch, shard and place; each process opens the shards that it reads."""

    def __init__(
        self,
        factory: Callable[[int, int], Iterable[Any]],
        specs: Mapping[str, ArraySpec],
        reading: _Reading,
        load: Callable[[Any, Any, int | None], Any] | None,
        name: str,
    ) -> None:
        self.factory, self.reading, self.name = factory, reading, name
        self._specs, self._load = specs, load
        self._shards: dict[int, _Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> StreamPlace:
        """Where an item stands: only the workers read it, in its order."""
        return self._place(index)

    def fingerprint(self) -> str:
        """Its name, and how it is read: what it gives is not known."""
        return f"stream {self.name} {self.reading}"

    def take(self, indices: Indices, *, shuffled: bool) -> list[Any]:
        """The items of some rows of one batch; fewer where their shard ends.

        Raises:
            RuntimeError: The iterable raised.
        """
        epoch, shard, start = self._place(int(indices[0]))
        found = self._shards.get(shard)
        if found is None or found.about != (epoch, shuffled) or start < found.first_kept:
            found = self._shards[shard] = _Shard(self, shard, epoch, shuffled=shuffled)
        return found.take(start, len(indices))

    def _place(self, index: int) -> StreamPlace:
        epoch, row = divmod(index, ROOM)
        turn, offset = divmod(row, self.reading.batch_size)
        rounds, shard = divmod(turn, self.reading.shards)
        return StreamPlace(epoch, shard, rounds * self.reading.batch_size + offset)

    def put(
        self, items: Sequence[Any], arrays: Mapping[str, npt.NDArray[Any]], seeds: Sequence[int] | None
    ) -> list[dict[str, Any]] | None:
        """Fill arrays with items, and return their additional data, if any."""
        if self._load is None:
            where = f"stream{f' {self.name}' if self.name else ''}"
            return fill_items(where, items, self.reading.names, arrays, self.reading.additional)
        found = [
            self._load(item, {name: array[row, ...] for name, array in arrays.items()}, seeds[row] if seeds else None)
            for row, item in enumerate(items)
        ]
        return [each or {} for each in found] if any(found) else None


class _Shard:
    """A shard that is being read.

    Attributes:
        about: The epoch, and whether it is shuffled.
    """

    def __init__(self, source: StreamItems, number: int, epoch: int, *, shuffled: bool) -> None:
        reading = source.reading
        self.about = (epoch, shuffled)
        self._name = f"shard {number} of {reading.shards}"
        self._place = 0
        self._kept: deque[Any] = deque(maxlen=2 * reading.batch_size)
        self._failure: BaseException | None = None
        self._items = self._opened(source, number)
        if shuffled and reading.buffer > 1:
            key = derive_key(reading.key, "shard", epoch, number)
            self._items = _shuffled(self._items, reading.buffer, random.Random(key))  # noqa: S311  an order, no secret

    @property
    def first_kept(self) -> int:
        """The first place that can still be asked for."""
        return self._place - len(self._kept)

    def take(self, start: int, count: int) -> list[Any]:
        while self._place < start + count:
            if self._failure is not None:
                raise self._failure  # an iterator that has raised would seem to be at its end
            try:
                item = next(self._items)
            except StopIteration:
                break
            except BaseException as error:
                self._failure = error
                raise
            self._kept.append(item)
            self._place += 1
        first = start - self.first_kept
        return list(itertools.islice(self._kept, max(0, first), max(0, first + count)))

    def _opened(self, source: StreamItems, number: int) -> Iterator[Any]:
        place = 0
        try:
            for item in source.factory(number, source.reading.shards):
                yield item
                place += 1
        except Exception as error:
            message = f"the iterable of {self._name} raised {type(error).__name__} after {place} items: {error}"
            raise RuntimeError(message) from error


def _shuffled(items: Iterator[Any], size: int, chance: random.Random) -> Iterator[Any]:
    """Items in a random order, each at most ``size`` places early."""
    buffer: list[Any] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        place = int(chance.random() * size)
        buffer[place], item = item, buffer[place]  # noqa: PLW2901  exchanged
        yield item
    while buffer:
        place = int(chance.random() * len(buffer))
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()


def _factory(given: Any, shards: int) -> Callable[[int, int], Iterable[Any]]:
    if callable(given) and not hasattr(given, "__iter__"):
        if not _takes_none(given):
            return given  # type: ignore[no-any-return]  # calling it shows what it is
        if shards > 1:
            raise ValueError(
                f"shards: {shards} shards need a factory of (index, count), which says what each has; "
                f"{shorten(given, 60)} takes no arguments"
            )
        return _Ignoring(given)
    if not hasattr(given, "__iter__"):
        raise TypeError(f"iterable_factory: expected a function that makes an iterable, got {shorten(given, 80)}")
    if hasattr(given, "__next__"):
        raise TypeError(
            f"iterable_factory: a {type(given).__name__} can be used once; give a function that makes a new one for "
            "each epoch, such as stream(lambda: read(path))"
        )
    if shards > 1 and not hasattr(given, "shard"):
        raise ValueError(
            f"shards: nobody knows how to share a {type(given).__name__} among {shards} shards; give a function of "
            "(index, count)"
        )
    return _Sharing(given)


def _takes_none(function: Callable[..., Any]) -> bool:
    """Whether a function wants no arguments, and not two."""
    try:
        parameters = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins do not tell
        return False
    with suppress(TypeError):
        parameters.bind(0, 1)
        return False
    with suppress(TypeError):
        parameters.bind()
        return True
    return False


class _Ignoring:
    """A factory of one shard."""

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self._make = make

    def __call__(self, index: int, count: int) -> Iterable[Any]:
        del index, count
        return self._make()


class _Sharing:
    """An iterable, perhaps with a ``shard`` of its own."""

    def __init__(self, iterable: Any) -> None:
        self._iterable = iterable

    def __call__(self, index: int, count: int) -> Iterable[Any]:
        found: Iterable[Any] = self._iterable if count == 1 else self._iterable.shard(num_shards=count, index=index)
        return found


def _first(factory: Callable[[int, int], Iterable[Any]], shards: int) -> Any:
    """An item to see what items are."""
    for index in range(shards):
        made = factory(index, shards)
        if not hasattr(made, "__iter__"):
            raise TypeError(f"iterable_factory: it returned {shorten(made, 80)}, which is no iterable")
        items = iter(made)
        for item in items:
            if hasattr(items, "close"):
                items.close()
            return item
    raise ValueError(f"iterable_factory: its {shards} shards yield nothing")
