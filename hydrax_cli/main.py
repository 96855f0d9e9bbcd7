"""The command group; the one place where an error becomes text and an exit code.

Promise: ``hydrax --help`` imports no command, so it answers at once. What is expected to go wrong (usage, targets,
``HydraxError``) is shown without a traceback of ours; anything else is a defect and shows one. Exit codes: 0 done, 1
failed, 2 wrong usage, 130 interrupted; a command whose terminal goes away ends by SIGHUP (129 in a shell).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, NamedTuple

import click

from hydrax_cli.shared.errors import TargetError
from hydrax_cli.shared.hangup import end_with_terminal
from hydrax_cli.shared.options import HintingGroup
from hydrax_cli.shared.text import clean_lines
from hydrax_core.errors import HydraxError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["hydrax", "main", "run_command_line"]

FAILED = 1
INTERRUPTED = 130


class _Command(NamedTuple):
    name: str
    place: str
    summary: str


COMMANDS = (
    _Command("run", "hydrax_cli.run.command:run", "Run a loader and show what it does."),
    _Command(
        "inspect",
        "hydrax_cli.inspect.command:inspect",
        "Watch a loader at work and look into its batches, or into a cache.",
    ),
    _Command("cache", "hydrax_cli.cache.command:cache", "Look into, check and remove caches on disk."),
)


class _LazyGroup(HintingGroup):
    """A group that imports a command when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return [command.name for command in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        for command in COMMANDS:
            if command.name == cmd_name:
                module, _, attribute = command.place.partition(":")
                loaded = getattr(importlib.import_module(module), attribute)
                assert isinstance(loaded, click.Command)
                return loaded
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(command.name, command.summary) for command in COMMANDS])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hydrax-toolkit", prog_name="hydrax", message="%(prog)s %(version)s")
def hydrax() -> None:
    """A data loader for JAX: try a loader, look into it, check its cache."""


def run_command_line(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    try:
        # click returns the code of ctx.exit(); commands return nothing.
        return int(hydrax.main(list(arguments), prog_name="hydrax", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.message = clean_lines(error.message)  # type: ignore[misc]  # final for click, which shows nothing else
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # its reader has closed it
        return FAILED
    except (HydraxError, TargetError, OSError) as error:
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {clean_lines(str(error))}", err=True)
        if isinstance(error, OSError):
            _drop_output()
        return FAILED


class _CleanFormatter(logging.Formatter):
    """What is logged tells of items, exceptions and paths of others."""

    def format(self, record: logging.LogRecord) -> str:
        return clean_lines(super().format(record))


def _drop_output() -> None:
    """Standard output may be what failed: what is still buffered must not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    end_with_terminal()
    if logging.lastResort is not None:  # what shows warnings where TARGET has not set up its own logging
        logging.lastResort.setFormatter(_CleanFormatter())
    try:
        code = run_command_line(sys.argv[1:])
    except Exception:  # noqa: BLE001  a defect: its traceback, whatever texts are in it
        click.echo(clean_lines(traceback.format_exc()), err=True)
        code = FAILED
    sys.exit(code)
