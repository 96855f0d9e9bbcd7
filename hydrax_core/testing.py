"""What users need to test a loader, or a source, without training.

``load_item`` calls a loader for one item, as a worker would. ``check_loader`` looks for the mistakes that show only in
a long run: results that differ from call to call, elements left out, values that do not fit into their dtype; a group's
``augment_func`` is tried in the same way. ``check_run`` does so in a worker, as the loader of a run would have it.
``check_source`` tries what a ``Source`` must keep.
"""

from __future__ import annotations

import math
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import numpy.typing as npt

from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.function import is_batched
from hydrax_core.data.group import DataGroup
from hydrax_core.data.layout import Layouts
from hydrax_core.data.logger import logger
from hydrax_core.data.source import Items, Source
from hydrax_core.errors import LoaderError, WorkerDiedError, shorten

if TYPE_CHECKING:
    from hydrax_core.loader.dataloader import Dataloader

__all__ = ["check_loader", "check_run", "check_source", "load_item"]

_TRIED = 5
_SECOND_PROCESS = """
import pickle, sys
sys.path[:] = pickle.loads(bytes.fromhex(sys.argv[2]))
with open(sys.argv[1], "rb") as file:
    source, indices = pickle.load(file)
from hydrax_core.data.fingerprint import data_digest
print(data_digest([source[index] for index in indices]))
"""


