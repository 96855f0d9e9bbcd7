"""All workers of a run run the code of its start, whatever happens to the files meanwhile.

Promise: a module of the user's that a worker of the run has imported has the same code in every worker that starts
later, though its file was edited in between. What cannot be given that way is refused by name: a module of an installed
package that has changed, or one that two workers have imported before and after a change.

How: a worker reports the code of what it imports, of installed packages only the files' times and sizes. Compiled
extensions, archives, and what is imported before a worker hears of the run (hydrax and NumPy) are left out.
"""

from __future__ import annotations

import marshal
import os
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import NamedTuple

__all__ = ["ImportLog", "Imported", "ImportedFile"]

_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = os.path.join(str(Path(os.__file__).parent), "")  # noqa: PTH118  a prefix that ends with a separator


class ImportedFile(NamedTuple):
    """A source file that a worker has imported.

    Attributes:
        stamp: Time of its last change in nanoseconds, and size.
        code: The module's code, marshalled; ``None`` where it belongs to an installed package.
    """

    stamp: tuple[int, int]
    code: bytes | None


class Imported(NamedTuple):
    """What a worker has imported since it last reported: path -> file."""

    files: dict[str, ImportedFile]

    def conflict(self, known: dict[str, ImportedFile]) -> str | None:
        """Why a worker that reports this cannot go on with those that reported ``known``."""
        for path, file in self.files.items():
            if path in known and known[path] != file:
                return changed(path)
        return None


def changed(path: str) -> str:
    """The text of the error."""
    return (
        f"{path} has changed since the run started, and its workers must not run different code: start the run anew "
        "(load_state_dict() goes on with the next batch)"
    )


class ImportLog:
    """Notes what this process imports from now on, and gives modules that are known the code that is known.

    Args:
        known: What workers of the run have imported.
    """

    def __init__(self, known: dict[str, ImportedFile]) -> None:
        self._known = known
        self._new: dict[str, ImportedFile] = {}
        get_code = SourceFileLoader.get_code

        def get_known_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
            path = str(loader.get_filename(fullname))
            file = self._known.get(path)
            if file is not None and file.code is not None:
                code: CodeType = marshal.loads(file.code)  # noqa: S302  written by a worker of this run
                return code
            found = Path(path).stat()
            stamp = found.st_mtime_ns, found.st_size
            if file is not None and file.stamp != stamp:
                raise ImportError(changed(path), name=fullname, path=path)
            result = get_code(loader, fullname)
            if file is None:
                own = not path.startswith(_STANDARD) and not any(name in path for name in _INSTALLED)
                self._new[path] = ImportedFile(stamp, marshal.dumps(result) if own else None)
            return result

        SourceFileLoader.get_code = get_known_code  # type: ignore[assignment, method-assign]  # how every source file is imported

    def take(self) -> Imported | None:
        if not self._new:
            return None
        new, self._new = self._new, {}
        self._known.update(new)
        return Imported(new)
