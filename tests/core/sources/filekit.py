"""What is true of every source of files, as functions that a test of one calls."""

import os

import numpy as np
import pytest

from hydrax_core import Dataloader
from hydrax_core.errors import CacheMismatchError
from hydrax_core.testing import check_loader, check_source


def epoch(group, kind="inline", **options):
    """One epoch of a group: its real rows in the order of the data, and their additional data."""
    rows, more, order = {}, [], []
    with Dataloader(group, loader_kind=kind, end_at=("epoch", 1), **options) as loader:
        for batch in loader:
            order.extend(batch.indices[: batch.size])
            more.extend([{k: batch.get_additional(k, i) for k in batch.additional} for i in range(batch.size)])
            for name, array in batch.arrays.items():
                rows.setdefault(name, []).append(np.asarray(array)[: batch.size])
    places = np.argsort(order)
    assert sorted(order) == list(range(len(group)))
    return {name: np.concatenate(parts)[places] for name, parts in rows.items()}, [more[place] for place in places]


def check_promises(group):
    """The source and the loader keep what sources and loaders must."""
    assert check_source(group.items) == []
    assert check_loader(None, group) == []


def check_two_groups(one, other, kind="process"):
    """Two groups in one loader each read their own files, in worker processes unless another kind is given."""
    expected = [epoch(group)[0] for group in (one, other)]
    with Dataloader(one, validation=("epoch", 1, other), loader_kind=kind, end_at=("epoch", 1)) as loader:
        for batch in loader:
            rows = list(batch.indices[: batch.size])
            for name, array in batch.arrays.items():
                wanted = expected[0 if batch.is_training else 1][name][rows]
                np.testing.assert_array_equal(np.asarray(array)[: batch.size], wanted)


def check_cache(make, change, folder):
    """A cache serves the data that it was made of, and none else."""
    before = epoch(make().replace(cache_location=folder))[0]
    again = epoch(make().replace(cache_location=folder))[0]
    for name, array in before.items():
        np.testing.assert_array_equal(array, again[name])
    change()
    with pytest.raises(CacheMismatchError, match=r"settings\.data|loader_arrays|items"):
        epoch(make().replace(cache_location=folder))


def touch(path):
    """As if a file had been written again, with the same number of bytes."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
