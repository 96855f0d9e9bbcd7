"""Verifying, repairing and clearing a cache.

Promise: one thing at a time, each can be stopped, and nothing is removed unasked.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from hydrax_cli.inspect.cache_app.dialogs import ClearScreen, ConfirmScreen
from hydrax_cli.shared.units import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import App

    from hydrax_cli.inspect.cache_app.jobs import Jobs
    from hydrax_cli.inspect.cache_app.model.contents import CacheAccess, Conditions, VerifyProgress
    from hydrax_cli.inspect.cache_app.model.state import GroupState
    from hydrax_core.cache import Cleared

__all__ = ["Upkeep"]

_REPAIR = (
    "Repair reads everything, removes what is bad so that the next run loads it anew,\n"
    "and frees what killed writers left. Sound entries and foreign files stay."
)


class Upkeep:
    """Puts caches in order.

    Args:
        app: Where questions are asked and answers shown.
        source: What does the work.
        jobs: Where it is done.
        changed: Called when a cache's state has changed; with ``True`` when what lies on the disk may have.
        ended: Called when a verify or repair is over.
    """

    def __init__(
        self,
        app: App[None],
        source: CacheAccess,
        jobs: Jobs,
        changed: Callable[[GroupState, bool], None],
        ended: Callable[[GroupState], None],
    ) -> None:
        self._app = app
        self._source = source
        self._jobs = jobs
        self._changed = changed
        self._ended = ended
        self._stop = threading.Event()
        self._busy: GroupState | None = None

    def stop(self) -> None:
        self._stop.set()

    def verify(self, state: GroupState) -> None:
        if state.doing in ("verify", "repair"):
            self.stop()
        elif self._is_free():
            self._read(state, repair=False)

    def repair(self, state: GroupState) -> None:
        if not self._is_free():
            return

        def answered(yes: bool | None) -> None:
            if yes and self._is_free():
                self._read(state, repair=True)

        text = _REPAIR
        if not state.did:
            text += "\nNothing has been verified yet: v lists first what is wrong."
        if state.group.info is not None and state.group.info.in_use:
            text += "\nA run is using this cache: it is refused until that has ended."
        self._app.push_screen(ConfirmScreen(f"repair {state.group.name}", text, "repairs"), answered)

    def clear(self, state: GroupState) -> None:
        if not self._is_free():
            return
        group = state.group

        def plan(conditions: Conditions, stop: threading.Event) -> Cleared | None:
            return self._source.clear(group, conditions, stop, dry_run=True)

        def answered(conditions: Conditions | None) -> None:
            if conditions is not None and self._is_free():
                self._remove(state, conditions)

        self._app.push_screen(ClearScreen(group, plan), answered)

    def _is_free(self) -> bool:
        if self._busy is not None:
            self._app.notify(f"{self._busy.group.name} is being worked on; one thing at a time.")
        return self._busy is None

    def _read(self, state: GroupState, *, repair: bool) -> None:
        state.begin("repair" if repair else "verify", time.time())
        self._busy, self._stop = state, threading.Event()
        group, stop = state.group, self._stop

        def report(progress: VerifyProgress) -> None:
            self._jobs.post(came_further, progress)

        def came_further(progress: VerifyProgress) -> None:
            state.report(progress)
            if progress.end not in ("", "done", "stopped"):
                self._warn(progress.end, f"Nothing was {'repaired' if repair else 'verified'}")
            self._changed(state, False)

        def ended(_: None) -> None:
            self._busy = None
            self._changed(state, repair)
            self._ended(state)

        self._jobs.do(lambda: self._source.verify(group, stop, report, repair=repair), ended)
        self._changed(state, False)

    def _remove(self, state: GroupState, conditions: Conditions) -> None:
        self._busy, self._stop, state.doing = state, threading.Event(), "clear"
        group, stop = state.group, self._stop

        def work() -> Cleared | Exception | None:
            try:
                return self._source.clear(group, conditions, stop, dry_run=False)
            except Exception as error:  # noqa: BLE001  whatever the reason, it is shown
                return error

        def ended(result: Cleared | Exception | None) -> None:
            self._busy, state.doing = None, ""
            if isinstance(result, Exception):
                self._warn(str(result) or type(result).__name__, "Nothing was removed")
            elif result is not None:
                entries = f"{result.entries:,} {group.noun if result.entries == 1 else group.nouns}"
                self._app.notify(f"{entries} removed, {size(result.freed_bytes)} freed.")
            self._changed(state, True)

        self._jobs.do(work, ended)
        self._changed(state, False)

    def _warn(self, text: str, title: str) -> None:
        self._app.notify(text, title=title, severity="error", timeout=10)
