"""DataGroup: which items there are, how they are batched and which arrays they fill; validated and immutable.

Promise: a wrong argument is refused here, by name. What a group says never changes after it is made.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, get_args, overload

import numpy as np
import numpy.typing as npt

from hydrax_core.data.augment import Augmentation, augmentation_name
from hydrax_core.data.checks import Kept, boolean, call, choice, integer
from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.function import cache_advice, check_loader_func
from hydrax_core.data.layout import ArraySpec, Layouts, array_layouts, array_specs, block_size
from hydrax_core.data.ragged import RaggedLoader
from hydrax_core.data.read_lock import GuardedData, guarded
from hydrax_core.data.rows import RowOrder, checked_item_weights, value_digest
from hydrax_core.data.source import Source
from hydrax_core.data.trim import Trim, trims_of
from hydrax_core.errors import shorten

__all__ = ["DRAWN", "DataGroup", "Shuffle"]

D = TypeVar("D")
Shuffle: TypeAlias = Literal["repeat", "reseed", "itemwise", "batchwise"]
ShuffleLater = Literal["default", "repeat", "reseed", "itemwise", "batchwise"]
Remainder = Literal["drop", "pad"]
GivenRemainder = Literal["default", "drop", "pad"]
CacheBy = Literal["batch", "item"]
DRAWN = "rows of "
"""What the identity of data begins with where rows are no permutation of it."""
_MOST_LISTED = 1 << 26
_LISTED_AT_ONCE = 256
"""Bounds for reading an iterable into a list: a generator may have no end."""
_NO_LAYOUTS: Layouts = MappingProxyType({})


class DataGroup(Sequence[D], Generic[D]):
    """Items that share a batch size and array shapes; itself the sequence of its items.

    Args:
        batch_size: Rows of a batch, at least 1.
        data: The items: a ``Source``, which is read in the workers; else any sequence, or a finite iterable, which is
            read into a list: each item must be picklable, as it travels to the worker that loads it. Do not change the
            data afterwards.
        loader_func: What loads this group, see ``Dataloader``, whose function is for the groups without one.
        loader_arrays: Arrays that the loader fills, ``name -> (shape of one item, numpy dtype[, jax dtype])``. Where
            the dtypes differ the conversion runs on the device.
        cache_arrays: Arrays of a cached batch, where they differ from ``loader_arrays``.
        cache_location: Folder of the cache on disk.
        cache_readonly: Never create the cache and never add to it.
        seed: Chooses order and seeds; any int. Groups of one loader with equal seeds still get different item seeds.
        shuffle_first: Whether the first epoch is shuffled, too; else it goes in the order of the data.
        shuffle_later: What epochs after the first do: ``"repeat"`` the first exactly; ``"reseed"``: same order, new
            seeds; ``"itemwise"``: items shuffled anew, new seeds; ``"batchwise"``: the same batches and seeds in
            another order; ``"default"``: batchwise with a cache, else itemwise. Validation is never shuffled.
        remainder: What happens to the items that do not fill a batch: ``"drop"`` them, or ``"pad"`` the last batch with
            rows of zeros (``batch.size`` and ``batch.mask`` tell which rows are real); ``"default"``: a loader's
            validation groups pad, others drop.
        labels: Names of the arrays that ``batch.labels`` shows; the others are in ``batch.inputs``.
        cache_by: Whether the cache keeps batches, or items, from which any later epoch gathers its own batches.
        cache_version: What you change, an int or a str, when the loader changes: a cache with another is refused.
        cache_pickle: Let the cache pickle additional data that is no plain value. Whoever can write to the cache's
            folder can then run code in the processes that read it.
        zeroed: Hand the loader rows of zeros. ``False`` saves a pass over the memory where the loader always fills
            every element; what it leaves out then holds old data.
        sample_weights: How often each item is drawn, compared with the others: one number of at least 0 for each. An
            epoch has as many rows as there are items, each drawn on its own, with replacement.
        rows: How rows are made of items, as ``mix``, ``pack`` and the like give it; ``None``: each item once an epoch.
        augment_func: ``augment(loaded, arrays, seed)``, run in the workers behind the cache: ``loaded`` has the row of
            each of ``loader_arrays``, read-only, as it was loaded or as the cache holds it; ``arrays`` are filled and
            are what the batch has. ``seed`` is another in every epoch (but for ``shuffle_later="repeat"``), ``None`` in
            validation, and what ``batch.seeds`` shows; it returns nothing. May be marked ``batched``.
        augment_arrays: The arrays that it fills, as ``loader_arrays``, which they are by default.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value.
    """

    rows = Kept[RowOrder | None]("How rows are made of items; ``None`` where each item is a row once an epoch.")
    weight_ends = Kept[npt.NDArray[np.float64] | None](
        "The sums of ``sample_weights`` up to each item; ``None`` where every item comes once an epoch."
    )
    loader_func = Kept[Callable[..., Any] | None](
        "What loads this group; ``None`` for the function of the ``Dataloader``."
    )
    augment_func = Kept[Callable[..., Any] | None](
        "What augments loaded rows; ``None`` where they are handed out as they are."
    )
    batch_size = Kept[int]("Rows of a batch, padding included.")
    batch_count = Kept[int]("Batches an epoch.")
    seed = Kept[int]("The seed given.")
    shuffle_first = Kept[bool]("Whether the first epoch is shuffled.")
    shuffle_later = Kept[Shuffle]('What epochs after the first do, ``"default"`` resolved.')
    remainder = Kept[Remainder]("What happens to the items that do not fill a batch.")
    labels = Kept[tuple[str, ...]]("Names of the arrays that ``batch.labels`` shows.")
    zeroed = Kept[bool]("Whether the loader gets rows of zeros.")
    cache_location = Kept[Path | None]("Folder of the cache.")
    loader_layouts = Kept[Layouts]("Layouts of the arrays that the loader fills; empty without ``loader_arrays``.")
    cache_layouts = Kept[Layouts]("Layouts of the arrays of a cached batch; empty without a cache.")
    cache_by = Kept[CacheBy]("What the cache keeps: batches or items.")
    cache_version = Kept[int | str]("What the user changes when the loader changes.")
    cache_pickle = Kept[bool]("Whether the cache may pickle additional data.")
    first_seeds_only = Kept[bool](
        "Whether an item has the seed of the first epoch in all of them, as a cache of items needs it."
    )

    def __init__(
        self,
        batch_size: int,
        data: Iterable[D] | Source[D],
        *,
        loader_func: Callable[..., Any] | None = None,
        loader_arrays: Mapping[str, Any] | None = None,
        cache_arrays: Mapping[str, Any] | None = None,
        cache_location: str | os.PathLike[str] | None = None,
        cache_readonly: bool = False,
        seed: int = 0,
        shuffle_first: bool = False,
        shuffle_later: ShuffleLater = "default",
        remainder: GivenRemainder = "default",
        labels: Iterable[str] = (),
        zeroed: bool = True,
        cache_by: CacheBy = "batch",
        cache_version: int | str = 0,
        cache_pickle: bool = False,
        sample_weights: npt.ArrayLike | None = None,
        rows: RowOrder | None = None,
        augment_func: Callable[..., Any] | None = None,
        augment_arrays: Mapping[str, Any] | None = None,
    ) -> None:
        self._given = {name: value for name, value in locals().items() if name not in {"self", "__class__"}}
        self._batch_size = integer("batch_size", batch_size, minimum=1)
        self._data = self._given["data"] = _sequence(data)
        self._reading = guarded(self._data)
        if loader_func is not None:
            check_loader_func("loader_func", loader_func)
        self._loader_func = loader_func
        self._seed = integer("seed", seed)
        self._shuffle_first = boolean("shuffle_first", shuffle_first)
        given: GivenRemainder = choice("remainder", remainder, get_args(GivenRemainder))
        self._remainder: Remainder = "drop" if given == "default" else given
        self._zeroed = boolean("zeroed", zeroed)
        self._cache_readonly = boolean("cache_readonly", cache_readonly)
        self._cache_location = _location(cache_location)
        self._cache_by: CacheBy = choice("cache_by", cache_by, get_args(CacheBy))
        self._cache_version = (
            cache_version if isinstance(cache_version, str) else integer("cache_version", cache_version)
        )
        self._cache_pickle = boolean("cache_pickle", cache_pickle)
        # What a cache keeps of an item must not depend on the epoch in which it was first loaded.
        self._first_seeds_only = self._cache_location is not None and self._cache_by == "item"
        self._digest: str | None = None
        if not isinstance(rows, RowOrder | None):
            raise TypeError(f"rows: expected what mix(), pack() or the like gives, or None, got {shorten(rows, 80)}")
        self._rows = rows
        self._size = _length(self._data)
        self._batch_count = self._count_batches()
        self._weight_ends = self._summed_weights(sample_weights)
        later: ShuffleLater = choice("shuffle_later", shuffle_later, get_args(ShuffleLater))
        advice = cache_advice(loader_func) if self._cache_location is not None else ""
        if advice and (self._first_seeds_only or later == "default"):
            raise ValueError(
                f"cache_location: {advice}; or keep each epoch, shuffle_later='itemwise', or have the first one again: "
                "'batchwise', 'repeat'"
            )
        if later == "default":
            later = "itemwise" if self._cache_location is None else "batchwise"
        self._shuffle_later: Shuffle = later

        self._loader_specs, self._cache_specs = self._checked_arrays(loader_arrays, cache_arrays)
        self._loader_layouts = self._layouts(self._loader_specs)
        self._cache_layouts = self._layouts(self._cache_specs)
        self._augment_func = augment_func
        self._augment_specs = self._checked_augmentation(augment_arrays)
        self._augment_layouts = self._layouts(self._augment_specs)
        self._trims = trims_of(self._augment_specs or self._loader_specs or self._cache_specs or {})
        self._labels = self._given["labels"] = self._check_labels(labels)
        for argument, specs in (
            ("loader_arrays", self._loader_specs),
            ("cache_arrays", self._cache_specs),
            ("augment_arrays", self._augment_specs),
        ):
            if self._given[argument] is not None:  # the caller may change its dict
                self._given[argument] = specs

    def _checked_arrays(
        self, loader_arrays: Mapping[str, Any] | None, cache_arrays: Mapping[str, Any] | None
    ) -> tuple[Mapping[str, ArraySpec] | None, Mapping[str, ArraySpec] | None]:
        if loader_arrays is None and cache_arrays is None:
            raise ValueError(
                "loader_arrays: no array is declared; give loader_arrays (or cache_arrays to read a cache)"
            )
        loaded = None if loader_arrays is None else array_specs("loader_arrays", loader_arrays)
        cached = None if cache_arrays is None else array_specs("cache_arrays", cache_arrays)
        if cached is not None and self._cache_location is None:
            raise ValueError("cache_arrays: they need a cache_location")
        if self._cache_readonly and self._cache_location is None:
            raise ValueError("cache_readonly: it needs a cache_location")
        if loaded is not None and cached is not None and loaded != cached:
            for trim in (*trims_of(loaded), *trims_of(cached)):
                raise ValueError(
                    f"cache_arrays: {trim.name!r} is Ragged(multiple=...), whose shape differs from batch to batch; a "
                    "batch that is turned into others for the cache has one shape"
                )
        return loaded, loaded if cached is None and self._cache_location is not None else cached

    def _count_batches(self) -> int:
        if self._size == 0:
            raise ValueError("data: it is empty; expected at least one item")
        size = self._size if self._rows is None else self._rows.size
        fixed = None if self._rows is None else self._rows.batch_size
        if fixed is not None and fixed != self._batch_size:
            raise ValueError(
                f"batch_size: this stream was made in batches of {fixed}; make it anew with {self._batch_size}"
            )
        full, rest = divmod(size, self._batch_size)
        count = full + (1 if rest and self._remainder == "pad" else 0)
        if count == 0:
            raise ValueError(
                f"batch_size: {self._batch_size} is more than the {size} items of data, so no batch is full; "
                f"use at most {size}, or remainder='pad'"
            )
        return count

    def _summed_weights(self, weights: npt.ArrayLike | None) -> npt.NDArray[np.float64] | None:
        if weights is None:
            return None
        if self._rows is not None:
            raise ValueError("sample_weights: the rows of this group are drawn in another way already")
        return checked_item_weights("sample_weights", weights, self._size)

    def _layouts(self, specs: Mapping[str, ArraySpec] | None) -> Layouts:
        return _NO_LAYOUTS if specs is None else array_layouts(self._batch_size, specs)

    def _checked_augmentation(self, arrays: Mapping[str, Any] | None) -> Mapping[str, ArraySpec] | None:
        if self._augment_func is None:
            if arrays is not None:
                raise ValueError("augment_arrays: they need an augment_func, which fills them")
            return None
        call("augment_func", self._augment_func, 3, "(loaded, arrays, seed)")
        if self._loader_specs is not None and self._cache_specs not in (None, self._loader_specs):
            raise ValueError("cache_arrays: with an augment_func the cache keeps what the loader fills; leave them out")
        return (self._loader_specs or self._cache_specs) if arrays is None else array_specs("augment_arrays", arrays)

    def _check_labels(self, labels: Iterable[str]) -> tuple[str, ...]:
        if isinstance(labels, str):
            raise TypeError(f"labels: expected a tuple of array names, got the string {labels!r}; write ({labels!r},)")
        try:
            names = tuple(labels)
        except TypeError:
            raise TypeError(f"labels: expected a tuple of array names, got {labels!r}") from None
        loaded, cached = self.batch_layouts
        known = {**loaded, **cached}
        for name in names:
            if not isinstance(name, str) or name not in known:
                raise ValueError(f"labels: {name!r} is no declared array; declared are {', '.join(map(repr, known))}")
        return names

    @overload
    def __getitem__(self, index: int) -> D: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[D]: ...
    def __getitem__(self, index: int | slice) -> D | Sequence[D]:
        return self._reading[index]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[D]:
        # Sequence would go on until an IndexError, which data that is computed may never raise.
        return (self[index] for index in range(self._size))

    def __contains__(self, item: object) -> bool:
        return any(item is other or item == other for other in self)

    def __repr__(self) -> str:
        if self.shards:
            return f"DataGroup(batches of {self._batch_size} of a stream in {self.shards} shards)"
        return f"DataGroup({self._batch_size} x {self._batch_count} batches of {self._size} items)"

    @property
    def items(self) -> Sequence[D]:
        """The data as it was given."""
        return self._data

    @property
    def loader_specs(self) -> Mapping[str, ArraySpec]:
        """The arrays that the loader fills, as declared; empty without ``loader_arrays``."""
        return self._loader_specs or MappingProxyType({})

    @property
    def augment_specs(self) -> Mapping[str, ArraySpec]:
        """The arrays that ``augment_func`` fills, as declared; empty without one."""
        return self._augment_specs or MappingProxyType({})

    def loading(self, loader_func: Callable[..., Any]) -> Callable[..., Any]:
        """What loads the group's rows, from the user's function.

        Raises:
            ValueError: A ragged array has no greatest length.
        """
        _refuse_open_ends("loader_arrays", self.loader_specs)
        if self._rows is not None:
            loader_func = self._rows.loading(loader_func)
        if any(spec.ragged for spec in self.loader_specs.values()):
            loader_func = RaggedLoader(loader_func, self.loader_specs, zeroed=self._zeroed)
        return loader_func

    def augmenting(self) -> Augmentation | None:
        """What augments the group's rows, from the user's function; ``None`` without one.

        Raises:
            ValueError: A ragged array has no greatest length.
        """
        if self._augment_func is None:
            return None
        _refuse_open_ends("augment_arrays", self.augment_specs)
        return Augmentation(self._augment_func, self.augment_specs, zeroed=self._zeroed)

    @property
    def shards(self) -> int:
        """Shards of unknown length that the data streams in; 0 where it is known how many batches an epoch has."""
        return 0 if self._rows is None else self._rows.shards

    @property
    def cache_readonly(self) -> bool:
        """Whether the cache is only read; implied where no ``loader_arrays`` are given."""
        return self._cache_readonly or (self._cache_location is not None and self._loader_specs is None)

    @property
    def batch_layouts(self) -> tuple[Layouts, Layouts]:
        """Layouts of a batch as it is handed out: made by the workers, and as a cache holds it.

        Empty where there are no such batches: with an ``augment_func`` the workers make all.
        """
        if self._augment_func is not None:
            return self._augment_layouts, _NO_LAYOUTS
        return self._loader_layouts, self._cache_layouts

    @property
    def trims(self) -> tuple[Trim, ...]:
        """The arrays of batches whose length follows their longest row."""
        return trims_of(
            self.loader_specs or self._cache_specs or {} if self._augment_func is None else self.augment_specs
        )

    @property
    def loader_size(self) -> int:
        """Bytes of a loaded batch in memory, padding between the arrays included."""
        return block_size(self._loader_layouts)

    @property
    def cache_size(self) -> int:
        """Bytes of a cached batch in memory, padding between the arrays included."""
        return block_size(self._cache_layouts)

    def replace(self, **changes: Any) -> DataGroup[D]:
        """A new group with the same arguments but for the changes."""
        return type(self)(**{**self._given, **changes})

    def __reduce__(self) -> tuple[Any, ...]:
        given: dict[str, Any] = {
            name: dict(v) if isinstance(v, MappingProxyType) else v for name, v in self._given.items()
        }
        return functools.partial(type(self), **given), ()

    def in_validation(self) -> DataGroup[D]:
        """The group as a loader's validation has it: it pads unless ``remainder`` is ``"drop"``."""
        changes = self._given["remainder"] == "default" and self._size % self._batch_size
        return self.replace(remainder="pad") if changes else self

    def fingerprint(self) -> dict[str, Any]:
        """What decides the group's batches, as JSON values: equal fingerprints mean equal batches.

        The digest over the items takes about a second for 10**6 of them the first time; of longer data it takes a
        sample, see ``hydrax_core.data.fingerprint``. An ``augment_func`` is named, with its code.
        """
        return {
            "items": self._size,
            "data": self._data_digest(),
            "batch_size": self._batch_size,
            "seed": self._seed,
            "shuffle_first": self._shuffle_first,
            "shuffle_later": self._shuffle_later,
            "remainder": self._remainder,
            "first_seeds_only": self._first_seeds_only,
            **({"augment_func": augmentation_name(self._augment_func)} if self._augment_func is not None else {}),
        }

    def _data_digest(self) -> str:
        if self._digest is None:
            self._digest = data_digest(self._data, self._reading if isinstance(self._reading, GuardedData) else None)
            if self._rows is not None:
                self._digest = f"{DRAWN}{self._digest} {self._rows.digest}"
            if self._weight_ends is not None:
                self._digest = f"{DRAWN}{self._digest} {value_digest(self._weight_ends)}"
        return self._digest


