"""TARGET -> Dataloader.

Promise: a target that does not exist is wrong usage, and the error names what was looked for; one whose own code
fails shows that code's traceback, cut to the user's frames. A function's ``-p name=value`` arguments come as its
annotations say. What a ``file.py`` defines travels to the workers by value, as they cannot import it by name.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloudpickle

import hydrax_core
from hydrax_cli.shared.convert import convert
from hydrax_cli.shared.errors import TargetError
from hydrax_cli.shared.recognise import SourceOptions, is_data_name, recognise, shown_target
from hydrax_cli.shared.text import clean
from hydrax_core.monitor import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

    from hydrax_core import Dataloader

__all__ = ["SourceOptions", "Target", "is_built_in", "load_target"]

_DIGITS_EPOCHS = 3
_PATIENCE_SECONDS = 10.0
_OF_A_LOADER = 3
"""Parameters of what loads an item."""
_OWN_FOLDERS = tuple(os.path.join(str(Path(__file__).parents[2]), name, "") for name in ("hydrax_cli", "hydrax_core"))  # noqa: PTH118  a prefix that ends with a separator


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be run: its name for people, the loader, not started, what data was taken for, notes, class names."""

    name: str
    loader: Dataloader[Any]
    kind: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def is_built_in(target: str) -> bool:
    """Whether a target is data for a source of ours, which takes its settings from the command line alone."""
    if "://" in target:
        return True
    return is_data_name(target) or (os.path.exists(target) and not target.endswith(".py"))  # noqa: PTH110  a target may be no path


def load_target(target: str | None, parameters: Mapping[str, str], options: SourceOptions) -> Target:
    """Find a target.

    Args:
        target: ``package.module:attribute``, ``file.py:attribute``, a file or folder that a built-in source reads, or
            ``None`` for the digits.
        parameters: Arguments for the function that an attribute may be, as text.
        options: For the built-in sources.

    Raises:
        click.UsageError: There is no such target, or it does not go with the other arguments.
        TargetError: The target's own code fails, or is no Dataloader.
    """
    if target is None or is_built_in(target):
        if parameters and target is None:
            raise click.UsageError("-p: only a function and files take arguments; the digits have none")
        return _built_in(target, replace(options, parameters=parameters))
    for name in options.of_data():
        raise click.UsageError(f"--{name}: it goes with files that a built-in source reads only")
    if options.others:
        raise click.UsageError(f"TARGET: {target} is code, of which one is run; several are files of one format")
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise click.UsageError(f"TARGET: {target!r} is {_misfit(target)}")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found = _attribute(module, place, attribute)
    if not isinstance(found, hydrax_core.Dataloader):
        found = _call(found, target, parameters)
    elif parameters:
        raise click.UsageError(f"-p: only a function takes arguments; {target} is a Dataloader")
    return Target(target, found)


def _misfit(target: str) -> str:
    target = target.rstrip(":")
    if target.endswith(".py"):
        return f"a file; name what in it to run, as in {target}:loader"
    return (
        "neither a file nor a folder, nor of the form package.module:attribute or file.py:attribute "
        "(run without TARGET to see the digits)"
    )


def _built_in(target: str | None, options: SourceOptions) -> Target:
    try:
        if target is None:
            return _digits(options)
        found = recognise(target, options)
        target = shown_target(target)
        groups = found.open(options)
        validation = None if groups.validation is None else ("epoch", 1, groups.validation)
        workers = min(hydrax_core.usable_cores(), groups.training.batch_size) if found.costly else 1
        loader = hydrax_core.Dataloader(groups.training, validation=validation, loader_count=workers)
        return Target(target, loader, found.kind, groups.notes, groups.classes)
    except ImportError as error:
        raise TargetError(str(error)) from error
    except FileNotFoundError as error:
        raise click.UsageError(f"TARGET: there is no file {shown_target(target or '')}") from error
    except (ValueError, TypeError, OSError) as error:
        raise click.UsageError(str(error)) from error


