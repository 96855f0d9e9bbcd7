"""Frames over a stream socket: a length-prefixed header, JSON, and the raw bytes of arrays; never pickle.

Promise: whatever bytes come, reading them gives messages that are what their types say, or a ``WireError``; it takes
no more memory than the reader's limits and runs nothing. A dtype is taken by name, a shape has to fit the bytes.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from hydrax_core.monitor.protocol.messages import ArrayHead, Ask, Bye, Hello, Moment, Refusal, Sample
from hydrax_core.monitor.run import RunPlan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "MOST_PAYLOAD",
    "Message",
    "MessageReader",
    "WireError",
    "arrays_of",
    "client_reader",
    "dtype_of",
    "encode",
    "server_reader",
]

Message: TypeAlias = Hello | Ask | RunPlan | Moment | Sample | Refusal | Bye

MOST_PAYLOAD = 64 << 20
_MOST_TEXT = 16 << 20
_MOST_ASKED = 1 << 12
_MAGIC = b"hydx"
_HEADER = struct.Struct("<4sII")
_MOST_DIMENSIONS = 32
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}
_LARGEST_SEED = 10**300
"""A seed is an integer of any size, within the digits that Python reads."""
_LARGEST = 2**63
_LARGEST_REAL = 1e15
"""So that what is shown can be calculated with: seconds since the epoch, and counts of any machine, are less."""
_EXTENDED = re.compile(r"bfloat16|float8_\w{1,16}|float[46]_\w{1,16}|u?int[24]")
_PLAIN = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)")


class WireError(Exception):
    """What came is not what the protocol says; nothing can be read after it."""


def encode(message: Message, payload: memoryview | bytes = b"") -> list[memoryview]:
    """A frame in pieces; ``payload`` is not copied.

    Raises:
        ValueError: The message is larger than the other side takes.
    """
    body = json.dumps(
        [type(message).__name__, message],
        default=_plain,
        ensure_ascii=True,  # a text may hold what is no Unicode
        allow_nan=False,
        check_circular=False,
        separators=(",", ":"),
    ).encode()
    if len(body) > _MOST_TEXT or len(payload) > MOST_PAYLOAD:
        raise ValueError(f"a message of {len(body):,} + {len(payload):,} bytes is more than is sent")
    head = _HEADER.pack(_MAGIC, len(body), len(payload)) + body
    return [memoryview(head), memoryview(payload)] if payload else [memoryview(head)]


def _plain(value: object) -> list[object]:
    """A frozen dataclass as the list of its values; JSON takes named tuples itself."""
    return [getattr(value, field.name) for field in fields(value)]  # type: ignore[arg-type]  # json refuses anything else


class MessageReader:
    """Takes bytes as they come, gives messages.

    Args:
        kinds: What may come.
        most_text: Bytes of JSON taken.
        most_payload: Bytes of arrays taken.
    """

    def __init__(self, kinds: Sequence[type[Message]], most_text: int, most_payload: int) -> None:
        self._names = {kind.__name__ for kind in kinds}
        self._most_text = most_text
        self._most_payload = most_payload
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Message, bytes]]:
        """The messages that are complete with these bytes, each with the bytes of its arrays."""
        self._bytes += data
        while len(self._bytes) >= _HEADER.size:
            magic, text_size, payload_size = _HEADER.unpack_from(self._bytes)
            if magic != _MAGIC:
                raise WireError("these are no hydrax messages")
            if text_size > self._most_text or payload_size > self._most_payload:
                raise WireError(f"a message of {text_size:,} + {payload_size:,} bytes is too large")
            start = _HEADER.size + text_size
            if len(self._bytes) < start + payload_size:
                return
            text = bytes(self._bytes[_HEADER.size : start])
            payload = bytes(memoryview(self._bytes)[start : start + payload_size])
            del self._bytes[: start + payload_size]
            yield self._decode(text), payload

    def _decode(self, text: bytes) -> Message:
        try:
            found = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise WireError(f"a message is no JSON: {error}") from error
        if not isinstance(found, list) or len(found) != 2 or not isinstance(found[0], str):  # noqa: PLR2004  a pair
            raise WireError("a message is no pair of its kind and its values")
        name, values = found
        if name not in self._names:
            raise WireError(f"a message of the kind {name[:40]!r} is not expected here")
        return _message_decoder(name)(values)


def server_reader() -> MessageReader:
    return MessageReader([Ask], _MOST_ASKED, 0)


def client_reader() -> MessageReader:
    return MessageReader([Hello, RunPlan, Moment, Sample, Refusal, Bye], _MOST_TEXT, MOST_PAYLOAD)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


# --- values of the types that messages are made of


@cache
def _message_decoder(name: str) -> Callable[[Any], Message]:
    return _decoder(_KINDS[name])


def _decoder(kind: Any, field: str = "") -> Callable[[Any], Any]:
    """What makes a value of that type out of JSON, or raises a ``WireError``."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _one_of(inner)
    if origin is UnionType:
        return _optional(inner, field)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return _run(_decoder(inner[0], field))
        return _fixed([_decoder(part) for part in inner], tuple)
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        names = [field.name for field in fields(kind)] if is_dataclass(kind) else list(kind._fields)
        return _fixed([_decoder(hints[name], name) for name in names], lambda values: kind(*values))
    whole = _seed if field in {"seed", "seeds"} else _integer
    return {int: whole, float: _real, str: _text, bool: _boolean, NoneType: _nothing}[kind]


