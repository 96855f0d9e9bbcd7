"""The keys and signs of the cache screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hydrax_cli.inspect.screens.dialogs import HelpGroups

__all__ = ["HELP"]

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
    (
        "In an entry",
        (
            ("a", "next array"),
            ("← →", "item before, next item"),
            ("v", "picture, heat map, rows"),
            ("z  Enter", "the item alone, as large as it gets"),
            ("[  ]", "entry before, next entry"),
        ),
    ),
    (
        "Everywhere",
        (
            ("Ctrl+P", "all commands"),
            ("t", "dark or light"),
            ("Esc", "back"),
            ("q  Ctrl+C", "quit"),
        ),
    ),
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
