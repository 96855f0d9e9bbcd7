"""The position of a loader, and how it is saved: a few JSON values that stand after the last batch handed out.

Promise: a state loaded into a loader of the same data and settings goes on with exactly the next batch; one of other
data or settings is refused with what differs. The number of workers, their kind and ``depth`` are free to change.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hydrax_core.data.checks import integer
from hydrax_core.data.fingerprint import WHAT_DATA_IS
from hydrax_core.data.group import DataGroup
from hydrax_core.errors import StateMismatchError, shorten
from hydrax_core.plan.plan import Plan, Position

__all__ = ["Consumed", "restore", "save"]

_VERSION = 1
_logger = logging.getLogger("hydrax")


class Consumed:
    """Which batches of the run are behind, the order in which they were handed out being free.

    Args:
        next_number: The first batch that is not behind.
        ahead: Later ones that are.
    """

    def __init__(self, next_number: int, ahead: Sequence[int] = ()) -> None:
        self.next_number = next_number
        self.ahead = set(ahead)
        self._settle()

    def pass_all_up_to(self, number: int) -> None:
        """All batches up to this one are behind."""
        self.next_number = number + 1
        if self.ahead:  # of a state that was saved without order
            self._settle()

    def pass_one(self, number: int) -> None:
        self.ahead.add(number)
        self._settle()

    def _settle(self) -> None:
        """Have only later numbers ahead: those that the order has reached are behind, and would be saved for ever."""
        while self.next_number in self.ahead:
            self.next_number += 1
        self.ahead = {number for number in self.ahead if number > self.next_number}


def save(
    consumed: Consumed,
    plan: Plan,
    training: Sequence[DataGroup[Any]],
    validation: Sequence[DataGroup[Any]],
    validation_interval: int,
    *,
    interleave: bool,
) -> dict[str, Any]:
    """The state as JSON values."""
    position = plan.position(consumed.next_number)
    return {
        "version": _VERSION,
        "training_batches": position.training,
        "validation_batches": position.validation,
        "ahead": sorted(consumed.ahead),
        "training": _training_settings(training, interleave=interleave),
        "validation": _validation_settings(plan, validation, validation_interval, interleave=interleave),
    }


def restore(
    state: Mapping[str, Any],
    plan: Plan,
    training: Sequence[DataGroup[Any]],
    validation: Sequence[DataGroup[Any]],
    validation_interval: int,
    *,
    interleave: bool,
) -> Consumed:
    """The position that a state describes.

    Validation may have changed since, as long as no validation run was under way; so may the code of an
    ``augment_func``, which the log says.
    """
    try:
        state = json.loads(json.dumps(dict(state)))
        version, training_batches = state["version"], integer("training_batches", state["training_batches"], 0)
        validation_batches = integer("validation_batches", state["validation_batches"], 0)
        ahead = [integer("ahead", number, 0) for number in state["ahead"]]
        saved_training, saved_validation = state["training"], state["validation"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"state: expected what state_dict() returned, got {shorten(state)} ({error!r})") from error
    if version != _VERSION:
        raise StateMismatchError(f"state: it has version {version}, this hydrax reads version {_VERSION}")
    own_training = _training_settings(training, interleave=interleave)
    _note_augmentation(saved_training, own_training)
    _compare("training", saved_training, own_training)
    own_validation = _validation_settings(plan, validation, validation_interval, interleave=interleave)
    if saved_validation != own_validation:
        if ahead or validation_batches:
            _compare("validation", saved_validation, own_validation)
        validation_batches = plan.batches_per_validation
    return Consumed(plan.number(Position(training_batches, validation_batches)), ahead)


def _note_augmentation(saved: Any, own: dict[str, Any]) -> None:
    """Say where groups are augmented by other code than they were, which is no reason to refuse a state."""
    groups = saved.get("groups") if isinstance(saved, dict) else None
    for number, (before, now) in enumerate(
        zip(groups if isinstance(groups, list) else (), own["groups"], strict=False)
    ):
        if isinstance(before, dict) and "augment_func" in before and "augment_func" in now:
            theirs, ours = before["augment_func"], now["augment_func"]
            before["augment_func"] = ours
            if theirs != ours:
                text = "augment_func: training group %d is augmented by %r from here on, in the saved run it was by %r"
                _logger.warning(text, number, ours, theirs)


def _training_settings(groups: Sequence[DataGroup[Any]], *, interleave: bool) -> dict[str, Any]:
    return {"groups": [group.fingerprint() for group in groups], "interleave_groups": interleave and len(groups) > 1}


def _validation_settings(
    plan: Plan, groups: Sequence[DataGroup[Any]], interval: int, *, interleave: bool
) -> dict[str, Any]:
    first = {"first": True} if plan.validated_first else {}
    return {**_training_settings(groups, interleave=interleave), "interval": interval, **first}


def _compare(kind: str, saved: Any, own: Any) -> None:
    differences = list(_differences(kind, saved, own))
    if differences:
        lines = "\n".join(f"  {where}: saved {theirs!r}, here {ours!r}" for where, theirs, ours in differences)
        hint = f"\n(data is {WHAT_DATA_IS})" if any(where.endswith(".data") for where, _, _ in differences) else ""
        raise StateMismatchError(f"the saved state belongs to other data or settings:\n{lines}{hint}")


def _differences(where: str, saved: Any, own: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(saved, dict) and isinstance(own, dict):
        keys = [*own, *(key for key in saved if key not in own)]
        return [found for key in keys for found in _differences(f"{where}.{key}", saved.get(key), own.get(key))]
    if isinstance(saved, list) and isinstance(own, list) and len(saved) == len(own):
        pairs = enumerate(zip(saved, own, strict=True))
        return [found for i, (a, b) in pairs for found in _differences(f"{where}[{i}]", a, b)]
    if isinstance(saved, list) and isinstance(own, list):
        return [(f"number of {where}", len(saved), len(own))]
    return [] if saved == own else [(where, saved, own)]
