"""Loaders by name: workers import this module, so it imports little."""

import os
import stat

import numpy as np


def fill(item, arrays, seed):
    """A loader whose output depends on the item and the seed alone, and on every bit of both."""
    arrays["x"][...] = np.sin(np.arange(1, len(arrays["x"]) + 1) * (item + 1))
    arrays["item"][...] = item
    arrays["seed"][...] = seed or 0
    return {"name": f"item {item}", "seed": seed}


def copied(loaded, arrays, seed):
    """An augmentation that changes nothing."""
    for name, array in arrays.items():
        array[...] = loaded[name]


def socket_of_worker():
    """The descriptor of the socket on which the worker that calls this talks to the engine."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                return fd
        except OSError:  # that of the listing
            continue
    raise AssertionError("no socket")