def _refuse_open_ends(argument: str, specs: Mapping[str, ArraySpec]) -> None:
    for name, spec in specs.items():
        if spec.ragged and spec.ragged.max is None:
            raise ValueError(
                f"{argument}[{name!r}]: Ragged() has no greatest length; give it, Ragged(512), or pack() the group or "
                "put it into buckets()"
            )


def _sequence(data: Any) -> Sequence[Any]:
    if isinstance(data, str | bytes | Mapping | set | frozenset):
        raise TypeError(f"data: expected a sequence of items, got a {type(data).__name__}: {shorten(data, 60)}")
    if hasattr(data, "__getitem__"):
        if hasattr(data, "iloc"):
            raise TypeError(
                "data: a pandas object indexes its columns; give list(frame.itertuples()) or a list of rows"
            )
        if type(data).__module__.partition(".")[0] == "pyarrow" and hasattr(data, "column_names"):
            raise TypeError(
                f"data: a pyarrow.{type(data).__name__} indexes its columns; give range(len(table)) and take the rows "
                "in loader_func, or table.to_pylist()"
            )
        if not hasattr(data, "__len__"):
            raise TypeError(
                f"data: a {type(data).__name__} has __getitem__ but no __len__, so nobody knows how many items it has; "
                "give it a __len__"
            )
        return cast("Sequence[Any]", data)
    try:
        iterator = iter(data)
    except TypeError as error:
        raise TypeError(f"data: expected a sequence or a finite iterable, got {type(data).__name__}") from error
    return _listed(iterator, type(data).__name__)


