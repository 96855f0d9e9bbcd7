"""Looking into entries: which ones belong together, what they hold, and which come before and after."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hydrax_cli.inspect.cache_app.jobs import Jobs
    from hydrax_cli.inspect.cache_app.model.contents import CacheAccess
    from hydrax_cli.inspect.cache_app.model.state import GroupState
    from hydrax_cli.inspect.cache_app.widgets.entry_table import EntryTable
    from hydrax_cli.inspect.run_view import BatchView
    from hydrax_core.cache import EntryInfo
    from hydrax_core.monitor import BatchRecord

__all__ = ["Looking"]

_REMEMBERED: Final = 16


class Looking:
    """Looks into the entries of one cache as a table lists them: a batch, or some items together.

    Args:
        source: Where what is in them comes from.
        read: Called with entries that were read, and the fault of each.
    """

    def __init__(
        self,
        state: GroupState,
        source: CacheAccess,
        table: EntryTable,
        jobs: Jobs,
        read: Callable[[GroupState, Sequence[EntryInfo], Sequence[str]], None],
    ) -> None:
        self._state = state
        self._source = source
        self._table = table
        self._jobs = jobs
        self._read = read
        self._at_once = source.items_at_once(state.group)
        self._together: OrderedDict[int, list[EntryInfo]] = OrderedDict()

    def record(self, place: int) -> BatchRecord | None:
        """What is looked into from a place of the table on; ``None`` while that is not at hand."""
        together = self._table.entries_from(place, self._at_once)
        if place < 0 or not together:
            return None
        self._table.entry(place - 1)  # asks for what is beside, so that the way there is short
        self._table.entry(place + len(together))
        record = self._source.record(self._state.group, together, place)
        self._together[record.serial] = together
        while len(self._together) > _REMEMBERED:
            self._together.popitem(last=False)
        return record

    def open(self, record: BatchRecord) -> BatchView:
        together = self._together[record.serial]
        view, faults = self._source.open(self._state.group, together, record)
        self._jobs.post(lambda found: self._read(self._state, *found), (together, faults))
        return view

    def neighbour(self, record: BatchRecord, step: int) -> BatchRecord | None:
        """What comes before or after; the table goes with it."""
        here, size = record.serial - 1, len(self._together.get(record.serial, (None,)))
        if step < 0 and here == 0:
            return None
        place = here + size if step > 0 else max(0, here - self._at_once)
        found = self.record(place)
        if found is not None:
            self._table.choose(place)
        return found
