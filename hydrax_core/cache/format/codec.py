"""Additional data as bytes: a small code for plain values that runs nothing when it is read.

Promise: what ``encode`` takes comes back from ``decode`` with equal value and the same type. ``decode`` takes any
bytes whatever and either returns a value or raises ``DecodeError``; it allocates at most a constant times the bytes
given, imports nothing that they name, and unpickles only with ``allow_pickle``.

Refused: types other than those of ``encode``, their subclasses included, since they would come back as something
else.

The code: a tag byte, then fixed fields or a length (LEB128) and that many bytes. Containers hold a count and values.
"""

from __future__ import annotations

import datetime as dt
import functools
import operator
import pickle
import re
import struct
import zoneinfo
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["DecodeError", "PickleRefusedError", "UnstorableError", "decode", "dtype_of", "encode"]

MAX_DEPTH = 100
"""Containers within containers; far below Python's own recursion limit."""

_MOST_DIMS = 64
"""Of an array, as NumPy 2 has it."""
_MOST_KEYS = 10_000
"""Keys in all that are neither text nor small numbers: their hashes can be chosen equal, which makes dicts slow."""
_TEXT = (str, bytes)
_UNIQUE_HASHES = 2**61 - 1

_DATE = struct.Struct("<HBB")
_TIME = struct.Struct("<BBBIB")
_DELTA = struct.Struct("<iii")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_NUMPY_DTYPE = re.compile(r"[<>|](?:[biufcSU][0-9]{1,9}|[mM]8(?:\[[A-Za-z0-9/]{1,20}\])?)")
_EXTENDED_DTYPE = re.compile(r"(?:bfloat16|float[468]_[a-z0-9]+|u?int[24])")
_MAX_CODE_POINT = 0x10FFFF
_LENGTH_BITS = 63
_MORE = 0x80  # LEB128: seven bits a byte, the eighth says that more follow


class DecodeError(ValueError):
    """The bytes are not the code of a value."""


class PickleRefusedError(DecodeError):
    """The bytes hold a pickle and ``allow_pickle`` is not set."""


class UnstorableError(TypeError):
    """A value has a type that the code does not know."""


def encode(value: Any, *, allow_pickle: bool = False) -> bytes:
    """The code of a value.

    Args:
        value: ``None``, a bool, int, float, complex, str, bytes, list, tuple, dict, a NumPy scalar or array of a plain
            dtype, or a datetime, date, time or timedelta (in a ``datetime.timezone``, ``zoneinfo.ZoneInfo`` or none).
        allow_pickle: Pickle what is none of these.

    Raises:
        UnstorableError: Something in it is none of these; or it is nested deeper than 100 containers.
    """
    out = bytearray()
    _Encoder(out, allow_pickle=allow_pickle).put(value, 0)
    return bytes(out)


def decode(data: bytes, *, allow_pickle: bool = False, instead: Callable[[bytes], Any] | None = None) -> Any:
    """The value of which ``data`` is the code.

    Args:
        data: The code.
        allow_pickle: Load pickles that it holds.
        instead: Stands in for pickles that are not loaded: called with the bytes of each, which run nothing.

    Raises:
        DecodeError: There is none.
        PickleRefusedError: It holds a pickle, ``allow_pickle`` is not set and nothing stands in.
    """
    decoder = _Decoder(data, pickle.loads if allow_pickle else instead)
    try:
        value = decoder.take(0)
    except DecodeError:
        raise
    except Exception as error:  # whatever a constructor (or a pickle) raises on bad bytes is one thing here
        raise DecodeError(f"{type(error).__name__}: {error}") from error
    if decoder.position != len(data):
        raise DecodeError(f"{len(data) - decoder.position} bytes after the end of the value")
    return value


def _dtype_text(dtype: np.dtype[Any]) -> str | None:
    """How a dtype is written, ``None`` where it cannot be."""
    if dtype.type.__module__.partition(".")[0] == "ml_dtypes":
        return dtype.name if _EXTENDED_DTYPE.fullmatch(dtype.name) else None
    text = dtype.str
    return text if dtype.names is None and dtype.subdtype is None and _NUMPY_DTYPE.fullmatch(text) else None


