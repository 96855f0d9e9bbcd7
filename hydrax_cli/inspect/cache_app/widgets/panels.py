"""The upper part of the cache screen: the title line, and what a cache holds in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widget import Widget

from hydrax_cli.inspect.cache_app.widgets.entry_table import moment
from hydrax_cli.inspect.cache_app.widgets.lists import coverage_of
from hydrax_cli.inspect.widgets.bars import bar
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import count, many, size

if TYPE_CHECKING:
    from hydrax_cli.inspect.cache_app.model.state import GroupState
    from hydrax_core.cache import CacheInfo, StoredArray

__all__ = ["CacheBar", "Holdings"]

_DOING = {"verify": "verifying", "repair": "repairing", "clear": "clearing"}
_EPOCH_EACH = frozenset({"itemwise", "reseed"})
_SHORT = 3


class CacheBar(Widget):
    def __init__(self, path: str, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._path = path
        self._state: GroupState | None = None
        self._problem = ""

    def show(self, state: GroupState | None, problem: str) -> None:
        """Show how a cache is; ``problem`` says why there is none."""
        self._state, self._problem = state, problem
        self.refresh()

    def render(self) -> Content:
        width = self.content_size.width
        text, style = self._badge()
        state = Content.assemble((f" {text} ", f"{style} reverse bold"))
        path = clean(self._path)
        room = max(12, width - state.cell_length - len(" hydrax ") - 4)
        path = path if len(path) <= room else f"…{path[1 - room :]}"
        left = Content.assemble((" hydrax ", "$text-primary bold"), (f" {path}  ", "bold"))
        return left + Content(" " * max(0, width - left.cell_length - state.cell_length)) + state

    def _badge(self) -> tuple[str, str]:
        state = self._state
        if self._problem:
            return "✗ gone", "$text-error"
        if state is None:
            return "◌ opening", "$dim"
        if state.doing:
            progress = state.progress
            part = f" {100 * progress.done // progress.total} %" if progress is not None and progress.total else ""
            return f"◔ {_DOING[state.doing]}{part}", "$text-accent"
        if state.group.problem:
            return "✗ damaged", "$text-error"
        if state.group.info is not None and state.group.info.in_use:
            return "► in use by a run", "$text-success"
        return ("○ not in use", "$text-primary") if state.group.writable else ("⊘ read-only", "$text-warning")


class Holdings(Widget):
    """What a cache holds, the most important first; as many lines as there is room for."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self._state: GroupState | None = None
        self._problem = ""

    def show(self, state: GroupState | None, problem: str) -> None:
        """Show what a cache holds; ``problem`` says why there is none."""
        before = self.wanted_height()
        self._state, self._problem = state, problem
        self.border_title = None if state is None else Content(clean(state.group.name))
        self.refresh(layout=self.wanted_height() != before)

    def wanted_height(self) -> int:
        state = self._state
        if state is None or state.group.info is None:
            return _SHORT + 1
        return 7 + len(state.group.info.arrays) + bool(state.group.problem)

    def get_content_height(self, *_: object) -> int:
        """See ``wanted_height()``; on a short screen just the most important."""
        return _SHORT if self.app.screen.has_class("-short") else self.wanted_height()

    def render(self) -> Content:
        state, (width, height) = self._state, self.content_size
        if state is None:
            return Content.styled(clean(self._problem) or "reading the index …", "$dim")
        info = state.group.info
        if info is None:
            return Content.styled(clean(state.group.problem), "$text-error")
        lines = [self._bar(state, width), *self._facts(state, info)]
        if height <= _SHORT:
            arrays = " · ".join(f"{clean(array.name)} {_shape(array)} {_dtypes(array)}" for array in info.arrays)
            lines = [lines[0], Content.styled(arrays, "$foreground"), lines[2]]
            if state.group.problem:
                lines[2] = Content.styled(clean(state.group.problem), "$text-error")
        else:
            if state.group.problem:
                lines.insert(1, Content.styled(f"✗ {clean(state.group.problem)}", "$text-error"))
            lines += [self._array(array, info) for array in info.arrays]
        return Content("\n").join(line.truncate(width, ellipsis=True) for line in lines[:height])

    def _bar(self, state: GroupState, width: int) -> Content:
        entries, whole = coverage_of(state.group)
        numbers = f" {count(entries)} of {count(whole)} {state.group.nouns}"
        percent = f"  {100 * entries // max(1, whole)} %"
        bad = f"  ✗ {count(state.verdicts.bad_count)} bad" if state.verdicts.bad_count else ""
        room = width - len(numbers) - len(percent) - len(bad) - 1
        full, rest = bar(max(0, min(60, room)), entries / max(1, whole))
        tail = ((percent, "$dim"), (bad, "$text-error bold"))
        return Content.assemble((full, "$text-primary"), (rest, "$faint"), numbers, *tail)

    def _facts(self, state: GroupState, info: CacheInfo) -> list[Content]:
        settings, epochs = info.settings, info.epochs
        what = f"{many(info.entries_per_epoch, state.group.noun, state.group.nouns)} an epoch"
        items = settings.get("items")
        if isinstance(items, int) and state.group.noun == "batch":
            what += f", {many(items, 'item')}"
        if "seed" in settings:
            what += f", seed {settings['seed']}"
        later = settings.get("shuffle_later")
        mode = f"cache_by {info.cache_by}" + (f", shuffle_later {clean(later)}" if isinstance(later, str) else "")
        serves = "one each epoch" if later in _EPOCH_EACH else "for all epochs"
        disk = f"{many(len(epochs), 'content epoch')}, {serves}; {size(info.disk_bytes)} on disk"
        written = f"last written {moment(max(epoch.newest for epoch in epochs))}" if epochs else "nothing is stored yet"
        return [
            Content(clean(what)),
            Content(mode),
            Content(disk),
            Content.styled(written, "$dim"),
            Content.styled(_made(info), "$dim"),
            Content(),
        ]

    def _array(self, array: StoredArray, info: CacheInfo) -> Content:
        wide = max(len(clean(each.name)) for each in info.arrays)
        shapes = max(len(_shape(each)) for each in info.arrays)
        dtypes = max(len(_dtypes(each)) for each in info.arrays)
        return Content.assemble(
            (f"{clean(array.name):<{wide}}", "$text-accent"),
            f"  {_shape(array):<{shapes}}  {_dtypes(array):<{dtypes}}",
            (f"  {size(array.nbytes)}", "$dim"),
        )


def _made(info: CacheInfo) -> str:
    made = {name: clean(info.made.get(name, "?")) for name in ("at", "by", "hydrax")}
    return f"made {made['at'].replace('T', ' ').replace('Z', ' UTC')} by {made['by']}, hydrax {made['hydrax']}"


def _shape(array: StoredArray) -> str:
    return f"({', '.join(map(str, array.shape))}{',' if len(array.shape) == 1 else ''})"


def _dtypes(array: StoredArray) -> str:
    same = array.dtype == array.jax_dtype
    return clean(array.dtype if same else f"{array.dtype}→{array.jax_dtype}")
