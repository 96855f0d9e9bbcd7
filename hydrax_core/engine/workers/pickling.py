"""Functions, classes and mapped files pickled for processes that cannot import them, or should not get a copy.

Promise: what a script or a notebook defines works in a worker as it does here. Functions and classes of one module
share one dict of globals there, whenever they were sent, so what ``startup_func`` sets is seen by all; a value that
already stands there stays. A class that is sent back is the class that it was here. Helpers made by
``functools.cache``, ``singledispatch`` and ``cached_property`` travel, without what they have cached. Of a large array
that lies in a mapped file goes the file's name and the part of it. Tracebacks name the file and the line that the user
wrote.

This is the only file that leans on how cloudpickle (seen: 3.0 to 3.1.3) reduces what it is given. Where a version does
it another way, its own way is taken as it is.
"""

from __future__ import annotations

import copyreg
import functools
import io
import mmap
import os
import pickle
import sys
import types
import weakref
from collections import ChainMap
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import numpy as np
import numpy.typing as npt

from hydrax_core.data import function

__all__ = ["NamedPickler", "dumps", "shared_module"]

_Cached = type(functools.cache(len))
_Base: Any = cloudpickle.Pickler
_base_table = getattr(_Base, "dispatch_table", copyreg.dispatch_table)
_base_reduce = getattr(_Base, "reducer_override", lambda _, __: NotImplemented)
_FUNCTION_PARTS, _REDUCED_PARTS = 5, 6
_LEAST_MAPPED = 1 << 20
"""Bytes of a mapped array below which it travels by value."""


def dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


# --- what pickles refer to: these run where a pickle is read


def with_file(name: str, make: Callable[..., types.CodeType], *arguments: Any) -> types.CodeType:
    return make(*arguments).replace(co_filename=name)


def shared_module(name: str) -> types.ModuleType:
    """What stands for a module of the main process where functions and classes of it arrive by value."""
    if name == "__main__" or (not function.active and name in sys.modules):
        return sys.modules[name]
    return _modules.setdefault(name, types.ModuleType(name))


def make_function(make: Callable[..., Any], code: Any, names: dict[str, Any], *rest: Any) -> Any:
    namespace = vars(shared_module(names["__name__"]))
    for name, value in names.items():
        namespace.setdefault(name, value)
    return make(code, namespace, *rest)


def set_function(made: Any, state: tuple[Callable[..., object], Any, dict[str, Any]]) -> None:
    """Fill a function, and what its module's globals lack."""
    fill, attributes, slots = state
    missing = {name: value for name, value in slots["__globals__"].items() if name not in made.__globals__}
    fill(made, (attributes, {**slots, "__globals__": missing}))


def set_class(made: type, state: tuple[Callable[..., object], Any, bool]) -> None:
    """Fill a class, once, and bind it in its module where it stands there under its name."""
    fill, attributes, bound = state
    if bound:
        module = shared_module(made.__module__)
        if sys.modules.setdefault(made.__module__, module) is module:
            vars(module).setdefault(made.__name__, made)
    if made not in _complete:
        _complete.add(made)
        fill(made, attributes)


def cached(wrapped: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(wrapped)


def mapped(file: _File, part: _Part, dtype: np.dtype[Any], *, memmap: bool) -> npt.NDArray[Any]:
    path, inode, mode = file
    start, size, first, shape, strides = part
    with Path(path).open("rb" if mode == "r" else "r+b") as opened:
        found = os.fstat(opened.fileno())
        if (found.st_dev, found.st_ino) != inode:
            raise ValueError(f"{path}: it is not the file any more that the main process has mapped")
        whole = np.memmap(opened, np.uint8, mode, start, (size,))  # type: ignore[call-overload]  # any of its modes
    begin = whole[first : first + dtype.itemsize].view(dtype)
    array = np.lib.stride_tricks.as_strided(begin, shape, strides, subok=True)
    return array if memmap else array.view(np.ndarray)


_File = tuple[str, tuple[int, int], str]
_Part = tuple[int, int, int, tuple[int, ...], tuple[int, ...]]
_modules: dict[str, types.ModuleType] = {}
_complete: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that are here, with all that belongs to them."""


# --- how they are reduced: these run where a pickle is written


class NamedPickler(pickle.Pickler):
    """A plain pickler that takes note of the classes and functions that a worker cannot import."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=5)
        self.by_value: dict[tuple[str, str], Any] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | types.FunctionType | _Cached) and _by_value(obj.__module__):
            if "." in obj.__qualname__:
                raise pickle.PicklingError(f"{obj.__qualname__} is not at the top of its module")
            self.by_value[obj.__module__, obj.__qualname__] = obj
        return NotImplemented


