"""What the consumer gets: one batch of jax arrays and all that is known about its rows.

Promise: a batch never changes, however long it is kept. ``close()`` (or leaving ``with batch:``) ends its lease early;
what is used after that raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar, final

import numpy as np
import numpy.typing as npt

from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import Layouts
from hydrax_core.errors import BatchAddress, BatchClosedError
from hydrax_core.plan.order import BatchContent
from hydrax_core.plan.permutation import Indices, Seeds

if TYPE_CHECKING:
    import jax

__all__ = ["Batch", "BatchParts", "TrainingBatch", "ValidationBatch"]

D = TypeVar("D")


class BatchParts(NamedTuple):
    """What a batch is made of; see the properties of ``Batch`` for the meaning."""

    group: DataGroup[Any]
    address: BatchAddress
    arrays: Mapping[str, jax.Array]
    layouts: Layouts
    additional: Mapping[str, Sequence[Any]]
    indices: Indices
    seeds: Seeds | None
    content: BatchContent
    rows: int
    uncached: bool
    progress_total: int
    from_cache: bool = False
    load_seconds: float | None = None
    store: Callable[..., None] | None = None


class Batch(ABC, Generic[D]):
    """A batch of data; made by a ``Dataloader``, never by hand."""

    def __init__(self, parts: BatchParts) -> None:
        self._parts: BatchParts | None = parts
        self._indices: tuple[int, ...] | None = None
        self._seeds: tuple[int, ...] | None = None
        self._address = parts.address
        self._size = len(parts.indices)

    @property
    def _text(self) -> str:
        return f"{self._address}: {self._size} items"

    @property
    def _open(self) -> BatchParts:
        if self._parts is None:
            raise BatchClosedError(
                f"this batch is closed ({self._text}); use it before close() or inside `with batch:`"
            )
        return self._parts

    @property
    def arrays(self) -> Mapping[str, jax.Array]:
        """The jax arrays by name, read-only; the leading dimension is the batch size."""
        parts = self._parts
        return self._open.arrays if parts is None else parts.arrays

    def get_array(self, name: str) -> jax.Array:
        """The array of that name; the same as ``arrays[name]``.

        Raises:
            KeyError: No array has that name.
        """
        return self._open.arrays[name]

    @property
    def inputs(self) -> Mapping[str, jax.Array]:
        """The arrays that the group does not name as labels."""
        parts = self._open
        return MappingProxyType({name: a for name, a in parts.arrays.items() if name not in parts.group.labels})

    @property
    def labels(self) -> Mapping[str, jax.Array]:
        """The arrays that the group names as labels."""
        parts = self._open
        return MappingProxyType({name: a for name, a in parts.arrays.items() if name in parts.group.labels})

    @property
    def additional(self) -> Mapping[str, Sequence[Any]]:
        """What the loader returned: name -> one value a row, ``None`` where it gave none; read-only."""
        return MappingProxyType(self._open.additional)

    def get_additional(self, key: str, index: int | None = None, *, default: Any = None) -> Any:
        """The additional data of that name: of one row, or of all rows as a sequence.

        Args:
            key: The name that the loader returned.
            index: The row; all rows where it is left out.
            default: What to return where the loader gave nothing of that name (for the row).
        """
        values = self._open.additional.get(key)
        if values is None:
            return default
        if index is None:
            return values
        value = values[index]
        return default if value is None else value

    @property
    def data(self) -> Sequence[D]:
        """The descriptors of the real rows."""
        parts = self._open
        return tuple(parts.group[index] for index in parts.indices.tolist())

    def get_data(self, index: int) -> D:
        """The descriptor of one row; the same as ``data[index]``."""
        parts = self._open
        item: D = parts.group[int(parts.indices[index])]
        return item

    @property
    def indices(self) -> Sequence[int]:
        """Index in the group's data of each real row."""
        parts = self._open
        if self._indices is None:
            self._indices = tuple(parts.indices.tolist())
        return self._indices

    @property
    def size(self) -> int:
        """Real rows: the batch size, or less in the last batch of a group with ``remainder="pad"``."""
        return len(self._open.indices)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """True for real rows, false for padding; shape ``(batch size,)``."""
        parts = self._open
        return np.arange(parts.rows) < len(parts.indices)

    @property
    def group(self) -> DataGroup[D]:
        """The group that the items come from."""
        return self._open.group

    @property
    def group_index(self) -> int:
        """Position of the group among the training (or validation) groups."""
        return self._open.address.group_index

    @property
    def address(self) -> BatchAddress:
        """Where the batch stands in the run."""
        return self._open.address

    @property
    def layouts(self) -> Layouts:
        """Layouts of ``arrays``: ``group.loader_layouts`` when ``uncached``, else ``group.cache_layouts``."""
        return self._open.layouts

    @property
    def uncached(self) -> bool:
        """Whether the arrays are as loaded, and not as the cache holds them."""
        return self._open.uncached

    @property
    def from_cache(self) -> bool:
        """Whether the cache served the batch; else it was loaded, whatever has been stored since."""
        return self._open.from_cache

    @property
    def load_seconds(self) -> float | None:
        """Seconds spent in ``loader_func`` for the batch, over all workers; ``None`` where the cache served it.

        Work that was lost with a worker that ended is not in it; of a part made by ``split()`` it is that of the whole.
        """
        return self._open.load_seconds

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
        from hydrax_core.batch.placement import checked, host_arrays  # noqa: PLC0415  imported by whoever made the batch

        parts = self._open
        layouts = parts.group.cache_layouts
        if not layouts:
            raise RuntimeError(f"batch.cache(): its group has no cache layouts ({self._text})")
        if not parts.uncached:
            raise RuntimeError(f"batch.cache(): it is cached already ({self._text})")
        converted = checked("arrays", arrays, layouts)
        kept = parts.additional if additional is None else _checked_additional(additional, parts.rows)
        if persist and parts.store is not None:
            parts.store(host_arrays(converted, layouts), kept)
        self._parts = parts._replace(
            arrays=MappingProxyType(converted), layouts=layouts, additional=kept, uncached=False
        )

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
        return self._open.address.epoch_batch + 1

    @property
    def progress_total(self) -> int:
        """Batches in the epoch (or validation run)."""
        return self._open.progress_total

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._parts is None

    def close(self) -> None:
        """End the lease now: the arrays are deleted, and their memory is used again when computations on them are done.

        Closing twice is fine.
        """
        parts, self._parts = self._parts, None
        if parts is not None:
            for array in parts.arrays.values():
                if not array.is_deleted():
                    array.delete()

    def __enter__(self) -> Self:
        _ = self._open
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
        from hydrax_core.batch.placement import split_rows  # noqa: PLC0415  jax is imported by whoever holds a batch

        parts = self._open
        count = len(devices)
        if not 1 <= count <= parts.rows:
            raise ValueError(f"devices: expected 1 to {parts.rows} (the rows of the batch), got {count}")
        if even_split and parts.rows % count:
            raise ValueError(
                f"devices: {parts.rows} rows cannot be split evenly across {count}; "
                "use even_split=False or another batch_size"
            )
        rows = -(-parts.rows // count)
        if rows * (count - 1) >= parts.rows:
            raise ValueError(f"devices: with {rows} rows a part, {parts.rows} rows do not reach all {count} devices")
        made = []
        for position, device in enumerate(devices):
            first, end = position * rows, min((position + 1) * rows, parts.rows)
            layouts = {
                name: layout._replace(
                    shape=(end - first, *layout.shape[1:]), size=layout.size // parts.rows * (end - first)
                )
                for name, layout in parts.layouts.items()
            }
            part = BatchParts(
                group=parts.group,
                address=parts.address,
                arrays=MappingProxyType(
                    {name: split_rows(array, first, end, device) for name, array in parts.arrays.items()}
                ),
                layouts=MappingProxyType(layouts),
                additional={name: list(values[first:end]) for name, values in parts.additional.items()},
                indices=parts.indices[first:end],
                seeds=None if parts.seeds is None else parts.seeds[first:end],
                content=parts.content,
                rows=end - first,
                uncached=parts.uncached,
                progress_total=parts.progress_total,
                from_cache=parts.from_cache,
                load_seconds=parts.load_seconds,
            )
            made.append(type(self)(part))
        return tuple(made)

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<{type(self).__name__}{state} {self._text}>"


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
        return self._open.address.epoch

    @property
    def epoch_batch(self) -> int:
        """Position in the epoch, counted from 0."""
        return self._open.address.epoch_batch

    @property
    def batch_num(self) -> int:
        """Position among all training batches of the run, counted from 0."""
        return self._open.address.batch_num

    @property
    def seed(self) -> int:
        """The seed of this batch, in [0, 2**32)."""
        return self._open.content.seed

    @property
    def seeds(self) -> Sequence[int]:
        """The seed of each real row, in [0, 2**32): what the loader got for it."""
        seeds = self._open.seeds
        if self._seeds is None:
            assert seeds is not None
            self._seeds = tuple(seeds.tolist())
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
        return self._open.address.epoch

    @property
    def validation_epoch_batch(self) -> int:
        """Position in the validation run, counted from 0."""
        return self._open.address.epoch_batch

    @property
    def validation_batch_num(self) -> int:
        """Position among all validation batches of the run, counted from 0."""
        return self._open.address.batch_num
