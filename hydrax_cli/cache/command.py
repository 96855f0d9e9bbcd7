"""``hydrax cache``: what a cache on disk holds, whether it is sound, and removing it."""

from __future__ import annotations

import dataclasses
import logging
import sys
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrax_cli.cache.progress import Progress, progress
from hydrax_cli.cache.render import (
    cleared_lines,
    finding_lines,
    finding_values,
    info_values,
    loader_text,
    loader_values,
    overview_lines,
    verified_lines,
)
from hydrax_cli.shared.options import (
    ALLOW_PICKLE,
    COUNT,
    AskedLoader,
    HintingGroup,
    Overrides,
    PatternType,
    content_options,
)
from hydrax_cli.shared.recognise import SourceOptions
from hydrax_cli.shared.streams import own_output
from hydrax_cli.shared.text import clean, to_json
from hydrax_cli.shared.units import AGE, age_seconds, many
from hydrax_cli.shared.units import size as size_text
from hydrax_core.cache import Finding, caches, clear, in_use, info, verify
from hydrax_core.errors import CacheBusyError, CacheError, NotACacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from hydrax_core import Dataloader
    from hydrax_core.cache import CacheInfo

__all__ = ["cache"]

_FINDINGS = 1
_DECLINED = 1
_SAMPLE = 8
_AGE = PatternType("age", AGE, age_seconds, "an age with its unit, such as 12h, 7d or 2w")
_EPOCH = PatternType("n", r"\d{1,18}", lambda m: int(m[0]), "the number of a content epoch, counted from 0")

