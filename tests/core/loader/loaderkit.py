"""Loaders that tests begin with: two arrays that tell item and seed, filled in the caller."""

import sys

import cloudpickle
import numpy as np

from hydrax_core import DataGroup, Dataloader, batched

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need no Dataloader

ARRAYS = {"x": ((3,), "float32"), "y": ((), "int32")}


def load(item, arrays, seed):
    arrays["x"][...] = [item, seed or 0, 1]
    arrays["y"][...] = item
    return {"text": str(item)} if item % 2 else None


@batched
def load_many(items, arrays, seeds):
    arrays["x"][:, 0] = items
    arrays["x"][:, 1] = seeds or 0
    arrays["x"][:, 2] = 1
    arrays["y"][...] = items
    return [{"text": str(item)} if item % 2 else None for item in items]


def group(count=20, batch_size=4, **more):
    return DataGroup(batch_size, range(count), **{"loader_arrays": ARRAYS, **more})


LARGE = {"x": ((16384,), "float32"), "y": ((), "int32")}  # batches above 64 KiB are handed over where they lie


def mark(item, arrays, seed):
    arrays["x"][...] = item
    arrays["y"][...] = item


def inline(training=None, loader=load, **more):
    return Dataloader(loader, training or group(), **{"loader_kind": "inline", "end_at": ("epoch", 1), **more})


def record(batch):
    arrays = {name: np.asarray(array).tolist() for name, array in batch.arrays.items()}
    return batch.address, batch.indices, getattr(batch, "seeds", None), arrays, dict(batch.additional)


def records(loader):
    with loader:
        return [record(batch) for batch in loader]


KINDS = ["inline", "thread", "process"]
