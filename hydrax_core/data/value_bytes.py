"""Values as bytes: equal values give equal bytes in every process, run and version of Python; others give others.

Promise. Equal are: plain values of the same type, floats bit by bit, dicts in the same order, sets in any; NumPy arrays
and scalars of the same dtype, names of fields included, shape and elements; ranges that count the same; paths of the
same text; members of an enum by class, name and value; all other objects by their class and the state that pickling
takes of them. A class is known by its name and module, where a script counts as the module that its file would be.

So these differ: an int from a bool or an ``np.int64``, a list from a tuple, ``0.0`` from ``-0.0``, a class from one of
the same name in another module. Refused is what cannot be pickled.

The bytes are a pickle that is never loaded. It has no memory of what came before, or two equal lists would differ
where one of them holds the same string object twice; and what pickling would spell in its own way is encoded by value.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import io
import pathlib
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["UNENCODABLE", "array_parts", "dtype_text", "module_name", "value_bytes"]

UNENCODABLE = (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError)
"""What ``value_bytes`` raises for a value that it cannot encode."""

_PROTOCOL = 3
"""The last one that names the class of a set."""
_SET_MARKS = (b"X\3\0\0\0set\x87", b"X\t\0\0\0frozenset\x87")
"""How a dump spells one of these two classes: the text of its name, and the end of a tuple."""
_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_OWN_ARRAYS = (np.ndarray, np.memmap)
_NEW: Any = copyreg.__newobj__  # type: ignore[attr-defined]  # what reduction names for an object made by __new__
_REGISTERED = 2
"""``isbuiltin`` of dtypes that other packages have added, such as ml_dtypes: they share codes."""
_NOTHING = (None, None, None, None)


def value_bytes(value: Any) -> bytes:
    found = _dump(value)
    if any(mark in found for mark in _SET_MARKS):
        return _dump(_plain(value))
    return found


def _dump(value: Any) -> bytes:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, _PROTOCOL)
    pickler.fast = True  # no memo
    pickler.dump(value)
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """What to write for a value that is none of the plain types."""
        return NotImplemented if value is tuple else (tuple, (_described(value),))


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return [_plain(part) for part in value]
    if kind is tuple:
        return tuple(_plain(part) for part in value)
    if kind is dict:
        return {"dict": [(_plain(key), _plain(part)) for key, part in value.items()]}
    if kind in (set, frozenset):
        return {kind.__name__: sorted(value_bytes(part) for part in value)}
    return {"described": _plain(_described(value))}


def _described(value: Any) -> tuple[Any, ...]:  # noqa: PLR0911  one for each kind
    """What a value is that is none of the plain types, in words and plainer values."""
    if type(value) in _OWN_ARRAYS:
        return ("array", dtype_text(value.dtype), value.shape, _content(value))
    if isinstance(value, np.generic):
        plain = value.dtype.names is None and not value.dtype.hasobject
        return ("scalar", dtype_text(value.dtype), value.tobytes() if plain else _content(np.asarray(value)))
    if isinstance(value, range):
        return ("range", len(value), value[0] if value else 0, value.step if len(value) > 1 else 0)
    if isinstance(value, pathlib.PurePath) and type(value).__module__.startswith("pathlib"):
        return ("path", "\\" if isinstance(value, pathlib.PureWindowsPath) else "/", str(value))
    if isinstance(value, enum.Enum):
        return ("member", type(value), value.name, value.value)
    if isinstance(value, type | types.FunctionType):
        return _name(value)
    return _reduced(value)


def _reduced(value: Any) -> tuple[Any, ...]:
    """What pickling takes of an object."""
    reduce = copyreg.dispatch_table.get(type(value))
    reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return ("name", module_name(getattr(value, "__module__", None) or type(value).__module__), reduced)
    function, arguments, state, items, pairs, setter = (*reduced, *_NOTHING)[:6]
    if function is _NEW:
        return ("object", _name(arguments[0]), arguments[1:], state, items and list(items), pairs and list(pairs))
    return ("reduced", function, arguments, state, items and list(items), pairs and list(pairs), setter)


@functools.cache
def _name(value: Any) -> tuple[str, str, str]:
    if "<" in value.__qualname__:
        raise pickle.PicklingError(f"{value.__qualname__} has no name that others could import")
    return ("name", module_name(value.__module__), value.__qualname__)


def _content(array: np.ndarray[Any, Any]) -> list[Any]:
    return array.reshape(-1).tolist() if array.dtype.hasobject else [bytes(part) for part in array_parts(array)]


def array_parts(array: np.ndarray[Any, Any]) -> Iterator[memoryview]:
    """The elements of an array as bytes, field by field: what lies between fields means nothing."""
    if array.dtype.names is not None:
        for name in array.dtype.names:
            yield from array_parts(array[name])
    elif array.nbytes:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def dtype_text(dtype: np.dtype[Any]) -> str:
    """A dtype with the names of its fields, which ``dtype.str`` leaves out, as it does what is no dtype of NumPy's."""
    if dtype.subdtype is not None:
        return f"{dtype_text(dtype.subdtype[0])}{dtype.subdtype[1]}"
    if dtype.names is not None:
        return f"{{{', '.join(f'{name!r}: {dtype_text(dtype[name])}' for name in dtype.names)}}}"
    return f"{dtype.str} {dtype.name}" if dtype.isbuiltin == _REGISTERED else dtype.str


@functools.cache
def module_name(name: str) -> str:
    """The name that a module has for those who import it: ``python train.py`` calls it ``__main__``.

    So does what loads a file under a name that it makes up. Such a one is known by its file and the packages around it.
    """
    module = sys.modules.get(name)
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    if name == "__main__" and spec is not None:
        return str(spec.name).removesuffix(".__main__")  # python -m
    if not file or not file.endswith(".py"):
        return name
    path = pathlib.Path(file).resolve()
    if path.stem in (name.rpartition(".")[2], "__init__"):
        return name
    parts = [path.stem]
    while (path.parent / "__init__.py").is_file():
        path = path.parent
        parts.insert(0, path.name)
    return ".".join(parts)
