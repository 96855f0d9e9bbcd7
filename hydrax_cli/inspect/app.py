"""``hydrax inspect``: asks a feed for frames and hands them to the screens.

Promise: it is up before the loader, NumPy or jax are; no key waits for the loader; whatever happens to the run, the app
lives and shows the error. ``q``, Ctrl-C and signals leave the terminal as it was.
"""

from __future__ import annotations

import bisect
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from hydrax_cli.inspect.base_app import BaseApp, Throttle
from hydrax_cli.inspect.numbers.rates import Rates
from hydrax_cli.inspect.run_view import Fault
from hydrax_cli.inspect.screens.batch import BatchScreen
from hydrax_cli.inspect.screens.dialogs import LIVE_HELP, RUN_HELP, FaultScreen, GoToScreen, HelpScreen
from hydrax_cli.inspect.screens.main import MainScreen
from hydrax_cli.inspect.screens.runs import RunsScreen
from hydrax_core import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from textual.screen import Screen

    from hydrax_cli.inspect.run_view import BatchView, Feed, Frame
    from hydrax_core.monitor import BatchRecord

__all__ = ["InspectApp"]

_FRAME_SECONDS = 0.25
_PREVIEW_SECONDS = 0.5
_LIMITS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
_QUIET_STATES = frozenset({"paused", "done", "failed"})