def dtype_of(text: str) -> np.dtype[Any]:
    """The dtype that a text stands for: NumPy's own spelling, ``"<f4"``, or the name of one that NumPy lacks."""
    if _NUMPY_DTYPE.fullmatch(text):
        return np.dtype(text)
    if _EXTENDED_DTYPE.fullmatch(text):
        import ml_dtypes  # noqa: PLC0415  only such a dtype pays for it

        kind: type[np.generic] = getattr(ml_dtypes, text)
        return np.dtype(kind)
    raise DecodeError(f"{text!r} is no dtype that is stored")


class _Encoder:
    def __init__(self, out: bytearray, *, allow_pickle: bool) -> None:
        self._out = out
        self._allow_pickle = allow_pickle
        self._keys = 0

    def put(self, value: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnstorableError(f"containers nested more than {MAX_DEPTH} deep")
        writer = _WRITERS.get(type(value))
        if writer is not None and writer(self, value, depth):
            return
        if isinstance(value, np.generic) and self._scalar(value):
            return
        if not self._allow_pickle:
            raise UnstorableError(f"{type(value).__module__}.{type(value).__qualname__}")
        try:
            pickled = pickle.dumps(value, protocol=5)
        except Exception as error:
            raise UnstorableError(f"{type(value).__qualname__}, which cannot be pickled: {error}") from error
        self._tagged(b"P", pickled)

    def _length(self, number: int) -> None:
        while number >= _MORE:
            self._out.append(number % _MORE | _MORE)
            number >>= 7
        self._out.append(number)

    def _tagged(self, tag: bytes, data: bytes) -> None:
        self._out += tag
        self._length(len(data))
        self._out += data

    def put_none(self, _value: None, _depth: int) -> bool:
        self._out += b"N"
        return True

    def put_bool(self, value: bool, _depth: int) -> bool:
        self._out += b"T" if value else b"F"
        return True

    def put_int(self, value: int, _depth: int) -> bool:
        self._tagged(b"i", value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True))
        return True

    def put_float(self, value: float, _depth: int) -> bool:
        self._out += b"f" + _FLOAT.pack(value)
        return True

    def put_complex(self, value: complex, _depth: int) -> bool:
        self._out += b"c" + _COMPLEX.pack(value.real, value.imag)
        return True

    def put_str(self, value: str, _depth: int) -> bool:
        self._tagged(b"s", value.encode("utf-8", "surrogatepass"))
        return True

    def put_bytes(self, value: bytes, _depth: int) -> bool:
        self._tagged(b"b", value)
        return True

    def put_sequence(self, value: Sequence[Any], depth: int) -> bool:
        self._out += b"l" if type(value) is list else b"t"
        self._length(len(value))
        for part in value:
            self.put(part, depth + 1)
        return True

    def put_dict(self, value: dict[Any, Any], depth: int) -> bool:
        self._out += b"d"
        self._length(len(value))
        self._keys += sum(map(_has_a_chosen_hash, value))
        if self._keys > _MOST_KEYS:
            raise UnstorableError(f"dicts with more than {_MOST_KEYS:,} keys that are neither text nor small numbers")
        for key, part in value.items():
            self.put(key, depth + 1)
            self.put(part, depth + 1)
        return True

    def put_array(self, value: np.ndarray[Any, Any], _depth: int) -> bool:
        text = _dtype_text(value.dtype)
        if text is None or (value.dtype.itemsize == 0 and value.size):
            return False
        self._tagged(b"a", text.encode())
        self._length(value.ndim)
        for dim in value.shape:
            self._length(dim)
        self._tagged(b"", value.tobytes())
        return True

    def _scalar(self, value: np.generic) -> bool:
        text = _dtype_text(value.dtype)
        if text is None or value.dtype.type is not type(value):
            return False
        self._tagged(b"n", text.encode())
        self._tagged(b"", value.tobytes()[: value.dtype.itemsize])  # NumPy gives b"" as a byte
        return True

    def put_date(self, value: dt.date, _depth: int) -> bool:
        self._out += b"D" + _DATE.pack(value.year, value.month, value.day)
        return True

    def put_time(self, value: dt.time, _depth: int) -> bool:
        return self._clock(b"C", value, value.tzinfo)

    def put_datetime(self, value: dt.datetime, _depth: int) -> bool:
        return self._clock(b"M" + _DATE.pack(value.year, value.month, value.day), value, value.tzinfo)

    def _clock(self, start: bytes, value: dt.time | dt.datetime, zone: dt.tzinfo | None) -> bool:
        if zone is None:
            coded = b"N"
        elif type(zone) is dt.timezone:
            offset, name = zone.utcoffset(None), zone.tzname(None)
            named = name != dt.timezone(offset).tzname(None)
            coded = b"z" + encode(offset) + encode(name if named else None)
        elif type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
            coded = encode(zone.key)
        else:
            return False
        self._out += start + _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold) + coded
        return True

    def put_delta(self, value: dt.timedelta, _depth: int) -> bool:
        self._out += b"L" + _DELTA.pack(value.days, value.seconds, value.microseconds)
        return True


