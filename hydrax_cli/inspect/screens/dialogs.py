"""The small screens on top of the others: help, go to, errors, and a terminal that is too small."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from hydrax_cli.inspect.textual_private import CurrentSize
from hydrax_cli.shared.text import clean, clean_lines

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from hydrax_cli.inspect.run_view import Fault

__all__ = ["LIVE_HELP", "RUN_HELP", "FaultScreen", "GoToScreen", "HelpGroups", "HelpScreen", "TooSmallScreen"]

_PLACE = re.compile(r"\s*(\d{1,12})(?:\s*[:, ]\s*(\d{1,12}))?\s*")

HelpGroups: TypeAlias = "tuple[tuple[str, tuple[tuple[str, str], ...]], ...]"

IN_A_BATCH = (
    ("a", "next array"),
    ("← →", "item before, next item"),
    ("v", "picture, heat map, rows"),
    ("z  Enter", "the item alone, as large as it gets"),
)
"""Keys where a batch, or an entry of a cache, is looked into."""
EVERYWHERE = (
    "Everywhere",
    (("Ctrl+P", "all commands"), ("t", "dark or light"), ("Esc", "back"), ("q  Ctrl+C", "quit")),
)
_RUN = (
    "The run",
    (
        ("space", "play or pause"),
        ("s", "one batch, then pause"),
        ("n", "next epoch"),
        ("g", "go to EPOCH:BATCH, at once"),
        ("+  -  0", "faster, slower, as fast as it goes"),
        ("r", "read the target anew"),
    ),
)
_LIVE = (
    "A run of another process",
    (
        ("◉ live", "it is only watched: no key changes it"),
        ("r", "other runs, or this one again after it has ended"),
        ("◌ no answer", "the process is stopped, or deep in one call"),
        ("◆", "rows of this batch were copied: Enter shows them"),
        ("n", "in a batch: the next one handed out, whole"),
    ),
)
_HELP: HelpGroups = (
    (
        "Batches",
        (
            ("↑ ↓  Enter", "choose a batch, look into it"),
            ("Home", "follow the newest again"),
            ("/", "filter: epoch:3 batch:10-20 validation error cache"),
            ("c", "copy the command that shows the batch again"),
            ("e", "the last error in full"),
            ("l", "the log"),
        ),
    ),
    (
        "In a batch",
        (*IN_A_BATCH, ("[  ]", "batch before, next batch"), ("s", "take the next batch and show it")),
    ),
    EVERYWHERE,
    (
        "Signs",
        (
            ("● ○ ◌ ✗", "worker busy, idle, starting, ended;  ↻ replaced"),
            ("■ ◧ ▣ □", "slot ready, filling, held by the training, free"),
            ("◔ starved", "the training waits for batches"),
            ("*  ⚠", "array is a label;  values look odd"),
        ),
    ),
)


RUN_HELP: HelpGroups = (_RUN, *_HELP)
LIVE_HELP: HelpGroups = (_LIVE, *((title, tuple(key for key in keys if key[0] != "s")) for title, keys in _HELP))


class HelpScreen(CurrentSize, ModalScreen[None]):
    """All keys and signs.

    Args:
        groups: Titles, and keys with what they do.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,enter", "dismiss", "close", show=False),
        Binding("q", "app.quit", "quit", show=False),
    ]

    def __init__(self, groups: HelpGroups) -> None:
        super().__init__()
        self._groups = groups

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help", classes="dialog") as box:
            box.border_title = "hydrax inspect"
            box.border_subtitle = "Esc closes"
            for title, keys in self._groups:
                lines = [Content.styled(title, "$text-primary bold")]
                lines += [Content.assemble((f"  {key:<12}", "$text-accent"), text) for key, text in keys]
                yield Static(Content("\n").join(lines))


class GoToScreen(CurrentSize, ModalScreen["tuple[int, int] | None"]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close", show=False)]

    def __init__(self, place: tuple[int, int], per_epoch: int, noun: str = "batch", nouns: str = "batches") -> None:
        super().__init__()
        self._place = place
        self._per_epoch = per_epoch
        self._noun = noun
        self._nouns = nouns

    def compose(self) -> ComposeResult:
        with Vertical(id="goto", classes="dialog") as box:
            box.border_title = f"go to EPOCH:{self._noun.upper()}"
            box.border_subtitle = "Enter goes, Esc stays"
            yield Input(f"{self._place[0]}:{self._place[1]}", compact=True, id="place")
            yield Label(f"an epoch has {self._per_epoch:,} {self._nouns}, 0 to {self._per_epoch - 1:,}", id="hint")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        found = _PLACE.fullmatch(event.value)
        if found is None:
            hint = self.query_one("#hint", Label)
            wrong = clean(event.value)[:20] or "nothing"
            hint.update(Content(f"{wrong} is no place; write 3:14, or 3 for the start of epoch 3"))
            hint.add_class("-wrong")
            return
        self.dismiss((int(found[1]), int(found[2] or 0)))


class FaultScreen(CurrentSize, ModalScreen[None]):
    """An error in full.

    Args:
        live: Whether the run is only watched.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter", "dismiss", "close", show=False),
        Binding("c", "copy", "copy", show=False),
        Binding("space", "app.play", "play", show=False),
        Binding("r", "app.reopen", "read anew", show=False),
        Binding("r", "app.look_again", "look again", show=False),
        Binding("q", "app.quit", "quit", show=False),
    ]

    def __init__(self, fault: Fault, *, live: bool) -> None:
        super().__init__()
        self.fault = fault
        self._live = live

    def compose(self) -> ComposeResult:
        with Vertical(id="fault", classes="dialog") as box:
            box.border_title, help_text = self._words()
            box.border_subtitle = f"{help_text}c copies · Esc closes"
            with VerticalScroll(id="fault-text"):
                lines = [Content(line) for line in clean_lines(self.fault.text).split("\n")]
                head, rest = lines[:1], lines[1:]
                yield Static(Content("\n").join([*(line.stylize("$text-error bold") for line in head), *rest]))

    def _words(self) -> tuple[str, str]:
        if self.fault.gone:
            return "✗ the run is gone", "r looks for runs · "
        if self.fault.fatal:
            return "✗ no batch can come", "r reads the target anew · "
        return "✗ this batch failed", "" if self._live else "space goes on behind it · "

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(clean_lines(self.fault.text))
        self.notify("The error is in the clipboard.")


class TooSmallScreen(CurrentSize, ModalScreen[None]):
    """Stands in while the terminal is too small."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "app.quit", "quit", show=False)]

    def __init__(self, least: tuple[int, int]) -> None:
        super().__init__()
        self._least = least

    def compose(self) -> ComposeResult:
        yield Static(f"too small:\n{self._least[0]}x{self._least[1]} at least", id="too-small")