def _digits(options: SourceOptions) -> Target:
    from hydrax_core import sources  # noqa: PLC0415  it costs what only a built-in source needs

    for name in options.of_data():
        raise click.UsageError(f"--{name}: it goes with files that a built-in source reads only")
    chosen = {"batch_size": options.batch_size, "seed": options.seed}
    digits = sources.uci_digits(**{name: value for name, value in chosen.items() if value is not None})
    validation = ("epoch", 1, digits.validation)
    loader = hydrax_core.Dataloader(
        digits.loader_func, digits.training, validation=validation, end_at=("epoch", _DIGITS_EPOCHS)
    )
    return Target("digits", loader)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise click.UsageError(f"TARGET: there is no file {path}")
    path = path.resolve()
    name = f"hydrax_target_{path.stem}_{hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    cloudpickle.register_pickle_by_value(module)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # what lies beside the file can be imported, as with `python file.py`
    with _users_code(str(path)):
        spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as with `python -m`
    try:
        with _users_code(name):
            return importlib.import_module(name)
    except TargetError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise click.UsageError(f"TARGET: there is no module {missing.name!r} (looked in {here}, too)") from error
        raise


def _attribute(module: ModuleType, place: str, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, _candidates(found), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"TARGET: {place} has no {attribute!r}{hint}") from None
        except Exception as error:
            raise TargetError(f"{place}:{attribute} failed\n\n{_users_traceback(error)}") from error
    return found


def _candidates(owner: Any) -> list[str]:
    return [name for name in dir(owner) if not name.startswith("_")]


def _call(function: Any, target: str, parameters: Mapping[str, str]) -> Dataloader[Any]:
    if not callable(function):
        kind = type(function).__name__
        raise click.UsageError(f"{target} is of type {kind}; expected a Dataloader, or a function that returns one")
    arguments = _arguments(function, target, parameters)
    with _users_code(target):
        result = function(**arguments)
    if not isinstance(result, hydrax_core.Dataloader):
        raise TargetError(f"{target} returned {one_line(result)}; expected a Dataloader")
    return result


def _arguments(function: Callable[..., Any], target: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return dict(parameters)  # some builtins have no signature
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    named = {
        name: parameter
        for name, parameter in known.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    arguments: dict[str, Any] = {}
    for name, text in parameters.items():
        if name not in named and not open_ended:
            raise click.UsageError(f"-p {name}: {target} has no such argument; it has {_listed(named)}")
        try:
            arguments[name] = convert(text, named[name], function) if name in named else text
        except ValueError as error:
            raise click.UsageError(f"-p {name}: {error}") from error
    missing = [
        name for name, parameter in named.items() if parameter.default is parameter.empty and name not in arguments
    ]
    if missing:
        if "arrays" in missing or (len(missing) == _OF_A_LOADER and missing[-1] in {"seed", "seeds", "rng", "key"}):
            raise click.UsageError(
                f"{target} takes {_listed(named)}, so it seems to be what loads an item; give the Dataloader made with "
                "it, or a function that returns one: loader = Dataloader(load, DataGroup(...)), and run loader"
            )
        wanted = " ".join(f"-p {name}=..." for name in missing)
        raise click.UsageError(f"{target} needs {_listed(missing)}: add {wanted}")
    return arguments


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


@contextmanager
def _users_code(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a ``TargetError`` with the part of the traceback that is theirs.

    What takes long is named while it does, and where it was when Ctrl-C ended it.
    """
    notice = threading.Timer(_PATIENCE_SECONDS, _tell_of_a_long_wait, [what])
    notice.daemon = True
    notice.start()
    try:
        yield
    except KeyboardInterrupt as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]
        if frames:
            click.echo(clean(f"{what} was at {frames[-1].filename}:{frames[-1].lineno}"), err=True)
        raise
    except BaseException as error:
        raise TargetError(f"{what} failed\n\n{_users_traceback(error)}") from error
    finally:
        notice.cancel()


def _tell_of_a_long_wait(what: str) -> None:
    click.echo(
        f"{clean(what)} has been running for {_PATIENCE_SECONDS:g} s; there is no loader yet (Ctrl-C stops it)",
        err=True,
    )


def _users_traceback(error: BaseException) -> str:
    trace = traceback.TracebackException.from_exception(error)
    _cut(trace, set())
    return "".join(trace.format()).rstrip()


def _cut(trace: traceback.TracebackException | None, seen: set[int]) -> None:
    if trace is None or id(trace) in seen:
        return
    seen.add(id(trace))
    frames = [frame for frame in trace.stack if not _is_ours(frame.filename)]
    trace.stack = traceback.StackSummary.from_list(frames)
    _cut(trace.__cause__, seen)
    _cut(trace.__context__, seen)


def _is_ours(filename: str) -> bool:
    return filename.startswith((*_OWN_FOLDERS, "<frozen importlib")) or filename == importlib.__file__
