"""The arrays of a batch by name: a read-only mapping that jax takes for a tree.

Promise: what takes a dict of arrays in jax (``jit``, ``grad``, ``tree.map``, ``device_put``, ``block_until_ready``)
takes this, and gives back the same kind. It is known to jax as soon as a batch exists, without jax being imported here.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

__all__ = ["Arrays"]


class Arrays(Mapping[str, "jax.Array"]):
    """Arrays by name, in the order of their declaration; it has the methods of a ``mappingproxy``.

    Args:
        arrays: A dict that does not change any more.
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: dict[str, jax.Array]) -> None:
        self._arrays = MappingProxyType(arrays)

    def __getitem__(self, name: str) -> jax.Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    # A mapping's own views go through the methods above, one call an array.
    def keys(self) -> KeysView[str]:
        return self._arrays.keys()

    def values(self) -> ValuesView[jax.Array]:
        return self._arrays.values()

    def items(self) -> ItemsView[str, jax.Array]:
        return self._arrays.items()

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._arrays)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._arrays, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self._arrays}

    def copy(self) -> dict[str, jax.Array]:
        """A dict of the same arrays."""
        return dict(self._arrays)

    def __repr__(self) -> str:
        return f"Arrays({dict(self._arrays)!r})"
