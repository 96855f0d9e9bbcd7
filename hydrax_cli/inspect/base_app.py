"""What every app of ``hydrax inspect`` is: themes, help, signals, and a word where the terminal is too small.

Promise: it draws first and begins then. ``q``, Ctrl-C and signals leave the terminal as it was.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType

from hydrax_cli.inspect.screens.dialogs import HelpScreen, TooSmallScreen
from hydrax_cli.inspect.themes import DARK, LIGHT
from hydrax_cli.shared.text import clean, clean_lines

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from textual import events
    from textual.notifications import SeverityLevel
    from textual.screen import Screen

__all__ = ["BaseApp", "Throttle"]

_LEAST = (60, 18)
_LONGEST_NOTE = 2000


class BaseApp(App[None]):
    """An app.

    Args:
        on_ready: Called once the app draws, in its thread.
        light: Whether to begin with the light theme.
    """

    TITLE = "hydrax inspect"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-medium"), (160, "-wide")]  # noqa: RUF012  Textual declares it so
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall"), (52, "-very-tall")]  # noqa: RUF012  same
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "switch_theme", "theme", show=False),
        Binding("question_mark", "help", "help", show=False),
        Binding("q", "quit", "quit", show=False),
        Binding("ctrl+c", "quit", "quit", show=False, priority=True),
    ]

    def __init__(self, *, on_ready: Callable[[], None] | None = None, light: bool = False) -> None:
        super().__init__()
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = LIGHT.name if light else DARK.name
        self._on_ready = on_ready

    def begin(self) -> None:
        """What the app is there for; called once it draws."""
        raise NotImplementedError

    def help_screen(self) -> HelpScreen:
        raise NotImplementedError

    def on_mount(self) -> None:
        self._handle_signals()
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        if self._on_ready is not None:
            self._on_ready()
        self.begin()

    def _handle_signals(self) -> None:
        import asyncio  # noqa: PLC0415  Textual has imported it

        loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            try:
                loop.add_signal_handler(number, self.exit)
            except (RuntimeError, ValueError):
                return  # only the main thread gets signals

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Say something in a corner; what others wrote is text, and no markup."""
        del markup
        text = clean_lines(message)[:_LONGEST_NOTE]
        super().notify(text, title=clean(title), severity=severity, timeout=timeout, markup=False)

    def action_help(self) -> None:
        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
        else:
            self.push_screen(self.help_screen())

    def action_switch_theme(self) -> None:
        self.theme = DARK.name if self.theme == LIGHT.name else LIGHT.name

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        yield SystemCommand("Help", "All keys and signs", self.action_help)

    def on_resize(self, event: events.Resize) -> None:
        """In a terminal that is too small another screen is shown."""
        if not self.is_running:
            return
        small = event.size.width < _LEAST[0] or event.size.height < _LEAST[1]
        shown = isinstance(self.screen, TooSmallScreen)
        if small and not shown:
            self.push_screen(TooSmallScreen(_LEAST))
        elif shown and not small:
            self.pop_screen()


class Throttle:
    """Says when something may be drawn again: on a slow machine, or a large screen, less often.

    Args:
        share: Share of one core that the thread may take, whatever it does; 0 to 1.
        longest: Seconds after which it is drawn all the same.
    """

    def __init__(self, *, share: float, longest: float) -> None:
        self._share = share
        self._longest = longest
        self._at = -longest
        self._used = 0.0

    def due(self) -> bool:
        """Whether to draw now; if so, the time counts from now on."""
        now, used = time.monotonic(), time.thread_time()
        passed = now - self._at
        if used - self._used > self._share * passed and passed < self._longest:
            return False
        self._at, self._used = now, used
        return True