def _reduced_code(code: types.CodeType) -> tuple[Any, ...]:
    make, arguments = _base_table[types.CodeType](code)
    return with_file, (code.co_filename, make, *arguments)


class _Pickler(_Base):  # type: ignore[misc]  # it has no types
    dispatch_table: ClassVar[Any] = ChainMap(
        {
            types.CodeType: _reduced_code,
            weakref.WeakKeyDictionary: lambda found: (weakref.WeakKeyDictionary, (dict(found),)),
            weakref.WeakValueDictionary: lambda found: (weakref.WeakValueDictionary, (dict(found),)),
        },
        _base_table,
    )

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _Cached) and not _importable(obj):
            return cached, (obj.__wrapped__, obj.cache_parameters())
        if type(obj) is functools.cached_property:
            state = {name: value for name, value in vars(obj).items() if name != "lock"}
            return functools.cached_property, (obj.func,), state
        if isinstance(obj, np.ndarray):
            return _reduced_array(obj)
        reduced = _base_reduce(self, obj)
        if not isinstance(reduced, tuple) or len(reduced) != _REDUCED_PARTS:
            return reduced
        return _reduced_function(obj, reduced) if isinstance(obj, types.FunctionType) else _reduced_class(obj, reduced)


def _by_value(module: str | None) -> bool:
    """Whether cloudpickle sends what is defined in this module by value."""
    if module is None or module == "__main__" or module not in sys.modules:
        return True
    registered = cloudpickle.list_registry_pickle_by_value()
    if not registered:  # nearly always, and every chunk comes by here
        return False
    parts = module.split(".")
    return any(".".join(parts[:count]) in registered for count in range(1, len(parts) + 1))


def _importable(obj: Any) -> bool:
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj and not _by_value(obj.__module__)


def _reduced_function(obj: types.FunctionType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    make, arguments, state, _, _, fill = reduced
    module = sys.modules.get(obj.__globals__.get("__name__", ""))
    if (
        module is None
        or vars(module) is not obj.__globals__
        or len(arguments) != _FUNCTION_PARTS
        or not isinstance(arguments[1], dict)
        or not isinstance(state, tuple)
        or "__globals__" not in state[-1]
    ):
        return reduced
    code, names, *rest = arguments
    names = {**names, "__name__": module.__name__}
    return make_function, (make, code, names, *rest), (fill, *state), None, None, set_function


def _reduced_class(obj: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    make, arguments, state, _, _, fill = reduced
    _complete.add(obj)
    bound = getattr(sys.modules.get(obj.__module__), obj.__name__, None) is obj
    return make, arguments, (fill, state, bound), None, None, set_class


def _reduced_array(array: npt.NDArray[Any]) -> Any:
    """Of an array in a mapped file, its place; of others, and of files that workers cannot map, nothing."""
    root: Any = array
    base: Any = array.base
    while not isinstance(base, mmap.mmap):
        if not isinstance(base, np.ndarray):
            return NotImplemented
        root, base = base, base.base
    if not isinstance(root, np.memmap):
        return NotImplemented
    # Of a copy-on-write mapping ("c") what was written to it is seen in this process only.
    if array.nbytes < _LEAST_MAPPED or root.filename is None or root.mode == "c":
        return NotImplemented
    first = _address(array) - _address(root)
    steps = [(count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True)]
    least, most = first + sum(min(step, 0) for step in steps), first + sum(max(step, 0) for step in steps)
    try:
        found = Path(root.filename).stat()
        inside = least >= 0 and most + array.itemsize <= root.nbytes and found.st_size == base.size()
    except OSError:
        return NotImplemented
    if not inside or _is_deleted(_address(root)):
        return NotImplemented
    mode = "r" if root.mode == "r" else "r+"
    file = (str(root.filename), (found.st_dev, found.st_ino), mode)
    part = (root.offset, root.nbytes, first, array.shape, array.strides)
    return functools.partial(mapped, memmap=isinstance(array, np.memmap)), (file, part, array.dtype)


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _is_deleted(address: int) -> bool:
    """Whether the file mapped at an address has no name any more, as far as that can be known."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        start, end = (int(number, 16) for number in line.partition(" ")[0].split("-"))
        if start <= address < end:
            return line.endswith(" (deleted)")
    return False
