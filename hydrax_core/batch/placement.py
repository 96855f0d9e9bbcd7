"""From host memory to jax arrays: the only file that imports jax.

Promise: no copy where the backend can do without. On the CPU backend ``jax.device_put`` aliases a C-contiguous NumPy
array at a 64-byte boundary whose dtype stays; on an accelerator the transfer is the copy. A dtype is converted on the
device, after the transfer, so that uint8 images travel as bytes. What a user's ``placement_func`` returns is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from hydrax_core.data.layout import ArrayLayout, Layouts
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.errors import PlacementError

try:
    from jaxlib.xla_client import batched_device_put
except ImportError:
    batched_device_put = None

if TYPE_CHECKING:
    from hydrax_core.data.group import DataGroup

__all__ = [
    "PlacedArrays",
    "Placement",
    "PlacementFunc",
    "Placer",
    "check_layouts",
    "checked",
    "host_arrays",
    "split_rows",
]

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


class _FastPut(NamedTuple):
    """Where ``jax.device_put`` put an array, so that others like it can be put there without asking it again."""

    aval: Any
    sharding: Any
    devices: list[Any]


class Placer:
    """Makes the jax arrays of batches of one layout.

    ``jax.device_put`` spends 26 of its 29 us an array in Python, 5 times as much with cold caches; the function of
    jaxlib that it ends in takes 3 (measured, jax 0.10). So it is asked for the first batch, and later ones go by the
    same fast path; where there is no such function it is asked each time.

    Args:
        group: The group of the batches.
        layouts: Their layouts.
        placement_func: The user's, or ``None`` for uncommitted arrays on jax's default device.

    Raises:
        PlacementError: jax cannot take the dtypes.
    """

    def __init__(self, group: DataGroup[Any], layouts: Layouts, placement_func: PlacementFunc | None) -> None:
        check_layouts(layouts)
        self._group = group
        self._layouts = layouts
        self._placement_func = placement_func
        copies = jax.default_backend() == "cpu"
        self._small = {name for name, layout in layouts.items() if copies and layout.nbytes <= _SMALL}
        self._changed = {name for name, layout in layouts.items() if layout.jax_dtype != layout.numpy_dtype}
        self._narrowed = {name: layouts[name].jax_dtype for name in self._changed if _is_narrowed(layouts[name])}
        self._fast_puts: tuple[tuple[Any, ...], dict[str, _FastPut]] = ((), {})

    def warm(self) -> None:
        """Compile what ``place()`` will call for small arrays, and find their known_puts, while the workers start."""
        if self._placement_func is None:
            self._place(
                {name: np.zeros(self._layouts[name].shape, self._layouts[name].numpy_dtype) for name in self._small}
            )

    @property
    def bytes_ahead(self) -> int:
        """Memory that a batch takes because it is placed."""
        layouts = self._layouts
        if jax.default_backend() != "cpu":
            made = sum(layouts[name].size * layouts[name].jax_dtype.itemsize for name in self._changed)
            return made + sum(layout.nbytes for layout in layouts.values())
        return sum(layouts[name].size * layouts[name].jax_dtype.itemsize for name in self._small | self._changed)

    def place(self, arrays: HostArrays, additional: Mapping[str, Sequence[Any]]) -> dict[str, jax.Array]:
        """The jax arrays of a batch, in the order of the declaration.

        Raises:
            PlacementError: ``placement_func`` returned something else than declared.
        """
        if self._placement_func is not None:
            return self._place_by_user(self._placement_func, arrays, additional)
        return self._place({name: arrays[name] for name in self._layouts})

    def _place(self, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, jax.Array]:
        small, narrowed = self._small, self._narrowed
        for name in narrowed.keys() & arrays.keys() if narrowed else ():
            arrays[name] = arrays[name].astype(narrowed[name])
        placed = self._put({name: array.copy() if name in small else array for name, array in arrays.items()})
        return {name: self._converted(name, array) for name, array in placed.items()} if self._changed else placed

    def _put(self, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, jax.Array]:
        context, (known, known_puts) = _context(), self._fast_puts
        if known == context and known_puts.keys() >= arrays.keys() and not _guarded():
            return {name: _put_through(array, known_puts[name]) for name, array in arrays.items()}
        put: dict[str, jax.Array] = jax.device_put(arrays)
        placed = {name: put[name] for name in arrays}  # jax sorts what it returns
        if not _guarded() and _has_fast_put():
            found = {
                name: _FastPut(array.aval, array.sharding, list(array.devices())) for name, array in placed.items()
            }
            self._fast_puts = context, {**known_puts, **found} if known == context else found
        return placed

    def _place_by_user(
        self, placement_func: PlacementFunc, arrays: HostArrays, additional: Mapping[str, Sequence[Any]]
    ) -> dict[str, jax.Array]:
        try:
            own = placement_func(arrays, self._layouts, additional, self._group)
        except StopIteration as error:  # in an iteration, it would be taken for the end of the run
            raise PlacementError("placement_func: it raised StopIteration") from error
        if isinstance(own, Mapping):
            own = {name: self._converted(name, array) for name, array in own.items()}
        return checked("placement_func", own, self._layouts)

    def _converted(self, name: str, array: Any) -> Any:
        """The array in its jax dtype, where it is in the loader's, or in what jax makes of that."""
        layout = self._layouts.get(name)
        if layout is None or not isinstance(array, jax.Array) or array.dtype == layout.jax_dtype:
            return array
        left = array.dtype in {layout.numpy_dtype, jax.dtypes.canonicalize_dtype(layout.numpy_dtype)}
        return _converter(layout.jax_dtype)(array) if left else array


