"""Which group gives the n-th batch, and which of its batches that is: a function of n, with exact counts a block.

Promise: no state and no table of batches; any n costs the same. A group's batches come in their own order, each once,
before any comes again: where it starts over, the group's next epoch begins. Within a block of a pattern the counts of
the groups are exact, and evenly spread.

The counts of two groups are spread as the points of a digital line (J. Bresenham, 1965): each prefix is off by at most
one half. Of more groups, those with equal counts take turns; of what is left, the two smallest counts are joined to one
until one is left, as in a Huffman code, so that small shares are spread by few roundings.
"""

from __future__ import annotations

import bisect
import heapq
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np

from hydrax_core.data.checks import integer
from hydrax_core.errors import StateMismatchError

__all__ = [
    "InTurn",
    "Interleave",
    "LeastUsed",
    "Mixture",
    "Pattern",
    "Spread",
    "Stage",
    "Stop",
    "Turn",
    "block_counts",
    "by_weights",
    "in_order",
]

Stop: TypeAlias = Literal["first", "all", "restart"]
Interleave: TypeAlias = bool | Literal["least_used"]
LONGEST_BLOCK = 10**9
"""Batches within which the shares of weights are exact, at most."""
_logger = logging.getLogger("hydrax")


class Turn(NamedTuple):
    """Whose batch it is.

    Attributes:
        epoch: How often all batches of the group came before.
        position: Which of its batches it is, in that epoch of the group.
    """

    group: int
    epoch: int
    position: int


class Pattern(Protocol):
    """How the batches of several groups follow one another in a block."""

    counts: tuple[int, ...]
    """Batches of each group in the block."""

    def locate(self, position: int) -> tuple[int, int]:
        """The group at ``position`` of the block, and how many of its batches come before."""

    def used(self, position: int) -> list[int]:
        """How many of the first ``position`` turns each group has."""


class InTurn:
    """One group after the other; see ``Pattern``."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        self._starts = [0, *np.cumsum(self.counts).tolist()]

    def locate(self, position: int) -> tuple[int, int]:
        group = bisect.bisect_right(self._starts, position) - 1
        return group, position - self._starts[group]

    def used(self, position: int) -> list[int]:
        return [min(count, max(0, position - start)) for count, start in zip(self.counts, self._starts, strict=False)]


class LeastUsed:
    """The group that gave the fewest batches gives the next (ties: the first); see ``Pattern``."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        self._counts = np.array(counts, np.int64)
        # While fewer than levels[i + 1] batches of each group are used, every group with more than levels[i] is on.
        self._levels = [0, *sorted(set(counts))]
        active = [int((self._counts > level).sum()) for level in self._levels]
        steps = np.diff(self._levels)
        self._starts = [0, *np.cumsum(steps * np.array(active[:-1])).tolist()]
        self._active = (-1, np.empty(0, np.int64))
        """A level, and the groups that are on there; replaced as a whole, whatever interrupts."""

    def locate(self, position: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._starts, position) - 1
        level, active = self._active
        if part != level:
            active = np.flatnonzero(self._counts > self._levels[part])
            self._active = (part, active)
        turn, place = divmod(position - self._starts[part], len(active))
        return int(active[place]), self._levels[part] + turn

    def used(self, position: int) -> list[int]:
        if position == self._starts[-1]:
            return list(self.counts)
        group, turn = self.locate(position)
        return [min(count, turn + (other < group)) for other, count in enumerate(self.counts)]


