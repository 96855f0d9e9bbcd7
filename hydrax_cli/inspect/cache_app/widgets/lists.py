"""The short lists of the cache screen: the caches at the path, and what a verify has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.binding import Binding, BindingType

from hydrax_cli.inspect.cache_app.widgets.entry_table import moment
from hydrax_cli.inspect.widgets.bars import bar
from hydrax_cli.inspect.widgets.line_list import LineList, Pieces
from hydrax_cli.shared.units import count, many, size, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrax_cli.inspect.cache_app.model.contents import Group, VerifyProgress
    from hydrax_cli.inspect.cache_app.model.state import GroupState
    from hydrax_core.cache import Finding

__all__ = ["FindingList", "GroupList", "coverage_of", "summary"]

_LOOKS: Final = {
    "corrupt": "bad",
    "cut": "bad",
    "missing": "bad",
    "unreadable": "bad",
    "stale": "bad",
    "foreign": "accent",
}
_BAR: Final = 24
_WIDE: Final = 100


def coverage_of(group: Group) -> tuple[int, int]:
    """Entries that there are, and that there would be in the same content epochs."""
    info = group.info
    return (0, 0) if info is None else (info.entries, max(1, len(info.epochs)) * info.entries_per_epoch)


class GroupList(LineList):
    """A line a cache."""

    BORDER_TITLE = "groups"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", show=False)]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._states: Sequence[GroupState] = ()

    def show(self, states: Sequence[GroupState]) -> None:
        self._states = states
        self.lines_changed()

    def count(self) -> int:
        return len(self._states)

    def pieces(self, index: int, width: int) -> Pieces:
        state = self._states[index]
        group, info = state.group, state.group.info
        yield "▸ " if index == self.chosen else "  ", "key"
        yield f"{group.name[:16]:<16}", "plain"
        if info is None:
            yield f"  ✗ {group.problem}", "bad"
            return
        entries, whole = coverage_of(group)
        full, rest = bar(_BAR if width >= _WIDE else _BAR // 2, entries / max(1, whole))
        yield f"  {full}", "primary"
        yield rest, "faint"
        yield f" {100 * entries // max(1, whole):>3} %", "dim"
        yield f"  {count(entries):>9} {group.nouns:<7}", "plain"
        yield f"  {size(info.disk_bytes):>8}", "plain"
        if width >= _WIDE:
            yield f"  {many(len(info.epochs), 'content epoch'):<18}", "dim"
        bad = state.verdicts.bad_count
        if group.problem or bad:
            yield f"  ✗ {group.problem or f'{count(bad)} bad'}", "bad"
        elif info.in_use:
            yield "  ► in use", "accent"


class FindingList(LineList):
    """What is wrong with a cache, and in the header how far the reading is."""

    BORDER_TITLE = "verify"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "entry", key_display="↵")]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._state: GroupState | None = None

    def show(self, state: GroupState | None) -> None:
        self._state = state
        self.border_title = "verify" if state is None or not state.did else state.did
        if self.chosen is not None and self.chosen >= self.count():
            self.chosen = None
        self.lines_changed()

    def finding(self, place: int) -> Finding | None:
        """A finding; ``None`` for the line that says how many are not kept."""
        findings = [] if self._state is None else self._state.findings
        return findings[place] if place < len(findings) else None

    def count(self) -> int:
        """Findings, and a line for those that are not kept."""
        state = self._state
        return 0 if state is None else len(state.findings) + (state.found > len(state.findings))

    def header(self, width: int) -> Pieces:
        state = self._state
        if state is None or not state.did:
            return [(" v reads everything and lists what is wrong", "dim")]
        progress = state.progress
        if state.doing or progress is None:
            return self._under_way(progress, state.found, width)
        return _ended(state, progress)

    def _under_way(self, progress: VerifyProgress | None, found: int, width: int) -> Pieces:
        if progress is None:
            yield " ◔ looking at the folder …", "accent"
            return
        part = progress.done / progress.total if progress.total else 1.0
        full, rest = bar(max(8, min(40, width - 66)), part)
        yield " ◔ ", "accent"
        yield full, "primary"
        yield rest, "faint"
        yield f" {100 * part:3.0f} %  {size(progress.done)} of {size(progress.total)}", "plain"
        yield f"  {size(progress.done / max(progress.seconds, 1e-3))}/s", "dim"
        yield f"  {many(found, 'finding')}", "bad" if found else "dim"
        yield "  v stops", "accent"

    def pieces(self, index: int, width: int) -> Pieces:
        assert self._state is not None
        finding = self.finding(index)
        yield "▸ " if index == self.chosen else "  ", "key"
        if finding is None:
            yield f"and {count(self._state.found - len(self._state.findings))} more", "dim"
            return
        yield f"{finding.what:<11}", _LOOKS.get(finding.what, "warn")
        yield f"{finding.where}: ", "plain"
        yield finding.detail, "dim"
        if finding.since is not None and width >= _WIDE:
            yield f"  since {moment(finding.since)}", "dim"
        if finding.repaired:
            yield "  repaired", "good"


def summary(state: GroupState) -> str:
    """How a verify or repair ended, in a line."""
    if state.progress is None:
        return ""
    hint = ", f lists them" if state.found else ""
    return "".join(text for text, _ in _ended(state, state.progress)).strip() + hint


def _ended(state: GroupState, progress: VerifyProgress) -> Pieces:
    read = f"{size(progress.done)} read in {span(progress.seconds)}"
    if progress.end == "stopped":
        return [(" ‖ stopped", "warn"), (f" after {read}: {many(state.found, 'finding')} so far", "plain")]
    if progress.end != "done":
        return [(f" ✗ {progress.end}", "bad")]
    if not state.found:
        return [(" ✓ clean", "good"), (f"  {read}", "dim")]
    if state.did == "repair":
        rest = sum(not finding.repaired for finding in state.findings)
        done: Pieces = [(" ✓ repaired", "good"), (f"  {many(state.found - rest, 'finding')}, {read}", "dim")]
        return [*done, (f"  {rest} left alone", "warn")] if rest else done
    hint = "  p repairs" if state.mendable else ""
    return [(f" ✗ {many(state.found, 'finding')}", "bad"), (f"  {read}", "dim"), (hint, "accent")]