def load_item(
    loader_func: Callable[..., Any] | None, group: DataGroup[Any], index: int, *, seed: int | None = 0, fill: int = 0
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Load one item of a group in the calling thread.

    Args:
        loader_func: The loader, also one marked ``batched``; ``None`` for the group's own.
        group: The group; its ``loader_arrays`` say what is filled.
        index: Index of the item in the group's data.
        seed: What the loader gets as seed; ``None`` as in validation.
        fill: What each byte of the arrays holds before the call.

    Returns:
        The arrays by name, shaped as declared (without batch dimension), and the additional data; where the group has
        an ``augment_func``, the arrays that it fills.

    Raises:
        TypeError: There is no loader.
    """
    arrays = _arrays(group.loader_layouts, fill)
    additional = _call(_loader(loader_func, group), _Tried(group, (index,))[0], arrays, seed)
    augment = group.augmenting()
    if augment is not None:
        loaded, arrays = _Loaded(arrays), _arrays(group.batch_layouts[0], fill)
        _call(augment, loaded, arrays, seed)
    return {name: array[0, ...] for name, array in arrays.items()}, additional


def check_loader(
    loader_func: Callable[..., Any] | None,
    group: DataGroup[Any],
    indices: Iterable[int] | None = None,
    *,
    seed: int | None = 0,
) -> list[str]:
    """Load items several times, over different memory; returns what is wrong, an empty list where nothing is.

    Found are: an item that raises; values that differ from call to call, with the seed or, as in validation, without;
    elements that are left out, or arrays that are not filled at all; numbers that do not fit into the array's dtype, or
    into that on the device.

    Args:
        loader_func: The loader; ``None`` for the group's own.
        group: The group.
        indices: The items to try; by default up to 5, evenly spread.
        seed: The seed to try beside ``None``.

    Raises:
        TypeError: There is no loader, or the group is a stream, which has no items by number.
    """
    if group.shards:
        raise TypeError("group: a stream has no items by number to try")
    tried = _spread(len(group)) if indices is None else list(indices)
    check = _check(_loader(loader_func, group), group)
    findings = []
    for number, index in enumerate(tried):
        try:
            found = check.findings(_Tried(group, tried)[number], tuple(dict.fromkeys((seed, None))))
        except Exception as error:  # noqa: BLE001  the user's loader may raise anything
            found = [f"it raises {type(error).__name__}: {shorten(error)}"]
        findings += [f"item {index}: {finding}" for finding in found]
    return findings


def check_run(
    loader: Dataloader[Any], *, items: int = 3, seconds: float = 2.0, start_seconds: float = 5.0
) -> list[str]:
    """``check_loader`` for each group of a loader, in a worker of its kind, after its ``startup_func``.

    Training items are tried with a seed, others without. An item that raises, kills its worker or does not end is no
    finding: the run itself tells. What is wrong with an array is reported once a group.

    Args:
        loader: The loader; what it does meanwhile is not disturbed, but for the cores.
        items: Items to try of each group, evenly spread.
        seconds: What is not tried by then, the start of the worker not counted, is left out; a loader of the kind
            ``"inline"`` is waited for until its item ends.
        start_seconds: Longest wait for the worker's start.
    """
    kinds = {"training": loader.training, "validation": loader.validation}
    checked: dict[str, list[DataGroup[Any]]] = {kind: [] for kind in kinds}
    places: dict[tuple[str, int], tuple[int, list[int]]] = {}
    for kind, groups in kinds.items():
        for number, group in enumerate(groups):
            function = group.loader_func or loader._arguments.loader_func  # noqa: SLF001  no other part needs it
            if function is None or not group.loader_layouts or group.shards:
                continue
            tried = _spread(len(group), items)
            places[kind, len(checked[kind])] = number, tried
            check = _check(group.loading(function), group, seconds / max(1, len(tried)))
            data = _TriedSource(group, tried) if isinstance(group.items, Source) else _Tried(group, tried)
            checked[kind].append(DataGroup(1, data, loader_func=check, loader_arrays={"done": ((), "bool")}))
    found: dict[tuple[str, int, str], tuple[int, str]] = {}
    if not places:
        return []
    try:
        with _checking(loader, checked, seconds + start_seconds) as batches:
            deadline = math.inf
            for _ in range(len(batches)):
                try:
                    batch = next(batches)
                except (LoaderError, WorkerDiedError):
                    continue
                deadline = min(deadline, time.monotonic() + seconds)
                place, nth = (batch.address.kind, batch.group_index), batch.indices[0]
                findings = batch.get_additional("findings", 0)
                for finding in findings or ():
                    found.setdefault((*place, re.split("[,;]", finding)[0]), (places[place][1][nth], finding))
                if time.monotonic() > deadline:
                    break
    except Exception:  # noqa: BLE001  what keeps items from being loaded is reported by the run
        logger.debug("the loader could not be checked", exc_info=True)
    return [
        f"{kind} group {places[kind, place][0]}, item {index}: {finding}"
        for (kind, place, _), (index, finding) in sorted(found.items())
    ]


def check_source(source: Source[Any], indices: Sequence[int] | None = None) -> list[str]:
    """Try what a source must keep; returns what it does not, an empty list where it keeps all of it.

    Tried are: the length; that -1 and ``len(source)`` are refused, or -1 is the last item as in a list; that an item
    is the same when it is read again, with others, in a copy, and in a second process; that the source can be pickled.

    Args:
        source: The source, or anything with ``__len__`` and ``__getitem__``.
        indices: The items to try; by default up to 5, evenly spread.
    """
    size = len(source)
    if size < 1:
        return ["it is empty"]
    tried = list(_spread(size) if indices is None else indices)
    findings: list[str] = []
    try:
        digests = [data_digest([source[index]]) for index in tried]
    except Exception as error:  # noqa: BLE001  the user's source may raise anything
        return [f"reading items {tried} raises {type(error).__name__}: {error}"]
    outside = (_beyond(source, index, source[size - 1]) for index in (size, -1))
    findings.extend(problem for problem in outside if problem is not None)
    if digests != [data_digest([source[index]]) for index in tried]:
        findings.append("an item read twice differs")
    many = getattr(source, "__getitems__", None)
    orders = ((tried, digests), (tried[::-1], digests[::-1]))
    if many is not None and any([data_digest([item]) for item in many(asked)] != told for asked, told in orders):
        findings.append("__getitems__ gives other items than __getitem__")
    try:
        packed = cloudpickle.dumps((source, tried))
    except Exception as error:  # noqa: BLE001  same
        return [*findings, f"it cannot be pickled, so no worker can have it: {type(error).__name__}: {error}"]
    copy, _ = pickle.loads(packed)
    if [data_digest([copy[index]]) for index in tried] != digests:
        findings.append("a copy of it gives other items")
    findings.extend(_second_process(packed, data_digest([source[index] for index in tried])))
    return findings


def _loader(loader_func: Callable[..., Any] | None, group: DataGroup[Any]) -> Callable[..., Any]:
    found = loader_func or group.loader_func
    if found is None:
        raise TypeError("loader_func: the group has none of its own; give the function to test")
    return group.loading(found)


def _checking(
    loader: Dataloader[Any], checked: Mapping[str, list[DataGroup[Any]]], timeout_sec: float
) -> Dataloader[Any]:
    """A loader of checking groups, which loads as another one does."""
    training, validation = checked["training"], checked["validation"]
    changes: dict[str, Any] = {"training": training, "validation": ("epoch", 1, validation) if validation else None}
    changes |= {"evaluation": None, "end_at": ("epoch", 1)}
    if not training:
        changes |= {"training": None, "validation": None, "evaluation": validation, "end_at": None}
    return loader.replace(
        **changes,
        loader_func=None,
        depth=1,
        loader_count=1,
        start_at=(0, 0),
        interleave_groups=True,
        weights=None,
        stop=None,
        batches_per_epoch=None,
        deterministic=True,
        timeout_sec=timeout_sec,
        placement_func=None,
        on_error="raise",
        max_held=None,
        monitor=False,
        sharding=None,
        hosts=None,
        verify_hosts_every=0,
    )


def _arrays(layouts: Layouts, fill: int) -> dict[str, npt.NDArray[Any]]:
    return {
        name: np.ndarray(
            (1, *layout.shape[1:]), layout.numpy_dtype, bytearray([fill]) * (layout.nbytes // layout.shape[0])
        )
        for name, layout in layouts.items()
    }


def _call(
    loader: Callable[..., Any], item: Any, arrays: Mapping[str, npt.NDArray[Any]], seed: int | None
) -> dict[str, Any]:
    """Load an item, as ``_Tried`` has it."""
    if is_batched(loader):
        items: Any = Items(item.source, item.indices) if isinstance(item, Items) else [item]
        if isinstance(item, _Loaded):
            items = item.many
        results = loader(items, MappingProxyType(dict(arrays)), None if seed is None else [seed])
        additional = results[0] if results else None
    else:
        rows = MappingProxyType({name: array[0, ...] for name, array in arrays.items()})
        one = item.one if isinstance(item, _Loaded) else item[0] if isinstance(item, Items) else item
        additional = loader(one, rows, seed)
    return dict(additional or {})


class _Tried(Sequence[Any]):
    """Some items of a group: of a source as ``Items`` of one."""

    def __init__(self, group: DataGroup[Any], indices: Sequence[int]) -> None:
        self._data: Any = group.items if isinstance(group.items, Source) else group
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: Any) -> Any:
        index = self._indices[number]
        return Items(self._data, np.array([index])) if isinstance(self._data, Source) else self._data[index]


class _TriedSource(_Tried, Source[Any]):
    """The same, read in the workers."""


class _Loaded:
    """A row as an ``augment_func`` gets it, read-only."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        for array in arrays.values():
            array.flags.writeable = False
        self.many = MappingProxyType(dict(arrays))
        self.one = MappingProxyType({name: array[0, ...] for name, array in arrays.items()})


def _check(loader: Callable[..., Any], group: DataGroup[Any], seconds: float = math.inf) -> _Check:
    augment, behind = group.augmenting(), None
    if augment is not None:
        behind = _Check(augment, group.batch_layouts[0], seconds, None, zeroed=group.zeroed)
    return _Check(loader, group.loader_layouts, seconds, behind, zeroed=group.zeroed)


class _Check:
    """A loader that looks for the mistakes of another one.

    Args:
        loader: The other one, see ``DataGroup.loading``; or what augments loaded rows.
        layouts: What it fills.
        seconds: An item that took longer once is not loaded again.
        behind: Tries what augments its rows.
        zeroed: See ``DataGroup``.
    """

    def __init__(
        self, loader: Callable[..., Any], layouts: Layouts, seconds: float, behind: _Check | None, *, zeroed: bool
    ) -> None:
        self._loader = loader
        self._layouts = layouts
        self._seconds = seconds
        self._behind = behind
        self._zeroed = zeroed

    def __call__(self, item: Any, arrays: Mapping[str, npt.NDArray[Any]], seed: int | None) -> dict[str, Any] | None:
        """See ``check_run``."""
        findings = self.findings(item, (seed,))
        arrays["done"][...] = True
        return {"findings": findings} if findings else None

    def findings(self, item: Any, seeds: Sequence[int | None]) -> list[str]:
        """What is wrong with an item."""
        end = time.monotonic() + self._seconds
        watched = {name: array.view(_Watched) for name, array in _arrays(self._layouts, 0x00).items()}
        additional = _call(self._loader, item, watched, seeds[0])
        found: dict[str, str] = {}
        if time.monotonic() < end:
            again = {seed: self._load(item, seed) for seed in seeds}
            for seed, (arrays, repeated) in reversed(again.items()):
                before = watched if seed == seeds[0] else self._load(item, seed)[0]
                hint = _UNSEEDED if seed is None else "; use `seed` for randomness"
                differ = [name for name in arrays if arrays[name].tobytes() != before[name].tobytes()]
                found |= {name: f"{name!r} differs from call to call{hint}" for name in differ}
                if seed == seeds[0] and _digest(additional) != _digest(repeated):
                    found[""] = "the additional data differ from call to call"
            found = {**self._left_out(item, seeds[0], watched), **found}
        texts = []
        for name, array in watched.items():
            texts += [found[name]] if name in found else []
            if array.lost is not None:
                texts.append(f"{name!r} is {array.dtype}, which cannot hold {array.lost}: the value changes in silence")
            elif self._behind is None and (lost := _lost(array.view(np.ndarray), self._layouts[name].jax_dtype)):
                wanted = self._layouts[name].jax_dtype
                texts.append(
                    f"{name!r} becomes {wanted} on the device, which cannot hold {lost}: it changes in silence"
                )
        texts += [found[""]] if "" in found else []
        if self._behind is not None and not texts and time.monotonic() < end:
            loaded = _Loaded(self._load(item, seeds[0])[0])
            texts = [f"augment_func: {text}" for text in self._behind.findings(loaded, seeds)]
        return texts

    def _left_out(self, item: Any, seed: int | None, before: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
        """Arrays that are not filled, by their name."""
        found = {}
        for name, array in self._load(item, seed, 0xFF)[0].items():
            if not before[name].any() and array.tobytes() == b"\xff" * array.nbytes:
                found[name] = f"{name!r} is not filled at all; write into it: arrays[{name!r}][...] = value"
            elif not self._zeroed and array.tobytes() != before[name].tobytes():
                found[name] = f"{name!r} is not filled entirely; with zeroed=False the rest is old data"
        return found

    def _load(
        self, item: Any, seed: int | None, fill: int = 0x00
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        arrays = _arrays(self._layouts, fill)
        return arrays, _call(self._loader, item, arrays, seed)


_UNSEEDED = (
    " with seed=None, as in validation: default_rng(None) draws fresh entropy; use default_rng(0 if seed is None else "
    "seed), or no randomness in validation"
)


def _digest(additional: dict[str, Any]) -> str:
    """What additional data is, where that can be told."""
    try:
        return data_digest([additional])
    except Exception:  # noqa: BLE001  values of the user's may do anything
        return ""


class _Watched(np.ndarray[Any, Any]):
    """An array that remembers the first number assigned to it that its dtype cannot hold.

    Wrapped integers and fractions cut off are what NumPy does without a word; a float of less precision is not meant.
    """

    def __array_finalize__(self, obj: Any) -> None:
        self._first: list[str | None] = getattr(obj, "_first", None) or [None]

    @property
    def lost(self) -> str | None:
        return self._first[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        given = np.asarray(value)
        if self._first[0] is None and self.dtype.kind in "iu" and given.dtype.kind in "iuf" and given.size:
            kept = np.broadcast_to(np.asarray(self[key]), np.broadcast_shapes(np.shape(self[key]), given.shape))
            with np.errstate(invalid="ignore"):
                wrong = np.broadcast_to(given, kept.shape) != kept
            if wrong.any():
                self._first[0] = repr(np.broadcast_to(given, kept.shape)[wrong].reshape(-1)[0].item())


def _lost(array: npt.NDArray[Any], wanted: np.dtype[Any]) -> str | None:
    """The first number that a conversion changes: all but a float that becomes a less precise one."""
    if array.dtype == wanted or array.dtype.kind not in "biuf":
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        kept = array.astype(wanted)
        if wanted.kind in "biu":  # from and to one without a sign, all bits may be kept
            wrong = (kept.astype(array.dtype) != array) | ((kept < 0) != (array < 0))
        else:
            wrong = np.isfinite(array) > np.isfinite(kept)
    return repr(array[wrong].reshape(-1)[0].item()) if wrong.any() else None


def _spread(size: int, most: int = _TRIED) -> list[int]:
    return sorted({round(position) for position in np.linspace(0, size - 1, most)})


def _beyond(source: Source[Any], index: int, last: Any) -> str | None:
    try:
        found = source[index]
    except IndexError:
        return None
    except Exception as error:  # noqa: BLE001  the user's source may raise anything
        return f"source[{index}] raises {type(error).__name__} instead of IndexError"
    if index < 0 and data_digest([found]) == data_digest([last]):
        return None
    return f"source[{index}] gives an item instead of IndexError; it has {len(source)}"


def _second_process(packed: bytes, digest: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "source"
        file.write_bytes(packed)
        path = pickle.dumps([entry for entry in sys.path if isinstance(entry, str)]).hex()
        done = subprocess.run(  # noqa: S603  our own program
            [sys.executable, "-c", _SECOND_PROCESS, str(file), path], capture_output=True, text=True, check=False
        )
    if done.returncode:
        return [f"a second process cannot read it: {done.stderr.strip().splitlines()[-1:]}"]
    return [] if done.stdout.split()[-1:] == [digest] else ["a second process gets other items"]
