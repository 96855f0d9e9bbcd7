"""Option types and the options that say what loader is meant: the same for every command that takes a TARGET."""

from __future__ import annotations

import difflib
import functools
import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hydrax_cli.shared.recognise import SourceOptions, shown_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic since click 8.4; older ones are served too

__all__ = [
    "ALLOW_PICKLE",
    "COUNT",
    "HOST_OF",
    "PLACE",
    "SPAN",
    "AskedLoader",
    "HintingGroup",
    "Overrides",
    "PatternType",
    "content_options",
    "loader_options",
    "result_file",
]

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


class HintingGroup(click.Group):
    """A group that answers a slip of the keys with what may be meant; click itself does since 8.4."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """What click asks for; an unknown name is answered here."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


class PatternType(ParamType):
    """An option whose text has a pattern."""

    def __init__(self, name: str, pattern: str, read: Callable[[re.Match[str]], object], expected: str) -> None:
        self.name = name
        self._pattern = re.compile(pattern)
        self._read = read
        self._expected = expected

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        if not isinstance(value, str):
            return value  # a default
        found = self._pattern.fullmatch(value.strip())
        if found is None:
            self.fail(f"expected {self._expected}, got {value!r}", param, ctx)
        return self._read(found)


COUNT = PatternType("n", r"0*[1-9]\d*", lambda m: int(m[0]), "a whole number of at least 1")
COUNT_OR_AUTO = PatternType(
    "n|auto",
    r"auto|0*[1-9]\d*",
    lambda m: m[0] if m[0] == "auto" else int(m[0]),
    "a whole number of at least 1, or auto",
)
SPAN = PatternType(
    "time",
    r"(\d+(?:\.\d*)?|\.\d+)\s*(us|µs|ms|s)",
    lambda m: float(m[1]) * _UNITS[m[2]],
    "a time with its unit, such as 5ms, 250us or 0.2s",
)
PLACE = PatternType(
    "epoch[:batch]", r"(\d+)(?::(\d+))?", lambda m: (int(m[1]), int(m[2] or 0)), "EPOCH or EPOCH:BATCH, counted from 0"
)
HOST_OF = PatternType("i/n", r"(\d+)/([1-9]\d*)", lambda m: (int(m[1]), int(m[2])), "HOST/HOSTS, counted from 0")
_SIZE = PatternType(
    "n|hxw", r"([1-9]\d*)(?:x([1-9]\d*))?", lambda m: (int(m[1]), int(m[2] or m[1])), "N or HEIGHTxWIDTH in pixels"
)

_SHARE = PatternType(
    "share",
    r"0?\.\d*[1-9]\d*(?:[eE]-\d+)?|[1-9](?:\.\d+)?[eE]-\d+",
    lambda m: float(m[0]),
    "a share above 0 and below 1, such as 0.1 (a split that has a name is a folder: TARGET/train)",
)
_NAMES = PatternType(
    "a,b,c", r"[^,]+(,[^,]+)*", lambda m: tuple(name.strip() for name in m[0].split(",")), "names with commas between"
)


def _parameters(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r} is not of the form name=value", ctx, param)
        if name in parameters:
            raise click.BadParameter(f"{name} is given twice", ctx, param)
        parameters[name] = value
    return parameters


_PARAMETER = click.option(
    "-p",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_parameters,
    help="Argument for the function, or the source.",
)
_BATCH = click.option("--batch", "batch_size", type=COUNT, help="Batch size, of validation too.")
ALLOW_PICKLE = click.option(
    "--allow-pickle", is_flag=True, help="Let a cache that is there run code: TARGET unpickles what it holds."
)
_SEED = click.option("--seed", type=int, metavar="N", help="Seed of the training data.")


def _size_option(default: str) -> Callable[..., Any]:
    return click.option("--size", type=_SIZE, help=f"Size that images are brought to.  [default: {default}]")


