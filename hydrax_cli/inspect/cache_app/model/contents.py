"""What the screens know of a cache: frozen values, and the source that makes them.

Promise: nothing here touches the library, NumPy or the disk, so that the screens are up before any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from threading import Event

    from hydrax_cli.inspect.run_view import BatchView
    from hydrax_core.cache import CacheInfo, Cleared, EntryInfo, Finding
    from hydrax_core.monitor import BatchRecord

__all__ = ["CacheAccess", "Conditions", "Entries", "Group", "Key", "Selection", "Snapshot", "VerifyProgress"]


class Key(NamedTuple):
    """Which entry: content epoch, and number of the batch or item."""

    epoch: int
    number: int


@dataclass(frozen=True, slots=True)
class Group:
    """One cache, which is that of one group of a loader.

    Attributes:
        info: What it holds; ``None`` where that is not known.
        problem: What is wrong with it, ``""`` for nothing that is seen without reading it.
        writable: Whether this user may change it.
    """

    path: Path
    name: str
    info: CacheInfo | None
    problem: str
    writable: bool

    @property
    def noun(self) -> str:
        """What an entry is: ``"batch"`` or ``"item"``."""
        return "batch" if self.info is None else self.info.cache_by

    @property
    def nouns(self) -> str:
        return "items" if self.noun == "item" else "batches"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All caches at a path at one moment.

    Attributes:
        problem: Why there are none, ``""`` where there are.
    """

    groups: tuple[Group, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are listed; every condition has to fit.

    Attributes:
        epochs: First content epoch, and the one to stop before.
        numbers: First number, and the one to stop before.
        written: When they were written: from a time on and before another, seconds since 1970.
        bad: Only those that are known to be bad.
    """

    epochs: tuple[int, int] | None = None
    numbers: tuple[int, int] | None = None
    written: tuple[float, float] | None = None
    bad: bool = False


class Entries(Protocol):
    """Entries in order, by their place among those selected; any thread may ask."""

    def __len__(self) -> int:
        """How many there are."""

    def page(self, first: int, count: int) -> list[EntryInfo]:
        """So many from a place on; fewer where some have gone meanwhile."""

    def place_of(self, epoch: int, number: int) -> int:
        """Where an entry is, or would be."""


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far a verify or repair is.

    Attributes:
        done: Bytes read.
        total: Bytes to be read; 0 while that is not known.
        seconds: Since it began.
        read_to: The last entry that was read.
        findings: What was found since the progress before.
        end: ``""`` while it goes on, ``"done"``, ``"stopped"``, or why it failed.
    """

    done: int
    total: int
    seconds: float
    read_to: Key | None
    findings: tuple[Finding, ...]
    end: str = ""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What to clear: entries that fit all that is given, or everything."""

    epoch: int | None = None
    older_than: float | None = None
    corrupt: bool = False


class CacheAccess(Protocol):
    """Where the screens get all that they show; every call may take a while and is made in a thread of its own."""

    def load(self) -> Snapshot:
        """What there is now."""

    def stamp(self) -> object:
        """Something cheap that differs once what there is has changed."""

    def select(self, group: Group, selection: Selection, bad: Sequence[Key]) -> Entries:
        """The entries of a group that fit; ``bad`` are those that are known to be bad."""

    def coverage(self, group: Group, epoch: int, width: int, since: float | None) -> list[tuple[int, int]]:
        """Of each ``width`` numbers how many are stored, and how many of them since a time."""

    def still_bad(self, group: Group, bad: Sequence[Key], since: float) -> list[Key]:
        """Those of some entries that have been neither removed nor written anew since a time."""

    def glance(self, group: Group, entries: Sequence[EntryInfo]) -> BatchView | None:
        """The first rows of an entry, or of several items; ``None`` where there is nothing to be seen."""

    def record(self, group: Group, entries: Sequence[EntryInfo], place: int) -> BatchRecord:
        """What the entries are called when they are looked into; this does not wait."""

    def open(self, group: Group, entries: Sequence[EntryInfo], record: BatchRecord) -> tuple[BatchView, list[str]]:
        """A batch, or several items, with all that is in them, and the fault of each: ``""`` for none.

        Raises:
            LookupError: They are not available; the text says why.
        """

    def items_at_once(self, group: Group) -> int:
        """How many entries are looked into together: items are, batches are not."""

    def verify(self, group: Group, stop: Event, tell: Callable[[VerifyProgress], None], *, repair: bool) -> None:
        """Read everything, with ``repair`` removing what is bad; the last progress reported has an ``end``."""

    def clear(self, group: Group, conditions: Conditions, stop: Event, *, dry_run: bool) -> Cleared | None:
        """Remove entries, or say what would go; ``None`` where it was stopped.

        Raises:
            HydraxError: It is refused; the text says why.
        """

    def close(self) -> None:
        """Give everything back."""
