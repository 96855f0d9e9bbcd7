"""The upper half of the main screen: title line, progress, speed, workers and slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content
from textual.widget import Widget

from hydrax_cli.inspect.numbers.rates import Reading
from hydrax_cli.inspect.run_view import Frame
from hydrax_cli.inspect.widgets.bars import bar, columns
from hydrax_cli.shared.text import clean
from hydrax_cli.shared.units import count, many, rate, size, span

if TYPE_CHECKING:
    from hydrax_core.monitor import ArrayPlan, RunPlan, Stats, WorkerStats

__all__ = ["ProgressPanel", "SpeedPanel", "TopBar", "WorkersPanel"]

_STATES = {
    "opening": ("◌", "opening", "$dim"),
    "starting": ("◌", "starting", "$text-accent"),
    "running": ("►", "running", "$text-success"),
    "paused": ("‖", "paused", "$text-primary"),
    "starved": ("◔", "starved", "$text-warning"),
    "silent": ("◌", "silent", "$text-warning"),
    "done": ("✓", "done", "$text-success"),
    "failed": ("✗", "failed", "$text-error"),
}
_WORKER_GLYPHS = {
    "busy": ("●", "$text-success"),
    "idle": ("○", "$dim"),
    "starting": ("◌", "$text-accent"),
    "ended": ("✗", "$text-error"),
}
_SLOT_GLYPHS = {
    "ready": ("■", "$text-success"),
    "filling": ("◧", "$text-accent"),
    "held": ("▣", "$text-primary"),
    "free": ("□", "$faint"),
}
_LONG_ITEM_SECONDS = 1.0
_VERY_LONG_ITEM_SECONDS = 10.0
_LEAST_BAR = 8
_WIDE_SLOTS = 76
_WIDE_TOP = 90
_LONGEST_SEEDS = 24
_NAME_WIDTH = len("data  ")
_SHORT_DATA, _MOST_DATA = 2, 3
"""Lines of what is in a batch, on a short screen and on others."""


class FramePanel(Widget):
    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  Textual's name
        super().__init__(id=id)
        self.frame = Frame("opening")
        self.reading = Reading()

    def show_frame(self, frame: Frame, reading: Reading) -> None:
        """Draw a frame; the layout changes only where the number of lines does."""
        before = self.wanted_height()
        self.frame, self.reading = frame, reading
        self.refresh(layout=self.wanted_height() != before)

    def wanted_height(self) -> int:
        """Lines that the content takes."""
        return 1


class TopBar(FramePanel):
    def render(self) -> Content:
        """One line: the name to the left, the state to the right, in between what there is room for."""
        frame, width = self.frame, self.content_size.width
        glyph, word, style = _STATES[self.reading.state]
        if self.reading.state == "starved" and frame.waiting_seconds > 1:
            word = f"waiting {span(frame.waiting_seconds)}"
        elif frame.state == "silent":
            word = frame.detail
        state = Content.assemble((f" {glyph} {word} ", f"{style} reverse bold"))
        name = clean(frame.subject.target if frame.subject is not None else frame.detail or "opening the target")
        left = Content.assemble((" hydrax ", "$text-primary bold"), (f" {_tail(name, max(12, width // 3))}  ", "bold"))
        if frame.subject is not None and frame.subject.pid is not None:
            pid = f"pid {frame.subject.pid}" if width < _WIDE_TOP else f"live · pid {frame.subject.pid}"
            left += Content.assemble((f" ◉ {pid} ", "$text-accent reverse"), "  ")
        facts = self._facts()
        room = width - left.cell_length - state.cell_length
        middle = Content()
        for fact_style, text in facts:
            piece = Content.assemble((f" {text} ", fact_style), ("·", "$faint"))
            if middle.cell_length + piece.cell_length - 1 > room:
                break
            middle += piece
        middle = middle.right_crop(1) if middle.plain.endswith("·") else middle
        gap = max(0, room - middle.cell_length)
        return left + Content(" " * gap) + middle + state

    def _facts(self) -> list[tuple[str, str]]:
        """What there may be room for, the most important first: its style and its text."""
        frame, facts = self.frame, []
        if frame.current is not None:
            kind = "epoch" if frame.current.kind == "training" else "validation"
            facts.append(("$foreground", f"{kind} {count(frame.current.epoch)}:{frame.current.epoch_batch}"))
        if frame.limit is not None:
            facts.append(("$text-accent", f"≤ {frame.limit:g}/s"))
        if frame.subject is not None:
            seeds = ", ".join(map(str, frame.subject.plan.seeds))
            facts.append(("$dim", f"seed {_head(seeds, _LONGEST_SEEDS)}"))
        if frame.device:
            facts.append(("$dim", clean(frame.device)))
        return facts


class ProgressPanel(FramePanel):
    """How far the epoch, the run and the validation are, and what a batch is made of."""

    BORDER_TITLE = "progress"

    def wanted_height(self) -> int:
        """Lines of bars, and of what is in a batch."""
        return self._lines_for(self.content_size.width)

    def get_content_height(self, _container: object, _viewport: object, width: int) -> int:
        return self._lines_for(width)

    def _lines_for(self, width: int) -> int:
        if self.frame.subject is None:
            return 2
        plan = self.frame.subject.plan
        return 2 + bool(plan.validation_interval) + len(self._shares()) + len(self._data(plan, width))

    def _shares(self) -> list[Content]:
        """What share of the batches each of several groups has, and should have."""
        groups = () if self.frame.stats is None else self.frame.stats.groups
        if len(groups) == 1 or self.app.screen.has_class("-short"):
            return []
        texts = [f"{100 * g.share:.0f} % ({100 * g.expected:.0f} %), {g.epochs:.1f} ep." for g in groups]
        return [self._text("shares (wanted)", " · ".join(texts))] if texts else []

    def _data(self, plan: RunPlan, width: int) -> list[Content]:
        """The seed that every epoch is shuffled by, and the arrays of a batch: as many lines as there is room for."""
        seeds = _head(", ".join(map(str, plan.seeds)), _LONGEST_SEEDS)
        pieces = [f"seed{'s' if len(plan.seeds) > 1 else ''} {seeds}"]
        group = plan.groups[0] if self.frame.current is None else plan.group(self.frame.current)
        pieces += map(_array_text, group.arrays)
        most = _SHORT_DATA if self.app.screen.has_class("-short") else _MOST_DATA
        lines: list[str] = []
        for place, piece in enumerate(map(clean, pieces)):
            longer = f"{lines[-1]} · {piece}" if lines else piece
            if lines and cell_len(longer) <= max(1, width - _NAME_WIDTH):
                lines[-1] = longer
            elif len(lines) < most:
                lines.append(piece)
            else:
                lines[-1] += f" · and {len(pieces) - place} more"
                break
        return [
            Content.assemble((" " * _NAME_WIDTH if place else "data  ", "$foreground"), (line, "$dim")).truncate(
                max(1, width), ellipsis=True
            )
            for place, line in enumerate(lines)
        ]

    def render(self) -> Content:
        if self.frame.subject is None:
            return Content.assemble((self.frame.detail or "opening the target …", "$dim"))
        plan, current = self.frame.subject.plan, self.frame.current
        training = current if current is not None and current.kind == "training" else None
        if training is not None:
            epoch, done = training.epoch, training.epoch_batch + 1
            number = training.batch_num + 1
        elif current is not None:
            number = plan.trained_before(current.epoch)
            epoch, done = divmod(max(0, number - 1), plan.batches_per_epoch)
            done += number > 0
        else:
            number = plan.first_batch
            epoch, done = divmod(number, plan.batches_per_epoch)
        lines = self._training(plan, epoch, done, number)
        if plan.validation_interval:
            if current is not None and current.kind == "validation":
                name = f"validation {count(current.epoch)}"
                lines.append(self._line(name, current.epoch_batch + 1, plan.batches_per_validation, "$text-accent"))
            elif plan.streams():
                lines.append(self._text("validation", "when the stream, or its turn, ends"))
            else:
                rest = plan.validation_interval - number % plan.validation_interval
                lines.append(self._text("validation", f"in {many(rest, 'batch', 'batches')}"))
        return Content("\n").join([*lines, *self._shares(), *self._data(plan, self.content_size.width)])

    def _training(self, plan: RunPlan, epoch: int, done: int, number: int) -> list[Content]:
        if plan.streams():  # nobody knows how many there will be
            return [self._text(f"epoch {count(epoch)}", f"{many(done, 'batch', 'batches')} of a stream")]
        lines = [self._line(f"epoch {count(epoch)}", done, plan.batches_per_epoch, "$text-primary")]
        if plan.last_batch is None or number > plan.last_batch:
            return [*lines, self._text("run", f"{many(number, 'batch', 'batches')}, endless")]
        return [*lines, self._line("run", number, plan.last_batch, "$text-primary")]

    def _line(self, name: str, done: int, total: int, style: str) -> Content:
        numbers = f"{count(done)} / {count(total)}"
        width = max(_LEAST_BAR, self.content_size.width - 16 - 7 - max(15, len(numbers)))
        full, rest = bar(width, done / total if total else 0.0)
        share = f"{100 * done / total:.0f} %" if total else ""
        return Content.assemble(
            (f"{name:<15} ", "$foreground"),
            (full, style),
            (rest, "$faint"),
            f" {numbers:>15} ",
            (f"{share:>5}", "$dim"),
        )

    def _text(self, name: str, text: str) -> Content:
        line = Content.assemble((f"{name:<15} ", "$foreground"), (text, "$dim"))
        return line.truncate(max(1, self.content_size.width), ellipsis=True)


class SpeedPanel(FramePanel):
    """How fast it goes, who waits for whom, and how the speed was lately."""

    BORDER_TITLE = "speed"
    _LEAST_HEIGHT = 4

    def render(self) -> Content:
        """A graph as high as there is room for, the numbers, the first batch, the verdict."""
        width, height = self.content_size
        history = self.reading.history
        fault = self.frame.fault
        state = (clean(fault.title), "$text-error") if fault is not None else (self.reading.verdict, "$foreground")
        verdict = _wrapped(*state, width, 3 if height > self._LEAST_HEIGHT else 2)
        graph_height = max(0, height - 2 - max(2, len(verdict)))
        lines = [Content.styled(text, "$accent") for text in columns(history, width, graph_height)]
        if lines and history:
            lines[0] = _over(lines[0], f"{rate(max(history), 1)} items/s ")
        lines.append(self._numbers(width, with_graph=not graph_height))
        lines.append(self._first_batch(width))
        return Content("\n").join([*lines, *verdict])

    def _numbers(self, width: int, *, with_graph: bool) -> Content:
        reading = self.reading
        parts = (
            (rate(reading.items, 1), "items/s"),
            (rate(reading.bytes / 1e6, 1), "MB/s"),
            (rate(reading.batches, 1), "batches/s"),
            (f"{100 * reading.idle:.0f} %", "idle"),
        )
        line = Content("   ").join(
            Content.assemble((number, "bold $foreground"), (f" {unit}", "$dim")) for number, unit in parts
        )
        room = width - line.cell_length - 2
        if with_graph and room >= _LEAST_BAR:
            line += Content.styled("  " + columns(reading.history, room, 1)[0], "$accent")
        return line.truncate(width)

    def _first_batch(self, width: int) -> Content:
        stats = self.frame.stats
        first = stats.first_batch if stats is not None else None
        if stats is None or first is None:
            return Content.assemble(("first batch ", "$dim"), ("…", "$text-accent"))
        line = Content.assemble(("first batch ", "$dim"), span(first.total))
        phases = f" = {span(first.start)} start + {span(first.load)} load + {span(first.place)} place"
        losses = (
            (stats.errors, "failed item", "failed items"),
            (stats.skipped_batches, "skipped batch", "skipped batches"),
            (stats.worker_restarts, "replaced worker", "replaced workers"),
        )
        bad = "".join(f"   {many(*what)}" for what in losses if what[0])
        if line.cell_length + len(phases) + len(bad) <= width:
            line += Content.styled(phases, "$dim")
        return (line + Content.styled(bad, "$text-warning")).truncate(width)


class WorkersPanel(FramePanel):
    """A lane for each worker and a cell for each slot."""

    BORDER_TITLE = "workers and slots"
    _CELL = 11
    _MOST_LINES = 8

    def wanted_height(self) -> int:
        return self._lines_for(self.content_size.width or self._CELL)

    def get_content_height(self, _container: object, _viewport: object, width: int) -> int:
        return self._lines_for(width)

    def _lines_for(self, width: int) -> int:
        return self._worker_lines(width) + len(self._slots(self.frame.stats, width))

    def _worker_lines(self, width: int) -> int:
        """A lane a worker; of many workers, lines of cells; of very many, lines of signs."""
        stats = self.frame.stats
        workers = len(stats.workers) if stats is not None and stats.workers else 1
        for a_line in (1, max(1, width // self._CELL), max(1, width)):
            lines = -(-workers // a_line)
            if lines <= self._MOST_LINES:
                return lines
        return self._MOST_LINES

    def render(self) -> Content:
        """Lanes where they fit, else a cell a worker, or a sign a worker; then the slots."""
        stats = self.frame.stats
        width, height = self.content_size
        slots = self._slots(stats, width)
        if stats is None or not stats.workers:
            return Content("\n").join([Content.styled("no worker is up", "$dim"), *slots])
        room = max(1, height - len(slots))
        workers = [(worker, self._busy(worker)) for worker in stats.workers]
        across = max(1, width // self._CELL)
        if len(workers) <= room:
            lines = [self._lane(worker, busy, width) for worker, busy in workers]
        elif len(workers) <= room * across:
            lines = _joined([self._cell(worker, busy) for worker, busy in workers], across)
        else:
            lines = _joined([_sign(worker, busy) for worker, busy in workers], max(1, width))[:room]
        return Content("\n").join([*lines, *slots])

    def _busy(self, worker: WorkerStats) -> float:
        return self.reading.busy[worker.number] if worker.number < len(self.reading.busy) else 0.0

    def _lane(self, worker: WorkerStats, busy: float, width: int) -> Content:
        glyph, style = _WORKER_GLYPHS[worker.state]
        full, rest = bar(max(_LEAST_BAR, min(40, width - 56)), busy)
        lane = Content.assemble(
            (f"{worker.number:>2} ", "$dim"),
            (f"{glyph} ", style),
            (full, "$success"),
            (rest, "$faint"),
            f" {100 * busy:>3.0f} %  ",
        )
        doing, doing_style = self._doing(worker)
        tail = Content.assemble((f"{count(worker.items)} items", "$dim"))
        if worker.restarts:
            tail = Content.styled(f"↻ {worker.restarts}  ", "$text-warning") + tail
        room = max(0, width - lane.cell_length - tail.cell_length)
        return lane + Content.styled(doing, doing_style).truncate(room, ellipsis=True, pad=True) + tail

    def _doing(self, worker: WorkerStats) -> tuple[str, str]:
        if worker.item is None:
            return worker.state, "$dim"
        style = "$foreground"
        if worker.item_seconds > _LONG_ITEM_SECONDS:
            style = "$text-error bold" if worker.item_seconds > _VERY_LONG_ITEM_SECONDS else "$text-warning"
        return f"item {count(worker.item)} for {span(worker.item_seconds)}", style

    def _cell(self, worker: WorkerStats, busy: float) -> Content:
        glyph, style = _WORKER_GLYPHS[worker.state]
        if worker.restarts:
            glyph, style = "↻", "$text-warning"
        return Content.assemble((f"{worker.number:>3} ", "$dim"), (glyph, style), f"{100 * busy:>4.0f}% ")

    def _slots(self, stats: Stats | None, width: int) -> list[Content]:
        """A cell a slot, and what the cells mean; in one line where both fit."""
        slots = stats.slots if stats is not None else ()
        legend = Content("  ").join(
            Content.assemble((f"{glyph} ", style), (f"{slots.count(state)} {state}", "$dim"))
            for state, (glyph, style) in _SLOT_GLYPHS.items()
        )
        if stats is not None and width >= _WIDE_SLOTS:
            legend += Content.styled(f"  {size(stats.slot_bytes)} each", "$dim")
        room = width - len("slots ")
        together = len(slots) + legend.cell_length + 2 <= room
        if together:
            room -= legend.cell_length + 2
        line = Content.styled("slots ", "$dim")
        shown = len(slots) if len(slots) <= room else max(0, room - 6)
        gap = " " if 2 * len(slots) <= room else ""
        for state in slots[:shown]:
            glyph, style = _SLOT_GLYPHS[state]
            line += Content.styled(glyph + gap, style)
        if shown < len(slots):
            line += Content.styled(f" +{len(slots) - shown}", "$dim")
        if together:
            return [line.pad_right(max(0, width - legend.cell_length - line.cell_length)) + legend]
        return [line, Content("      ") + legend]


def _array_text(array: ArrayPlan) -> str:
    """``image (64,8,8) uint8→float32 16 KiB``; a label has a star."""
    shape = str(array.shape).replace(" ", "")
    dtypes = array.numpy_dtype if array.numpy_dtype == array.jax_dtype else f"{array.numpy_dtype}→{array.jax_dtype}"
    return f"{array.name}{' *' if array.is_label else ''} {shape} {dtypes} {size(array.bytes)}"


def _sign(worker: WorkerStats, busy: float) -> Content:
    """A worker as one character: how busy it is, or that something is the matter with it."""
    if worker.state in ("starting", "ended"):
        return Content.styled(*_WORKER_GLYPHS[worker.state])
    return Content.styled("▁▂▃▄▅▆▇█"[min(7, int(8 * busy))], "$text-warning" if worker.restarts else "$success")


def _joined(pieces: list[Content], across: int) -> list[Content]:
    return [Content("").join(pieces[i : i + across]) for i in range(0, len(pieces), across)]


def _wrapped(text: str, style: str, width: int, lines: int) -> list[Content]:
    if not text or width <= 0:
        return []
    made = Content.styled(text, style).wrap(width)
    if len(made) > lines:
        rest = Content(" ").join(line.rstrip() for line in made[lines - 1 :])
        made = [*made[: lines - 1], rest.truncate(width, ellipsis=True)]
    return made


def _over(line: Content, text: str) -> Content:
    """A label over the start of a line where that is empty."""
    if line.plain[: len(text)].strip():
        return line
    return Content.styled(text, "$dim") + line[len(text) :]


def _head(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _tail(text: str, width: int) -> str:
    """The end of a text: of a path it matters more than the start."""
    return text if len(text) <= width else f"…{text[1 - width :]}"
