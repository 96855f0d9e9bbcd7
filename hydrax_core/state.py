"""Saved states in words, and as a file.

Promise: a state is explained without the loader that it was saved of; what is no state is refused. A file holds a
few KB whatever the run, and all hosts of a run would write the same one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydrax_core.errors import shorten

__all__ = ["FILE_NAME", "compare", "explain", "read", "write"]

FILE_NAME = "hydrax_loader.json"
_GROUP_WORDS = {
    "items": "items",
    "batch_size": "items a batch",
    "seed": "seed",
    "shuffle_first": "first epoch shuffled",
    "shuffle_later": "later epochs",
    "remainder": "remainder",
    "data": "digest of the data",
    "augment_func": "augmented by",
}


def explain(state: Mapping[str, Any]) -> str:
    """What a saved state says, in words, one thing a line.

    Args:
        state: What ``Dataloader.state_dict()`` returned, also after JSON.

    Raises:
        TypeError: It is no such state.
    """
    saved = _checked("state", state)
    lines = [f"after {_count(saved['training_batches'], 'training batch', 'training batches')} of the run"]
    if saved["validation_batches"] and saved["validation"]["groups"]:
        lines.append(
            f"and {_count(saved['validation_batches'], 'batch', 'batches')} of the validation run that follows"
        )
    if saved["ahead"]:
        numbers = ", ".join(map(str, saved["ahead"][:5]))
        more = f" and {len(saved['ahead']) - 5} more" if len(saved["ahead"]) > 5 else ""  # noqa: PLR2004  as above
        lines.append(f"later batches handed out already (deterministic=False): {numbers}{more}")
    for kind in ("training", "validation"):
        for number, group in enumerate(saved[kind]["groups"]):
            words = ", ".join(f"{word}: {group[key]}" for key, word in _GROUP_WORDS.items() if key in group)
            lines.append(f"{kind} group {number}: {words}")
    if saved["validation"]["groups"]:
        lines.append(
            f"validation every {_count(saved['validation']['interval'], 'training batch', 'training batches')}"
        )
    return "\n".join(lines)


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """What differs between two saved states, one thing a line; ``"equal"`` where nothing does.

    Args:
        first: A state.
        second: Another.

    Raises:
        TypeError: One of them is no state.
    """
    one, other = dict(_flat("", _checked("first", first))), dict(_flat("", _checked("second", second)))
    missing = object()
    lines = []
    for field in dict.fromkeys([*one, *other]):
        ours, theirs = one.get(field, missing), other.get(field, missing)
        if ours != theirs:
            left, right = ("nothing" if value is missing else repr(value) for value in (ours, theirs))
            lines.append(f"{field}: {left} in the first, {right} in the second")
    return "\n".join(lines) or "equal"


async def write(state: Mapping[str, Any], directory: Any, *, here: bool) -> None:
    """Write a state into a folder, where it is for this host to do.

    Args:
        state: The state.
        directory: The folder, which may be promised only: it then has ``await_creation()``, as orbax has it.
        here: Whether this host writes.
    """
    made = await directory.await_creation() if hasattr(directory, "await_creation") else directory
    if not here:
        return
    path = made if hasattr(made, "write_text") else Path(os.fspath(made))
    (path / FILE_NAME).write_text(json.dumps(state))


def read(directory: Any) -> dict[str, Any]:
    """The state in a folder.

    Raises:
        FileNotFoundError: There is none.
        TypeError: What is there is no state.
    """
    path = directory if hasattr(directory, "read_text") else Path(os.fspath(directory))
    return _checked(FILE_NAME, json.loads((path / FILE_NAME).read_text()))


def _checked(argument: str, state: Any) -> dict[str, Any]:
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(state)))
        for key in ("training_batches", "validation_batches", "ahead", "version"):
            _ = copied[key]
        for kind in ("training", "validation"):
            _ = [dict(group) for group in copied[kind]["groups"]]
        _ = copied["validation"]["interval"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{argument}: expected what state_dict() returned, got {shorten(state)} ({error!r})") from error
    return copied


def _flat(where: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(f"{where}.{key}" if where else key, inner)]
    if isinstance(value, list) and value:
        return [pair for number, inner in enumerate(value) for pair in _flat(f"{where}[{number}]", inner)]
    return [(where, value)]


def _count(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number:,} {many}"
