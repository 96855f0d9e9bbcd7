"""``hydrax run``: run a loader and show what it does."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrax_cli.run.digest import RowsDigest, RunDigest
from hydrax_cli.run.drive import drive
from hydrax_cli.run.render.json import result_json
from hydrax_cli.run.reporters import choose_reporter
from hydrax_cli.run.summary import describe
from hydrax_cli.shared.options import ALLOW_PICKLE, HOST_OF, loader_options, result_file
from hydrax_cli.shared.overrides import load_overridden
from hydrax_cli.shared.streams import own_output
from hydrax_cli.shared.target import is_built_in
from hydrax_core.cache import caches
from hydrax_core.errors import NotACacheError

if TYPE_CHECKING:
    from hydrax_cli.shared.options import AskedLoader
    from hydrax_core import Dataloader

__all__ = ["run"]

_INTERRUPTED = 130


def _caches_folder(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """The folder of a single cache must stay free of others."""
    if value is not None:
        try:
            single = caches(value) == (value,)
        except NotACacheError:
            single = False
        if single:
            raise click.BadParameter(f"{value} is the cache of one group; give the folder above it", ctx, param)
    return value


@click.command(short_help="Run a loader and show what it does.")
@loader_options
@click.option(
    "--cache",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_caches_folder,
    help="Keep what is loaded below DIR, and serve it from there.",
)
@ALLOW_PICKLE
@click.option("--digest", "with_digest", is_flag=True, help="Hash order, seeds and bytes of every batch.")
@click.option(
    "--hosts",
    type=HOST_OF,
    help="Load the rows of one host of several, such as 0/4; the digests of all add up (mod 2^128) to that of 0/1.",
)
@click.option(
    "--json", "json_file", metavar="FILE", callback=result_file, help="Write the result as JSON; - for standard output."
)
@click.option("--check/--no-check", default=True, help="Look for mistakes of the loader function after the run.")
@click.option("--quiet", is_flag=True, help="Show only errors, and the digest if asked for.")
@click.pass_context
def run(
    ctx: click.Context,
    asked: AskedLoader,
    step_seconds: float,
    cache: Path | None,
    allow_pickle: bool,
    with_digest: bool,
    hosts: tuple[int, int] | None,
    json_file: str | None,
    check: bool,
    quiet: bool,
) -> None:
    """Run a loader and show what it does: who waits for whom, by how much, and what would change it.

    TARGET is package.module:attribute or file.py:attribute (a Dataloader, or a function that returns one, whose
    arguments -p gives); or data, known by its content: a folder of images or sound (its sub-folders are the labels), an
    .npy, .npz, Arrow, Parquet, HDF5, Zarr, SQLite, LMDB or ArrayRecord file, tar shards, JSON lines, CSV, text, tokens,
    a data set of Hugging Face, or several files of one kind; -p gives the source that reads it its other arguments.
    Without TARGET, 1,797 handwritten digits are run. Without --epochs and --batches, a run goes to the loader's end, or
    for one epoch.

    --cache gives every group without a cache of its own a folder below DIR: training-0, validation-0 and so on. A group
    that leaves its shuffle_later at "default" then repeats the batches of its first epoch in another order each epoch.

    After the run a few items of each group are loaded again, in a worker, to find values that do not fit into their
    dtype, arrays that are not filled, and randomness without the seed; --no-check leaves that out.

    Ctrl-C finishes the batch in hand and shows the result, a second one stops at once. A run whose standard output is a
    terminal ends with it; with nohup, or written to a file or a pipe, it goes on. Exit codes: 0 done, 1 failed, 2 wrong
    usage, 129 its terminal is gone, 130 interrupted.
    """
    changes = replace(asked.changes, cache=cache, allow_pickle=allow_pickle, hosts=hosts)
    with own_output() if json_file == "-" else nullcontext(sys.stdout) as output:
        found, loader = load_overridden(replace(asked, changes=changes))
        _check_start(loader)
        plan = describe(replace(found, loader=loader))
        reporter = choose_reporter(sys.stderr if json_file == "-" else sys.stdout, quiet=quiet)
        digest = None if not with_digest else RunDigest() if hosts is None else RowsDigest()
        check = check and not (asked.target is None or is_built_in(asked.target)) and not (quiet and json_file is None)
        result, failure = drive(loader, plan, reporter, step_seconds=step_seconds, digest=digest, check=check)
        if json_file == "-":
            click.echo(result_json(result), file=output)
    if json_file not in (None, "-"):
        Path(json_file).write_text(f"{result_json(result)}\n", "utf-8")
    if failure is not None:
        raise failure
    if result.interrupted:
        ctx.exit(_INTERRUPTED)


def _check_start(loader: Dataloader[Any]) -> None:
    """Refuse a run without a batch."""
    if loader.last_batch is not None and loader.first_batch >= loader.last_batch:
        first = "{}:{}".format(*divmod(loader.first_batch, loader.batches_per_epoch))
        end = "{}:{}".format(*divmod(loader.last_batch, loader.batches_per_epoch))
        raise click.UsageError(
            f"--start: the run would be empty, as it starts at {first} and stops before {end}; "
            "start earlier, or say how long to run with --epochs or --batches"
        )
