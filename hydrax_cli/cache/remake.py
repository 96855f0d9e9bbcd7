"""The loader that filled a cache, made again: ``hydrax cache verify --against``.

Promise: what the command line leaves out comes from the cache for our own sources, which take batch size, seed and
image size from the command line alone. A loader of the user's says these itself, and is not bent to fit the cache.
Where the two do not fit, both sides are shown with the options that would make them fit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hydrax_cli.shared.options import AskedLoader, Overrides
from hydrax_cli.shared.overrides import load_overridden, refuse_pickles
from hydrax_cli.shared.target import is_built_in
from hydrax_core import CacheMismatchError
from hydrax_core.cache import Manifest, read_manifest, side_by_side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydrax_core import DataGroup, Dataloader
    from hydrax_core.cache import CacheInfo

__all__ = ["Place", "find_place", "remake"]

_DIGITS = "digits"
_PIXELS = 3
"""Height, width and colours: the last dimensions of images."""


class Place(NamedTuple):
    """The group that a cache belongs to, with and without it, and its place among the groups of its kind."""

    ordinal: int
    cached: DataGroup[Any]
    fresh: DataGroup[Any]


class _Misfit(NamedTuple):
    """What a group asks for, and where that differs from what the cache holds."""

    wanted: Manifest
    differences: tuple[tuple[str, str, str], ...]


def remake(found: CacheInfo, asked: AskedLoader) -> Dataloader[Any]:
    """The loader that is asked for.

    Args:
        found: The cache that it is to be compared with.
    """
    target = None if asked.target == _DIGITS else asked.target
    batch_size, seed, size = asked.data.batch_size, asked.data.seed, asked.data.size
    if target is None or is_built_in(target):
        batch_size = batch_size or found.settings.get("batch_size")
        seed = found.settings.get("seed") if seed is None else seed
        shapes = {array.name: array.shape for array in found.arrays}
        size = size or (_image_size(shapes) if _is_folder(asked) else None)
    data = replace(asked.data, size=size, batch_size=batch_size, seed=seed)
    changes = Overrides(batch_size=batch_size, seed=seed)
    return load_overridden(AskedLoader(target, asked.parameters, data, changes))[1]


def _is_folder(asked: AskedLoader) -> bool:
    """Whether the target is a folder of images, which ``size`` is for."""
    return asked.target != _DIGITS and Path(str(asked.target)).is_dir()


def find_place(path: Path, loader: Dataloader[Any], found: CacheInfo, asked: AskedLoader) -> Place:
    """The group that a cache was made for.

    Raises:
        CacheMismatchError: There is none; the text shows what differs.
        click.UsageError: The cache holds what a training loop made of the loaded arrays, or would be unpickled.
    """
    groups = loader.training if found.kind == "training" else loader.validation
    if not groups:
        raise click.UsageError(f"--against: the cache is of {found.kind} data, and the loader has none")
    held = read_manifest(path)
    assert held is not None  # ``found`` was made from it
    candidates = range(len(groups)) if found.group_index is None else [min(found.group_index, len(groups) - 1)]
    misfits: list[_Misfit] = []
    for index in candidates:
        group = groups[index]
        if group.cache_layouts and group.loader_layouts and _differ(group):
            raise click.UsageError(
                "--against: this cache holds what the training loop made of the loaded arrays (cache_arrays), and the "
                "loader cannot make that again"
            )
        own = group.cache_location is not None and group.cache_location.resolve() == path.resolve()
        if not own and not asked.changes.allow_pickle:
            refuse_pickles(group, path)
        group = group.replace(cache_arrays=None, augment_func=None, augment_arrays=None, labels=())
        cached = group.replace(cache_location=path, cache_readonly=True, cache_by=found.cache_by)
        wanted = Manifest.of(cached, kind=found.kind, group_index=index, cache_by=found.cache_by)
        differences = held.differences(wanted)
        if differences:
            misfits.append(_Misfit(wanted, tuple(differences)))
            continue
        changes: dict[str, Any] = {"shuffle_later": cached.shuffle_later}
        if found.cache_by == "item":  # then an item's place follows from its index, and every item has one
            changes = {"shuffle_first": False, "shuffle_later": "batchwise", "remainder": "pad"}
        fresh = cached.replace(cache_location=None, cache_readonly=False, cache_by="batch", **changes)
        return Place(index, cached.replace(**changes), fresh)
    nearest = min(misfits, key=lambda misfit: len(misfit.differences))
    raise CacheMismatchError(_refusal(path, held, nearest, sized=_is_folder(asked)))


def _differ(group: DataGroup[Any]) -> bool:
    loader, cache = group.loader_layouts, group.cache_layouts
    return loader.keys() != cache.keys() or any(loader[name][:3] != cache[name][:3] for name in loader)


def _refusal(path: Path, held: Manifest, misfit: _Misfit, *, sized: bool) -> str:
    options, beyond = [], False
    rows_differ = held.settings.get("batch_size") != misfit.wanted.settings.get("batch_size")
    size, ours = _image_size(_shapes(held)), _image_size(_shapes(misfit.wanted))
    resized = sized and size is not None and size != ours
    for field, here, _ in misfit.differences:
        if field == "settings.batch_size":
            options.append(f"--batch {here}")
        elif field == "settings.seed":
            options.append(f"--seed {here}")
        elif field == "arrays.image.shape" and resized:
            assert size is not None
            options.append(f"--size {size[0]}x{size[1]}")
        elif not (
            (rows_differ and (field == "entries" or field.endswith(".shape"))) or (resized and field == "settings.data")
        ):  # these follow from it
            beyond = True
    parts = [
        f"{path}: this cache was not made by this TARGET with these options",
        side_by_side(misfit.differences, "TARGET"),
    ]
    if options:
        parts.append(f"For what the cache holds, give {' '.join(options)}.")
    if beyond:
        parts.append(
            f"{'The rest' if options else 'This'} comes from TARGET itself: give the one that filled the cache, with "
            "its -p. If its data or code has changed since, the cache is of no more use; remove it: "
            f"hydrax cache clear {path}"
        )
    return "\n\n".join(parts)


def _shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    return {array.name: array.shape for array in manifest.arrays}


def _image_size(shapes: Mapping[str, Sequence[int]]) -> tuple[int, int] | None:
    """Height and width, where there are images as a folder of them has them, in batches or one by one."""
    shape = shapes.get("image", ())
    return (shape[-3], shape[-2]) if len(shape) >= _PIXELS else None
