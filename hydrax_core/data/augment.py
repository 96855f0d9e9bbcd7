"""What runs in the workers behind the cache: the loader's row is decoded once, and augmented anew in every epoch.

Promise: the user's function gets the row that was loaded, or that the cache holds, read-only, and rows of its own to
fill; neither its code nor its seeds have a part in what is cached. It returns nothing: what it returned could be kept
with no row of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from hydrax_core.data.code_digest import code_digests
from hydrax_core.data.function import is_batched, items_a_call
from hydrax_core.data.layout import ArraySpec
from hydrax_core.data.ragged import RaggedLoader
from hydrax_core.data.rows import value_digest
from hydrax_core.errors import shorten

__all__ = ["Augmentation", "augmentation_name"]


class Augmentation:
    """What augments rows, from the user's function.

    Args:
        augment_func: See ``DataGroup``.
        specs: The arrays that it fills.
        zeroed: Whether rows arrive as zeros.
    """

    def __init__(self, augment_func: Callable[..., Any], specs: Mapping[str, ArraySpec], *, zeroed: bool) -> None:
        self.batched = is_batched(augment_func)
        self.__hydrax_batched__ = self.batched and items_a_call(augment_func)
        if any(spec.ragged for spec in specs.values()):
            augment_func = RaggedLoader(augment_func, specs, zeroed=zeroed)
        self._function = augment_func

    def __call__(self, loaded: Any, arrays: Mapping[str, npt.NDArray[Any]], seeds: Any) -> None:
        """See ``DataGroup``; ``loaded`` is called an item where a loader is meant."""
        result = self._function(loaded, arrays, seeds)
        if result is None or (self.batched and isinstance(result, list | tuple) and all(one is None for one in result)):
            return
        raise TypeError(f"augment_func fills `arrays` in place and returns None; it returned {shorten(result, 80)}")


def augmentation_name(augment_func: Callable[..., Any]) -> str:
    """A function by its name, and a digest of its code as far as that is seen, see ``code_digests``."""
    name = getattr(augment_func, "__qualname__", type(augment_func).__qualname__)
    return f"{name} {value_digest(code_digests(augment_func))[:16]}"
