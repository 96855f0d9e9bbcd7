"""Which batch is the n-th of the run: a function of n alone, validation included.

Promise: no state and no I/O; any n costs the same. Training batches are counted from the start of the first epoch,
also where a run starts later, so a number means the same batch in every run of the same settings.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hydrax_core.errors import BatchAddress
from hydrax_core.plan.order import BatchContent, GroupOrder

__all__ = ["Interleaving", "Plan", "PlannedBatch", "Position"]


class PlannedBatch(NamedTuple):
    """The n-th batch of the run.

    Attributes:
        number: n, counting training and validation.
        address: Where it stands, in the user's terms.
        content: Its items and seeds.
    """

    number: int
    address: BatchAddress
    content: BatchContent


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two batches.

    Attributes:
        training: Training batches before it.
        validation: Validation batches of the run that follows them which are before it, too.
    """

    training: int
    validation: int


class Interleaving:
    """How the batches of several groups follow one another within a pass.

    Args:
        counts: Batches of each group, each at least 1.
        interleave: Whether the least-used group gives the next batch (ties: the first); else one group after the other.
    """

    def __init__(self, counts: Sequence[int], *, interleave: bool) -> None:
        self.total = sum(counts)
        self._interleave = interleave
        self._counts = np.array(counts, np.int64)
        if interleave:
            # While fewer than levels[i + 1] batches of each group are used, every group with more than levels[i] is on.
            self._levels = [0, *sorted(set(counts))]
            active = [int((self._counts > level).sum()) for level in self._levels]
            steps = np.diff(self._levels)
            self._starts = [0, *np.cumsum(steps * np.array(active[:-1])).tolist()]
            self._active = (-1, np.empty(0, np.int64))
            """A level, and the groups that are on there; replaced as a whole, whatever interrupts."""
        else:
            self._starts = [0, *np.cumsum(self._counts).tolist()]

    def locate(self, position: int) -> tuple[int, int]:
        """The group at ``position`` of the pass, and which of its batches."""
        if len(self._counts) == 1:
            return 0, position
        part = bisect.bisect_right(self._starts, position) - 1
        offset = position - self._starts[part]
        if not self._interleave:
            return part, offset
        level, active = self._active
        if part != level:
            active = np.flatnonzero(self._counts > self._levels[part])
            self._active = (part, active)
        turn, place = divmod(offset, len(active))
        return int(active[place]), self._levels[part] + turn


class Plan:
    """The batches of a run.

    Args:
        training: Order and batch count of each training group.
        validation: The same for validation; empty for none.
        validation_interval: Training batches between two validation runs; 0 without validation.
        interleave: See ``Interleaving``.
    """

    def __init__(
        self,
        training: Sequence[tuple[GroupOrder, int]],
        validation: Sequence[tuple[GroupOrder, int]],
        validation_interval: int,
        *,
        interleave: bool,
    ) -> None:
        self._training = [order for order, _ in training]
        self._validation = [order for order, _ in validation]
        self._interval = validation_interval
        self._epoch = Interleaving([count for _, count in training], interleave=interleave)
        self._run = Interleaving([count for _, count in validation], interleave=interleave)
        self.batches_per_epoch = self._epoch.total
        self.batches_per_validation = self._run.total

    def number(self, position: Position) -> int:
        """How many batches of the run stand before ``position``."""
        if not self._interval:
            return position.training
        runs = position.training // self._interval
        if runs and position.training % self._interval == 0:
            open_batches = self.batches_per_validation - min(position.validation, self.batches_per_validation)
            return position.training + runs * self.batches_per_validation - open_batches
        return position.training + runs * self.batches_per_validation

    def position(self, number: int) -> Position:
        """The place before the batch ``number``; the inverse of ``number()``."""
        if not self._interval:
            return Position(number, 0)
        runs, offset = divmod(number, self._interval + self.batches_per_validation)
        if offset == 0 and runs:
            return Position(runs * self._interval, self.batches_per_validation)
        return Position(runs * self._interval + min(offset, self._interval), max(0, offset - self._interval))

    def batch(self, number: int) -> PlannedBatch:
        """The batch ``number`` of the run."""
        training, validation = number, -1
        if self._interval:
            runs, offset = divmod(number, self._interval + self.batches_per_validation)
            training = runs * self._interval + offset
            if offset >= self._interval:
                validation = offset - self._interval
                return self._validation_batch(number, runs, validation)
        epoch, epoch_batch = divmod(training, self.batches_per_epoch)
        group, group_batch = self._epoch.locate(epoch_batch)
        address = BatchAddress("training", group, epoch, epoch_batch, training)
        return PlannedBatch(number, address, self._training[group].batch(epoch, group_batch))

    def substitute(self, address: BatchAddress, index: int, attempt: int) -> tuple[int, int | None]:
        """The item (and its seed) that stands in for the failing item ``index`` of a batch."""
        orders = self._training if address.kind == "training" else self._validation
        return orders[address.group_index].substitute(address.epoch, index, attempt)

    def _validation_batch(self, number: int, run: int, run_batch: int) -> PlannedBatch:
        group, group_batch = self._run.locate(run_batch)
        address = BatchAddress("validation", group, run, run_batch, run * self.batches_per_validation + run_batch)
        return PlannedBatch(number, address, self._validation[group].batch(0, group_batch))
