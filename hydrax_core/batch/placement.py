"""From host memory to the batch of jax arrays that the consumer gets.

Promise: no copy where the backend can do without. On the CPU backend ``jax.device_put`` aliases a C-contiguous NumPy
array at a 64-byte boundary whose dtype stays, each device's part of it likewise; on an accelerator the transfer is the
copy. A dtype is converted on the device, after the transfer, so that uint8 images travel as bytes. All batches of a run
are placed alike, in whatever thread and whenever: by the settings of jax at its start. What a user's ``placement_func``
returns is checked.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import numpy as np
import numpy.typing as npt

from hydrax_core.batch import jaxlib_private
from hydrax_core.batch.arrays import Arrays
from hydrax_core.batch.batch import Known, TrainingBatch, ValidationBatch
from hydrax_core.batch.jax_settings import Settings, without_mesh
from hydrax_core.batch.sharding import Pieces, mask_sharding, pieces, spans_hosts
from hydrax_core.batch.transfers import checked, row_mask
from hydrax_core.batch.trees import register
from hydrax_core.data.layout import ALIGNMENT, ArrayLayout, Layouts, resized
from hydrax_core.data.trim import trimmed_layouts
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.errors import PlacementError
from hydrax_core.plan.permutation import Indices

if TYPE_CHECKING:
    from hydrax_core.data.group import DataGroup

__all__ = ["Placement", "PlacementFunc", "Share", "check_layouts"]

_SMALL = 1 << 16
"""Bytes of an array up to which it is copied, which costs 1 us more than the alias: then its slot is free at once, and
not when jaxlib drops its hold, and keeping it holds no slot."""
_MOST_AHEAD = 64
_BYTES_AHEAD = 64 << 20
"""Most batches placed before they are asked for, and memory that they may take beyond that of the first."""
HostArrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
PlacementFunc: TypeAlias = (
    "Callable[[HostArrays, Layouts, Mapping[str, Sequence[Any]], DataGroup[Any]], Mapping[str, jax.Array]]"
)


class Share(NamedTuple):
    """What this host has of the batches of a group.

    Attributes:
        rows: The rows that it loads; ``None`` for all.
        shardings: Of each array; empty for those on one device.
    """

    rows: Indices | None = None
    shardings: Mapping[str, jax.sharding.Sharding] = {}


def check_layouts(layouts: Layouts) -> None:
    """Refuse dtypes that jax would change in silence.

    Raises:
        PlacementError: A 64-bit dtype is declared while jax is in its 32-bit mode, or one that jax does not have.
    """
    for name, layout in layouts.items():
        try:
            usable = jax.dtypes.canonicalize_dtype(layout.jax_dtype)
            _try_dtype(layout.numpy_dtype)
        except (TypeError, jax.errors.JaxRuntimeError) as error:
            raise PlacementError(f"array {name!r}: jax cannot take its dtypes: {error}") from error
        if usable != layout.jax_dtype:
            raise PlacementError(
                f"array {name!r}: jax would turn {layout.jax_dtype} into {usable} in silence; declare the jax dtype "
                f"{str(usable)!r} (the third entry of its definition), or set jax.config.update('jax_enable_x64', True)"
            )


class Placer(ABC):
    """Makes the jax arrays of batches of one layout."""

    @abstractmethod
    def place(self, arrays: HostArrays, additional: Mapping[str, Sequence[Any]]) -> dict[str, jax.Array]:
        """The jax arrays of a batch, in the order of the declaration."""

    @abstractmethod
    def mask(self, size: int) -> jax.Array:
        """The mask of a batch of so many real rows."""

    @property
    @abstractmethod
    def bytes_ahead(self) -> int:
        """Memory that a batch takes because it is placed."""


class _Put:
    """Puts NumPy arrays of one shape and dtype where ``jax.device_put`` would.

    ``jax.device_put`` spends 26 of its 29 us an array in Python, 5 times as much with cold caches; the function of
    jaxlib that it ends in takes 3, and 60 for eight devices against 285 (measured, jax 0.10).

    Args:
        shape: Shape of the jax array.
        dtype: Dtype of the NumPy array, which jax has.
        sharding: ``None`` for an uncommitted array on the default device.
        parts: The parts for this host's devices; ``None`` without sharding.
        convert: Converts the array on its devices; ``None`` where the dtype stays.
        default: Any array that lies where jax puts arrays by default.
        copied: Whether the NumPy array is free at once.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        sharding: jax.sharding.Sharding | None,
        parts: Pieces | None,
        convert: Callable[[jax.Array], jax.Array] | None,
        default: jax.Array,
        *,
        copied: bool,
    ) -> None:
        self._shape, self._sharding, self._parts, self._convert = shape, sharding, parts, convert
        # A program over the devices of several hosts has to be started by all in the same order, and this one is not.
        self._by_part = parts is not None and sharding is not None and not sharding.is_fully_addressable
        self._fast: tuple[Any, Any, list[Any], bool] | None = None
        if jaxlib_private.batched_device_put is not None and not (self._by_part and convert is not None):
            there = jax.dtypes.canonicalize_dtype(dtype)
            if parts is not None and sharding is not None:
                counts = tuple(whole // part for whole, part in zip(shape, parts.shape, strict=True))
                aval = _fast_shards_aval(sharding, counts)
                if aval is not None:
                    self._fast = (aval.update(shape=shape, dtype=there), sharding, parts.devices, True)
            elif _fast_put_works():
                self._fast = (jax.core.ShapedArray(shape, there), default.sharding, list(default.devices()), False)
        # jaxlib's own copy, part by part, takes 50 us for eight devices, one of NumPy's before it 60; it fails where
        # two devices get the same part (jax 0.10).
        differ = parts is None or len(set(map(str, parts.slices))) == len(parts.slices)
        by_jaxlib = copied and differ and self._fast is not None and _copies_during_call()
        self._copied_by_jaxlib = (jaxlib_private.copied_during_call or ()) if by_jaxlib else ()
        self._copied = copied and not by_jaxlib

    def __call__(self, array: npt.NDArray[Any]) -> jax.Array:
        if self._copied:
            array = array.copy()
        parts = self._parts
        pieces_of = [array]
        if parts is not None:
            slices = parts.slices if array.ndim == len(self._shape) else parts.slices_of_parts
            pieces_of = [array[index] for index in slices]
        convert = self._convert
        if self._fast is not None:
            aval, sharding, devices, committed = self._fast
            placed: jax.Array = jaxlib_private.batched_device_put(
                aval, sharding, pieces_of, devices, committed, *self._copied_by_jaxlib
            )
        elif parts is None:
            placed = jax.device_put(array)
        else:
            singles = [jax.device_put(piece, d) for piece, d in zip(pieces_of, parts.devices, strict=True)]
            if convert is not None and self._by_part:
                singles, convert = list(map(convert, singles)), None
            placed = jax.make_array_from_single_device_arrays(self._shape, self._sharding, singles)  # type: ignore[arg-type]  # there are parts
        return placed if convert is None else convert(placed)


class DevicePlacer(Placer):
    """Places on jax's default device, or by shardings.

    Args:
        default: Any array that lies where jax puts arrays by default.

    Raises:
        PlacementError: jax cannot take the dtypes.
    """

    def __init__(self, layouts: Layouts, share: Share, default: jax.Array) -> None:
        check_layouts(layouts)
        rows = next(iter(layouts.values())).shape[0]
        self._mask_rows = own = np.arange(rows) if share.rows is None else share.rows
        self._layouts = layouts if len(own) == rows else resized(layouts, len(own))
        if not spans_hosts(share.shardings):  # the arrays have this host's rows alone
            layouts, own = self._layouts, np.arange(len(own))
        copies = jax.default_backend() == "cpu"
        self._small = {name for name, layout in self._layouts.items() if copies and layout.nbytes <= _SMALL}
        self._narrowed = {name: layout.jax_dtype for name, layout in layouts.items() if _is_narrowed(layout)}
        self._changed = {name for name, layout in layouts.items() if layout.jax_dtype != layout.numpy_dtype}
        self._mask = _row_values_put(own, share, layouts, default)
        self._puts = {}
        for name, layout in layouts.items():
            sharding = share.shardings.get(name)
            sent = self._narrowed.get(name, layout.numpy_dtype)
            self._puts[name] = _Put(
                layout.shape,
                sent,
                sharding,
                None if sharding is None else pieces(sharding, layout.shape, own),
                _converter(layout.jax_dtype) if sent != layout.jax_dtype else None,
                default,
                copied=name in self._small and name not in self._narrowed,
            )

    def warm(self) -> None:
        """Compile what ``place()`` will call for small arrays while the workers start."""
        for name in self._small:
            self._puts[name](np.zeros(self._layouts[name].shape, self._narrowed.get(name, self._dtype(name))))

    def _dtype(self, name: str) -> np.dtype[Any]:
        return self._layouts[name].numpy_dtype

    @property
    def bytes_ahead(self) -> int:
        layouts = self._layouts
        if jax.default_backend() != "cpu":
            made = sum(layouts[name].size * layouts[name].jax_dtype.itemsize for name in self._changed)
            return made + sum(layout.nbytes for layout in layouts.values())
        return sum(layouts[name].size * layouts[name].jax_dtype.itemsize for name in self._small | self._changed)

    def place(self, arrays: HostArrays, additional: Mapping[str, Sequence[Any]]) -> dict[str, jax.Array]:
        del additional
        placed = {}
        for name, put in self._puts.items():
            array = arrays[name]
            if name in self._narrowed:
                array = array.astype(self._narrowed[name])
            placed[name] = put(array)
        return placed

    def mask(self, size: int) -> jax.Array:
        return self._mask(self._mask_rows < size)


class UserPlacer(Placer):
    """Has the user's ``placement_func`` place.

    Raises:
        PlacementError: jax cannot take the dtypes.
    """

    def __init__(self, placement_func: PlacementFunc, layouts: Layouts, share: Share, group: DataGroup[Any]) -> None:
        check_layouts(layouts)
        self._function = placement_func
        self._own = np.arange(group.batch_size) if share.rows is None else share.rows
        self._layouts = layouts if share.rows is None else resized(layouts, len(share.rows))
        self._group = group

    @property
    def bytes_ahead(self) -> int:
        return sum(layout.size * layout.jax_dtype.itemsize for layout in self._layouts.values())

    def place(self, arrays: HostArrays, additional: Mapping[str, Sequence[Any]]) -> dict[str, jax.Array]:
        """See ``Placer``.

        Raises:
            PlacementError: ``placement_func`` returned something else than declared.
        """
        try:
            own = self._function(arrays, self._layouts, additional, self._group)
        except StopIteration as error:  # in an iteration, it would be taken for the end of the run
            raise PlacementError("placement_func: it raised StopIteration") from error
        if isinstance(own, Mapping):
            own = {name: self._converted(name, array) for name, array in own.items()}
        return checked("placement_func", own, self._layouts)

    def mask(self, size: int) -> jax.Array:
        return row_mask(len(self._own), int((self._own < size).sum()), None)

    def _converted(self, name: str, array: Any) -> Any:
        """The array in its jax dtype, where it is in the loader's, or in what jax makes of that."""
        layout = self._layouts.get(name)
        if layout is None or not isinstance(array, jax.Array) or array.dtype == layout.jax_dtype:
            return array
        left = array.dtype in {layout.numpy_dtype, jax.dtypes.canonicalize_dtype(layout.numpy_dtype)}
        if not left:
            return array
        with without_mesh() if array.is_fully_addressable else contextlib.nullcontext():
            return _converter(layout.jax_dtype)(array)


class _Shape(NamedTuple):
    """What batches have in common that are placed alike.

    Attributes:
        group: Their group.
        cached: Whether they are in the cached layout.
        lengths: Of the arrays that are trimmed.
    """

    group: int
    cached: bool
    lengths: tuple[int, ...]


class _Kind(NamedTuple):
    """What is known of all batches of a shape.

    Attributes:
        lengths: Of the arrays that are trimmed, by name.
        masked: Whether they have a mask.
        stored: Whether they may be stored in the cache.
    """

    placer: Placer
    rows: int
    lengths: Mapping[str, int]
    total: int | None
    labels: tuple[str, ...]
    masked: bool
    stored: bool


class Placement:
    """Makes the batches of a loader, in the consumer's thread or ahead of it in the engine's.

    What is made ahead costs the consumer nothing, and a transfer to an accelerator overlaps with its computation. Only
    a ``placement_func`` on one of several hosts is left to the consumer's thread: what it computes over the devices of
    all has to be started by all in the same order.

    Args:
        groups: Training before validation.
        totals: Of each group, the batches of an epoch, or of a validation run.
        placement_func: The user's, or ``None``.
        shares: What this host has of each group's batches.

    Raises:
        PlacementError: jax cannot take the dtypes of a group.
    """

    def __init__(
        self,
        groups: Sequence[DataGroup[Any]],
        totals: Sequence[int],
        placement_func: PlacementFunc | None,
        shares: Sequence[Share],
    ) -> None:
        register()
        self._groups = groups
        self._totals = totals
        self._shares = shares
        self._spread = [spans_hosts(share.shardings) for share in shares]
        self._places_ahead = placement_func is None or jax.process_count() == 1
        self._settings = Settings(users=placement_func is not None)
        self.store: Callable[..., None] | None = None
        """Stores a batch in the cache of the engine that runs, see ``GroupCaches.store``."""
        self._placement_func = placement_func
        self._trimmed = [tuple(trim.name for trim in group.trims) for group in groups]
        self._kinds: dict[_Shape, _Kind] = {}
        with self._settings.applied():
            self._default = jax.device_put(np.zeros(1, np.float32))
            for ordinal, group in enumerate(groups):
                for cached, layouts in zip((False, True), group.batch_layouts, strict=True):
                    if layouts:
                        lengths = tuple(trim.most for trim in group.trims)
                        placer = self._kind(_Shape(ordinal, cached, lengths)).placer
                        if isinstance(placer, DevicePlacer):
                            placer.warm()
        most = max((kind.placer.bytes_ahead for kind in self._kinds.values()), default=0)
        self.most_ahead = max(1, min(_MOST_AHEAD, _BYTES_AHEAD // max(1, most)))
        """Batches that may be placed ahead."""

    def ahead(self, host: HostBatch) -> TrainingBatch[Any] | ValidationBatch[Any] | None:
        """Make a batch for a consumer in another thread; ``None`` where that is left to it."""
        if not self._places_ahead or self._shape(host) not in self._kinds:
            return None
        try:
            batch = self.make(host)
        except BaseException:  # noqa: BLE001  whatever the user's code raises, the consumer's own attempt raises it again
            return None
        batch.made_ahead = True
        return batch

    def make(self, host: HostBatch) -> TrainingBatch[Any] | ValidationBatch[Any]:
        """The batch for the consumer.

        Raises:
            PlacementError: ``placement_func`` returned something else than declared.
        """
        group, own, spread = self._groups[host.group], self._shares[host.group].rows, self._spread[host.group]
        size = len(host.indices if own is None else host.planned.content.indices)
        with self._settings.applied():
            kind = self._kind(self._shape(host))
            arrays = kind.placer.place(host.arrays, host.additional)
            mask = kind.placer.mask(size) if kind.masked else None
        bare = host._replace(arrays={})
        store = partial(self.store, bare) if kind.stored and self.store is not None else None
        later_mask = partial(kind.placer.mask, size)
        known = Known(bare, group, kind.rows, own, spread, kind.lengths, kind.total, later_mask, store)
        made = TrainingBatch if host.planned.address.kind == "training" else ValidationBatch
        return made(Arrays(arrays), known, labels=kind.labels, mask=mask)

    def _shape(self, host: HostBatch) -> _Shape:
        names = self._trimmed[host.group]
        lengths = tuple(host.arrays[name].shape[1] for name in names) if names else ()
        return _Shape(host.group, host.cached, lengths)

    def _kind(self, shape: _Shape) -> _Kind:
        """What is known of batches of a shape, found out for the first of them."""
        kind = self._kinds.get(shape)
        if kind is None:
            kind = self._kinds[shape] = self._new_kind(shape)
        return kind

    def _new_kind(self, shape: _Shape) -> _Kind:
        group, share = self._groups[shape.group], self._shares[shape.group]
        lengths = dict(zip(self._trimmed[shape.group], shape.lengths, strict=True))
        layouts = trimmed_layouts(group.batch_layouts[shape.cached], lengths)
        placer: Placer
        if self._placement_func is None:
            placer = DevicePlacer(layouts, share, self._default)
        else:
            placer = UserPlacer(self._placement_func, layouts, share, group)
        rows = group.batch_size if share.rows is None or self._spread[shape.group] else len(share.rows)
        stored = not shape.cached and bool(group.batch_layouts[True]) and not group.cache_readonly
        total = None if group.shards else self._totals[shape.group]
        return _Kind(placer, rows, lengths, total, group.labels, group.remainder == "pad", stored)


def _is_narrowed(layout: ArrayLayout) -> bool:
    """Whether jax, in its 32-bit mode, would cut the loader's 64 bits before it converts them to what was declared."""
    return bool(jax.dtypes.canonicalize_dtype(layout.numpy_dtype) != layout.numpy_dtype)


def _row_values_put(
    own: Indices, share: Share, layouts: Layouts, default: jax.Array
) -> Callable[[npt.NDArray[Any]], jax.Array]:
    """Puts one bool for each of this host's rows on the devices of the rows."""
    name, layout = next(iter(layouts.items()))
    sharding = share.shardings.get(name)
    found = None if sharding is None else mask_sharding(sharding, len(layout.shape))
    if sharding is not None and found is None:  # jax takes a NumPy array for one that every device has
        return lambda values: values  # type: ignore[return-value,unused-ignore]
    parts = None if found is None else pieces(found, layout.shape[:1], own)
    return _Put(layout.shape[:1], np.dtype(bool), found, parts, None, default, copied=False)


@cache
def _try_dtype(dtype: np.dtype[Any]) -> None:
    """Raise what jax raises for a dtype that it, or the backend, does not have."""
    jax.device_put(np.empty(1, dtype))


@cache
def _fast_put_works() -> bool:
    """Whether jaxlib's own function gives what ``jax.device_put`` does."""
    array = np.zeros(16, np.float32)
    asked = jax.device_put(array)
    try:
        found = jaxlib_private.batched_device_put(
            jax.core.ShapedArray(array.shape, array.dtype), asked.sharding, [array], list(asked.devices()), False
        )
    except Exception:  # noqa: BLE001  it is not public and may ask for anything in a later jaxlib
        return False
    return (found.aval, found.sharding, found.committed) == (asked.aval, asked.sharding, asked.committed)


@cache
def _copies_during_call() -> bool:
    """Whether jaxlib's own function, asked to, copies before it returns."""
    array, device = np.zeros(1 << 12, np.uint8), jax.local_devices()[0]
    aval, sharding = jax.core.ShapedArray((64,), np.dtype(np.uint8)), jax.sharding.SingleDeviceSharding(device)
    start = -array.ctypes.data % ALIGNMENT  # there it would be aliased, else
    try:
        found = jaxlib_private.batched_device_put(
            aval, sharding, [array[start : start + 64]], [device], True, *(jaxlib_private.copied_during_call or ())
        )
    except Exception:  # noqa: BLE001  see _fast_put_works
        return False
    array[:] = 1
    return not np.asarray(found).any()


@cache
def _fast_shards_aval(sharding: jax.sharding.Sharding, counts: tuple[int, ...]) -> Any:
    """What jax knows of an array so sharded; ``None`` where jaxlib's own function puts it somewhere else.

    Args:
        sharding: The sharding.
        counts: Into how many parts it divides each axis.
    """
    whole = np.arange(np.prod(counts), dtype=np.int32).reshape(counts)
    parts = {device: whole[index] for device, index in sharding.addressable_devices_indices_map(counts).items()}
    singles = [jax.device_put(part, device) for device, part in parts.items()]
    asked = jax.make_array_from_single_device_arrays(counts, sharding, singles)
    try:
        found = jaxlib_private.batched_device_put(asked.aval, sharding, list(parts.values()), list(parts), True)
        there = {shard.device: np.asarray(shard.data).tolist() for shard in found.addressable_shards}
    except Exception:  # noqa: BLE001  see _fast_put_works
        return None
    same = there == {device: part.tolist() for device, part in parts.items()} and found.sharding == asked.sharding
    return asked.aval if same else None


@cache
def _converter(dtype: np.dtype[Any]) -> Callable[[jax.Array], jax.Array]:
    def convert(array: jax.Array) -> jax.Array:
        return jax.lax.convert_element_type(array, dtype)

    return jax.jit(convert)