def _listed(iterator: Iterator[Any], name: str) -> list[Any]:
    """All items of an iterable, or an error where it seems to have no end."""
    items: list[Any] = []
    most_memory = os.sysconf("SC_PHYS_PAGES") // 4
    before = _pages()
    while part := list(itertools.islice(iterator, _LISTED_AT_ONCE)):
        items += part
        if len(items) > _MOST_LISTED or _pages() - before > most_memory:
            raise ValueError(
                f"data: this {name} has given {len(items):,} items, more than {_MOST_LISTED:,} or than a quarter of "
                "the memory, and has not ended; give a finite iterable, or a sequence or a Source, read item by item"
            )
    return items


def _pages() -> int:
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _length(data: Sequence[Any]) -> int:
    try:
        return len(data)
    except OverflowError as error:
        raise ValueError(f"data: its length is more than Python can tell: {error}") from error
    except TypeError as error:
        raise TypeError(f"data: expected a sequence of items, got {shorten(data, 60)}: {error}") from error


def _location(location: Any) -> Path | None:
    if location is None:
        return None
    try:
        path = os.fspath(location)
    except TypeError:
        raise TypeError(f"cache_location: expected a path, got {location!r}") from None
    if not path:
        raise ValueError("cache_location: expected a path, got an empty one")
    return Path(os.fsdecode(path))
