"""What is asked before a cache is changed: what to clear, and whether to repair; and the keys of its screen."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from hydrax_cli.inspect.cache_app.model.contents import Conditions
from hydrax_cli.inspect.screens.dialogs import EVERYWHERE, IN_A_BATCH, HelpGroups
from hydrax_cli.inspect.textual_private import CurrentSize
from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import AGE, age_seconds, many, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from hydrax_cli.inspect.cache_app.model.contents import Group
    from hydrax_core.cache import Cleared

__all__ = ["HELP", "ClearScreen", "ConfirmScreen"]

HELP: Final[HelpGroups] = (
    (
        "The cache",
        (
            ("v", "verify: read everything and list what is wrong; again: stop"),
            ("p", "repair: remove what is bad, after a question"),
            ("x", "clear: choose what, see what would go, then y"),
            ("r", "look at it again; by itself when it changes"),
            ("[  ]", "cache of the group before, of the next"),
            ("f", "what the last verify found; Enter goes to the entry"),
        ),
    ),
    (
        "Entries",
        (
            ("↑ ↓  Enter", "choose an entry, look into it"),
            ("/", "filter: epoch:3 batch:10-20 older:7d newer:2h bad"),
            ("g", "go to EPOCH:BATCH"),
            ("m", "the map and back; there ← → ↑ ↓ go, Enter comes back"),
        ),
    ),
    ("In an entry", (*IN_A_BATCH, ("[  ]", "entry before, next entry"))),
    EVERYWHERE,
    (
        "Signs",
        (
            ("■  ◧", "stored, stored in part"),
            ("●  ◐", "the same, read and found sound"),
            ("✗  ·", "bad, missing"),
            ("⚠", "values look odd"),
        ),
    ),
)

_EPOCH: Final = re.compile(r"\s*(\d{1,18})\s*")
_CHOICES: Final = (
    ("corrupt", "entries that fail their checksum; reads everything", ""),
    ("everything", "all of it; the folder stays", ""),
    ("epoch", "entries of one content epoch", "0"),
    ("older than", "entries written before: 12h, 7d, 2w ago", "7d"),
)


class ConfirmScreen(CurrentSize, ModalScreen[bool]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "yes", show=False),
        Binding("n,escape", "dismiss(False)", "no", show=False),
        Binding("q", "app.quit", "quit", show=False),
    ]

    def __init__(self, title: str, text: str, verb: str) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._verb = verb

    def compose(self) -> ComposeResult:
        with Vertical(id="confirm", classes="dialog") as box:
            box.border_title = Content(clean(self._title))
            box.border_subtitle = f"y {self._verb} · Esc leaves it as it is"
            yield Static(Content(self._text))


class _Choices(LineList):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", show=False)]

    def __init__(self) -> None:
        super().__init__(id="choices")
        self.chosen = 0

    def count(self) -> int:
        return len(_CHOICES)

    def pieces(self, index: int, width: int) -> Pieces:  # noqa: ARG002  they fit
        name, text, _ = _CHOICES[index]
        yield " ● " if index == self.chosen else " ○ ", "primary" if index == self.chosen else "dim"
        yield f"{name:<11} ", "plain"
        yield text, "dim"


class ClearScreen(CurrentSize, ModalScreen["Conditions | None"]):
    """Asks what to clear, and shows what would go before anything does.

    Args:
        plan: What would go; called in a thread.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "close", show=False),
        Binding("y", "confirm", "remove", show=False),
        Binding("q", "app.quit", "quit", show=False),
    ]
    AUTO_FOCUS = "#choices"

    @dataclass(eq=False)
    class Planned(Message):
        """What would go, or why that is not known."""

        conditions: Conditions
        cleared: Cleared | None
        error: str

    def __init__(self, group: Group, plan: Callable[[Conditions, threading.Event], Cleared | None]) -> None:
        super().__init__()
        self._group = group
        self._plan = plan
        self._stop = threading.Event()
        self._wanted: Conditions | None = None
        self._planned: Conditions | None = None
        self._choices = _Choices()
        self._value = Input("", compact=True, id="value")
        self._message = Static("", id="message")

    def compose(self) -> ComposeResult:
        with Vertical(id="clear", classes="dialog") as box:
            box.border_title = Content(f"clear {clean(self._group.name)}")
            box.border_subtitle = "Enter shows what would go · Esc leaves it as it is"
            yield self._choices
            yield self._value
            yield self._message

    def on_mount(self) -> None:
        self._forget()

    @property
    def settled(self) -> bool:
        return self._wanted is None

    def _forget(self) -> None:
        self._stop.set()
        self._wanted = self._planned = None
        in_use = self._group.info is not None and self._group.info.in_use
        self._say("a run is using this cache: nothing can go until it has ended" if in_use else "", "$text-warning")

    def _say(self, text: str, style: str) -> None:
        self._message.update(Content.styled(text or " ", style))

    @on(LineList.Chosen, "#choices")
    def _choice(self, event: LineList.Chosen) -> None:
        if isinstance(event, LineList.Selected):  # which is a Chosen, too
            return
        start = _CHOICES[event.index][2]
        self._value.display = bool(start)
        self._value.value = start
        self._forget()

    @on(Input.Changed)
    def _changed(self) -> None:
        self._forget()

    @on(LineList.Selected, "#choices")
    def _selected(self) -> None:
        if self._value.display:
            self._value.focus()
        else:
            self._submitted()

    @on(Input.Submitted)
    def _submitted(self) -> None:
        conditions = self._conditions(_CHOICES[self._choices.chosen or 0][0])
        if conditions is None:
            return
        self._forget()
        self._wanted = conditions
        self._stop = stop = threading.Event()
        self._say("looking …", "$text-accent")
        self.run_worker(lambda: self._look(conditions, stop), thread=True, exclusive=True, group="plan")

    def _conditions(self, name: str) -> Conditions | None:
        text = self._value.value
        epoch, age = _EPOCH.fullmatch(text), re.fullmatch(AGE, text.strip())
        if name == "epoch" and epoch is None:
            self._say(f"{clean(text)[:20] or 'nothing'} is no epoch; write a whole number, such as 3", "$text-error")
            return None
        if name == "older than" and age is None:
            self._say(f"{clean(text)[:20] or 'nothing'} is no age; write one such as 12h, 7d or 2w", "$text-error")
            return None
        if name == "epoch" and epoch is not None:
            return Conditions(epoch=int(epoch[1]))
        if name == "older than" and age is not None:
            return Conditions(older_than=age_seconds(age))
        return Conditions(corrupt=name == "corrupt")

    def _look(self, conditions: Conditions, stop: threading.Event) -> None:
        try:
            message = self.Planned(conditions, self._plan(conditions, stop), "")
        except Exception as error:  # noqa: BLE001  whatever the disk holds, the app lives
            message = self.Planned(conditions, None, str(error) or type(error).__name__)
        if not stop.is_set():
            self.post_message(message)

    @on(Planned)
    def _show(self, event: Planned) -> None:
        if event.conditions != self._wanted:
            return
        self._wanted = None
        cleared = event.cleared
        if event.error or cleared is None:
            self._say(event.error, "$text-error")
            return
        if not cleared.entries and not cleared.files:
            self._say("There is nothing of that kind.", "$text-success")
            return
        self._planned = event.conditions
        self._choices.focus()
        entries = many(cleared.entries, self._group.noun, self._group.nouns)
        lines = Content.assemble(
            ("Would remove ", "$foreground"),
            (entries, "bold"),
            f" and {many(len(cleared.files), 'whole file')}, and free ",
            (size(cleared.freed_bytes), "bold"),
            ".\n",
            ("y removes them", "$text-error bold"),
        )
        self._message.update(lines)

    def action_confirm(self) -> None:
        if self._planned is not None:
            self.dismiss(self._planned)

    def action_leave(self) -> None:
        self._stop.set()
        self.dismiss(None)

    def on_unmount(self) -> None:
        self._stop.set()
