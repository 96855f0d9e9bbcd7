"""``hydrax run``: run a loader and show what it does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrax_cli.digest import RunDigest
from hydrax_cli.drive import drive
from hydrax_cli.output import result_json
from hydrax_cli.overrides import Overrides, override
from hydrax_cli.reporters import choose_reporter
from hydrax_cli.summary import describe
from hydrax_cli.target import SourceOptions, Target, load_target

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

_INTERRUPTED = 130
_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


class _Pattern(click.ParamType[Any]):
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


_COUNT = _Pattern("n", r"0*[1-9]\d*", lambda m: int(m[0]), "a whole number of at least 1")
_SPAN = _Pattern(
    "time",
    r"(\d+(?:\.\d*)?|\.\d+)\s*(us|µs|ms|s)",
    lambda m: float(m[1]) * _UNITS[m[2]],
    "a time with its unit, such as 5ms, 250us or 0.2s",
)
_START = _Pattern(
    "epoch[:batch]",
    r"(\d+)(?::(\d+))?",
    lambda m: (int(m[1]), int(m[2] or 0)),
    "EPOCH or EPOCH:BATCH, counted from 0",
)
_SIZE = _Pattern(
    "n|hxw",
    r"([1-9]\d*)(?:x([1-9]\d*))?",
    lambda m: (int(m[1]), int(m[2] or m[1])),
    "N or HEIGHTxWIDTH in pixels",
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


def _json_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A result must not be lost at the end because it cannot be written."""
    if value is not None and value != "-" and (Path(value).is_dir() or not Path(value).absolute().parent.is_dir()):
        raise click.BadParameter(f"{value} cannot be written: it is a folder, or its folder does not exist", ctx, param)
    return value


@click.command(short_help="Run a loader and show what it does.")
@click.argument("target", required=False)
@click.option(
    "-p", "parameters", metavar="NAME=VALUE", multiple=True, callback=_parameters, help="Argument for the function."
)
@click.option("--epochs", type=_COUNT, help="Epochs to run.  [default: the loader's end, or 1]")
@click.option("--batches", type=_COUNT, help="Training batches to run.")
@click.option("--start", type=_START, help="Where to start, counted from 0.")
@click.option("--workers", type=_COUNT, help="Workers.")
@click.option("--kind", type=click.Choice(["process", "thread", "inline"]), help="What the workers are.")
@click.option("--depth", type=_COUNT, help="Batches loaded ahead.")
@click.option("--batch", "batch_size", type=_COUNT, help="Batch size, of validation too.")
@click.option("--seed", type=int, metavar="N", help="Seed of the training data.")
@click.option("--size", type=_SIZE, help="Image size of a folder of images.  [default: 224]")
@click.option("--step-time", "step_seconds", type=_SPAN, default=0.0, help="Pretend a training step: 5ms.")
@click.option("--digest", "with_digest", is_flag=True, help="Hash order, seeds and bytes of every batch.")
@click.option(
    "--json", "json_file", metavar="FILE", callback=_json_file, help="Write the result as JSON; - for standard output."
)
@click.option("--quiet", is_flag=True, help="Show only errors, and the digest if asked for.")
@click.pass_context
def run(
    ctx: click.Context,
    target: str | None,
    parameters: dict[str, str],
    epochs: int | None,
    batches: int | None,
    start: tuple[int, int] | None,
    workers: int | None,
    kind: str | None,
    depth: int | None,
    batch_size: int | None,
    seed: int | None,
    size: tuple[int, int] | None,
    step_seconds: float,
    with_digest: bool,
    json_file: str | None,
    quiet: bool,
) -> None:
    """Run a loader and show what it does: who waits for whom, by how much, and what would change it.

    TARGET is package.module:attribute or file.py:attribute (a Dataloader, or a function that returns one, whose
    arguments -p gives), a folder of images (its sub-folders are the labels), or an .npy or .npz file. Without it, 1,797
    handwritten digits are run.

    Ctrl-C finishes the batch in hand and shows the result, a second one stops at once. Exit codes: 0 done, 1 failed, 2
    wrong usage, 130 interrupted.
    """
    found = load_target(target, parameters, SourceOptions(batch_size=batch_size, seed=seed, size=size))
    asked = Overrides(epochs, batches, workers, kind, depth, batch_size, seed, start)
    try:
        loader = override(found.loader, asked)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    plan = describe(Target(found.name, loader))
    reporter = choose_reporter(sys.stderr if json_file == "-" else sys.stdout, quiet=quiet)
    digest = RunDigest() if with_digest else None
    result, failure = drive(loader, plan, reporter, step_seconds=step_seconds, digest=digest)
    if json_file == "-":
        click.echo(result_json(result))
    elif json_file is not None:
        Path(json_file).write_text(f"{result_json(result)}\n", "utf-8")
    if failure is not None:
        raise failure
    if result.interrupted:
        ctx.exit(_INTERRUPTED)