class _Fork(NamedTuple):
    """Two parts of a pattern that are spread among each other."""

    major: _Fork | tuple[int, ...]
    minor: _Fork | tuple[int, ...]
    total: int
    minors: int

    def used(self, position: int) -> int:
        """How many of the first ``position`` turns are the minor part's."""
        return (position * self.minors + (self.total - 1) // 2) // self.total


class Spread:
    """Each group evenly over the whole block, in its share; see ``Pattern``. A count may be 0."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        alike: dict[int, list[int]] = {}
        for group, count in enumerate(self.counts):
            if count:
                alike.setdefault(count, []).append(group)
        heap: list[tuple[int, int, _Fork | tuple[int, ...]]] = [
            (count * len(groups), -groups[0], tuple(groups)) for count, groups in alike.items()
        ]
        heapq.heapify(heap)
        while len(heap) > 1:
            small, first, minor = heapq.heappop(heap)
            large, other, major = heapq.heappop(heap)
            heapq.heappush(heap, (small + large, max(first, other), _Fork(major, minor, small + large, small)))
        self._root = heap[0][2]

    def locate(self, position: int) -> tuple[int, int]:
        node = self._root
        while isinstance(node, _Fork):
            minors = node.used(position)
            if node.used(position + 1) > minors:
                node, position = node.minor, minors
            else:
                node, position = node.major, position - minors
        nth, place = divmod(position, len(node))
        return node[place], nth

    def used(self, position: int) -> list[int]:
        found = [0] * len(self.counts)
        left: list[tuple[_Fork | tuple[int, ...], int]] = [(self._root, position)]
        while left:
            node, turns = left.pop()
            if isinstance(node, _Fork):
                minors = node.used(turns)
                left += [(node.minor, minors), (node.major, turns - minors)]
            else:
                for place, group in enumerate(node):
                    found[group] = (turns - place + len(node) - 1) // len(node)
        return found


@dataclass(frozen=True, slots=True)
class Stage:
    """From which training batch on groups come in which proportion.

    Attributes:
        counts: Batches of each group in a block.
    """

    start: int
    counts: tuple[int, ...]


class Mixture:
    """The turns of the groups in a run.

    Args:
        batch_counts: Batches an epoch of each group, each at least 1.
        pattern: Of one block, which comes again and again, or the stages with a pattern of their own each, by ``start``
            from 0 on.
        batches_per_epoch: Batches in an epoch of the run; ``None`` for a block.
    """

    def __init__(
        self,
        batch_counts: Sequence[int],
        pattern: Pattern | Sequence[Stage],
        batches_per_epoch: int | None = None,
    ) -> None:
        self.batch_counts = tuple(batch_counts)
        """Batches an epoch of each group."""
        self.stages: tuple[Stage, ...] = ()
        """The stages, where weights were given."""
        self._patterns: list[Pattern] = []
        self._starts = [0]
        self._before = [(0,) * len(self.batch_counts)]
        if isinstance(pattern, Sequence):
            self.stages = tuple(pattern)
            spreads = [Spread(stage.counts) for stage in self.stages]
            self._patterns.extend(spreads)
            self._starts = [stage.start for stage in self.stages]
            for spread, stage, after in zip(spreads, self.stages, self.stages[1:], strict=False):
                used = _used(spread, after.start - stage.start)
                self._before.append(tuple(map(sum, zip(self._before[-1], used, strict=True))))
        else:
            self._patterns.append(pattern)
        self._blocks = [sum(pattern.counts) for pattern in self._patterns]
        self._single = len(self.batch_counts) == 1
        self.batches_per_epoch = self._blocks[0] if batches_per_epoch is None else batches_per_epoch

    def locate(self, number: int) -> Turn:
        """Whose turn the training batch ``number`` is."""
        if self._single:
            return Turn(0, *divmod(number, self.batch_counts[0]))
        stage = bisect.bisect_right(self._starts, number) - 1 if len(self._starts) > 1 else 0
        block, position = divmod(number - self._starts[stage], self._blocks[stage])
        pattern = self._patterns[stage]
        group, nth = pattern.locate(position)
        nth += block * pattern.counts[group] + self._before[stage][group]
        return Turn(group, *divmod(nth, self.batch_counts[group]))

    def used(self, number: int) -> tuple[int, ...]:
        """Batches of each group among the first ``number`` training batches."""
        if self._single:
            return (number,)
        stage = bisect.bisect_right(self._starts, number) - 1
        found = _used(self._patterns[stage], number - self._starts[stage])
        return tuple(map(sum, zip(self._before[stage], found, strict=True)))

    def share(self, number: int) -> tuple[float, ...]:
        """The share of each group around the training batch ``number``."""
        stage = bisect.bisect_right(self._starts, number) - 1
        return tuple(count / self._blocks[stage] for count in self._patterns[stage].counts)

    def saved(self) -> dict[str, Any] | str | None:
        """What ``resumed()`` reads, as JSON values; ``None`` of a single group."""
        if self._single and not self.stages:
            return None
        if not self.stages:
            return {Spread: "spread", LeastUsed: "least_used", InTurn: "in_turn"}[type(self._patterns[0])]
        stages = [[stage.start, list(stage.counts)] for stage in self.stages]
        return {"stages": stages, "batches_per_epoch": self.batches_per_epoch}

    def resumed(self, saved: Any, number: int) -> Mixture:
        """This mixture from the training batch ``number`` on, and what was saved before it.

        Raises:
            TypeError: ``saved`` is nothing that ``saved()`` gave.
            StateMismatchError: Only one of both has weights, they have none and differ, or epochs differ in length.
        """
        own = self.saved()
        if saved == own:
            return self
        if not isinstance(saved, dict) or not isinstance(own, dict):
            found = ["weights" if isinstance(turns, dict) else repr(turns) for turns in (saved, own)]
            raise StateMismatchError(
                f"weights, interleave_groups: the groups of the saved run follow one another by {found[0]}, "
                f"those of this loader by {found[1]}; give it the same"
            )
        try:
            stages = [Stage(integer("start", start, 0), tuple(counts)) for start, counts in saved["stages"]]
            length = integer("batches_per_epoch", saved["batches_per_epoch"], 1)
            fits = all(len(stage.counts) == len(self.batch_counts) and min(stage.counts) >= 0 for stage in stages)
            starts = [stage.start for stage in stages]
            known = fits and all(sum(stage.counts) for stage in stages) and starts[0] == 0 and starts == sorted(starts)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TypeError(f"state: its weights are not what state_dict() returned ({error!r})") from error
        if not known:
            raise TypeError(f"state: its weights are not what state_dict() returned, for these groups: {saved!r}")
        if length != self.batches_per_epoch:
            raise StateMismatchError(
                f"batches_per_epoch: the saved state belongs to a run with epochs of {length} batches, here they have "
                f"{self.batches_per_epoch}; give batches_per_epoch={length} to go on under other weights"
            )
        if _from(stages, number) != _from(self.stages, number):
            stages = [stage for stage in stages if stage.start < number] + _from(self.stages, number)
            _logger.warning("weights: from training batch %d on they are not those of the saved run", number)
        return Mixture(self.batch_counts, stages, length)


def _from(stages: Sequence[Stage], number: int) -> list[Stage]:
    """What of the stages is in use from the training batch ``number`` on."""
    current = [Stage(number, stage.counts) for stage in stages if stage.start <= number][-1:]
    return current + [stage for stage in stages if stage.start > number]


def _used(pattern: Pattern, number: int) -> list[int]:
    """Batches of each group among the first ``number``, over as many blocks as that takes."""
    blocks, rest = divmod(number, sum(pattern.counts))
    return [blocks * count + more for count, more in zip(pattern.counts, pattern.used(rest), strict=True)]


def in_order(batch_counts: Sequence[int], interleave: Interleave) -> Mixture:
    """The turns of groups without weights: within an epoch, each gives each of its batches once.

    Args:
        interleave: ``True``: each group evenly over the epoch; ``"least_used"`` group first; ``False``: one after the
            other.
    """
    kinds: dict[Interleave, type[Spread | InTurn | LeastUsed]] = {True: Spread, False: InTurn, "least_used": LeastUsed}
    return Mixture(batch_counts, kinds[interleave](batch_counts))


def block_counts(argument: str, weights: Any, groups: int) -> tuple[int, ...]:
    """How often each group comes in a block, for its weight.

    Weights that are fractions of a whole of at most ``LONGEST_BLOCK`` parts are kept exactly; of others the block has
    that many parts, and each count is off by less than one.

    Args:
        argument: Name of the user's argument, for the error texts.
        weights: A sequence of numbers of at least 0, one a group; or a dict, group -> number, 0 for those left out.
        groups: How many groups there are.

    Raises:
        TypeError: The weights are no numbers.
        ValueError: They are not as many as the groups, negative, all 0, or one is less than a part.
    """
    expected = f"{groups} numbers of at least 0, one for each group, or a dict of the group's number -> weight"
    if isinstance(weights, Mapping):
        unknown = [group for group in weights if isinstance(group, bool) or group not in range(groups)]
        if unknown:
            raise ValueError(f"{argument}: there is no group {unknown[0]!r}; expected {expected}")
        weights = [weights.get(group, 0) for group in range(groups)]
    try:
        exact = [Fraction(weight) for weight in weights]
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{argument}: expected {expected}, got {weights!r}") from None
    total = sum(exact)
    if len(exact) != groups or min(exact) < 0 or not total:
        raise ValueError(f"{argument}: expected {expected}, at least one above 0; got {weights!r}")
    shares = [weight / total for weight in exact]
    parts = math.lcm(*(share.limit_denominator(LONGEST_BLOCK).denominator for share in shares))
    close = [share.limit_denominator(LONGEST_BLOCK) for share in shares]
    if parts > LONGEST_BLOCK or sum(close) != 1:
        parts, close = LONGEST_BLOCK, shares
    counts = [math.floor(share * parts) for share in close]
    by_rest = sorted(range(groups), key=lambda group: counts[group] - close[group] * parts)
    for group in by_rest[: parts - sum(counts)]:
        counts[group] += 1
    for group, share in enumerate(shares):
        if share and not counts[group]:
            raise ValueError(f"{argument}: group {group} has less than a part in {LONGEST_BLOCK:,} of all; use 0")
    return tuple(counts)


def by_weights(batch_counts: Sequence[int], weights: Any, stop: Any, batches_per_epoch: int | None) -> Mixture:
    """The turns of groups with weights.

    Args:
        weights: See ``block_counts``; or stages, ``[(first training batch, weights), ...]``.
        stop: When an epoch ends: with the ``"first"`` group whose batches came all, with the last of them
            (``"all"``), or after as many batches as all groups have (``"restart"``).
        batches_per_epoch: The length of an epoch, instead.
    """
    groups = len(batch_counts)
    stages: list[Stage] = []
    if _are_stages(weights):
        for place, (start, values) in enumerate(weights):
            first = integer(f"weights[{place}][0]", start, 0)
            if first != 0 if not stages else first <= stages[-1].start:
                raise ValueError(f"weights: stages begin with batch 0 and go upwards, got {[s[0] for s in weights]}")
            stages.append(Stage(first, block_counts(f"weights[{place}][1]", values, groups)))
    else:
        stages.append(Stage(0, block_counts("weights", weights, groups)))
    if stop is not None and stop not in get_args(Stop):
        raise ValueError(f"stop: expected one of {', '.join(map(repr, get_args(Stop)))}, got {stop!r}")
    if batches_per_epoch is None:
        batches_per_epoch = sum(batch_counts)
        if stop in {"first", "all"}:
            if len(stages) > 1:
                raise ValueError(f"stop: with stages no epoch is like the other; give batches_per_epoch, not {stop!r}")
            batches_per_epoch = _length(Spread(stages[0].counts), batch_counts, stop)
    elif stop is not None:
        raise ValueError(f"stop: batches_per_epoch says already when an epoch ends; got {stop!r}, too")
    return Mixture(batch_counts, stages, batches_per_epoch)


def _are_stages(weights: Any) -> bool:
    return (
        isinstance(weights, list | tuple)
        and len(weights) > 0
        and all(isinstance(stage, list | tuple) and len(stage) == 2 for stage in weights)  # noqa: PLR2004  a pair
    )


def _length(spread: Spread, batch_counts: Sequence[int], stop: str) -> int:
    """Batches until the first group gave all its own, or until every one did; groups without a share do not count."""
    block = sum(spread.counts)

    def until(group: int) -> int:
        most = (batch_counts[group] // spread.counts[group] + 1) * block
        return bisect.bisect_left(range(most), batch_counts[group], key=lambda n: _used(spread, n)[group])

    found = [until(group) for group, count in enumerate(spread.counts) if count]
    return min(found) if stop == "first" else max(found)
