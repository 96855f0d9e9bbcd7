"""The arguments of a Dataloader, checked where they are given.

Promise: a wrong argument is refused by name, with what came and what was expected; what is accepted can be run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from hydrax_core.data.checks import boolean, call, choice, integer
from hydrax_core.data.function import check_loader_func
from hydrax_core.data.group import DataGroup
from hydrax_core.engine.schedule import OnError
from hydrax_core.loader.hosts import HostShare, check_in_step, host_share
from hydrax_core.plan.mixture import Interleave, Mixture, by_weights, in_order
from hydrax_core.plan.order import group_order
from hydrax_core.plan.plan import Plan

__all__ = ["Arguments", "Auto", "LoaderKind", "check_arguments"]

Auto: TypeAlias = Literal["auto"]
LoaderKind: TypeAlias = Literal["process", "thread", "inline"]
_MOST_WORKERS = 1024
_MOST_AHEAD = 4096
_LONGEST_NAME = 60


def _load_nothing(*_: Any) -> None:
    """Is never called."""


_NO_TRAINING = DataGroup(1, (None,), loader_arrays={"nothing": ((), "int8")}, loader_func=_load_nothing)
"""Stands where training groups do in a loader that evaluates."""


def _alone(check: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Of an argument that is checked without any other: what gives its value for its name and what came."""
    return {"check": check}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Checked arguments; the names are those of ``Dataloader``, intervals and positions are in batches."""

    loader_func: Callable[..., Any] | None
    training: tuple[DataGroup[Any], ...]
    validation: tuple[DataGroup[Any], ...]
    validation_interval: int
    depth: int | Auto = field(metadata=_alone(lambda name, value: _integer_or_auto(name, value, 1, _MOST_AHEAD)))
    loader_count: int | Auto
    loader_nice: int = field(metadata=_alone(lambda name, value: integer(name, value, -20, 19)))
    cacher_count: int = field(metadata=_alone(lambda name, value: integer(name, value, 0, _MOST_WORKERS)))
    first_batch: int
    last_batch: int | None
    interleave_groups: Interleave
    deterministic: bool = field(metadata=_alone(boolean))
    timeout_sec: float | None = field(metadata=_alone(lambda _, value: _timeout(value)))
    startup_func: Callable[[], Any] | None = field(
        metadata=_alone(lambda name, value: _function(name, value, 0, "no argument"))
    )
    placement_func: Callable[..., Mapping[str, Any]] | None = field(
        metadata=_alone(lambda name, value: _function(name, value, 4, "(arrays, layouts, additional, group)"))
    )
    loader_kind: LoaderKind = field(metadata=_alone(lambda name, value: choice(name, value, get_args(LoaderKind))))
    on_error: OnError = field(metadata=_alone(lambda name, value: choice(name, value, get_args(OnError))))
    max_held: int | None = field(
        metadata=_alone(lambda name, value: None if value is None else integer(name, value, 1))
    )
    monitor: bool | str | None = field(metadata=_alone(lambda _, value: _monitor(value)))
    verify_hosts_every: int = field(metadata=_alone(lambda name, value: integer(name, value, 0)))
    evaluates: bool
    validates_first: bool
    share: HostShare
    plan: Plan

    @property
    def batches_per_epoch(self) -> int:
        return self.plan.batches_per_epoch

    @property
    def batches_per_validation(self) -> int:
        return self.plan.batches_per_validation


def check_arguments(given: Mapping[str, Any]) -> Arguments:
    """Check the arguments of ``Dataloader``; see there for their meaning."""
    loader_func, training, validation = given["loader_func"], given["training"], given["validation"]
    start_at, end_at, evaluation = given["start_at"], given["end_at"], given["evaluation"]
    if evaluation is not None:
        first = given["validate_first"] or None
        _stands_alone(training=training, validation=validation, end_at=end_at, validate_first=first, start_at=start_at)
        # A run of one validation run, which starts behind the only training batch before it.
        training, validation, start_at, end_at = _NO_TRAINING, ("batch", 1, evaluation), (0, 1), ("batch", 1)
    if training is None:  # Dataloader(group): the groups bring their loader functions
        loader_func, training = None, loader_func
    training_groups = _groups("training", training)
    interleave = given["interleave_groups"]
    mixture = _mixture(training_groups, interleave, given["weights"], given["stop"], given["batches_per_epoch"])
    per_epoch = mixture.batches_per_epoch
    interval, validation_groups = _validation(validation, per_epoch)
    loads = _check_loading(loader_func, training=training_groups, validation=validation_groups)
    epoch, batches = _pair("start_at", start_at, "(epoch, batches), two ints of at least 0")
    first = integer("start_at[0]", epoch, 0) * per_epoch + integer("start_at[1]", batches, 0)
    plan = Plan(
        [(group_order(group, "training", i), group.batch_count) for i, group in enumerate(training_groups)],
        [(group_order(group, "validation", i), group.batch_count) for i, group in enumerate(validation_groups)],
        interval,
        interleave=interleave,
        mixture=mixture,
        validates_first=_validates_first(given["validate_first"], validation),
    )
    alone = {
        argument.name: argument.metadata["check"](argument.name, given[argument.name])
        for argument in fields(Arguments)
        if argument.metadata
    }
    _check_streams(given, training=training_groups, validation=validation_groups)
    share = _share(training_groups, validation_groups, given["sharding"], given["hosts"])
    if share.count > 1 and any(group.shards for group in (*training_groups, *validation_groups)):
        raise ValueError("sharding: it spans several hosts, each of which would read the whole stream; use one host")
    check_in_step(share, **{name: alone[name] for name in ("placement_func", "deterministic", "on_error")})
    return Arguments(
        loader_func=loader_func,
        training=training_groups,
        validation=validation_groups,
        validation_interval=interval,
        loader_count=_integer_or_auto("loader_count", given["loader_count"], 1 if loads else 0, _MOST_WORKERS),
        first_batch=first,
        last_batch=_end(end_at, per_epoch),
        interleave_groups=interleave,
        evaluates=evaluation is not None,
        validates_first=plan.validated_first > 0,
        share=share,
        plan=plan,
        **alone,
    )


def _function(argument: str, function: Any, count: int, expected: str) -> Any:
    if function is not None:
        call(argument, function, count, expected)
    return function


def _check_loading(loader_func: Any, **groups: tuple[DataGroup[Any], ...]) -> bool:
    """Whether anything is loaded; refuses groups whose arrays nothing fills."""
    if loader_func is not None:
        check_loader_func("loader_func", loader_func)
    for kind, found in groups.items():
        for position, group in enumerate(found):
            function = group.loader_func or loader_func
            group.augmenting()  # which may refuse
            if group.loader_layouts and function is not None:
                group.loading(function)  # which may refuse
            elif group.loader_layouts:
                raise TypeError(
                    f"loader_func: {kind} group {position} has loader_arrays and nothing that fills them; "
                    "give Dataloader(loader_func, ...) or DataGroup(loader_func=...)"
                )
    return any(group.loader_layouts or group.augment_func for found in groups.values() for group in found)


def _check_streams(given: Mapping[str, Any], **groups: tuple[DataGroup[Any], ...]) -> None:
    """Refuse what a stream cannot keep: it has no length, no n-th item, and shards that workers have open."""
    streams = [(kind, group) for kind, found in groups.items() for group in found if group.shards]
    if not streams:
        return
    wrong = [
        (name, f"{given[name]!r}: {why}")
        for name, kept, why in (
            ("weights", None, "the shares of a stream need its length; leave them out"),
            ("stop", None, "there are no weights"),
            ("batches_per_epoch", None, "an epoch ends with the stream; for validation use ('batch', n, groups)"),
            ("deterministic", True, "a stream keeps its order; leave it out"),
            (
                "on_error",
                "raise",
                "a stream has no other item; leave it out, and have the iterable skip what is damaged",
            ),
            ("hosts", None, "each host would read the whole stream; have the factory read a part for each host"),
        )
        if given[name] is not None and (kept is None or given[name] != kept)
    ]
    if given["loader_count"] == "auto":
        wrong.append(("loader_count", "'auto': shards would move from worker to worker; give a number"))
    for name, why in wrong:
        raise ValueError(f"{name}: {why}")
    for kind, group in streams:
        if len(groups[kind]) > 1:
            raise ValueError(
                f"{kind}: a stream stands alone, as nobody knows where its epoch ends; got {len(groups[kind])} groups"
            )
        if group.cache_location is not None:
            raise ValueError("cache_location: a stream has no n-th item to cache; write it to files and read those")
        if group.augment_func is not None:
            raise ValueError("augment_func: it works behind a cache, which a stream has not; change items in load=")


def _groups(argument: str, groups: Any) -> tuple[DataGroup[Any], ...]:
    if isinstance(groups, DataGroup):
        return (groups,)
    if isinstance(getattr(groups, "training", None), DataGroup):  # what a source returns
        sides = ", validation=('epoch', 1, rows.validation)" if getattr(groups, "validation", None) is not None else ""
        raise TypeError(
            f"{argument}: expected a DataGroup or several, got {type(groups).__name__}, which has one; "
            f"give Dataloader(rows.training{sides})"
        )
    try:
        found = tuple(groups)
    except TypeError:
        raise TypeError(f"{argument}: expected a DataGroup or several, got {type(groups).__name__}") from None
    for position, group in enumerate(found):
        if not isinstance(group, DataGroup):
            raise TypeError(f"{argument}: expected DataGroups, got {type(group).__name__} at position {position}")
    if not found:
        raise ValueError(f"{argument}: expected at least one DataGroup, got none")
    return found


def _mixture(
    groups: tuple[DataGroup[Any], ...], interleave: Any, weights: Any, stop: Any, batches_per_epoch: Any
) -> Mixture:
    if not isinstance(interleave, bool) and interleave != "least_used":
        raise TypeError(f"interleave_groups: expected True, False or 'least_used', got {interleave!r}")
    counts = [group.batch_count for group in groups]
    length = None if batches_per_epoch is None else integer("batches_per_epoch", batches_per_epoch, 1)
    if weights is None and stop is None and length is None:
        return in_order(counts, interleave)
    if interleave is not True:
        raise ValueError(f"interleave_groups: {interleave!r} has no weights, stop or batches_per_epoch; leave it out")
    if weights is None and stop is not None:
        raise ValueError("stop: without weights each group gives all its batches in each epoch; give weights, too")
    return by_weights(counts, counts if weights is None else weights, stop, length)


def _validation(validation: Any, per_epoch: int) -> tuple[int, tuple[DataGroup[Any], ...]]:
    if validation is None:
        return 0, ()
    form = '("epoch", interval, groups) or ("batch", interval, groups)'
    if not isinstance(validation, tuple | list) or len(validation) != 3:  # noqa: PLR2004  the form above
        raise TypeError(f"validation: expected {form}, got {validation!r}")
    kind, interval, groups = validation
    choice("validation[0]", kind, ("epoch", "batch"))
    count = integer("validation[1]", interval, 1)
    found = tuple(group.in_validation() for group in _groups("validation[2]", groups))
    return count * (per_epoch if kind == "epoch" else 1), found


def _validates_first(value: Any, validation: Any) -> bool:
    if boolean("validate_first", value) and validation is None:
        raise ValueError("validate_first: there is nothing to validate on; give validation=, too")
    return bool(value)


def _share(
    training: tuple[DataGroup[Any], ...], validation: tuple[DataGroup[Any], ...], sharding: Any, hosts: Any
) -> HostShare:
    if training[0] is not _NO_TRAINING:
        return host_share((*training, *validation), sharding, hosts)
    share = host_share(validation, sharding, hosts)
    return replace(share, rows=(None, *share.rows), shardings=({}, *share.shardings), parts=({}, *share.parts))


def _stands_alone(*, start_at: Any, **given: Any) -> None:
    names = [name for name, value in given.items() if value is not None] + ["start_at"] * (tuple(start_at) != (0, 0))
    if names:
        raise ValueError(f"evaluation: it is a run of its own, without {names[0]}; make two loaders")


def _end(end_at: Any, per_epoch: int) -> int | None:
    if end_at is None:
        return None
    kind, end = _pair("end_at", end_at, '("epoch", n) or ("batch", n)')
    choice("end_at[0]", kind, ("epoch", "batch"))
    return integer("end_at[1]", end, 0) * (per_epoch if kind == "epoch" else 1)


def _integer_or_auto(argument: str, value: Any, least: int, most: int) -> int | Auto:
    if isinstance(value, str):
        if value == "auto":
            return "auto"
        raise ValueError(f"{argument}: expected an int or 'auto', got {value!r}")
    return integer(argument, value, least, most)


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124  NaN
        raise TypeError(f"timeout_sec: expected a number of seconds, or None (or 0) for no limit, got {value!r}")
    if value < 0:
        raise ValueError(f"timeout_sec: expected a number of seconds, or None (or 0) for no limit, got {value!r}")
    return float(value) if 0 < value < threading.TIMEOUT_MAX else None


def _monitor(value: Any) -> bool | str | None:
    expected = "expected True, False, a name, or None to have the environment decide (HYDRAX_MONITOR=1)"
    if value is not None and not isinstance(value, bool | str):
        raise TypeError(f"monitor: {expected}; got {value!r}")
    if isinstance(value, str) and (not value.strip() or value.isdigit() or len(value) > _LONGEST_NAME):
        raise ValueError(
            f"monitor: {expected}; a name is no number and has 1 to {_LONGEST_NAME} characters; got {value!r}"
        )
    return value


def _pair(argument: str, value: Any, form: str) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:  # noqa: PLR2004  a pair
        raise TypeError(f"{argument}: expected {form}, got {value!r}")
    return value[0], value[1]