class InspectApp(BaseApp):
    """The app.

    Args:
        feed: Where frames come from; the app starts it, its maker closes it.
        on_ready: Called once the app draws, in its thread.
        light: Whether to begin with the light theme.
    """

    CSS_PATH = "inspect.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "play", "play", show=False),
        Binding("s", "step", "step", show=False),
        Binding("n", "next_epoch", "next epoch", show=False),
        Binding("g", "go_to", "go to", show=False),
        Binding("plus,equals_sign", "faster(1)", "faster", show=False),
        Binding("minus", "faster(-1)", "slower", show=False),
        Binding("0", "unlimited", "as fast as it goes", show=False),
        Binding("c", "copy_command", "copy", show=False),
        Binding("e", "error", "error", show=False),
        Binding("r", "reopen", "read anew", show=False),
        Binding("r", "look_again", "other runs", show=False),
    ]

    def __init__(self, feed: Feed, *, on_ready: Callable[[], None] | None = None, light: bool = False) -> None:
        super().__init__(on_ready=on_ready, light=light)
        self._feed = feed
        self._rates = Rates(usable_cores())
        self._main = MainScreen()
        if feed.attaching is not None:
            self._main.table.mark = feed.has
        self._frame: Frame | None = None
        self._shown_preview: BatchView | None = None
        self._held: Frame | None = None
        self._frame_pace = Throttle(share=0.07, longest=1.0)
        self._preview_pace = Throttle(share=0.08, longest=3.0)
        self._last_fault: Fault | None = None

    @property
    def frame(self) -> Frame | None:
        return self._frame

    @property
    def fatal_fault(self) -> Fault | None:
        """Why no batch could come, where the run stands so."""
        fault = None if self._frame is None else self._frame.fault
        return fault if fault is not None and fault.fatal else None

    @property
    def has_batch(self) -> bool:
        return self._frame is not None and self._frame.current is not None

    @property
    def at_rest(self) -> bool:
        """Whether the run has stopped by itself, with its last batch in the picture, or waits to be chosen."""
        if isinstance(self.screen, RunsScreen):
            return True
        if self._frame is None or self._frame.state not in _QUIET_STATES:
            return False
        return not self._main.wants_preview or self._preview_is_fresh()

    @property
    def settled(self) -> bool:
        """Whether the screen shows what it was asked for."""
        return not isinstance(self.screen, BatchScreen) or self.screen.settled

    def _preview_is_fresh(self) -> bool:
        current = None if self._frame is None else self._frame.current
        if current is None or current.error:
            return True
        return self._shown_preview is not None and self._shown_preview.record.serial == current.serial

    def get_default_screen(self) -> MainScreen:
        return self._main

    def begin(self) -> None:
        self._feed.start()
        self.tick()
        self.set_interval(_FRAME_SECONDS, self.tick)
        self.set_interval(_PREVIEW_SECONDS, self._tick_preview)

    # --- frames

    def tick(self, *, at_once: bool = False) -> None:
        """Ask for a frame and hand it on, as often as this thread can afford to draw one."""
        if not self.is_running:
            return  # an app that closes lets go of its screens before its timers
        frame, before = self._feed.frame(), self._frame
        reading = self._rates.read(frame)
        self._frame = frame
        if before is not None and self._held is None and not _has_news(frame, before):
            return
        self._held = frame if self._held is None else frame.after(self._held)
        dialog = bool(frame.choices) or (frame.fault is not None and frame.fault is not self._last_fault)
        at_once |= dialog or (frame.subject is not None and (before is None or before.subject is None))
        # What is behind a dialog is drawn through it, cell by cell: it stands still meanwhile.
        if not isinstance(self.screen, ModalScreen) and (self._frame_pace.due() or at_once):
            shown, self._held = self._held, None
            for screen in self.screen_stack:
                if isinstance(screen, MainScreen | BatchScreen):
                    screen.show_frame(shown, reading)
        self._say(frame, before)
        if frame.choices and not any(isinstance(screen, RunsScreen) for screen in self.screen_stack):
            self._ask_which(frame)

    def _tick_preview(self) -> None:
        """Ask for a new picture of the latest batch, as often as this thread can afford to draw one."""
        if not self.is_running or not self._main.wants_preview or not self._preview_pace.due():
            return
        view = self._feed.preview()
        if view is not None and view is not self._shown_preview:
            self._shown_preview = view
            self._main.show_preview(view)

    def _say(self, frame: Frame, before: Frame | None) -> None:
        for line in frame.lines:
            if line.source == "inspect":
                self.notify(line.text, severity="error" if line.level == "error" else "information")
        fault = frame.fault
        if fault is not None and fault is not self._last_fault:
            self._last_fault = fault
            if fault.fatal or fault.gone:
                self._show_fault(fault)
            else:
                keys = "e shows it in full" if self._live else "space goes on behind it, e shows it in full"
                self.notify(f"{fault.title}\n{keys}", title="A batch failed", severity="error", timeout=10)
        if frame.state == "done" and before is not None and before.state != "done" and not self._live:
            self.notify("The run is at its end; space starts it again, g goes anywhere.")

    def _show_fault(self, fault: Fault) -> None:
        if isinstance(self.screen, FaultScreen):
            self.pop_screen()
        self.push_screen(FaultScreen(fault, live=self._live))

    @property
    def _live(self) -> bool:
        return self._feed.controls is None

    def _ask_which(self, frame: Frame) -> None:
        attaching = self._feed.attaching
        if attaching is not None:
            self.push_screen(RunsScreen(frame.choices), attaching.choose)

    # --- what keys do

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A run that is only watched cannot be driven; behind a dialog no key moves the run."""
        del parameters
        if action in {"look_again", "newest"}:
            return self._feed.attaching is not None
        driving = {"play", "step", "next_epoch", "go_to", "faster", "unlimited", "reopen"}
        return action not in driving or not (self._live or isinstance(self.screen, GoToScreen))

    def action_play(self) -> None:
        controls = self._feed.controls
        if controls is None or self._frame is None:
            return
        if isinstance(self.screen, FaultScreen):
            self.pop_screen()
        if self._frame.state in _QUIET_STATES:
            controls.play()
        else:
            controls.pause()
        self.call_later(partial(self.tick, at_once=True))

    def action_step(self) -> None:
        """Take one batch; in a batch's screen, show it."""
        if self._feed.controls is not None:
            if isinstance(self.screen, BatchScreen):
                self.screen.follow()
            self._feed.controls.step()
            self.call_later(partial(self.tick, at_once=True))

    def action_next_epoch(self) -> None:
        frame = self._frame
        if self._feed.controls is None or frame is None or frame.subject is None:
            return
        epoch = 0 if frame.current is None else frame.subject.plan.start_of(frame.current)[0] + 1
        self._feed.controls.jump(epoch, 0)

    def action_go_to(self) -> None:
        frame, controls = self._frame, self._feed.controls
        if controls is None or frame is None or frame.subject is None:
            return
        place = (0, 0) if frame.current is None else frame.subject.plan.start_of(frame.current)

        def go(chosen: tuple[int, int] | None) -> None:
            if chosen is not None:
                controls.jump(*chosen)

        self.push_screen(GoToScreen(place, frame.subject.plan.batches_per_epoch), go)

    def action_faster(self, step: int) -> None:
        controls = self._feed.controls
        if controls is None or self._frame is None:
            return
        now = self._frame.limit
        place = step + (len(_LIMITS) if now is None else bisect.bisect_left(_LIMITS, now))
        chosen = _LIMITS[max(0, place)] if place < len(_LIMITS) else None
        controls.set_limit(chosen)
        self.notify("as fast as it goes" if chosen is None else f"at most {chosen:g} batches a second", timeout=2)
        self.tick(at_once=True)

    def action_unlimited(self) -> None:
        if self._feed.controls is not None:
            self._feed.controls.set_limit(None)
            self.notify("as fast as it goes", timeout=2)

    def action_reopen(self) -> None:
        if self._feed.controls is not None:
            if isinstance(self.screen, FaultScreen):
                self.pop_screen()
            self._last_fault = None
            self._feed.controls.reopen()

    def action_look_again(self) -> None:
        if self._feed.attaching is not None:
            if isinstance(self.screen, FaultScreen):
                self.pop_screen()
            self._last_fault = None
            self._feed.attaching.look_again()

    def action_newest(self) -> None:
        """Look into the newest batch of a run that is watched."""
        if isinstance(self.screen, BatchScreen) and self._frame is not None and self._frame.current is not None:
            self.screen.fetch(self._frame.current)

    def action_copy_command(self) -> None:
        subject = None if self._frame is None else self._frame.subject
        record = self.screen.record if isinstance(self.screen, BatchScreen) else self._main.table.chosen_record
        if subject is None or record is None:
            self.notify("There is no batch yet.")
            return
        command = subject.command_for(record)
        self.copy_to_clipboard(command)
        self.notify(command, title="In the clipboard")

    def action_error(self) -> None:
        if self._last_fault is not None:
            self._show_fault(self._last_fault)
        else:
            self.notify("There was no error.")

    def help_screen(self) -> HelpScreen:
        return HelpScreen(LIVE_HELP if self._live else RUN_HELP)

    def open_batch(self, record: BatchRecord) -> None:
        if record.error:
            self._show_fault(Fault.of(record.error))
        else:
            self.push_screen(BatchScreen(record, self._feed.open, self._neighbour))

    def _neighbour(self, record: BatchRecord, step: int) -> BatchRecord | None:
        """The next batch before or after that can be looked into."""
        return self._main.table.neighbour(record, step, self._feed.has)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        if self._feed.controls is not None:
            yield SystemCommand("Play or pause", "Take batches, or stop taking them", self.action_play)
            yield SystemCommand("Step", "Take one batch and pause", self.action_step)
            yield SystemCommand("Next epoch", "Go to the start of the next epoch", self.action_next_epoch)
            yield SystemCommand("Go to", "Go to an epoch and batch at once", self.action_go_to)
            yield SystemCommand("As fast as it goes", "Lift the speed limit", self.action_unlimited)
            yield SystemCommand("Read the target anew", "After its code has changed", self.action_reopen)
        if self._feed.attaching is not None:
            yield SystemCommand("Other runs", "Watch another run, or this one again", self.action_look_again)
        yield SystemCommand("Filter batches", "Show only some batches in the table", self._main.action_filter)
        yield SystemCommand("Copy command", "Copy what shows the chosen batch again", self.action_copy_command)
        yield SystemCommand("Log", "What loaders print and raise", self._main.action_log)
        yield SystemCommand("Last error", "The last error in full", self.action_error)


def _has_news(frame: Frame, before: Frame) -> bool:
    """Whether a frame is worth drawing; one of a run that stands still may not be."""
    moves = frame.state not in _QUIET_STATES or (frame.state, frame.limit) != (before.state, before.limit)
    return moves or bool(frame.records or frame.lines)
