"""What ``hydrax run`` says, as frozen values: the plan before the run, the result after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydrax_core.errors import HydraxError
from hydrax_core.monitor import plan_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrax_cli.shared.target import Target
    from hydrax_core import DataGroup, Stats
    from hydrax_core.monitor import GroupPlan, Pass, RunPlan

__all__ = ["CachePlan", "PlannedRun", "RunResult", "describe"]


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The cache of a group.

    Attributes:
        keeps: ``"batch"`` or ``"item"``.
        shared: Whether what one epoch needs serves every other; else each epoch has entries of its own.
        held: Entries that are there; ``None`` where that is not known.
        complete: Entries that one epoch needs.
        filled: Whether this run stores what it loads.
    """

    folder: str
    keeps: str
    shared: bool
    held: int | None
    complete: int
    filled: bool


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What a run is going to do.

    Attributes:
        target: What runs, for people.
        kind: What data was taken for; empty where the target is code.
        caches: The cache of each group of the plan.
        loader_count: Workers, as ``Dataloader`` has them; ``--workers`` on the command line.
        depth: Batches loaded ahead.
        slot_bytes: Size of a place for a batch.
        deterministic: Whether batches keep their order.
        notes: What people have to know of the data: a word and a text.
        classes: Arrays of class numbers -> the names that 0, 1, ... stand for.
        tuned: Which of ``depth`` and ``loader_count`` are chosen while it runs, beginning with those.
    """

    target: str
    kind: str
    notes: tuple[tuple[str, str], ...]
    classes: Mapping[str, tuple[str, ...]]
    plan: RunPlan
    caches: tuple[CachePlan | None, ...]
    loader_count: int
    depth: int
    slot_bytes: int
    deterministic: bool
    tuned: tuple[str, ...]

    @property
    def batches(self) -> int | None:
        """Batches of the whole run; ``None`` of a stream."""
        if self.plan.streams() or self.plan.streams("validation"):
            return None
        return (self.plan.training_batches or 0) + (self.plan.validation_batches or 0)

    @property
    def slots(self) -> int:
        """Places for batches that will be in use: one more in the consumer's hands, one about to be free."""
        return self.depth + 2


def describe(target: Target) -> PlannedRun:
    """The plan of a loader that has an end; its caches are looked into, and not changed."""
    loader = target.loader
    plan = plan_of(loader)
    return PlannedRun(
        target=target.name,
        kind=target.kind,
        notes=target.notes,
        classes=target.classes,
        plan=plan,
        caches=tuple(map(_cache, (*loader.training, *loader.validation), plan.groups)),
        loader_count=loader.loader_count,
        depth=1 if loader.loader_kind == "inline" else loader.depth,
        slot_bytes=loader.slot_bytes,
        deterministic=loader.deterministic,
        tuned=loader.tuned,
    )


def _cache(group: DataGroup[Any], plan: GroupPlan) -> CachePlan | None:
    if group.cache_location is None:
        return None
    from hydrax_core.cache import info  # noqa: PLC0415  a run without a cache needs none of it

    held: int | None = 0
    if group.cache_location.exists():
        try:
            held = info(group.cache_location).entries
        except (HydraxError, OSError):
            held = None  # the loader mends it, or raises, when it opens the cache
    return CachePlan(
        folder=str(group.cache_location),
        keeps=group.cache_by,
        shared=group.cache_by == "item" or plan.kind == "validation" or plan.shuffle_later in {"repeat", "batchwise"},
        held=held,
        complete=plan.items if group.cache_by == "item" else plan.batches,
        filled=not group.cache_readonly and group.cache_layouts == group.loader_layouts,
    )


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did.

    Attributes:
        target: What ran.
        stats: The loader's last snapshot.
        interrupted: Whether it was stopped by Ctrl-C.
        resume: ``"EPOCH:BATCH"`` of the next training batch.
        digest: The hash over all batches of a whole run, where it was asked for.
        verdict: Who waits for whom, or what it failed with.
        findings: What ``check_run`` found; ``None`` where it was not asked.
        classes: Arrays of class numbers -> the names that 0, 1, ... stand for.
    """

    target: str
    passes: tuple[Pass, ...]
    stats: Stats
    interrupted: bool
    resume: str
    digest: str | None
    verdict: str
    findings: tuple[str, ...] | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def idle_seconds(self) -> float:
        """Time without a batch to work on, the time to the first one included."""
        return sum(done.idle_seconds for done in self.passes)
