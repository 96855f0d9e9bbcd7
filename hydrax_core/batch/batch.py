"""What the consumer gets: one batch of jax arrays and all that is known about its rows.

Promise: a batch never changes, however long it is kept. ``close()`` (or leaving ``with batch:``) ends its lease early;
what is used after that raises. To jax a batch is a tree of its arrays, see ``hydrax_core.batch.trees``.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, final

import numpy as np
import numpy.typing as npt

from hydrax_core.batch.arrays import Arrays
from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import Layouts, resized
from hydrax_core.data.trim import trimmed_layouts
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.errors import BatchAddress, BatchClosedError
from hydrax_core.plan.permutation import Indices

if TYPE_CHECKING:
    import jax

__all__ = ["Batch", "BatchTree", "Known", "TrainingBatch", "ValidationBatch"]

D = TypeVar("D")
N = TypeVar("N", bound=np.generic)


class Known(NamedTuple):
    """What is known of a batch beside its arrays.

    Attributes:
        host: The batch in host memory, without its arrays, or their memory would be held.
        own: Which rows of the batch this host loaded; ``None`` for all.
        spread: Whether the arrays span the rows of all hosts.
        lengths: Length of each array that is trimmed to its longest row.
        total: Batches in its epoch (or validation run); ``None`` of a stream.
        store: Stores it in the cache, see ``GroupCaches.store``; ``None`` where there is nothing to store.
    """

    host: HostBatch
    group: DataGroup[Any]
    rows: int
    own: Indices | None
    spread: bool
    lengths: Mapping[str, int]
    total: int | None
    mask: Callable[[], jax.Array]
    store: Callable[..., None] | None


class BatchTree:
    """The structure of a batch as a tree: equal for all batches that a compiled function takes alike.

    Args:
        labels: Names of the arrays that are labels.
        batch: The batch; it is not kept alive.
    """

    __slots__ = ("_batch", "_key", "kind")

    def __init__(self, kind: type[Any], labels: tuple[str, ...], *, masked: bool, batch: Batch[Any]) -> None:
        self.kind = kind
        self._key = (kind, labels, masked)
        self._batch = weakref.ref(batch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchTree) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def batch(self, arrays: Any, mask: Any, *, traced: bool) -> Any:
        """A batch of these arrays; what else is known of it goes along unless it is ``traced``."""
        origin = None if traced else self._batch()
        return self.kind(arrays, None if origin is None else origin.known, labels=self._key[1], mask=mask)


class Batch(ABC, Generic[D]):
    """A batch of data; made by a ``Dataloader``, never by hand."""

    def __init__(
        self, arrays: Arrays, known: Known | None, *, labels: tuple[str, ...] = (), mask: jax.Array | None = None
    ) -> None:
        self._arrays: Arrays | None = arrays
        self.known = known
        """What else is known; ``None`` inside jax's transformations and after them."""
        self._mask = mask
        self._labels = labels
        self._indices: tuple[Any, ...] | None = None
        self._seeds: tuple[Any, ...] | None = None
        self.made_ahead = False
        """Whether it was made ahead and is not handed out yet."""

    @property
    def _text(self) -> str:
        known = self.known
        return "arrays of a batch" if known is None else f"{known.host.planned.address}: {_size(known)} items"

    @property
    def _open(self) -> Known:
        if self._arrays is None:
            raise BatchClosedError(
                f"this batch is closed ({self._text}); use it before close() or inside `with batch:`"
            )
        if self.known is None:
            raise RuntimeError(
                "jax's transformations know the arrays of a batch (arrays, inputs, labels and, with remainder='pad', "
                "mask) and nothing else of it: use the batch that the loader gave, or pass the value as an argument"
            )
        return self.known

    @property
    def arrays(self) -> Mapping[str, jax.Array]:
        """The jax arrays by name, read-only; the leading dimension is the batch size."""
        arrays = self._arrays
        if arrays is None:
            _ = self._open
        return arrays  # type: ignore[return-value]  # else that has raised

    def get_array(self, name: str) -> jax.Array:
        """The array of that name; the same as ``arrays[name]``.

        Raises:
            KeyError: No array has that name.
        """
        return self.arrays[name]

    @property
    def inputs(self) -> Mapping[str, jax.Array]:
        """The arrays that the group does not name as labels."""
        return Arrays({name: array for name, array in self.arrays.items() if name not in self._labels})

    @property
    def labels(self) -> Mapping[str, jax.Array]:
        """The arrays that the group names as labels."""
        return Arrays({name: array for name, array in self.arrays.items() if name in self._labels})

    @property
    def tree(self) -> BatchTree:
        """The structure of the batch as a jax tree."""
        masked = self._mask is not None if self.known is None else self.known.group.remainder == "pad"
        return BatchTree(type(self), self._labels, masked=masked, batch=self)

    def tree_leaves(self) -> tuple[Any, ...]:
        """Its children as a jax tree: the arrays and, where its group pads, the mask."""
        arrays = self.arrays
        masked = self.known is not None and self.known.group.remainder == "pad"
        return (arrays, self.mask) if masked or self._mask is not None else (arrays,)

    @property
    def additional(self) -> Mapping[str, Sequence[Any]]:
        """What the loader returned: name -> one value a row; read-only.

        ``None`` stands where it gave none, and in the rows that another host loaded.
        """
        known = self._open
        if known.own is None or not known.spread:
            return MappingProxyType(known.host.additional)
        spread: dict[str, list[Any]] = {}
        for name, values in known.host.additional.items():
            spread[name] = [None] * known.rows
            for row, value in zip(known.own.tolist(), values, strict=True):
                spread[name][row] = value
        return MappingProxyType(spread)

    def get_additional(self, key: str, index: int | None = None, *, default: Any = None) -> Any:
        """The additional data of that name: of one row, or of all rows as a sequence.

        Args:
            key: The name that the loader returned.
            index: The row; all rows where it is left out.
            default: What stands in every row for which the loader gave nothing of that name.

        Raises:
            IndexError: The batch has no such row.
        """
        values = self.additional.get(key)
        if values is None:
            values = [None] * self._open.rows
        if index is None:
            return [default if value is None else value for value in values]
        value = values[index]
        return default if value is None else value

    @property
    def data(self) -> Sequence[D]:
        """The descriptors of the real rows."""
        known = self._open
        return tuple(known.group[index] for index in _indices(known))

    def get_data(self, index: int) -> D:
        """The descriptor of one row; the same as ``data[index]``."""
        known = self._open
        item: D = known.group[_indices(known)[index]]
        return item

    @property
    def indices(self) -> Sequence[Any]:
        """Index in the group's data of each real row; of a packed row, the indices of its documents, a tuple."""
        known = self._open
        if self._indices is None:
            numbers, rows = _indices(known), known.group.rows
            self._indices = tuple(numbers if rows is None else (rows.origins(number) or number for number in numbers))
        return self._indices

    @property
    def size(self) -> int:
        """Real rows: the batch size, or less in the last batch of a group with ``remainder="pad"``."""
        return _size(self._open)

    @property
    def mask(self) -> jax.Array:
        """True for real rows, false for padding; shape ``(batch size,)``, on the devices of the rows."""
        if self._mask is None:
            self._mask = self._open.mask()
        elif self._arrays is None:
            _ = self._open
        return self._mask

    @property
    def own_rows(self) -> Sequence[int]:
        """Which rows of the batch this host has loaded: all of them, unless several hosts share the work."""
        known = self._open
        return tuple(range(known.rows) if known.own is None else known.own.tolist())

    @property
    def group(self) -> DataGroup[D]:
        """The group that the items come from."""
        return self._open.group

    @property
    def group_index(self) -> int:
        """Position of the group among the training (or validation) groups."""
        return self.address.group_index

    @property
    def address(self) -> BatchAddress:
        """Where the batch stands in the run."""
        return self._open.host.planned.address

    @property
    def layouts(self) -> Layouts:
        """Layouts of ``arrays``, see ``group.batch_layouts``.

        Those of a part made by ``split()``, or of this host's rows alone, have fewer rows.
        """
        known = self._open
        layouts = trimmed_layouts(known.group.batch_layouts[known.host.cached], known.lengths)
        return layouts if known.rows == known.group.batch_size else resized(layouts, known.rows)

    @property
    def uncached(self) -> bool:
        """Whether the arrays are as loaded, and not as the cache holds them."""
        return not self._open.host.cached

    @property
    def from_cache(self) -> bool:
        """Whether the cache served the batch; else it was loaded, whatever has been stored since."""
        return self._open.host.from_cache

    @property
    def load_seconds(self) -> float | None:
        """Seconds spent in ``loader_func`` for the batch, over all workers; ``None`` where the cache served it.

        Work that was lost with a worker that ended is not in it; of a part made by ``split()`` it is that of the whole.
        """
        return self._open.host.load_seconds

    def cache(
        self,
        arrays: Mapping[str, jax.Array],
        additional: Mapping[str, list[Any]] | None = None,
        *,
        persist: bool = True,
    ) -> None:
        """Turn an uncached batch into a cached one and store it.

        Args:
            arrays: The arrays to cache; they must match ``group.cache_layouts`` in names, shapes and dtypes.
            additional: Additional data, each list of batch-size length; the batch's own where it is left out.
            persist: ``False`` turns the batch into its cached form without storing it.

        Raises:
            RuntimeError: The batch is cached already, or the group has no cache layouts.
            ValueError: Arrays or additional data do not match.
        """
        from hydrax_core.batch.transfers import checked, host_arrays  # noqa: PLC0415  jax is imported by now

        known = self._open
        layouts = known.group.batch_layouts[True]
        if not layouts:
            raise RuntimeError(f"batch.cache(): its group has no cache layouts ({self._text})")
        if known.host.cached:
            raise RuntimeError(f"batch.cache(): it is cached already ({self._text})")
        rows = known.rows if known.own is None else len(known.own)
        layouts = layouts if rows == known.group.batch_size else resized(layouts, rows)
        converted = checked("arrays", arrays, layouts)
        host = known.host
        if additional is not None:
            kept = _checked_additional(additional, known.rows)
            own = known.own if known.spread else None
            if own is not None:
                kept = {name: [values[row] for row in own] for name, values in kept.items()}
            host = host._replace(additional=kept)
        if persist and known.store is not None:
            known.store(host_arrays(converted, layouts, known.own if known.spread else None), host.additional)
        self._arrays = Arrays(converted)
        self.known = known._replace(host=host._replace(cached=True), lengths={})

    @property
    @abstractmethod
    def is_training(self) -> bool:
        """Whether this is a ``TrainingBatch``."""

    @property
    @abstractmethod
    def is_validation(self) -> bool:
        """Whether this is a ``ValidationBatch``."""

    @property
    def progress(self) -> int:
        """Position in the epoch (or validation run), counted from 1."""
        return self.address.epoch_batch + 1

    @property
    def progress_total(self) -> int | None:
        """Batches in the epoch (or validation run); ``None`` of a stream."""
        return self._open.total

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._arrays is None

    def close(self) -> None:
        """End the lease now: the arrays are deleted, and their memory is used again when computations on them are done.

        Closing twice is fine.
        """
        arrays, self._arrays = self._arrays, None
        if arrays is not None:
            for array in arrays.values():
                if not array.is_deleted():
                    array.delete()

    def __enter__(self) -> Self:
        _ = self.arrays
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def split(self, devices: Sequence[jax.Device], even_split: bool = True) -> tuple[Self, ...]:
        """Split the batch into parts, one a device, in order.

        Args:
            devices: Where the parts go.
            even_split: Whether all parts must have the same number of rows; else the last is the smaller one.

        Returns:
            Batches with their own arrays (on their device), ``size``, ``indices``, ``data``, ``seeds``, ``additional``.

        Raises:
            ValueError: There is no device, more devices than rows, or the rows cannot be split evenly.
        """
        from hydrax_core.batch.transfers import row_mask, split_rows  # noqa: PLC0415  jax is imported by now

        known, arrays, count = self._open, self.arrays, len(devices)
        if not 1 <= count <= known.rows:
            raise ValueError(f"devices: expected 1 to {known.rows} (the rows of the batch), got {count}")
        if even_split and known.rows % count:
            raise ValueError(
                f"devices: {known.rows} rows cannot be split evenly across {count}; "
                "use even_split=False or another batch_size"
            )
        rows = -(-known.rows // count)
        if rows * (count - 1) >= known.rows:
            raise ValueError(f"devices: with {rows} rows a part, {known.rows} rows do not reach all {count} devices")
        if known.spread and known.own is not None:
            raise ValueError("split: the rows of the batch lie on several hosts; their shards are split already")
        made = []
        for position, device in enumerate(devices):
            first, end = position * rows, min((position + 1) * rows, known.rows)
            host = known.host._replace(
                additional={name: list(values[first:end]) for name, values in known.host.additional.items()},
                indices=known.host.indices[first:end],
                seeds=None if known.host.seeds is None else known.host.seeds[first:end],
            )
            part = known._replace(
                host=host,
                rows=end - first,
                own=None if known.own is None else known.own[first:end],
                spread=False,
                mask=partial(row_mask, end - first, len(host.indices), device),
                store=None,
            )
            pieces = Arrays({name: split_rows(array, first, end, device) for name, array in arrays.items()})
            made.append(type(self)(pieces, part, labels=self._labels))
        return tuple(made)

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<{type(self).__name__}{state} {self._text}>"


def _size(known: Known) -> int:
    """Real rows of the arrays."""
    return len(known.host.planned.content.indices if known.spread else known.host.indices)


def _indices(known: Known) -> list[int]:
    """Index in the group's data of each real row."""
    found: list[int] = _of_all_rows(known, known.host.indices, known.host.planned.content.indices).tolist()
    return found


def _of_all_rows(known: Known, own: npt.NDArray[N], planned: npt.NDArray[N]) -> npt.NDArray[N]:
    """Values of all real rows: this host's own ones, and those of other hosts as they are planned."""
    if known.own is None or not known.spread:
        return own
    values = planned.copy()
    values[known.own[: len(own)]] = own
    return values


def _checked_additional(additional: Mapping[str, list[Any]], rows: int) -> dict[str, list[Any]]:
    for name, values in additional.items():
        if not isinstance(values, list | tuple) or len(values) != rows:
            found = f"{len(values)} values" if isinstance(values, list | tuple) else type(values).__name__
            raise ValueError(f"additional[{name!r}]: expected a list of {rows} values, one a row, got {found}")
    return {name: list(values) for name, values in additional.items()}


@final
class TrainingBatch(Batch[D]):
    """A batch of training data."""

    @property
    def is_training(self) -> bool:
        """``True``."""
        return True

    @property
    def is_validation(self) -> bool:
        """``False``."""
        return False

    @property
    def epoch(self) -> int:
        """The epoch, counted from 0."""
        return self.address.epoch

    @property
    def epoch_batch(self) -> int:
        """Position in the epoch, counted from 0."""
        return self.address.epoch_batch

    @property
    def batch_num(self) -> int:
        """Position among all training batches of the run, counted from 0."""
        return self.address.batch_num

    @property
    def seed(self) -> int:
        """The seed of this batch, in [0, 2**32)."""
        return self._open.host.planned.content.seed

    @property
    def seeds(self) -> Sequence[Any]:
        """The seed of each real row, in [0, 2**32): what the loader got for it; of a packed row, a tuple of them.

        Of a group with an ``augment_func``, what that got.
        """
        known = self._open
        if self._seeds is None:
            own, planned, rows = known.host.seeds, known.host.planned.content.shown_seeds, known.group.rows
            assert own is not None
            assert planned is not None
            seeds = _of_all_rows(known, own, planned).tolist()
            if rows is not None and known.group.augment_func is None:
                pairs = zip(_indices(known), seeds, strict=True)
                seeds = [rows.seeds(number, seed) or seed for number, seed in pairs]
            self._seeds = tuple(seeds)
        return self._seeds


@final
class ValidationBatch(Batch[D]):
    """A batch of validation data."""

    @property
    def is_training(self) -> bool:
        """``False``."""
        return False

    @property
    def is_validation(self) -> bool:
        """``True``."""
        return True

    @property
    def validation_epoch(self) -> int:
        """The validation run, counted from 0."""
        return self.address.epoch

    @property
    def validation_epoch_batch(self) -> int:
        """Position in the validation run, counted from 0."""
        return self.address.epoch_batch

    @property
    def validation_batch_num(self) -> int:
        """Position among all validation batches of the run, counted from 0."""
        return self.address.batch_num
