"""What the screens know of a run: frozen values, made by a feed, and the Textual messages that carry them.

Promise: nothing here touches a loader, NumPy or jax, so that the screens are up before any of them is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from textual.message import Message

from hydrax_cli.shared.text import clean_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from hydrax_cli.inspect.numbers.statistics import ArrayStats
    from hydrax_core.monitor import ArrayPlan, BatchRecord, LogLine, RunPlan, Stats

__all__ = [
    "ArrayCounted",
    "Attaching",
    "BatchOpened",
    "BatchView",
    "Controls",
    "Fault",
    "Feed",
    "Frame",
    "RunChoice",
    "RunState",
    "Subject",
]

_MOST_HELD = 1000
RunState: TypeAlias = Literal["opening", "starting", "running", "paused", "starved", "silent", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at, known before the first batch.

    Attributes:
        target: Its name for people.
        command: What runs it again: ``hydrax run`` with target and arguments.
        has_step: Whether the consumer trains or pretends to.
        pid: The process of a run that is watched, ``None`` where the app itself runs the loader.
    """

    target: str
    command: str
    plan: RunPlan
    has_step: bool
    pid: int | None = None

    def command_for(self, record: BatchRecord) -> str:
        """What shows that batch again in a terminal."""
        epoch, batch = self.plan.start_of(record)
        return f"{self.command} --start {epoch}:{batch} --batches 1"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that went wrong, for a screen of its own.

    Attributes:
        title: In one line.
        text: All of it, tracebacks included.
        fatal: Whether no batch can come before it is put right.
        gone: Whether a run that was watched is gone.
    """

    title: str
    text: str
    fatal: bool
    usage: bool = False
    gone: bool = False

    @classmethod
    def of(cls, text: str) -> Fault:
        """A batch's error; hydrax's own texts begin with what happened, a traceback ends with it."""
        text = clean_lines(text)
        lines = text.strip().splitlines() or [""]
        return cls(lines[-1] if lines[0].startswith(("Traceback", "  +")) else lines[0], text, fatal=False)


class RunChoice(NamedTuple):
    """A running training that can be watched.

    Attributes:
        path: Its socket, which no other has.
        place: ``"epoch 3:14"``, empty where it is not known.
        seconds: For how long it has been running; ``None`` where it does not answer.
        command: The command line of the process.
    """

    path: str
    name: str
    pid: int
    place: str
    seconds: float | None
    command: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A run at one moment; made several times a second.

    Attributes:
        detail: The state in a few words more, may be empty.
        subject: What is looked at, ``None`` until it is open.
        device: Where batches are placed, empty until it is known.
        current: The last batch handed out.
        records: What happened since the frame before.
        lines: What was logged since the frame before.
        missed_lines: Lines that came too fast to be kept.
        waiting_seconds: For how long the consumer has been waiting for a batch.
        paused_seconds: How long the run was paused, all times together.
        limit: Most batches a second, ``None`` for no limit.
        choices: Runs to choose from, where one has to be chosen.
    """

    state: RunState
    detail: str = ""
    subject: Subject | None = None
    device: str = ""
    stats: Stats | None = None
    current: BatchRecord | None = None
    records: tuple[BatchRecord, ...] = ()
    lines: tuple[LogLine, ...] = ()
    missed_lines: int = 0
    waiting_seconds: float = 0.0
    paused_seconds: float = 0.0
    limit: float | None = None
    fault: Fault | None = None
    choices: tuple[RunChoice, ...] = ()

    def after(self, earlier: Frame) -> Frame:
        """This frame with what an earlier one brought, where that was not shown."""
        return replace(
            self,
            records=(*earlier.records, *self.records)[-_MOST_HELD:],
            lines=(*earlier.lines, *self.lines)[-_MOST_HELD:],
            missed_lines=earlier.missed_lines + self.missed_lines,
        )


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch with what is in it; the arrays are copies.

    Attributes:
        arrays: NumPy arrays by name, as the training gets them; the first ``rows`` rows.
        indices: Index in the group's data of each real row.
        seeds: Seed of each real row, ``None`` in validation.
        descriptors: Each item's descriptor as text.
        additional: Additional data as text: name -> one a row, empty where there is none.
        source: Where the copy comes from, in words.
        command: What shows the batch again in a terminal.
    """

    record: BatchRecord
    arrays: Mapping[str, npt.NDArray[np.generic]]
    infos: tuple[ArrayPlan, ...]
    indices: Sequence[int]
    seeds: Sequence[int] | None
    descriptors: Sequence[str]
    additional: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source: str = ""
    command: str = ""

    def segments(self, info: ArrayPlan) -> npt.NDArray[np.generic] | None:
        """Which document of its packed row each element of an array is of; ``None`` where rows are not packed."""
        ids = self.arrays.get(info.segments)
        return None if ids is None else ids[: self.record.size]


class Controls(Protocol):
    """What can be done to a run that the app itself drives; nothing here waits."""

    def play(self) -> None:
        """Go on, at the start where the run has ended."""

    def pause(self) -> None:
        """Take no further batch."""

    def step(self) -> None:
        """Take one batch and pause."""

    def jump(self, epoch: int, batch: int) -> None:
        """Go on from there, paused or running as before."""

    def set_limit(self, per_second: float | None) -> None:
        """Take at most so many batches a second."""

    def reopen(self) -> None:
        """Find the target anew, as its code may have changed."""


class Attaching(Protocol):
    """What can be done where runs of other processes are watched; nothing here waits."""

    def look_again(self) -> None:
        """Find the run again, or others to choose from."""

    def choose(self, choice: RunChoice | None) -> None:
        """Watch that run; ``None`` for none of those offered."""


class Feed(Protocol):
    """Where frames come from.

    Attributes:
        controls: ``None`` where the run can only be watched.
        attaching: ``None`` where the app itself runs the loader.
    """

    controls: Controls | None
    attaching: Attaching | None

    def start(self) -> None:
        """Begin; returns at once."""

    def frame(self) -> Frame:
        """The run now, with what happened since the last call; does not wait."""

    def preview(self) -> BatchView | None:
        """The first rows of a recent batch, newer ones each time; does not wait."""

    def has(self, record: BatchRecord) -> bool:
        """Whether ``open()`` can show that very batch."""

    def open(self, record: BatchRecord) -> BatchView:
        """A batch with all that is in it, of a run that is watched maybe a later one; may take as long as loading it.

        Raises:
            LookupError: It is not available; the text says why.
        """

    def close(self) -> None:
        """End the run and leave nothing behind; takes up to two seconds."""


@dataclass(eq=False)
class BatchOpened(Message):
    """A batch to look into, or why there is none."""

    record: BatchRecord
    view: BatchView | None
    error: str = ""


@dataclass(eq=False)
class ArrayCounted(Message):
    """The numbers of one array of an opened batch."""

    view: BatchView
    name: str
    stats: ArrayStats
