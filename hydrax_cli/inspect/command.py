"""``hydrax inspect``: watch a loader at work and look into its batches."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from hydrax_cli.shared.errors import TargetError
from hydrax_cli.shared.options import SPAN, PatternType, loader_options, result_file
from hydrax_core.errors import NotACacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from textual.pilot import Pilot

    from hydrax_cli.inspect.app import InspectApp
    from hydrax_cli.inspect.cache_app.app import CacheApp
    from hydrax_cli.inspect.feeds.loader import Opened
    from hydrax_cli.inspect.run_view import Fault
    from hydrax_cli.shared.options import AskedLoader
    from hydrax_core.monitor import Run

__all__ = ["inspect"]

_HOW = "start it with HYDRAX_MONITOR=1 in its environment, or make its loader with Dataloader(..., monitor=True)"
_DEMO_SPEED = 10.0
"""Batches a second of the digits, which would be over before anybody has looked."""
_SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter while another waits: a loader at full speed must not hold up a key."""
_SCREEN = PatternType(
    "columnsxlines", r"(\d{2,3})x(\d{2,3})", lambda m: (int(m[1]), int(m[2])), "COLUMNSxLINES, such as 120x40"
)
_POLL_SECONDS = 0.05
_NICENESS = 10
"""Of an app that watches a run: where every core is busy, the run comes first."""
_FIRST_SECONDS = 60.0
"""Longest wait for a first batch, or for a batch that is looked into."""
_OF_EVERY_SOURCE = frozenset({"light", "screenshot", "screen", "press", "after"})
"""Options that go with whatever is looked at."""


