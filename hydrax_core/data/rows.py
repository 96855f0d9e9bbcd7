"""How the rows of a group's batches are made of its items: a frozen value that the group carries.

A group without one has each item once an epoch, a row an item. ``plan`` knows the other ways, and makes the order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["ENDED", "DrawnRows", "RowOrder", "checked_item_weights", "value_digest"]


ENDED = "\0ended"
"""What a loader returns, as a name in the additional data, for a row behind the end of its shard."""


class DrawnRows(NamedTuple):
    """Some rows of an epoch.

    Attributes:
        indices: Index in the group's data of each, int64.
        numbers: What its seed is made of: equal only for the same row, int64.
    """

    indices: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]


class RowOrder(ABC):
    """The rows of a group; a subclass is a value that never changes."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Rows of an epoch."""

    @property
    def fill(self) -> float | None:
        """Which part of packed rows is no padding; ``None`` where rows are not packed."""
        return None

    @property
    def segments(self) -> Mapping[str, str]:
        """Array -> the array that says which item of a row each of its elements is of, 0 for none."""
        return {}

    @property
    def shards(self) -> int:
        """How many shards of unknown length the rows are of, whole batches in turn; 0 where ``size`` is their number.

        ``size`` is then more than there can be. A shard ends where a loader says ``ENDED``, an epoch where all did.
        """
        return 0

    @property
    def batch_size(self) -> int | None:
        """The only batch size that these rows come in; ``None`` for any."""
        return None

    @property
    @abstractmethod
    def digest(self) -> str:
        """Equal only for equal rows of equal data."""

    @abstractmethod
    def draw(self, key: int, epoch: int, first: int, end: int, *, shuffled: bool) -> DrawnRows:
        """The rows at ``range(first, end)`` of an epoch.

        Args:
            end: Position after the last, at most ``size``.
            shuffled: Whether the order is by the key; else by the data, as far as there is one.
        """

    @abstractmethod
    def alike(self, index: int) -> tuple[Sequence[int] | npt.NDArray[np.int64], int]:
        """The items of which one may stand in for that at ``index``, and the place of that one among them."""

    def loading(self, loader_func: Callable[..., Any]) -> Callable[..., Any]:
        """What loads a row, from what loads an item."""
        return loader_func

    def origins(self, index: int) -> tuple[int, ...] | None:
        """The items that make up the row at ``index`` of the data; ``None`` where it is one."""
        del index
        return None

    def seeds(self, index: int, seed: int) -> tuple[int, ...] | None:
        """The seeds of those items, in a row with a seed."""
        del index, seed
        return None


def checked_item_weights(argument: str, weights: Any, items: int) -> npt.NDArray[np.float64]:
    """The weights of items, summed up."""
    try:
        found = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{argument}: expected {items} numbers, one for each item, got {type(weights).__name__}"
        ) from None
    if found.shape != (items,):
        raise ValueError(
            f"{argument}: expected {items} numbers, one for each item, got an array of shape {found.shape}"
        )
    if not np.isfinite(found).all() or found.min() < 0 or not found.any():
        raise ValueError(
            f"{argument}: expected finite numbers of at least 0, not all 0, got {found.min()} to {found.max()}"
        )
    return np.cumsum(found)


def value_digest(*parts: Any) -> str:
    """A digest of arrays and of plain values, 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else f"{part!r};".encode())
    return digest.hexdigest()
