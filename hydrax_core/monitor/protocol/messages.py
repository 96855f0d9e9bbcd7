"""Messages between a running loader and an inspector: frozen values of plain types.

Promise: a value here holds texts and numbers alone, never a batch. Both sides speak one ``VERSION``; it goes up with
any change of this file, of ``run.py`` and of ``stats.py``, but ``Hello`` and ``Bye`` stay as they are, so that the
other version can be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from hydrax_core.monitor.run import BatchRecord, Kind, LogLine
from hydrax_core.monitor.stats import Stats

__all__ = ["VERSION", "ArrayHead", "Ask", "Bye", "Hello", "Moment", "Refusal", "Sample", "Trouble"]

VERSION = 3


@dataclass(frozen=True, slots=True)
class Hello:
    """The first word of a loader, before anything is asked.

    Attributes:
        version: ``VERSION`` of its side.
        pid: Its process, as that process sees itself.
        name: What its user called it, else the name of the script.
        command: The command line of its process.
        since: When it started, seconds since the epoch.
        place: Kind, epoch and batch in it of the last batch handed out.
        ended: Whether its run is over.
    """

    version: int
    pid: int
    name: str
    command: str
    since: float
    place: tuple[Kind, int, int] | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """What the other side says; answered by a message of that kind, a ``Refusal`` or a ``Bye``.

    Attributes:
        what: ``"about"``: a ``RunPlan``; ``"moment"``: a ``Moment``; ``"batch"``: the next batch handed out, whole, as
            a ``Sample``.
        after: Serial of the last record known.
        lines_after: Serial of the last line known.
        sample: Whether the first rows of the next batch handed out are wanted beside the answer, when there is one.
    """

    what: Literal["about", "moment", "batch"]
    after: int = 0
    lines_after: int = 0
    sample: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error that ``next()`` raised, or that left the ``with`` block."""

    text: str
    left: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """A loader at one moment.

    Attributes:
        stats: Its counts.
        records: The newest of the batches after ``Ask.after``, oldest first.
        lines: The newest of the lines after ``Ask.lines_after``, oldest first.
        missed_lines: Lines that came too fast to be kept.
        waiting_seconds: For how long the training has been waiting for a batch now.
        device: Where batches are placed, ``""`` before the first.
        ended: Whether the run is over, or was interrupted.
        trouble: The last thing that happened, where that was an error.
    """

    stats: Stats
    records: tuple[BatchRecord, ...]
    lines: tuple[LogLine, ...]
    missed_lines: int
    waiting_seconds: float
    device: str
    ended: bool
    trouble: Trouble | None


class ArrayHead(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a batch, copied when it was handed out; the bytes of its arrays follow the message.

    Attributes:
        record: Which batch.
        rows: Rows copied, from the first on.
        in_cached_layout: Whether the arrays are as the cache keeps them, else as loaded.
        indices: Index in the group's data of each of these rows.
        seeds: Seed of each, ``None`` in validation.
        descriptors: Descriptors as text, of the first rows; fewer, or none, where reading them would be a risk.
        additional: Names of additional data and the text of each row, ``""`` where there is none.
        arrays: The arrays, in the order of their bytes.
    """

    record: BatchRecord
    rows: int
    in_cached_layout: bool
    indices: tuple[int, ...]
    seeds: tuple[int, ...] | None
    descriptors: tuple[str, ...]
    additional: tuple[tuple[str, tuple[str, ...]], ...]
    arrays: tuple[ArrayHead, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was asked for is not available."""

    what: Literal["about", "moment", "batch"]
    text: str


@dataclass(frozen=True, slots=True)
class Bye:
    """The last word: the loader was closed, or takes no further client; ``failed`` where an error was the reason."""

    text: str
    failed: bool
