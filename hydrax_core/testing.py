"""What users need to test a loader, or a source, without training.

``load_item`` calls a loader for one item, as a worker would. ``check_loader`` looks for the mistakes that show only in
a long run: results that differ from call to call, elements left out, values that do not fit into their dtype.
``check_source`` tries what a ``Source`` must keep.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.function import is_batched
from hydrax_core.data.group import DataGroup
from hydrax_core.data.source import Items, Source
from hydrax_core.errors import shorten

__all__ = ["check_loader", "check_source", "load_item"]

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
        The arrays by name, shaped as declared (without batch dimension), and the additional data.

    Raises:
        TypeError: There is no loader.
    """
    arrays = _arrays(group, fill)
    additional = _call(_loader(loader_func, group), group, index, seed, arrays)
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
    elements that are left out, or arrays that are not filled at all; numbers that do not fit into the array's dtype.

    Args:
        loader_func: The loader; ``None`` for the group's own.
        group: The group.
        indices: The items to try; by default up to 5, evenly spread.
        seed: The seed to try beside ``None``.

    Raises:
        TypeError: There is no loader.
    """
    loader = _loader(loader_func, group)
    tried = _spread(len(group)) if indices is None else indices
    return [f"item {index}: {finding}" for index in tried for finding in _findings(loader, group, index, seed)]


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
    if many is not None and [data_digest([item]) for item in many(tried)] != digests:
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


def _arrays(group: DataGroup[Any], fill: int) -> dict[str, npt.NDArray[Any]]:
    return {
        name: np.ndarray(
            (1, *layout.shape[1:]), layout.numpy_dtype, bytearray([fill]) * (layout.nbytes // layout.shape[0])
        )
        for name, layout in group.loader_layouts.items()
    }


def _call(
    loader: Callable[..., Any],
    group: DataGroup[Any],
    index: int,
    seed: int | None,
    arrays: Mapping[str, npt.NDArray[Any]],
) -> dict[str, Any]:
    if is_batched(loader):
        data: Any = group.items
        items = Items(data, np.array([index])) if isinstance(data, Source) else [group[index]]
        results = loader(items, MappingProxyType(dict(arrays)), None if seed is None else [seed])
        additional = results[0] if results else None
    else:
        rows = MappingProxyType({name: array[0, ...] for name, array in arrays.items()})
        additional = loader(group[index], rows, seed)
    return dict(additional or {})


def _findings(loader: Callable[..., Any], group: DataGroup[Any], index: int, seed: int | None) -> list[str]:
    try:
        over_zeros, additional = load_item(loader, group, index, seed=seed, fill=0x00)
        over_ones, again = load_item(loader, group, index, seed=seed, fill=0xFF)
        repeated, _ = load_item(loader, group, index, seed=seed, fill=0x00)
        unseeded = [load_item(loader, group, index, seed=None)[0] for _ in range(2)]
        watched = {name: array.view(_Watched) for name, array in _arrays(group, 0).items()}
        _call(loader, group, index, seed, watched)
    except Exception as error:  # noqa: BLE001  the user's loader may raise anything
        return [f"it raises {type(error).__name__}: {shorten(error)}"]
    findings = []
    for name, array in over_zeros.items():
        untouched = bytes([0xFF]) * array.nbytes
        if array.tobytes() != repeated[name].tobytes():
            findings.append(f"{name!r} differs from call to call; use `seed` for randomness")
        elif unseeded[0][name].tobytes() != unseeded[1][name].tobytes():
            findings.append(
                f"{name!r} differs from call to call with seed=None, as in validation: default_rng(None) draws fresh "
                "entropy; use default_rng(0 if seed is None else seed), or no randomness in validation"
            )
        elif not array.any() and over_ones[name].tobytes() == untouched:
            findings.append(f"{name!r} is not filled at all; write into it: arrays[{name!r}][...] = value")
        elif not group.zeroed and array.tobytes() != over_ones[name].tobytes():
            findings.append(f"{name!r} is not filled entirely; with zeroed=False the rest is old data")
        if (lost := watched[name].lost) is not None:
            findings.append(f"{name!r} is {array.dtype}, which cannot hold {lost}: the value changes in silence")
    if repr(additional) != repr(again):
        findings.append("the additional data differ from call to call")
    return findings


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


def _spread(size: int) -> list[int]:
    return sorted({round(position) for position in np.linspace(0, size - 1, _TRIED)})


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
