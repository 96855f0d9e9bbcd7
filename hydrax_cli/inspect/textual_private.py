"""What is used of Textual that it does not promise, and the mending of a fault of it; seen in Textual 8.2.8.

Promise: nothing of it is touched when this file is imported. Where Textual has changed, taking a picture raises an
error, and the screens work on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.segment import Segment
    from textual import events
    from textual.app import App
    from textual.screen import Screen

    _Screen = Screen[Any]
else:
    _Screen = object  # Textual finds the styles of a class by its first base that is a node

__all__ = ["CurrentSize", "failure_of", "screen_strips"]


class CurrentSize(_Screen):
    """For a screen: leaves a resize aside that another one has overtaken.

    Textual gives a resize to the screen in front, which resizes those behind it, and those get resizes of their own.
    Two sizes under way at once then chase each other for ever.
    """

    def on_resize(self, event: events.Resize) -> None:
        """Stop what is late."""
        if event.size != self.app.size:
            event.prevent_default()


def failure_of(app: App[Any]) -> Exception | None:
    """What ended an app that did not end by itself; it prints that, but into the log that it shows."""
    error = getattr(app, "_exception", None)
    if error is None and app.return_code:
        return RuntimeError(f"the app ended with the code {app.return_code}")
    return error if isinstance(error, Exception) else None


def screen_strips(app: App[Any]) -> Iterable[Iterable[Iterable[Segment]]]:
    """The lines of the screen, dialogs and what is behind them included, as Textual's own export reads them.

    Raises:
        RuntimeError: Textual has changed.
    """
    try:
        update = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)  # noqa: SLF001
        strips: Iterable[Iterable[Iterable[Segment]]] = update.strips  # type: ignore[union-attr]  # of a full update
    except AttributeError as error:
        raise RuntimeError(f"a picture cannot be taken with this version of Textual: {error}") from error
    return strips