def _one_of(allowed: tuple[Any, ...]) -> Callable[[Any], Any]:
    def decode(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise WireError(f"expected one of {', '.join(allowed)}, got {_shown(value)}")
        return value

    return decode


def _optional(inner: tuple[Any, ...], field: str) -> Callable[[Any], Any]:
    (other,) = (_decoder(part, field) for part in inner if part is not NoneType)
    return lambda value: None if value is None else other(value)


def _run(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decode(value: Any) -> tuple[Any, ...]:
        return tuple(map(item, _list(value)))

    return decode


def _fixed(items: list[Callable[[Any], Any]], make: Callable[[tuple[Any, ...]], Any]) -> Callable[[Any], Any]:
    count = len(items)

    def decode(value: Any) -> Any:
        if len(_list(value)) != count:
            raise WireError(f"expected {count} values, got {len(value)}")
        return make(tuple([item(part) for item, part in zip(items, value, strict=True)]))

    return decode


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WireError(f"expected several values, got {_shown(value)}")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise WireError(f"expected an integer from 0 to 2**63 - 1, got {_shown(value)}")
    return value


def _seed(value: Any) -> int:
    if type(value) is not int or not -_LARGEST_SEED < value < _LARGEST_SEED:
        raise WireError(f"expected a seed of at most 300 digits, got {_shown(value)}")
    return value


def _real(value: Any) -> float:
    if type(value) is int:
        value = float(_integer(value))
    if type(value) is not float or not abs(value) <= _LARGEST_REAL:
        raise WireError(f"expected a number, got {_shown(value)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise WireError(f"expected a text, got {_shown(value)}")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise WireError(f"expected true or false, got {_shown(value)}")
    return value


def _nothing(value: Any) -> None:
    if value is not None:
        raise WireError(f"expected nothing, got {_shown(value)}")


def _shown(value: object) -> str:
    return value[:40].__repr__() if isinstance(value, str) else type(value).__name__


# --- arrays


def arrays_of(heads: Sequence[ArrayHead], payload: bytes) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays whose bytes follow a message; read-only, over these bytes.

    Raises:
        WireError: They do not fit the bytes, or a dtype is unknown.
    """
    import numpy as np  # noqa: PLC0415  a screen is up before NumPy is

    arrays: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for head in heads:
        dtype = dtype_of(head.dtype)
        if len(head.shape) > _MOST_DIMENSIONS or any(length < 1 for length in head.shape):
            raise WireError(f"array {head.name[:40]!r} has no possible shape")
        end = start + math.prod(head.shape) * dtype.itemsize
        if end > len(payload) or head.name in arrays:
            raise WireError(f"array {head.name[:40]!r} is not in the bytes that came with it")
        arrays[head.name] = np.ndarray(head.shape, dtype, payload, start)
        start = end
    if start != len(payload):
        raise WireError("more bytes came than there are arrays for")
    return arrays


def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of that name.

    Raises:
        WireError: No array of a batch has one of that name.
    """
    import numpy as np  # noqa: PLC0415  see above

    if _PLAIN.fullmatch(name):
        return np.dtype(name)
    if not _EXTENDED.fullmatch(name):
        raise WireError(f"{name[:40]!r} is no dtype of a batch")
    import ml_dtypes  # noqa: PLC0415  only such a dtype needs it

    found = getattr(ml_dtypes, name, None)
    if not isinstance(found, type):
        raise WireError(f"{name[:40]!r} is no dtype that ml_dtypes knows here")
    return np.dtype(found)