_LOADER_OPTIONS = (
    click.argument("target", nargs=-1),
    _PARAMETER,
    click.option("--epochs", type=COUNT, help="Epochs to run."),
    click.option("--batches", type=COUNT, help="Training batches to run."),
    click.option("--start", type=PLACE, help="Where to start, counted from 0."),
    click.option("--workers", type=COUNT_OR_AUTO, help="Workers (loader_count); auto: as many as it takes."),
    click.option(
        "--kind", type=click.Choice(["process", "thread", "inline"]), help="What the workers are (loader_kind)."
    ),
    click.option("--depth", type=COUNT_OR_AUTO, help="Batches loaded ahead; auto: as many as it takes."),
    _BATCH,
    _SEED,
    _size_option("224"),
    click.option("--columns", type=_NAMES, help="Columns, or arrays, of the data to load."),
    click.option("--split", type=_SHARE, help="Share for validation."),
    click.option("--length", type=COUNT, help="Length of what varies: bytes of a text, tokens, samples of a sound."),
    click.option("--step-time", "step_seconds", type=SPAN, default=0.0, help="Pretend a training step: 5ms."),
)


def result_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A result must not be lost at the end because it cannot be written."""
    if value not in (None, "-") and (Path(value).is_dir() or not Path(value).absolute().parent.is_dir()):
        raise click.BadParameter(f"{value} cannot be written: it is a folder, or its folder does not exist", ctx, param)
    return value


def content_options(*, size_default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that decide, beside TARGET, what is in a batch."""
    options = (_PARAMETER, _BATCH, _SEED, _size_option(size_default))
    return lambda function: _with(function, options)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line changes about a loader; ``None`` leaves what the loader says.

    Attributes:
        epochs: Epochs to run, counted from the start.
        batches: Training batches to run, counted likewise; the first of both limits ends the run.
        workers: Workers, or ``"auto"``.
        depth: Batches loaded ahead, or ``"auto"``.
        start: ``(epoch, batches)``.
        allow_pickle: Whether a cache that is there may be unpickled, where the loader says ``cache_pickle=True``.
        hosts: ``(index, count)`` of hosts that share the work.
        cache: Folder below which every group that has no cache of its own gets one: ``training-0``, ``validation-0``.
    """

    epochs: int | None = None
    batches: int | None = None
    workers: int | Literal["auto"] | None = None
    kind: str | None = None
    depth: int | Literal["auto"] | None = None
    batch_size: int | None = None
    seed: int | None = None
    start: tuple[int, int] | None = None
    hosts: tuple[int, int] | None = None
    cache: Path | None = None
    allow_pickle: bool = False


@dataclass(frozen=True, slots=True)
class AskedLoader:
    """TARGET, and what the options say of its loader."""

    target: str | None
    parameters: Mapping[str, str]
    data: SourceOptions
    changes: Overrides

    @property
    def command(self) -> str:
        """``hydrax run`` with all that decides what is in a batch."""
        targets = [] if self.target is None else [self.target, *self.data.others]
        words = ["hydrax", "run", *map(shown_target, targets)]
        for name, value in self.parameters.items():
            words += ["-p", f"{name}={value}"]
        data = self.data
        texts = {
            "batch": data.batch_size,
            "seed": data.seed,
            "size": None if data.size is None else f"{data.size[0]}x{data.size[1]}",
            "columns": None if data.columns is None else ",".join(data.columns),
            "split": data.split,
            "length": data.length,
        }
        for option, text in texts.items():
            words += [] if text is None else [f"--{option}", str(text)]
        return shlex.join(words)


def loader_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add TARGET and the options that choose and change its loader, in this order; they come as ``asked``."""

    @functools.wraps(function)
    def bundled(*args: Any, target: tuple[str, ...], parameters: dict[str, str], **others: Any) -> Any:
        chosen = {name: value for name, value in others.items() if name in _OF_DATA}
        data = SourceOptions(**chosen, others=target[1:])
        changes = Overrides(**{name: value for name, value in others.items() if name in _OF_CHANGES})
        rest = {name: value for name, value in others.items() if name not in _OF_DATA | _OF_CHANGES}
        return function(*args, asked=AskedLoader(target[0] if target else None, parameters, data, changes), **rest)

    return _with(bundled, _LOADER_OPTIONS)


_OF_DATA = {each.name for each in fields(SourceOptions)}
_OF_CHANGES = {each.name for each in fields(Overrides)} - {"cache", "allow_pickle", "hosts"}


def _with(function: Callable[..., Any], options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function