def _speed(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    if value is not None and value < 0:
        raise click.BadParameter(f"expected batches a second, or 0 for as fast as it goes; got {value:g}")
    return value


def _no_terminal() -> click.UsageError:
    return click.UsageError(
        "this is no terminal; use `hydrax run` for plain lines or JSON, or --screenshot FILE.svg for a picture"
    )


@click.command(short_help="Watch a loader at work and look into its batches, or into a cache.")
@loader_options
@click.option("--cache", type=click.Path(path_type=Path), help="Look into a cache on disk instead of a loader.")
@click.option(
    "--attach",
    is_flag=False,
    flag_value="",
    metavar="[PID|NAME]",
    help="Watch a training that runs with HYDRAX_MONITOR=1 or monitor=True.",
)
@click.option(
    "--speed",
    type=float,
    metavar="N",
    callback=_speed,
    help="Most batches a second, 0 for as fast as it goes.  [default: 0; 10 for the digits]",
)
@click.option("--paused", is_flag=True, help="Wait for a key before the first batch.")
@click.option("--light", is_flag=True, help="Begin with the light theme.")
@click.option("--screenshot", metavar="FILE.svg", callback=result_file, help="Save a picture, without a terminal.")
@click.option("--screen", type=_SCREEN, default=(120, 40), help="Size of the picture.  [default: 120x40]")
@click.option("--press", metavar="KEYS", default="", help="Keys to press before the picture: 'enter v'.")
@click.option("--after", type=SPAN, default=5.0, help="Longest wait for the end of the run.  [default: 5s]")
@click.pass_context
def inspect(
    ctx: click.Context,
    asked: AskedLoader,
    step_seconds: float,
    cache: Path | None,
    attach: str | None,
    speed: float | None,
    paused: bool,
    light: bool,
    screenshot: str | None,
    screen: tuple[int, int],
    press: str,
    after: float,
) -> None:
    """Watch a loader at work and look into its batches: pause it, step it, go anywhere in it, look at any item.

    TARGET is what `hydrax run` takes; without it, 1,797 handwritten digits are shown. Press ? for the keys.

    With --cache PATH a cache is shown instead: what it holds, a map of it, every entry; verify, repair, clear.
    With --attach it watches the loader of a training that runs, and nothing waits for it; with several runs it asks.

    With --screenshot no terminal is needed: the picture is taken when the run ends or --after has passed.
    """
    if attach is not None:
        _require_alone(ctx, "attach")
    if screenshot is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise _no_terminal() if cache is None else _no_terminal_for_cache(cache)
    if cache is not None:
        _require_alone(ctx, "cache")
        _show_cache(cache, light=light, screenshot=screenshot, screen=screen, keys=press.split(), seconds=after)
        return
    runs = None if attach is None else _runs_to_watch(attach)
    from hydrax_cli.inspect.app import InspectApp  # noqa: PLC0415  a refusal needs none of it
    from hydrax_cli.inspect.feeds.attached import AttachedFeed  # noqa: PLC0415  same
    from hydrax_cli.inspect.feeds.capture import Capture, LogBuffer  # noqa: PLC0415  same
    from hydrax_cli.inspect.feeds.loader import LoaderFeed  # noqa: PLC0415  same

    limit = _DEMO_SPEED if speed is None and asked.target is None else speed or None
    log = LogBuffer()
    feed: AttachedFeed | LoaderFeed
    if runs is not None:
        feed = AttachedFeed(runs, log)
        if screenshot is None:
            os.nice(_NICENESS)
    else:
        feed = LoaderFeed(partial(_open, asked), log, step_seconds=step_seconds, limit=limit, playing=not paused)
    with Capture(log, descriptors=screenshot is None) as capture, _brisk():
        app = InspectApp(feed, on_ready=capture.take_streams, light=light)
        try:
            _show(app, screenshot, screen, press.split(), after)
        finally:
            feed.close()
    _report(ctx, app.fatal_fault)


def _no_terminal_for_cache(cache: Path) -> click.UsageError:
    return click.UsageError(
        f"this is no terminal; use `hydrax cache info {cache}` for plain lines or JSON, or --screenshot FILE.svg for a "
        "picture"
    )


def _require_alone(ctx: click.Context, option: str) -> None:
    """Refuse what says which loader to run, and how, beside an option that runs none."""
    names = [
        param.human_readable_name if param.param_type_name == "argument" else param.opts[0]
        for param in ctx.command.params
        if param.name not in {*_OF_EVERY_SOURCE, option}
        and ctx.get_parameter_source(str(param.name)) == ParameterSource.COMMANDLINE
    ]
    if names:
        raise click.UsageError(f"--{option}: it runs no loader, so {', '.join(names)} cannot go with it")


def _show_cache(
    path: Path, *, light: bool, screenshot: str | None, screen: tuple[int, int], keys: list[str], seconds: float
) -> None:
    from hydrax_cli.inspect.cache_app.app import CacheApp  # noqa: PLC0415  a run needs none of it
    from hydrax_cli.inspect.cache_app.model.source import CacheSource  # noqa: PLC0415  same
    from hydrax_cli.inspect.feeds.capture import Capture, LogBuffer  # noqa: PLC0415  same

    source = CacheSource(path)
    try:
        source.require()
    except NotACacheError as error:
        raise click.UsageError(f"--cache: {error}") from error
    with Capture(LogBuffer(), descriptors=screenshot is None) as capture, _brisk():
        app = CacheApp(source, path, on_ready=capture.take_streams, light=light)
        try:
            _show(app, screenshot, screen, keys, seconds)
        finally:
            source.close()


def _show(
    app: InspectApp | CacheApp, screenshot: str | None, screen: tuple[int, int], keys: list[str], seconds: float
) -> None:
    """Run an app, or take a picture of it; a defect that ends it travels on, out of the screens."""
    if screenshot is not None:
        picture = asyncio.run(_picture(app, screen, keys, seconds))
        Path(screenshot).write_text(picture, "utf-8")
        return
    from hydrax_cli.inspect.textual_private import failure_of  # noqa: PLC0415  --help needs none of it

    app.run()
    failure = failure_of(app)
    if failure is not None:
        raise failure


@contextmanager
def _brisk() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _open(asked: AskedLoader) -> Opened:
    """Find the target; this imports the user's code, and so is done while the screens are up already."""
    from hydrax_cli.inspect.feeds.loader import Opened  # noqa: PLC0415  see above
    from hydrax_cli.shared.overrides import load_overridden  # noqa: PLC0415  see above
    from hydrax_cli.shared.target import is_built_in  # noqa: PLC0415  see above

    found, loader = load_overridden(asked)
    endless = asked.target is None or found.loader.last_batch is None
    if endless and asked.changes.epochs is None and asked.changes.batches is None:
        loader = loader.replace(end_at=None)  # watching has no end of its own
    check = asked.target is not None and not is_built_in(asked.target)
    return Opened(found.name, asked.command, loader, check=check)


async def _picture(app: InspectApp | CacheApp, size: tuple[int, int], keys: list[str], seconds: float) -> str:
    """The screen after a run has come to rest, and after some keys."""
    from hydrax_cli.inspect.svg import screen_svg  # noqa: PLC0415  only a picture needs it

    async with app.run_test(size=size) as pilot:
        await _wait(pilot, lambda: app.has_batch or app.at_rest, _FIRST_SECONDS)
        await _wait(pilot, lambda: app.at_rest, seconds)
        for key in keys:
            await pilot.press(key)
            await _wait(pilot, lambda: app.settled, _FIRST_SECONDS)
        app.tick(at_once=True)
        await pilot.pause(_POLL_SECONDS)
        if not app.screen.is_modal:
            screen_svg(app)  # what is drawn for the first time may ask for more
            await _wait(pilot, lambda: app.settled, seconds)
        return screen_svg(app)


async def _wait(pilot: Pilot[None], condition: Callable[[], bool], seconds: float) -> None:
    """Until the condition holds, or so many seconds have passed."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await pilot.pause(_POLL_SECONDS)


def _report(ctx: click.Context, fault: Fault | None) -> None:
    """What stopped the run stays in the terminal, too."""
    if fault is None:
        return
    if fault.usage:
        raise click.UsageError(fault.text, ctx)
    raise TargetError(fault.text)


# --- which run --attach means: an error lists the runs that there are


def _runs_to_watch(wanted: str) -> list[Run]:
    """The runs that fit a pid or a name (of the run or its script, with or without ``.py``); all for an empty text.

    Raises:
        click.UsageError: None fits; the text says what there is.
    """
    from hydrax_core.monitor import find_runs  # noqa: PLC0415  --help needs none of it

    runs = find_runs()
    wanted = wanted.strip()
    if not wanted:
        if not runs:
            raise click.UsageError(f"no training that can be watched is running; {_HOW}")
        return runs
    if wanted.isdecimal():
        found = [run for run in runs if run.pid == int(wanted)]
        if not found:
            raise click.UsageError(_why_no_process(int(wanted)) + _others(runs))
        return found
    found = [run for run in runs if wanted in (run.name, Path(run.name).stem)]
    if not found:
        raise click.UsageError(f"no run that can be watched is called {wanted!r}; {_others(runs, _HOW)}")
    return found


def _why_no_process(pid: int) -> str:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return f"there is no process {pid}; "
    except PermissionError:
        return f"process {pid} belongs to another user, who alone can watch it; "
    return f"process {pid} offers nothing to watch: {_HOW}; "


def _others(runs: list[Run], without: str = "no other run can be watched now") -> str:
    if not runs:
        return without
    return "there are " + ", ".join(f"{run.name} (pid {run.pid})" for run in runs)
