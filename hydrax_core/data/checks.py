"""Single arguments: checked, and kept. What is wrong is refused with its name, what came and what was expected."""

from __future__ import annotations

import importlib
import inspect
import operator
from typing import Any, Generic, Never, Self, TypeVar, overload

__all__ = ["Kept", "boolean", "choice", "integer", "require"]


def integer(argument: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """An int (or what Python takes for one), with bounds."""
    if minimum is None:
        expected = "an int"
    else:
        expected = f"an int of at least {minimum}" if maximum is None else f"an int from {minimum} to {maximum}"
    if isinstance(value, bool):
        raise TypeError(f"{argument}: expected {expected}, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: expected {expected}, got {value!r}") from None
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"{argument}: expected {expected}, got {number}")
    return number


def boolean(argument: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{argument}: expected True or False, got {value!r}")
    return value


def choice(argument: str, value: Any, choices: tuple[str, ...]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def call(argument: str, function: Any, count: int, expected: str) -> None:
    """Refuse what cannot be called with ``count`` positional arguments, which ``expected`` names."""
    if not callable(function):
        raise TypeError(f"{argument}: expected a function of {expected}, got {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some builtins have no signature
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise TypeError(
            f"{argument}: it is called with {expected}, but {name}{signature} does not take that: {error}"
        ) from None


def require(module: str, extra: str, what: str) -> Any:
    """Import a module that an extra brings.

    Raises:
        ImportError: It is not installed; the text says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs {module.partition('.')[0]}: pip install 'hydrax-toolkit[{extra}]' ({error})"
        ) from error


T_co = TypeVar("T_co", covariant=True)


class Kept(Generic[T_co]):
    """What an object keeps, under its name with an underscore, and others can only read.

    In one line it has what a property takes four for: a name, a type, and a text for ``help()``.
    """

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._get = operator.attrgetter(f"_{name}")

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T_co: ...
    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else self._get(instance)

    def __set__(self, instance: object, value: Never) -> None:
        raise AttributeError(f"{type(instance).__name__}.{self._name} cannot be changed; replace() makes another")