class PlacedArrays(NamedTuple):
    """Arrays that another thread placed than the one that gets them."""

    context: tuple[Any, ...]
    arrays: dict[str, jax.Array]


class Placement:
    """Places the batches of a loader, in the consumer's thread or ahead of it in the engine's.

    What is placed ahead costs the consumer nothing, and a transfer to an accelerator overlaps with its computation. A
    user's ``placement_func`` runs in the consumer's thread only.

    Args:
        groups: Training before validation.
        placement_func: The user's, or ``None``.

    Raises:
        PlacementError: jax cannot take the dtypes of a group.
    """

    def __init__(self, groups: Sequence[DataGroup[Any]], placement_func: PlacementFunc | None) -> None:
        self._places_ahead = placement_func is None
        self._placers = {
            (ordinal, cached): Placer(group, layouts, placement_func)
            for ordinal, group in enumerate(groups)
            for cached, layouts in ((False, group.loader_layouts), (True, group.cache_layouts))
            if layouts
        }
        most = max((placer.bytes_ahead for placer in self._placers.values()), default=0)
        self.most_ahead = max(1, min(_MOST_AHEAD, _BYTES_AHEAD // max(1, most)))
        """Batches that may be placed ahead."""

    def warm(self) -> None:
        """Compile what placing will call."""
        for placer in self._placers.values():
            placer.warm()

    def context(self) -> object:
        """The settings of this thread that decide what ``place()`` gives."""
        return _context()

    def ahead(self, host: HostBatch) -> PlacedArrays | None:
        """Place a batch for a consumer in another thread; ``None`` where that is left to it."""
        if not self._places_ahead:
            return None
        try:
            return PlacedArrays(_context(), self.place(host))
        except Exception:  # noqa: BLE001  the consumer's own attempt will raise it where it can be caught
            return None

    def fits(self, placed: PlacedArrays) -> bool:
        """Whether ``place()`` would give this thread the same."""
        return placed.context == _context()

    def place(self, host: HostBatch) -> dict[str, jax.Array]:
        """The jax arrays of a batch, in the order of the declaration.

        Raises:
            PlacementError: ``placement_func`` returned something else than declared.
        """
        return self._placers[host.group, host.cached].place(host.arrays, host.additional)


def _is_narrowed(layout: ArrayLayout) -> bool:
    """Whether jax, in its 32-bit mode, would cut the loader's 64 bits before it converts them to what was declared."""
    return bool(jax.dtypes.canonicalize_dtype(layout.numpy_dtype) != layout.numpy_dtype)


def _context() -> tuple[Any, ...]:
    """The settings of this thread that decide what placing gives, as ``with jax.default_device(...)`` sets them."""
    config: Any = jax.config
    return config.jax_default_device, config.jax_enable_x64


def _guarded() -> bool:
    """Whether this thread looks out for transfers: what ``jax.device_put`` does counts as meant, what else does not."""
    config: Any = jax.config
    return config.jax_transfer_guard_host_to_device not in {None, "allow"}


def split_rows(array: jax.Array, first: int, end: int, device: Any) -> jax.Array:
    """Rows ``first`` to ``end`` of an array, on a device."""
    several = len(array.sharding.device_set) > 1  # a slice on the devices would have to keep their mesh
    rows: Any = np.asarray(array) if several else array
    part: jax.Array = jax.device_put(rows[first:end], device)
    # All rows on the same device would be the same memory, which closing the whole would take from the part.
    return jnp.array(part, copy=True) if end - first == len(array) else part


@cache
def _try_dtype(dtype: np.dtype[Any]) -> None:
    """Raise what jax raises for a dtype that it, or the backend, does not have."""
    jax.device_put(np.empty(1, dtype))


def _put_through(array: npt.NDArray[Any], fast: _FastPut) -> jax.Array:
    placed: jax.Array = batched_device_put(fast.aval, fast.sharding, [array], fast.devices, False)
    return placed


@cache
def _has_fast_put() -> bool:
    """Whether jaxlib's own function is there and gives what ``jax.device_put`` does."""
    array = np.zeros(16, np.float32)
    asked = jax.device_put(array)
    try:
        found = _put_through(array, _FastPut(asked.aval, asked.sharding, list(asked.devices())))
    except Exception:  # noqa: BLE001  it is not public and may ask for anything in a later jaxlib
        return False
    return (found.aval, found.sharding, found.committed) == (asked.aval, asked.sharding, asked.committed)


@cache
def _converter(dtype: np.dtype[Any]) -> Callable[[jax.Array], jax.Array]:
    def convert(array: jax.Array) -> jax.Array:
        return jax.lax.convert_element_type(array, dtype)

    return jax.jit(convert)


def host_arrays(arrays: Mapping[str, jax.Array], layouts: Layouts) -> dict[str, npt.NDArray[Any]]:
    """NumPy arrays with the NumPy dtypes of ``layouts``; waits until the arrays are computed."""
    return {name: np.asarray(arrays[name]).astype(layout.numpy_dtype, copy=False) for name, layout in layouts.items()}


def checked(argument: str, placed: Any, layouts: Layouts) -> dict[str, jax.Array]:
    """The arrays in the order of ``layouts``.

    Raises:
        PlacementError: Names, shapes or dtypes are not as ``layouts`` say; the text names ``argument``.
    """
    if not isinstance(placed, Mapping):
        raise PlacementError(f"{argument}: expected a dict of jax arrays, got {type(placed).__name__}")
    if placed.keys() != layouts.keys():
        raise PlacementError(f"{argument}: expected the arrays {sorted(layouts)}, got {sorted(placed)}")
    for name, array in placed.items():
        layout = layouts[name]
        if not isinstance(array, jax.Array):
            raise PlacementError(f"{argument}: {name!r} is a {type(array).__name__}, not a jax array")
        # What spans several hosts has the rows of each of them.
        hosts = 1 if array.is_fully_addressable else jax.process_count()
        shape = (layout.shape[0] * hosts, *layout.shape[1:])
        if array.shape != shape or array.dtype != layout.jax_dtype:
            raise PlacementError(
                f"{argument}: {name!r} is {array.dtype}{list(array.shape)}, declared is {layout.jax_dtype}{list(shape)}"
                + (f" over {hosts} hosts" if hosts > 1 else "")
            )
    return {name: placed[name] for name in layouts}
