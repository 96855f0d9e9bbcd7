"""A run as epochs, one loop in another, where ``for batch in loader`` has it as one stream.

Promise: the batches are those of the stream, in its order and with its positions: a saved state is the same. An epoch
ends where its last batch would be, also when that was skipped; what is left of it when the next one is asked for
is passed over.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from hydrax_core.batch.batch import TrainingBatch, ValidationBatch
from hydrax_core.plan.plan import Plan, PlannedBatch, Position

__all__ = ["NO_LENGTH", "Epoch", "Epochs", "Stream"]

D = TypeVar("D")
NO_LENGTH = "a stream has no length before its end; count its batches as they come"


@dataclass(frozen=True, slots=True)
class Stream(Generic[D]):
    """The batches of a loader, taken one by one.

    Attributes:
        peek: Which batch comes next; ``None`` at the end.
        take: Takes it; the frame is the caller's, for error texts.
        last: Training batch to stop before, ``None`` for an endless run.
        open_ended: Whether training is a stream, whose end is not known before it comes.
    """

    peek: Callable[[], PlannedBatch | None]
    take: Callable[[types.FrameType], TrainingBatch[D] | ValidationBatch[D] | None]
    plan: Plan
    last: int | None
    open_ended: bool = False

    def bounds(self, epoch: int) -> tuple[int, int]:
        """Numbers of the batches before which an epoch's own batches end, and its last validation run."""
        end = (epoch + 1) * self.plan.batches_per_epoch
        end = end if self.last is None else min(end, self.last)
        total = self.plan.batches_per_validation
        first = self.plan.validated_first if end == 0 else 0  # that run stands before the epoch
        return max(first, self.plan.number(Position(end, 0))), self.plan.number(Position(end, total))

    def epoch_of(self, planned: PlannedBatch) -> int:
        """The epoch that a batch belongs to; a validation run belongs to that of the training batch before it."""
        if planned.address.kind == "training":
            return planned.address.epoch
        return max(0, self.plan.position(planned.number).training - 1) // self.plan.batches_per_epoch


class _Batches(Generic[D]):
    """The next batches of a stream from one number up to another; earlier ones are passed over."""

    def __init__(self, stream: Stream[D], first: int, end: int) -> None:
        self._stream, self._first, self._end = stream, first, end

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrainingBatch[D] | ValidationBatch[D]:
        caller = sys._getframe(1)  # noqa: SLF001  the only way to say where a held batch was handed out
        while (planned := self._stream.peek()) is not None and planned.number < self._end:
            batch = self._stream.take(caller)
            if batch is None:  # another thread has closed the loader
                break
            if planned.number >= self._first:
                return batch
        raise StopIteration


class _Run(Generic[D]):
    """A validation run before or behind the batches of an epoch."""

    def __init__(self, stream: Stream[D], first: int, end: int, position: int) -> None:
        self._stream, self._first, self._end = stream, first, end
        self._length = max(0, end - max(first, position))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return _Batches(self._stream, self._first, self._end)


class Epoch(Generic[D]):
    """An epoch: iterate over it for its batches, and over ``validation`` for the validation run at its end.

    Validation runs within the epoch, ``validation=("batch", ...)``, come between its training batches. Going on to the
    validation, or to the next epoch, passes over what is left.

    Attributes:
        number: Which epoch, counted from 0.
        validation_before: The validation run before the first training batch, with ``validate_first``; else empty.
        validation: The batches of the validation run that follows; empty where none does.
    """

    def __init__(self, stream: Stream[D], number: int, position: int) -> None:
        end, after = stream.bounds(number)
        self.number = number
        self.validation_before = _Run(stream, 0, stream.plan.validated_first, position)
        self.validation = _Run(stream, end, after, position)
        self._stream, self._first, self._end = stream, stream.plan.validated_first, end
        self._length = max(0, end - max(position, self._first))

    def __len__(self) -> int:
        """How many batches it had left when it began: all, but in a run that was resumed in its middle.

        Raises:
            TypeError: It is of a stream.
        """
        if self._stream.open_ended:
            raise TypeError(NO_LENGTH)
        return self._length

    def __iter__(self) -> Iterator[TrainingBatch[D] | ValidationBatch[D]]:
        return _Batches(self._stream, self._first, self._end)

    def __repr__(self) -> str:
        return f"<Epoch {self.number}: {'a stream' if self._stream.open_ended else f'{self._length} batches'}>"


class Epochs(Generic[D]):
    """The epochs of a run, one after the other."""

    def __init__(self, stream: Stream[D]) -> None:
        self._stream = stream
        self._passed = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Epoch[D]:
        caller = sys._getframe(1)  # noqa: SLF001  see _Batches
        while (planned := self._stream.peek()) is not None and planned.number < self._passed:
            if self._stream.take(caller) is None:
                raise StopIteration
        if planned is None:
            raise StopIteration
        number = self._stream.epoch_of(planned)
        self._passed = self._stream.bounds(number)[1]
        return Epoch(self._stream, number, planned.number)
