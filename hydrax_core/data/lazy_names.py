"""The public names of a package, imported when they are first used.

Promise: importing the package imports none of them, so that it costs nothing and a worker imports only what its own
loader needs. A package writes each name where type checkers see it (``from ... import X as X`` under
``TYPE_CHECKING``) and once in the table given here; ``tests/test_public_api.py`` holds that both are equal.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, homes: Mapping[str, str], *modules: str) -> tuple[list[str], Callable[[str], Any]]:
    """``__all__`` and ``__getattr__`` of a package.

    Args:
        package: Its name.
        homes: Module below ``hydrax_core`` -> its public names, with spaces between.
        *modules: Modules below ``hydrax_core`` that are attributes of the package, too; they are not in ``__all__``.
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def find(name: str) -> Any:
        home = name if name in modules else home_of.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"hydrax_core.{home}")
        value = module if name in modules else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return sorted(home_of), find
