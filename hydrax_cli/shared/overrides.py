"""What the command line changes about a loader: another loader with the same data.

Promise: the result has an end, so that trying a loader that was made to train for ever ends, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hydrax_cli.shared.options import Overrides
from hydrax_cli.shared.target import Target, load_target

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hydrax_cli.shared.options import AskedLoader
    from hydrax_core import DataGroup, Dataloader

__all__ = ["load_overridden", "override", "refuse_pickles"]


def load_overridden(asked: AskedLoader) -> tuple[Target, Dataloader[Any]]:
    """A target as it says itself, and its loader with the changes asked for."""
    found = load_target(asked.target, asked.parameters, asked.data)
    try:
        return found, override(found.loader, asked.changes)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def override(loader: Dataloader[Any], asked: Overrides) -> Dataloader[Any]:
    """A new loader, not started; where neither it nor the options name an end, it runs for one epoch."""
    options = {"loader_count": asked.workers, "loader_kind": asked.kind, "depth": asked.depth, "start_at": asked.start}
    options["hosts"] = asked.hosts
    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if asked.batch_size is not None or asked.seed is not None or asked.cache is not None:
        changes["training"] = _regroup("training", loader.training, asked)
        if loader.validation:
            every, rest = divmod(loader.validation_interval, loader.batches_per_epoch)
            interval = ("batch", loader.validation_interval) if rest else ("epoch", every)
            changes["validation"] = (*interval, _regroup("validation", loader.validation, asked))
    changed = loader.replace(**changes)
    end = _end(changed, asked)
    return changed if end == changed.last_batch else changed.replace(end_at=("batch", end))


def _regroup(kind: str, groups: Sequence[DataGroup[Any]], asked: Overrides) -> list[DataGroup[Any]]:
    changed = []
    for position, group in enumerate(groups):
        changes: dict[str, Any] = {}
        if asked.batch_size is not None:
            changes["batch_size"] = asked.batch_size
        if asked.seed is not None and kind == "training":
            changes["seed"] = asked.seed
        if asked.cache is not None and group.cache_location is None:
            folder = changes["cache_location"] = asked.cache / f"{kind}-{position}"
            if not asked.allow_pickle:
                refuse_pickles(group, folder)
        changed.append(group.replace(**changes))
    return changed


def refuse_pickles(group: DataGroup[Any], folder: Path) -> None:
    """Refuse to unpickle what others may have put into a folder that the command line names."""
    if group.cache_pickle and folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(
            f"TARGET says cache_pickle=True, so reading {folder} runs whatever code is in it; if you trust all who can "
            "write there as you trust code, give --allow-pickle"
        )


def _end(loader: Dataloader[Any], asked: Overrides) -> int:
    """Number of the training batch to stop before."""
    ends = []
    if asked.epochs is not None:
        ends.append((loader.first_batch // loader.batches_per_epoch + asked.epochs) * loader.batches_per_epoch)
    if asked.batches is not None:
        ends.append(loader.first_batch + asked.batches)
    if ends:
        return min(ends)
    if loader.last_batch is not None:
        return loader.last_batch
    return _end(loader, Overrides(epochs=1))
