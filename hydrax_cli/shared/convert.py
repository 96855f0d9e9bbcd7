"""The text of ``-p name=value`` -> the value that a parameter's annotation asks for.

Promise: a text that does not fit is refused with what was expected, and an annotation that is not known is refused
rather than guessed. Without an annotation the default's type decides, and without a default the text stays text.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    import inspect

__all__ = ["convert"]

_TRUE = frozenset({"1", "on", "true", "yes"})
_FALSE = frozenset({"0", "off", "false", "no"})
_NONE = frozenset({"", "none"})


def convert(text: str, parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """The value of ``text`` for a parameter of ``function``.

    Raises:
        ValueError: The text does not fit, or the annotation is none that a text can be made for.
    """
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(function, "__globals__", {}))  # noqa: S307  the user's own annotation
        except Exception as error:
            raise ValueError(f"the annotation {annotation!r} cannot be resolved ({error})") from error
    if annotation is parameter.empty:
        no_type = parameter.default is parameter.empty or parameter.default is None
        annotation = str if no_type else type(parameter.default)
    return _convert(text, annotation)


def _convert(text: str, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation](text)
    if origin is Literal:
        return _choice(text, {str(value): value for value in arguments})
    if origin in (Union, types.UnionType):
        return _first(text, arguments)
    if (origin or annotation) in (list, tuple, Sequence, Iterable):
        return _sequence(text, origin or annotation, arguments)
    raise ValueError(
        f"no text can be turned into {annotation!r}; annotate it as int, float, bool, str, Path or a Literal"
    )


def _number(kind: type[int | float]) -> Callable[[str], Any]:
    def read(text: str) -> int | float:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"expected {kind.__name__}, got {text!r}") from None

    return read


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError(f"expected true or false, got {text!r}")


def _none(text: str) -> None:
    if text.lower() not in _NONE:
        raise ValueError(f"expected none, got {text!r}")


def _choice(text: str, values: dict[str, Any]) -> Any:
    if text not in values:
        raise ValueError(f"expected one of {', '.join(values)}, got {text!r}")
    return values[text]


def _first(text: str, annotations: Sequence[Any]) -> Any:
    """The first member of a union that takes the text; str, which takes any, comes last."""
    refusals = []
    for annotation in sorted(annotations, key=lambda member: member is str):
        try:
            return _convert(text, annotation)
        except ValueError as error:
            refusals.append(str(error))
    raise ValueError("; ".join(refusals))


def _sequence(text: str, kind: Any, annotations: tuple[Any, ...]) -> Any:
    """Values with commas between them."""
    texts = [part.strip() for part in text.split(",")] if text else []
    fixed = kind is tuple and annotations and annotations[-1] is not ...
    if fixed and len(texts) != len(annotations):
        raise ValueError(f"expected {len(annotations)} values with commas between them, got {text!r}")
    members = annotations if fixed else (annotations[0] if annotations else str,) * len(texts)
    values = [_convert(part, member) for part, member in zip(texts, members, strict=True)]
    return tuple(values) if kind is tuple else values


_SCALARS: dict[Any, Callable[[str], Any]] = {
    str: str,
    Any: str,
    Path: Path,
    bool: _boolean,
    int: _number(int),
    float: _number(float),
    None: _none,
    types.NoneType: _none,
}