_path = click.argument("path", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")


class _InThisOrder(HintingGroup):
    """A group that lists its commands as they come to mind: look, check, remove."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self.commands)


@click.group(cls=_InThisOrder, short_help="Look into, check and remove caches on disk.")
def cache() -> None:
    """Look into, check and remove caches on disk.

    PATH is the folder of a cache (the cache_location of a DataGroup), or a folder with several of them in it.
    """


@cache.command("info", short_help="Show what a cache holds.")
@_path
@_json
def show(path: Path, *, as_json: bool) -> None:
    """Show what a cache holds: arrays, coverage, room on the disk, who made it and when.

    Exit codes: 0 done, 1 it cannot be read, 2 wrong usage.
    """
    found, errors = [], []
    with _findings_only():
        for folder in _caches(path):
            try:
                found.append(info(folder))
            except CacheError as error:
                errors.append(error)
    if as_json and found:
        click.echo(to_json({"caches": [info_values(one) for one in found]}))
    elif found:
        for line in overview_lines(found):
            click.echo(line)
    _raise(errors)


@cache.command("verify", short_help="Read a whole cache and list what is wrong.")
@_path
@click.option("--repair", is_flag=True, help="Remove what is bad, so that it is loaded anew.")
@click.option("--against", metavar="TARGET", help="Load a sample anew with this loader and compare.")
@click.option("--sample", type=COUNT, help=f"Entries to compare with --against.  [default: {_SAMPLE}]")
@content_options(size_default="that of the cache")
@ALLOW_PICKLE
@_json
@click.pass_context
def check(
    ctx: click.Context,
    path: Path,
    *,
    repair: bool,
    against: str | None,
    sample: int | None,
    parameters: dict[str, str],
    batch_size: int | None,
    seed: int | None,
    size: tuple[int, int] | None,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Read a whole cache and list what is wrong with it: corrupt, cut, missing, unfinished, orphaned and foreign.

    With --against, entries that the loader would load differently now are stale. TARGET is as for hydrax run:
    package.module:attribute, file.py:attribute, a folder of images, or an .npy or .npz file; or digits. Give -p, and to
    your own loader --batch and --seed, as hydrax run was given them; the built-in sources take them, and --size, from
    the cache.

    Exit codes: 0 clean, 1 findings (repaired or not), 2 wrong usage.
    """
    asked = _asked(against, sample, parameters, batch_size, seed, size, allow_pickle=allow_pickle)
    folders = _caches(path)
    if repair:
        _require_unused(folders)
    with own_output() if as_json else nullcontext(sys.stdout) as output:
        found = _verify_all(folders, asked, sample or _SAMPLE, repair=repair, silent=as_json)
        if as_json and len(found.errors) < len(folders):
            values = {
                "clean": not found.findings and not found.errors,
                "read_bytes": found.read,
                "compared_batches": found.compared,
                "loaders": [{"path": str(one.path), **loader_values(one)} for one in found.infos],
                "findings": [finding_values(str(folder), finding) for folder, finding in found.findings],
            }
            click.echo(to_json(values), file=output)
    if not as_json and len(found.errors) < len(folders):
        for one in found.infos:
            click.echo(f"{f'{clean(one.path.name)}: ' if len(folders) > 1 else ''}made with {loader_text(one)}")
        read = f"read {size_text(found.read)} of arrays in {many(len(folders), 'cache')}"
        if asked is not None:
            read += f", compared {many(found.compared, 'batch', 'batches')} with TARGET"
        if found.not_served:
            read += f" ({found.not_served} more could not be served)"
        for line in verified_lines(path, [finding for _, finding in found.findings], read, repair=repair):
            click.echo(line)
    _raise(found.errors)
    if found.findings:
        ctx.exit(_FINDINGS)


@cache.command("clear", short_help="Remove a cache, or entries of it.")
@_path
@click.option("--epoch", type=_EPOCH, help="Only this content epoch.")
@click.option("--older-than", type=_AGE, help="Only entries older than this: 7d, 12h.")
@click.option("--corrupt", is_flag=True, help="Only entries that fail their checksum.")
@click.option("--dry-run", is_flag=True, help="Show what would go, and remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
@click.pass_context
def remove(
    ctx: click.Context,
    path: Path,
    *,
    epoch: int | None,
    older_than: float | None,
    corrupt: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove a cache, or the entries that fit all conditions given; only files of the cache's own format go.

    It shows first what goes and how much room that frees, and asks. Where there is no terminal to ask on, it wants
    --yes. While a run uses the cache it refuses.

    Exit codes: 0 done, 1 declined or failed, 2 wrong usage.
    """
    conditions: dict[str, Any] = {"epoch": epoch, "older_than": older_than, "corrupt": corrupt}
    folders = _caches(path)
    if not dry_run:
        _require_unused(folders)  # before anything is asked; clear() makes sure
    done = [(folder, clear(folder, dry_run=True, **conditions)) for folder in folders]
    fits = any(planned.entries or planned.files for _, planned in done)
    asks = fits and not dry_run and not yes
    if asks or (fits and not as_json):
        for line in cleared_lines(done, going=yes and not dry_run):
            click.echo(line, err=as_json)
    if asks and not _confirmed():
        ctx.exit(_DECLINED)
    if not dry_run:
        done = [(folder, clear(folder, **conditions)) for folder in folders]
    if as_json:
        values = [{"path": str(folder), **dataclasses.asdict(cleared)} for folder, cleared in done]
        click.echo(to_json({"removed": not dry_run, "caches": values}))
    elif not fits:
        click.echo("nothing to remove")
    elif not dry_run:
        click.echo(f"freed {size_text(sum(cleared.freed_bytes for _, cleared in done))}")


@contextmanager
def _findings_only() -> Iterator[None]:
    """What the library would log of a damaged cache is shown as a finding."""
    logger = logging.getLogger("hydrax")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _said_once() -> Iterator[None]:
    """A cache that is opened for each batch of a sample logs each warning once."""
    logger = logging.getLogger("hydrax")
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        first = text not in logged
        logged.add(text)
        return first

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


@dataclasses.dataclass(slots=True)
class _Verified:
    findings: list[tuple[Path, Finding]]
    errors: list[CacheError]
    infos: list[CacheInfo]
    read: int = 0
    compared: int = 0
    not_served: int = 0


def _verify_all(
    folders: Sequence[Path], asked: AskedLoader | None, sample: int, *, repair: bool, silent: bool
) -> _Verified:
    """Verify one cache after the other, and write findings as they come."""
    all_found = _Verified([], [], [])

    def look(folder: Path, findings: Iterable[Finding], seen: Progress) -> None:
        prefix = f"{clean(folder.name)}: " if len(folders) > 1 else ""
        for line in finding_lines(_noted(all_found, folder, findings)):
            if not silent:
                seen.say(f"{prefix}{line}")

    for folder in folders:
        try:
            loader = None if asked is None else _loader(folder, asked)  # an error in TARGET is raised at once
            with nullcontext() if repair else _findings_only(), progress(f"reading {folder.name}", "bytes") as seen:
                look(folder, verify(folder, repair=repair, progress=seen), seen)
                all_found.read += seen.done
            with suppress(CacheError), _findings_only():  # a damaged manifest has been found by now
                all_found.infos.append(info(folder))
            if asked is not None and loader is not None:
                with _said_once(), progress(f"loading {folder.name} again", "batches") as seen:
                    look(folder, _compare(folder, loader, asked, sample, seen, all_found), seen)
        except CacheError as error:
            all_found.errors.append(error)
    return all_found


def _noted(all_found: _Verified, folder: Path, findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        all_found.findings.append((folder, finding))
        yield finding


def _raise(errors: Sequence[CacheError]) -> None:
    """What is wrong with some caches must not hide what is found of the others."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise CacheError("\n".join(map(str, errors)))


def _require_unused(folders: Iterable[Path]) -> None:
    for folder in folders:
        if in_use(folder):
            raise CacheBusyError(f"{folder}: a run is using this cache; wait for its end, or stop it")


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on; give --yes to remove this, or --dry-run")
    return click.confirm("Remove this?", err=True)


def _caches(path: Path) -> tuple[Path, ...]:
    try:
        return caches(path)
    except NotACacheError as error:
        hint = "; give the cache_location of a group, or the DIR of hydrax run --cache" if path.is_dir() else ""
        raise click.UsageError(f"PATH: {error}{hint}") from error


def _asked(
    target: str | None,
    sample: int | None,
    parameters: dict[str, str],
    batch_size: int | None,
    seed: int | None,
    size: tuple[int, int] | None,
    *,
    allow_pickle: bool,
) -> AskedLoader | None:
    if target is None:
        given = {"--sample": sample, "-p": parameters or None, "--batch": batch_size, "--seed": seed, "--size": size}
        for option, value in given.items():
            if value is not None:
                raise click.UsageError(f"{option}: it goes with --against")
        return None
    data = SourceOptions(size=size, batch_size=batch_size, seed=seed)
    return AskedLoader(target, parameters, data, Overrides(allow_pickle=allow_pickle))


def _loader(folder: Path, asked: AskedLoader) -> Dataloader[Any]:
    from hydrax_cli.cache.remake import remake  # noqa: PLC0415  it imports the whole library

    return remake(info(folder), asked)


def _compare(
    folder: Path,
    loader: Dataloader[Any],
    asked: AskedLoader,
    sample: int,
    seen: Callable[[int, int], None],
    all_found: _Verified,
) -> Iterator[Finding]:
    from hydrax_cli.cache.against import compare  # noqa: PLC0415  it imports the whole library

    for one in compare(folder, loader, asked, sample, seen):
        all_found.compared += one.served
        all_found.not_served += not one.served
        if one.finding is not None:
            yield one.finding