_WRITERS: dict[type, Callable[[_Encoder, Any, int], bool]] = {
    type(None): _Encoder.put_none,
    bool: _Encoder.put_bool,
    int: _Encoder.put_int,
    float: _Encoder.put_float,
    complex: _Encoder.put_complex,
    str: _Encoder.put_str,
    bytes: _Encoder.put_bytes,
    list: _Encoder.put_sequence,
    tuple: _Encoder.put_sequence,
    dict: _Encoder.put_dict,
    np.ndarray: _Encoder.put_array,
    dt.date: _Encoder.put_date,
    dt.time: _Encoder.put_time,
    dt.datetime: _Encoder.put_datetime,
    dt.timedelta: _Encoder.put_delta,
}


class _Decoder:
    def __init__(self, data: bytes, unpickled: Callable[[bytes], Any] | None) -> None:
        self._data = data
        self._unpickled = unpickled
        self._keys = 0
        self.position = 0

    def take(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise DecodeError(f"containers nested more than {MAX_DEPTH} deep")
        tag = self._bytes(1)
        reader = _READERS.get(tag)
        if reader is None:
            raise DecodeError(f"unknown tag {tag!r} at byte {self.position - 1}")
        return reader(self, depth)

    def _bytes(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise DecodeError(
                f"{count} bytes are announced at byte {self.position}, {len(self._data)} are there in all"
            )
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _length(self) -> int:
        number = 0
        for shift in range(0, _LENGTH_BITS, 7):
            byte = self._bytes(1)[0]
            number |= (byte % _MORE) << shift
            if byte < _MORE:
                return number
        raise DecodeError(f"a length of more than {_LENGTH_BITS} bits at byte {self.position}")

    def _count(self) -> int:
        """A number of values; each takes a byte at least, so that a lie about it costs nothing."""
        count = self._length()
        if count > len(self._data) - self.position:
            raise DecodeError(
                f"{count} values are announced at byte {self.position}, {len(self._data)} bytes are there"
            )
        return count

    def _text(self) -> str:
        return self._bytes(self._length()).decode("utf-8", "surrogatepass")

    def take_int(self, _depth: int) -> int:
        return int.from_bytes(self._bytes(self._length()), "little", signed=True)

    def take_float(self, _depth: int) -> float:
        return float(_FLOAT.unpack(self._bytes(_FLOAT.size))[0])

    def take_complex(self, _depth: int) -> complex:
        return complex(*_COMPLEX.unpack(self._bytes(_COMPLEX.size)))

    def take_str(self, _depth: int) -> str:
        return self._text()

    def take_bytes(self, _depth: int) -> bytes:
        return self._bytes(self._length())

    def take_list(self, depth: int) -> list[Any]:
        return [self.take(depth + 1) for _ in range(self._count())]

    def take_dict(self, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(self._count()):
            key = self.take(depth + 1)
            self._keys += _has_a_chosen_hash(key)
            if self._keys > _MOST_KEYS:
                raise DecodeError(f"more than {_MOST_KEYS:,} keys that are neither text nor small numbers")
            found[key] = self.take(depth + 1)
        return found

    def take_array(self, _depth: int) -> np.ndarray[Any, Any]:
        dtype = dtype_of(self._text())
        dims = self._count()
        if dims > _MOST_DIMS:
            raise DecodeError(f"an array of {dims} dimensions")
        shape = tuple(self._length() for _ in range(dims))
        size = functools.reduce(operator.mul, shape, 1)
        raw = self._bytes(self._length())
        if len(raw) != size * dtype.itemsize or (dtype.itemsize == 0 and size):
            raise DecodeError(f"{len(raw)} bytes for an array of {dtype} and shape {shape}")
        found = np.ndarray(shape, dtype, raw) if raw else np.empty(shape, dtype)
        _check_elements(found)
        return found.copy()

    def take_scalar(self, _depth: int) -> Any:
        dtype = dtype_of(self._text())
        raw = self._bytes(self._length())
        if len(raw) != dtype.itemsize:
            raise DecodeError(f"{len(raw)} bytes for a {dtype}")
        if not raw:
            return dtype.type()
        found = np.ndarray((), dtype, raw)
        _check_elements(found)
        return found[()]

    def take_date(self, _depth: int) -> dt.date:
        return dt.date(*_DATE.unpack(self._bytes(_DATE.size)))

    def take_time(self, _depth: int) -> dt.time:
        hour, minute, second, microsecond, fold = _TIME.unpack(self._bytes(_TIME.size))
        return dt.time(hour, minute, second, microsecond, self._zone(), fold=fold)

    def take_datetime(self, _depth: int) -> dt.datetime:
        year, month, day = _DATE.unpack(self._bytes(_DATE.size))
        hour, minute, second, microsecond, fold = _TIME.unpack(self._bytes(_TIME.size))
        return dt.datetime(year, month, day, hour, minute, second, microsecond, self._zone(), fold=fold)

    def take_delta(self, _depth: int) -> dt.timedelta:
        return dt.timedelta(*_DELTA.unpack(self._bytes(_DELTA.size)))

    def _zone(self) -> dt.tzinfo | None:
        tag = self._bytes(1)
        if tag == b"N":
            return None
        if tag == b"s":
            return zoneinfo.ZoneInfo(self._text())
        if tag != b"z":
            raise DecodeError(f"{tag!r} is no time zone")
        offset, name = self.take(MAX_DEPTH), self.take(MAX_DEPTH)
        return dt.timezone(offset) if name is None else dt.timezone(offset, name)

    def take_pickle(self, _depth: int) -> Any:
        data = self._bytes(self._length())
        if self._unpickled is None:
            raise PickleRefusedError("it holds a pickle, and cache_pickle is not set")
        return self._unpickled(data)


def _has_a_chosen_hash(key: Any) -> bool:
    return not (type(key) in _TEXT or (type(key) is int and -_UNIQUE_HASHES < key < _UNIQUE_HASHES))


def _check_elements(array: np.ndarray[Any, Any]) -> None:
    """Refuse bytes that NumPy takes and chokes on later."""
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise DecodeError("a bool that is neither 0 nor 1")
    if array.dtype.kind == "U" and array.size:
        order = array.dtype.byteorder
        points = np.ndarray((array.nbytes // 4,), np.dtype(np.uint32).newbyteorder(order), array.tobytes())
        if points.max() > _MAX_CODE_POINT:
            raise DecodeError("a string with a character beyond Unicode")


_READERS: dict[bytes, Callable[[_Decoder, int], Any]] = {
    b"N": lambda _decoder, _depth: None,
    b"T": lambda _decoder, _depth: True,
    b"F": lambda _decoder, _depth: False,
    b"i": _Decoder.take_int,
    b"f": _Decoder.take_float,
    b"c": _Decoder.take_complex,
    b"s": _Decoder.take_str,
    b"b": _Decoder.take_bytes,
    b"l": _Decoder.take_list,
    b"t": lambda decoder, depth: tuple(decoder.take_list(depth)),
    b"d": _Decoder.take_dict,
    b"a": _Decoder.take_array,
    b"n": _Decoder.take_scalar,
    b"D": _Decoder.take_date,
    b"C": _Decoder.take_time,
    b"M": _Decoder.take_datetime,
    b"L": _Decoder.take_delta,
    b"P": _Decoder.take_pickle,
}
