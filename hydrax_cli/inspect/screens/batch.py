"""One batch: its arrays in numbers and as pictures, and the items that it is made of."""

from __future__ import annotations

import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from hydrax_cli.inspect.run_view import ArrayCounted, BatchOpened
from hydrax_cli.inspect.textual_private import CurrentSize
from hydrax_cli.inspect.widgets.array_picture import ArrayPicture
from hydrax_cli.inspect.widgets.batch_lists import ArrayDetail, ArrayList, ItemList
from hydrax_cli.inspect.widgets.line_list import LineList
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import many

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from textual.app import ComposeResult

    from hydrax_cli.inspect.numbers.pixels import Kind
    from hydrax_cli.inspect.numbers.rates import Reading
    from hydrax_cli.inspect.numbers.statistics import ArrayStats
    from hydrax_cli.inspect.run_view import BatchView, Frame
    from hydrax_core.monitor import BatchRecord

__all__ = ["BatchScreen"]

_GRID_AT_LEAST = 16


class BatchScreen(CurrentSize, Screen[None]):
    """Looks into a batch.

    Args:
        open_batch: Gets what is in it; called in a thread.
        neighbour: The batch before (-1) or after (1) another one that can be looked into.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "back", key_display="esc"),
        Binding("left,h", "item(-1)", "item", key_display="← →"),
        Binding("right", "item(1)", "next item", show=False),
        Binding("a,tab", "array(1)", "array", key_display="a", priority=True),
        Binding("shift+tab", "array(-1)", "array before", show=False, priority=True),
        Binding("v", "view", "view"),
        Binding("z,enter", "single", "large", show=False),
        Binding("left_square_bracket", "batch(-1)", "batch", key_display="[ ]"),
        Binding("right_square_bracket", "batch(1)", "next batch", show=False),
        Binding("s", "app.step", "step"),
        Binding("n", "app.newest", "newest"),
        Binding("c", "app.copy_command", "copy"),
        Binding("question_mark", "app.help", "help", key_display="?"),
    ]
    AUTO_FOCUS = "#items"

    def __init__(
        self,
        record: BatchRecord,
        open_batch: Callable[[BatchRecord], BatchView],
        neighbour: Callable[[BatchRecord, int], BatchRecord | None],
    ) -> None:
        super().__init__()
        self._record = record
        self._open_batch = open_batch
        self._neighbour = neighbour
        self._following = False
        self._title = Static(id="batch-title")
        self._arrays = ArrayList(id="arrays")
        self._detail = ArrayDetail(id="detail")
        self._picture = ArrayPicture(at_least=_GRID_AT_LEAST, id="picture")
        self._items = ItemList(id="items")
        self._view: BatchView | None = None
        self._stats: dict[str, ArrayStats] = {}
        self._array = 0
        self._item = 0
        self._kinds: dict[str, Kind] = {}
        self._single = False
        self._refused = False

    @property
    def record(self) -> BatchRecord:
        return self._record

    def compose(self) -> ComposeResult:
        yield self._title
        with Container(id="numbers"):
            yield self._arrays
            yield self._detail
        with Horizontal(id="content"):
            yield self._picture
            yield self._items
        yield Footer(compact=True, show_command_palette=False)

    def on_screen_suspend(self) -> None:
        """Behind a dialog a picture costs more than it shows."""
        self._picture.visible = False

    def on_screen_resume(self) -> None:
        self._picture.visible = True

    def on_mount(self) -> None:
        self.fetch(self._record)

    def fetch(self, record: BatchRecord) -> None:
        """Show another batch; the one before stays until it is here."""
        self._record = record
        self._refused = False
        self._show_title("loading …")
        self.run_worker(partial(self._fetch, record), thread=True, exclusive=True, group="fetch")

    def _fetch(self, record: BatchRecord) -> None:
        try:
            message = BatchOpened(record, self._open_batch(record))
        except LookupError as error:
            message = BatchOpened(record, None, str(error))
        except Exception as error:  # noqa: BLE001  items and placement_func are anybody's code
            message = BatchOpened(record, None, "".join(traceback.format_exception(error)))
        self.post_message(message)

    @on(BatchOpened)
    def _opened(self, event: BatchOpened) -> None:
        if event.record.serial != self._record.serial:
            return
        if event.view is None:
            self._refused = True
            self._show_title("cannot be shown")
            self.notify(event.error, title="The batch cannot be shown", severity="error", timeout=12)
            return
        self._view = event.view
        self._record = event.view.record  # of a live run maybe a later one, or a part of it
        self._stats = {}
        self._array = min(self._array, len(event.view.infos) - 1)
        self._item = min(self._item, max(0, self._record.size - 1))
        self._show_title(event.view.source)
        self._items.show(event.view)
        self._items.choose(self._item)
        self._arrays.styles.min_height = min(len(event.view.infos), 6) + self._arrays.gutter.height + 1
        self._show()
        self.run_worker(partial(self._count, event.view), thread=True, exclusive=True, group="count")

    def _count(self, view: BatchView) -> None:
        from hydrax_cli.inspect.numbers.statistics import array_stats, uncounted  # noqa: PLC0415  NumPy comes with it

        for info in view.infos:
            try:
                stats = array_stats(view.arrays[info.name][: view.record.size])
            except Exception as error:  # noqa: BLE001  a dtype that NumPy cannot count with
                stats = uncounted(f"cannot be counted: {error}")
            self.post_message(ArrayCounted(view, info.name, stats))

    @on(ArrayCounted)
    def _counted(self, event: ArrayCounted) -> None:
        if event.view is self._view:
            self._stats[event.name] = event.stats
            self._show_numbers()

    def show_frame(self, frame: Frame, reading: Reading) -> None:  # noqa: ARG002  the run's numbers are not shown here
        """Follow a run that is stepped from here."""
        if self._following and frame.current is not None and frame.current.serial != self._record.serial:
            self._following = False
            if not frame.current.error:
                self.fetch(frame.current)

    def follow(self) -> None:
        self._following = True

    @property
    def settled(self) -> bool:
        """Whether everything about the batch is on the screen, or why it cannot be."""
        return self._refused or (self._view is not None and len(self._stats) == len(self._view.infos))

    def _show_title(self, source: str) -> None:
        record = self._record
        parts = [source, many(record.size, "item"), f"{record.kind} group {record.group}"]
        if record.seed is not None:
            parts.append(f"seed {record.seed}")
        if record.cached:
            parts.append("from the cache")
        subtitle = clean(" · ".join(parts))
        title = Content.assemble((f" {clean(record.title)} ", "$text-primary bold"), (f" · {subtitle}", "$dim"))
        self._title.update(title)

    def _show_numbers(self) -> None:
        view = self._view
        assert view is not None
        self._arrays.show(view.infos, self._stats)
        info = view.infos[self._array]
        self._detail.show(info, self._stats.get(info.name))

    def _show(self) -> None:
        if self._view is None:
            return
        self._arrays.chosen = self._array
        self._show_numbers()
        info = self._view.infos[self._array]
        array: npt.NDArray[Any] = self._view.arrays[info.name][: self._view.record.size]
        title = self._item_title(info.name) if self._single else ""
        kind = self._kinds.get(info.name)
        ids = self._view.segments(info)
        self._picture.show(array, info, kind=kind, item=self._item, single=self._single, title=title, segments=ids)

    def _item_title(self, name: str) -> str:
        view, item = self._view, self._item
        assert view is not None
        parts = [f"{name}[{item}]", f"index {view.indices[item]}"]
        if view.seeds is not None:
            parts.append(f"seed {view.seeds[item]}")
        parts += [f"{label.name} {view.arrays[label.name][item]}" for label in view.infos if len(label.shape) == 1]
        if view.descriptors:
            parts.append(view.descriptors[item])
        return " · ".join(parts)

    # --- keys and mouse

    def action_back(self) -> None:
        if self._single:
            self.action_single()
        else:
            self.dismiss()

    def action_array(self, step: int) -> None:
        if self._view is not None:
            self._array = (self._array + step) % len(self._view.infos)
            self._show()

    def action_item(self, step: int) -> None:
        self._items.action_move(step)

    def action_view(self) -> None:
        """Show the array otherwise: picture, heat map, rows."""
        if self._view is None:
            return
        name = self._view.infos[self._array].name
        kinds = self._picture.kinds
        now = self._kinds.get(name, kinds[0])
        self._kinds[name] = kinds[(kinds.index(now) + 1) % len(kinds)]
        self._show()

    def action_single(self) -> None:
        """Show the chosen item alone, or the whole batch."""
        self._single = not self._single
        self.set_class(self._single, "-large")
        (self._picture if self._single else self._items).focus()
        self._show()

    def action_batch(self, step: int) -> None:
        record = self._neighbour(self._record, step)
        if record is None:
            self.notify("There is nothing further in the table.")
        else:
            self.fetch(record)

    @on(LineList.Chosen, "#items")
    def _item_chosen(self, event: LineList.Chosen) -> None:
        if event.index != self._item:
            self._item = event.index
            self._show()

    @on(LineList.Selected, "#items")
    def _item_selected(self) -> None:
        self.action_single()

    @on(LineList.Chosen, "#arrays")
    def _array_chosen(self, event: LineList.Chosen) -> None:
        if event.index != self._array:
            self._array = event.index
            self._show()

    @on(ArrayPicture.ItemClicked)
    def _picture_clicked(self, event: ArrayPicture.ItemClicked) -> None:
        self._items.choose(event.item)
        if event.double:
            self.action_single()
