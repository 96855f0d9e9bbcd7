"""The paths and addresses that users give: which files they stand for, and what names these.

Promise: what is not there, is of another format, or lies where the source cannot read it, is refused by name before
anything is opened.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hydrax_core.data.fingerprint import files_fingerprint
from hydrax_core.sources.formats import expect_format
from hydrax_core.sources.remote import RemoteFile, find_remote, is_remote, remote_fingerprint, shown_address

__all__ = ["Paths", "files_name", "find_file", "find_files", "local_path", "refuse_remote"]

Paths: TypeAlias = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def find_file(argument: str, path: str | os.PathLike[str], source: str) -> str:
    """The absolute path of a file that ``source`` reads, or a ``RemoteFile``.

    Raises:
        FileNotFoundError: There is none elsewhere; here, opening it tells.
        ValueError: It is of another format.
    """
    found = find_remote(argument, str(path), ())[0] if is_remote(path) else os.path.abspath(path)  # noqa: PTH100  links keep their names
    expect_format(source, [found])
    return found


def local_path(argument: str, path: str | os.PathLike[str], source: str, what: str, *, folder: bool = True) -> str:
    """The absolute path of a file, or a folder where that may be, that ``source`` reads on this machine only.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another format, or lies elsewhere.
    """
    refuse_remote(argument, path, what)
    if not Path(path).is_file() and not (folder and Path(path).is_dir()):
        raise FileNotFoundError(f"{argument}: there is no {'file or folder' if folder else 'file'} {path}")
    expect_format(source, [os.fspath(path)])
    return os.path.realpath(path)


def refuse_remote(argument: str, path: Any, what: str) -> None:
    """Refuse the address of a file elsewhere, for a source that reads files of this machine.

    Raises:
        ValueError: It is one.
    """
    if is_remote(path):
        raise ValueError(f"{argument}: {shown_address(path)}: {what} cannot be read elsewhere; copy it to a disk")


def find_files(argument: str, paths: Paths, suffixes: Sequence[str], source: str) -> list[str]:
    """Absolute paths of files that ``source`` reads: of each path, folder and pattern (``part-*.parquet``) sorted.

    Addresses such as ``s3://bucket/part-*.parquet`` are found as ``RemoteFile``.

    Raises:
        FileNotFoundError: One of them is no file, or a folder or pattern holds none.
        ValueError: One is of another format, some lie elsewhere and some here, or none is given.
    """
    found: list[str] = []
    for given in [paths] if isinstance(paths, str | os.PathLike) else paths:
        if is_remote(given):
            found.extend(find_remote(argument, str(given), suffixes))
            continue
        path = Path(os.path.abspath(os.fspath(given)))  # noqa: PTH100  links keep their names
        if path.is_dir():
            below = sorted(_below(str(path), tuple(suffixes)))
        elif path.exists() or not glob.has_magic(str(path)):
            below = [str(path)] if path.is_file() else []
        else:
            below = sorted(file for file in glob.glob(str(path), recursive=True) if Path(file).is_file())  # noqa: PTH207  absolute
        if not below:
            looked = f"; looked for {', '.join(suffixes)}" if path.is_dir() else ""
            raise FileNotFoundError(f"{argument}: {given} is no file, nor a folder or pattern with files{looked}")
        found.extend(below)
    if not found:
        raise ValueError(f"{argument}: no file is given")
    if len({isinstance(file, RemoteFile) for file in found}) > 1:
        raise ValueError(f"{argument}: some files are here and some elsewhere; give them to two groups")
    expect_format(source, found)
    return found


def files_name(files: Iterable[str], paths: Sequence[str], *, content: bool) -> str:
    """What names files: path below the folder of ``paths``, size and time of change (elsewhere: address and ETag).

    Args:
        content: Whether their content names them instead of the time.
    """
    remote = [path for path in paths if isinstance(path, RemoteFile)]
    if remote:
        return remote_fingerprint(remote)
    root = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120  many paths
    return files_fingerprint(files, root, content)


def _below(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """The files below a folder, but for hidden ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (f"{parent}/{name}" for name in names if name.endswith(suffixes) and not name.startswith("."))
