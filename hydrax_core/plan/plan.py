"""Which batch is the n-th of the run: a function of n alone, validation included.

Promise: no state and no I/O; any n costs the same. Training batches are counted from the start of the first epoch,
also where a run starts later, so a number means the same batch in every run of the same settings.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from hydrax_core.errors import BatchAddress
from hydrax_core.plan.mixture import Interleave, Mixture, in_order
from hydrax_core.plan.order import BatchContent, GroupOrder, StandIn

__all__ = ["Plan", "PlannedBatch", "Position"]


class PlannedBatch(NamedTuple):
    """The n-th batch of the run.

    Attributes:
        number: n, counting training and validation.
        address: Where it stands, in the user's terms.
    """

    number: int
    address: BatchAddress
    content: BatchContent


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two batches.

    Attributes:
        validation: Validation batches of the run that follows them which are before it, too.
    """

    training: int
    validation: int


class Plan:
    """The batches of a run.

    Args:
        training: Order and batch count of each training group.
        validation: The same for validation; empty for none.
        validation_interval: Training batches between two validation runs; 0 without validation.
        interleave: How the groups of a pass follow one another, see ``in_order``.
        mixture: The turns of the training groups, where they have weights.
        validates_first: Whether a validation run stands before the first training batch.
    """

    def __init__(
        self,
        training: Sequence[tuple[GroupOrder, int]],
        validation: Sequence[tuple[GroupOrder, int]],
        validation_interval: int,
        *,
        interleave: Interleave,
        mixture: Mixture | None = None,
        validates_first: bool = False,
    ) -> None:
        self._training = [order for order, _ in training]
        self._validation = [order for order, _ in validation]
        self._interval = validation_interval
        self.mixture = in_order([count for _, count in training], interleave) if mixture is None else mixture
        """The turns of the training groups."""
        self._run = in_order([count for _, count in validation], interleave) if validation else None
        self.batches_per_epoch = self.mixture.batches_per_epoch
        self.batches_per_validation = 0 if self._run is None else self._run.batches_per_epoch
        self.validated_first = self.batches_per_validation if validates_first else 0
        """Validation batches before the first training batch."""

    def saved(self) -> dict[str, Any]:
        """How groups follow one another, as JSON values: what ``resumed()`` reads."""
        return {"training": self.mixture.saved(), "validation": None if self._run is None else self._run.saved()}

    def resumed(self, saved: Any, number: int) -> Self:
        """The plan for a run that goes on with the batch ``number``, see ``Mixture.resumed``."""
        if not isinstance(saved, dict):
            saved = {}
        position = self.position(number)
        if self._run is not None and 0 < position.validation < self.batches_per_validation:
            self._run.resumed(saved.get("validation"), 0)
        plan = copy.copy(self)
        plan.mixture = self.mixture.resumed(saved.get("training"), position.training)
        return plan

    def number(self, position: Position) -> int:
        """How many batches of the run stand before ``position``."""
        if not self._interval:
            return position.training
        runs, rest = divmod(position.training, self._interval)
        number = self.validated_first + position.training + runs * self.batches_per_validation
        if rest == 0 and (runs or self.validated_first):
            number -= self.batches_per_validation - min(position.validation, self.batches_per_validation)
        return number

    def position(self, number: int) -> Position:
        if not self._interval:
            return Position(number, 0)
        if number < self.validated_first:
            return Position(0, number)
        runs, offset = divmod(number - self.validated_first, self._interval + self.batches_per_validation)
        if offset == 0 and (runs or self.validated_first):
            return Position(runs * self._interval, self.batches_per_validation)
        return Position(runs * self._interval + min(offset, self._interval), max(0, offset - self._interval))

    def batch(self, number: int) -> PlannedBatch:
        training = number
        if number < self.validated_first:
            return self._validation_batch(number, 0, number)
        if self._interval:
            runs, offset = divmod(number - self.validated_first, self._interval + self.batches_per_validation)
            training = runs * self._interval + offset
            if offset >= self._interval:
                return self._validation_batch(number, runs + bool(self.validated_first), offset - self._interval)
        epoch, epoch_batch = divmod(training, self.batches_per_epoch)
        turn = self.mixture.locate(training)
        address = BatchAddress("training", turn.group, epoch, epoch_batch, training)
        return PlannedBatch(number, address, self._training[turn.group].batch(turn.epoch, turn.position))

    def substitute(self, address: BatchAddress, index: int, attempt: int) -> StandIn:
        """The item that stands in for the failing item ``index`` of a batch."""
        if address.kind == "validation":
            return self._validation[address.group_index].substitute(address.epoch, index, attempt)
        epoch = self.mixture.locate(address.batch_num).epoch
        return self._training[address.group_index].substitute(epoch, index, attempt)

    def _validation_batch(self, number: int, run: int, run_batch: int) -> PlannedBatch:
        assert self._run is not None
        group, _, group_batch = self._run.locate(run_batch)
        address = BatchAddress("validation", group, run, run_batch, run * self.batches_per_validation + run_batch)
        return PlannedBatch(number, address, self._validation[group].batch(0, group_batch))
