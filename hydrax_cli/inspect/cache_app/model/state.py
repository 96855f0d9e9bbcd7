"""What the app knows of one cache beyond what lies on the disk: what reading it has shown, and what is being done.

Promise: an entry is called sound only if it was read after it was written. Memory is that of the bad ones.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from hydrax_cli.inspect.cache_app.model.contents import Key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hydrax_cli.inspect.cache_app.model.contents import Group, VerifyProgress
    from hydrax_core.cache import EntryInfo, Finding

__all__ = ["Doing", "GroupState", "State", "Verdicts"]

Doing: TypeAlias = Literal["", "verify", "repair", "clear"]
_MOST_FINDINGS: Final = 10_000
State: TypeAlias = Literal["sound", "bad", "unread"]

_BAD_KINDS: Final = frozenset({"corrupt", "cut", "missing", "unreadable"})
_EVERYTHING: Final = Key(2**63, 0)


class Verdicts:
    """What reading the entries of one cache has shown."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When the reading began that ``sound`` rests on, seconds since 1970; ``None`` if nothing was read through."""
        self._read_to: Key | None = None
        self._bad: dict[int, array[int]] = {}
        self._opened: dict[Key, tuple[float, bool]] = {}

    def begin(self, at: float) -> None:
        self.since, self._read_to = at, None
        self._bad.clear()
        self._opened.clear()

    def read_to(self, key: Key | None) -> None:
        self._read_to = key if key is not None else self._read_to

    def finish(self) -> None:
        self._read_to = _EVERYTHING

    def add(self, findings: Iterable[Finding]) -> None:
        """What was found; what is repaired is gone."""
        for found in findings:
            if found.what in _BAD_KINDS and found.epoch is not None and found.number is not None:
                self._mark(Key(found.epoch, found.number), bad=not found.repaired)

    def opened(self, entry: EntryInfo, *, good: bool) -> None:
        key = Key(entry.epoch, entry.number)
        self._opened[key] = (entry.created, good)
        self._mark(key, bad=not good)

    def keep(self, bad: Iterable[Key]) -> None:
        """Only these are bad: the others have been removed or written anew."""
        self._bad.clear()
        for key in sorted(bad):
            self._bad.setdefault(key.epoch, array("q")).append(key.number)

    def bad(self) -> list[Key]:
        return [Key(epoch, number) for epoch in sorted(self._bad) for number in self._bad[epoch]]

    @property
    def bad_count(self) -> int:
        return sum(map(len, self._bad.values()))

    def bad_between(self, epoch: int, first: int, end: int) -> int:
        numbers = self._bad.get(epoch)
        return 0 if numbers is None else max(0, bisect_left(numbers, end) - bisect_left(numbers, first))

    def is_read(self, epoch: int, last: int) -> bool:
        return self._read_to is not None and (epoch, last) <= self._read_to

    def state(self, entry: EntryInfo) -> State:
        if self.bad_between(entry.epoch, entry.number, entry.number + 1):
            return "bad"
        if self._opened.get(Key(entry.epoch, entry.number)) == (entry.created, True):
            return "sound"
        was_there = self.since is not None and entry.created < self.since
        return "sound" if was_there and self.is_read(entry.epoch, entry.number) else "unread"

    def _mark(self, key: Key, *, bad: bool) -> None:
        numbers = self._bad.setdefault(key.epoch, array("q"))
        place = bisect_left(numbers, key.number)
        there = place < len(numbers) and numbers[place] == key.number
        if bad and not there:
            insort(numbers, key.number)
        elif there and not bad:
            numbers.pop(place)


@dataclass(slots=True, eq=False)
class GroupState:
    """One cache.

    Attributes:
        group: The cache as it was seen last.
        verdicts: Which entries are known to be sound or bad.
        findings: What the last verify or repair found, as far as it is kept.
        progress: How far that is, ``None`` before the first.
        did: What the findings come from.
    """

    group: Group
    verdicts: Verdicts = field(default_factory=Verdicts)
    findings: list[Finding] = field(default_factory=list)
    found: int = 0
    progress: VerifyProgress | None = None
    doing: Doing = ""
    did: Doing = ""
    _begun: float | None = None

    def begin(self, doing: Doing, at: float) -> None:
        """A verify or repair begins; what is known stays until that has got anywhere."""
        self.doing, self._begun = doing, at

    def report(self, progress: VerifyProgress) -> None:
        """It is so far; one that fails at once, such as a repair while a run writes, leaves everything as it was."""
        failed = progress.end not in ("", "done", "stopped")
        if self._begun is not None and not failed:
            self.did, self.found = self.doing, 0
            self.findings.clear()
            self.verdicts.begin(self._begun)
            self._begun = None
        if self._begun is None:
            self.progress = progress
            self.found += len(progress.findings)
            self.findings += progress.findings[: max(0, _MOST_FINDINGS - len(self.findings))]
            self.verdicts.add(progress.findings)
            self.verdicts.read_to(progress.read_to)
        if progress.end:
            self.doing, self._begun = "", None
        if progress.end == "done":
            self.verdicts.finish()

    @property
    def mendable(self) -> bool:
        """Whether a repair would change something, as far as is known."""
        return any(not finding.repaired and finding.what not in ("foreign", "stale") for finding in self.findings)
