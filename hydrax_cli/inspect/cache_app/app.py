"""``hydrax inspect --cache``: asks a source in threads, and hands what comes to the screen.

Promise: it is up before the index is read; no key waits for the disk; whatever happens to the cache, the app lives and
says so. A cache that a run fills is looked at again when it has changed, for a tenth of one core at most.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from textual import on
from textual.app import SystemCommand
from textual.binding import Binding, BindingType

from hydrax_cli.inspect.base_app import BaseApp
from hydrax_cli.inspect.cache_app.dialogs import HELP, ClearScreen
from hydrax_cli.inspect.cache_app.entry_lookup import Looking
from hydrax_cli.inspect.cache_app.jobs import Jobs
from hydrax_cli.inspect.cache_app.model.contents import Key, Selection
from hydrax_cli.inspect.cache_app.model.state import GroupState
from hydrax_cli.inspect.cache_app.screen import CacheScreen
from hydrax_cli.inspect.cache_app.upkeep import Upkeep
from hydrax_cli.inspect.cache_app.widgets.coverage_map import CoverageMap
from hydrax_cli.inspect.cache_app.widgets.entry_table import PAGE, EntryTable
from hydrax_cli.inspect.cache_app.widgets.lists import summary
from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.screens.dialogs import GoToScreen, HelpScreen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from textual.screen import Screen
    from textual.timer import Timer

    from hydrax_cli.inspect.cache_app.model.contents import CacheAccess, Entries, Snapshot
    from hydrax_cli.inspect.run_view import BatchView
    from hydrax_core.cache import EntryInfo

__all__ = ["CacheApp"]

_LOOK_SECONDS: Final = 1.0
_REST: Final = 10
"""After a look that took so long, this many times as long without one."""
_PICTURE_SECONDS: Final = 0.12
"""How long the cursor has to rest on an entry before it is drawn."""
_MOST_RECHECKED: Final = 20_000
"""Above this number, bad entries are not checked for having been written anew."""
_RUN_KEYS: Final = frozenset({"step", "newest", "copy_command"})


class CacheApp(BaseApp):
    """The app.

    Args:
        source: Where all that is shown comes from; its maker closes it.
        path: What it is of, for the title.
        on_ready: Called once the app draws, in its thread.
        light: Whether to begin with the light theme.
    """

    CSS_PATH: ClassVar[list[str]] = ["../inspect.tcss", "cache.tcss"]  # type: ignore[assignment]  # Textual takes both
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "verify", "verify", show=False),
        Binding("p", "repair", "repair", show=False),
        Binding("x", "clear", "clear", show=False),
    ]

    def __init__(
        self, source: CacheAccess, path: Path, *, on_ready: Callable[[], None] | None = None, light: bool = False
    ) -> None:
        super().__init__(on_ready=on_ready, light=light)
        self._source = source
        self._main = CacheScreen(str(path))
        self._known: dict[Path, GroupState] = {}
        self._states: list[GroupState] = []
        self._shown: GroupState | None = None
        self._problem = self._failure = ""
        self._selection, self._words = Selection(), ""
        self._entries: Entries | None = None
        self._stamp: object = None
        self._next_look = 0.0
        self._looking = False
        self._listing = 0
        self._picture_timer: Timer | None = None
        self._pictured: tuple[Key, float] | None = None
        self._jobs = Jobs(self, self._failed)
        self._upkeep = Upkeep(self, source, self._jobs, self._changed, self._ended)

    # --- for taking a picture

    @property
    def has_batch(self) -> bool:
        return bool(self._states) or bool(self._problem)

    @property
    def at_rest(self) -> bool:
        """Whether all that was asked for is on the screen."""
        return self.has_batch and self.settled

    @property
    def settled(self) -> bool:
        if isinstance(self.screen, BatchScreen | ClearScreen) and not self.screen.settled:
            return False
        return self._jobs.idle and not self._main.map.unheard and self._picture_is_fresh()

    def _picture_is_fresh(self) -> bool:
        entry = self._main.table.chosen_entry
        if entry is None or not self._main.wants_picture:
            return True
        return self._pictured == (Key(entry.epoch, entry.number), entry.created)

    def tick(self, *, at_once: bool = False) -> None:
        if self.is_running and (at_once or time.monotonic() >= self._next_look):
            self._look_again(force=False)

    # --- the app

    def get_default_screen(self) -> CacheScreen:
        return self._main

    def help_screen(self) -> HelpScreen:
        return HelpScreen(HELP)

    def begin(self) -> None:
        self._look_again(force=True)
        self.set_interval(_LOOK_SECONDS, self.tick)

    def on_unmount(self) -> None:
        self._upkeep.stop()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There is no run here that could be driven."""
        del parameters
        return action not in _RUN_KEYS

    def _failed(self, error: Exception) -> None:
        self._looking = False
        text = str(error) or type(error).__name__
        if text != self._failure:  # the same for every page that is asked for
            self._failure = text
            self._warn(text)

    def _warn(self, text: str, title: str = "") -> None:
        self.notify(text, title=title, severity="error", timeout=10)

    # --- what there is

    def _look_again(self, *, force: bool) -> None:
        if self._looking:
            return
        self._looking = True
        known = self._stamp

        def look() -> tuple[object, Snapshot | None, float]:
            started = time.monotonic()
            stamp = self._source.stamp()
            snapshot = self._source.load() if force or stamp != known else None
            return stamp, snapshot, time.monotonic() - started

        self._jobs.do(look, self._looked)

    def _looked(self, result: tuple[object, Snapshot | None, float]) -> None:
        self._stamp, snapshot, seconds = result
        self._looking = False
        self._next_look = time.monotonic() + _REST * seconds
        if snapshot is not None:
            self._failure = snapshot.problem
            self._show(snapshot)

    def _show(self, snapshot: Snapshot) -> None:
        if snapshot.problem and snapshot.problem != self._problem:
            self._warn(snapshot.problem, "There is no cache any more" if self._states else "")
        self._problem = snapshot.problem
        self._states = [self._known.setdefault(group.path, GroupState(group)) for group in snapshot.groups]
        for state, group in zip(self._states, snapshot.groups, strict=True):
            state.group = group
        anew = self._shown is None or self._shown not in self._states
        if anew:
            self._shown, self._pictured = self._states[0] if self._states else None, None
        self._main.show(self._states, self._shown, self._problem, anew=anew)
        self._recheck_bad()
        self._list(keep=not anew)

    def _recheck_bad(self) -> None:
        """What was bad may have been removed or written anew by a run."""
        state = self._shown
        if (
            state is None
            or state.group.info is None
            or not 0 < state.verdicts.bad_count < _MOST_RECHECKED
            or state.doing
        ):
            return
        since, group, bad = state.verdicts.since or time.time(), state.group, state.verdicts.bad()

        def keep(still: list[Key]) -> None:
            if len(still) < len(bad):
                state.verdicts.keep(still)
                self._main.show(self._states, self._shown, self._problem, anew=False)

        self._jobs.do(lambda: self._source.still_bad(group, bad, since), keep)

    @on(CacheScreen.GroupChosen)
    def _group_chosen(self, event: CacheScreen.GroupChosen) -> None:
        chosen = self._states[event.place]
        if chosen is not self._shown:
            self._shown, self._pictured = chosen, None
            self._main.show(self._states, chosen, self._problem, anew=True)
            self._list(keep=False)

    def action_refresh_now(self) -> None:
        self._look_again(force=True)

    # --- the table and the map

    def _list(self, *, keep: bool, seek: Key | None = None, focus: bool = False) -> None:
        """List the entries that fit the filter; stay at the entry of the cursor, or go to another."""
        state = self._shown
        self._listing += 1
        turn, table = self._listing, self._main.table
        if state is None or state.group.info is None:
            self._entries = None
            table.show(state, None, {}, self._words)
            return
        group, selection = state.group, self._selection
        bad = state.verdicts.bad() if selection.bad else ()
        held = table.chosen_entry if keep and table.chosen is not None else None
        target = seek or (None if held is None else Key(held.epoch, held.number))
        sight = table.pages_in_sight() if keep else {0}

        def select() -> tuple[Entries, dict[int, Sequence[EntryInfo]], int | None]:
            entries = self._source.select(group, selection, bad)
            place = None if target is None else entries.place_of(*target)
            firsts = sight | (set() if place is None else {place // PAGE * PAGE})
            return entries, {first: entries.page(first, PAGE) for first in firsts}, place

        def show(result: tuple[Entries, dict[int, Sequence[EntryInfo]], int | None]) -> None:
            if turn != self._listing:
                return
            self._entries, pages, place = result
            table.show(state, self._entries, pages, self._words)
            if place is not None:
                table.choose(place)
            if focus:
                table.focus()
            self._main.point_at_chosen()

        self._jobs.do(select, show)

    @on(CacheScreen.Filtered)
    def _filtered(self, event: CacheScreen.Filtered) -> None:
        self._selection, self._words = event.selection, event.words
        self._main.table.chosen = None
        self._list(keep=False)

    @on(CacheScreen.Sought)
    def _sought(self, event: CacheScreen.Sought) -> None:
        entries, turn = self._entries, self._listing
        if entries is None:
            return

        def go(place: int) -> None:
            if turn != self._listing:
                return
            self._main.table.choose(place)
            if event.focus:
                self._main.table.focus()
                found = self._main.table.chosen_entry
                if found is not None and Key(found.epoch, found.number) != event.key:
                    self.notify(f"epoch {event.key.epoch}, {event.key.number:,} is not listed; this is the next one.")

        self._jobs.do(lambda: entries.place_of(*event.key), go)

    def action_go_to(self) -> None:
        state = self._shown
        if state is None or state.group.info is None:
            return
        entry, group = self._main.table.chosen_entry, state.group
        place = (0, 0) if entry is None else (entry.epoch, entry.number)

        def go(chosen: tuple[int, int] | None) -> None:
            if chosen is not None:
                self._main.post_message(CacheScreen.Sought(Key(*chosen), focus=True))

        self.push_screen(GoToScreen(place, state.group.info.entries_per_epoch, group.noun, group.nouns), go)

    @on(EntryTable.Wanted)
    def _page_wanted(self, event: EntryTable.Wanted) -> None:
        table = self._main.table

        def fill(page: list[EntryInfo]) -> None:
            table.fill(event.entries, event.first, page)
            self._main.post_message(CacheScreen.Looked())

        self._jobs.do(lambda: event.entries.page(event.first, PAGE), fill)

    @on(CoverageMap.Wanted)
    def _coverage_wanted(self, event: CoverageMap.Wanted) -> None:
        self._main.map.unheard -= 1
        state = self._shown
        if state is not None:
            asked = partial(self._source.coverage, state.group, event.epoch, event.width, event.since)

            def fill(counts: list[tuple[int, int]]) -> None:
                if state is self._shown:
                    self._main.map.fill(event.epoch, event.width, event.since, counts)

            self._jobs.do(asked, fill)

    # --- what is in an entry

    @on(CacheScreen.Looked)
    def _entry_looked_at(self) -> None:
        if self._picture_timer is not None:
            self._picture_timer.stop()
        self._picture_timer = self.set_timer(_PICTURE_SECONDS, self._draw)

    def _draw(self) -> None:
        self._picture_timer = None
        if not self.is_running:
            return
        state, table = self._shown, self._main.table
        entry = table.chosen_entry
        if state is None or entry is None or self._picture_is_fresh():
            return
        group = state.group
        together = table.entries_from(table.chosen or 0, self._source.items_at_once(group))
        self._pictured = key = Key(entry.epoch, entry.number), entry.created

        def show(view: BatchView | None) -> None:
            if self._pictured == key and self._shown is state:
                self._main.show_picture(view)

        self._jobs.do(lambda: self._source.glance(group, together), show)

    @on(CacheScreen.Opened)
    def _open(self) -> None:
        state = self._shown
        if state is None:
            return
        looking = Looking(state, self._source, self._main.table, self._jobs, self._entries_read)
        record = looking.record(self._main.table.chosen or 0)
        if record is not None:
            self.push_screen(BatchScreen(record, looking.open, looking.neighbour))

    def _entries_read(self, state: GroupState, entries: Sequence[EntryInfo], faults: Sequence[str]) -> None:
        for entry, fault in zip(entries, faults, strict=True):
            state.verdicts.opened(entry, good=not fault)
        if any(faults):
            self._warn("What is shown is not what was stored. A run would not use it, but load it anew.", "A bad entry")
        self._main.show(self._states, self._shown, self._problem, anew=False)

    # --- putting it in order

    def _changed(self, state: GroupState, on_disk: bool) -> None:
        """A verify, repair or clear has come further."""
        self._main.show(self._states, self._shown, self._problem, anew=False)
        if on_disk:
            self._look_again(force=True)
        elif not state.doing and state is self._shown and self._selection.bad:
            self._list(keep=True)

    def _ended(self, state: GroupState) -> None:
        """Where the findings are not in sight, a word on how it ended."""
        over = state.progress is not None and state.progress.end in ("done", "stopped")
        if over and not self._main.shows_findings:
            self.notify(f"{state.group.name}: {summary(state)}")

    def action_verify(self) -> None:
        self._with_shown(self._upkeep.verify)

    def action_repair(self) -> None:
        self._with_shown(self._upkeep.repair)

    def action_clear(self) -> None:
        self._with_shown(self._upkeep.clear)

    def _with_shown(self, action: Callable[[GroupState], None]) -> None:
        if self._shown is None:
            self.notify("There is no cache.")
        else:
            action(self._shown)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        yield SystemCommand("Verify", "Read everything and list what is wrong, or stop that", self.action_verify)
        yield SystemCommand("Repair", "Remove what is bad, so that it loads anew", self.action_repair)
        yield SystemCommand("Clear", "Remove entries, or all of it; asks first", self.action_clear)
        yield SystemCommand("Filter entries", "List only some of the entries", self._main.action_filter)
        yield SystemCommand("Go to", "Go to an epoch and batch or item", self.action_go_to)
        yield SystemCommand("Findings", "What the last verify found", self._main.action_findings)
        yield SystemCommand("Refresh", "Look at the cache again", self.action_refresh_now)
