"""Every peer behind one function, used as its own documentation recommends.

An adapter is a generator ``adapter(job)`` of tuples of jax arrays, one tuple a batch, without an end; closing it closes
the peer. It lets go of a batch before it asks for the next one, as the original hydrax demands. Each is given what its
documentation offers for speed: the settings tried and dropped stand beside the ones taken.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from loads import FOLDER, load_named, rows

if TYPE_CHECKING:
    from job import Job

Batches = Iterator[tuple[Any, ...]]


TUNED: list[Any] = []
"""The loader of this process, where it chooses its own settings: ``stats()`` says which."""

CLIENTS: list[subprocess.Popen[bytes]] = []
"""Inspectors attached to this process."""


class NotSupportedError(Exception):
    """This version of the package has no such setting: nothing was measured, and nothing failed."""


def hydrax_core(job: Job) -> Batches:
    """This package, as its guide advises where speed matters."""
    from hydrax_core import DataGroup, Dataloader, batched  # noqa: PLC0415  each process imports one peer

    load = load_named(job.load)
    arrays = {name: (shape, dtype, dtype) for name, (shape, dtype) in load.specs.items()}
    options = {"loader_count": job.workers, "depth": "auto", **json.loads(job.options)}
    state, zeroed, attached = (options.pop("state", None), options.pop("zeroed", False), options.pop("attached", False))
    group = DataGroup(job.batch, range(job.items), loader_arrays=arrays, shuffle_first=job.shuffle, zeroed=zeroed)
    function = batched(load.fill_many) if job.batched else load.fill
    try:
        loader = Dataloader(function, group, start_at=(0, job.start), **options)
    except (TypeError, ValueError) as error:
        if not {"monitor", "auto"} & {*options, *map(str, options.values())}:
            raise
        raise NotSupportedError(f"not supported: {error}") from error
    if state is not None:
        loader.load_state_dict(state)
    if options["loader_count"] == "auto":
        TUNED.append(loader)
    with loader, _a_client() if attached else contextlib.nullcontext():
        yield from _emptied(loader)


@contextlib.contextmanager
def _a_client() -> Iterator[None]:
    """The inspector, attached to this process in a terminal of its own."""
    command = [sys.executable, "-c", "from hydrax_cli.main import main; main()", "inspect"]
    asked = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    if "--attach" not in asked.stdout:
        raise NotSupportedError("not supported: hydrax inspect has no --attach")
    terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) != 0)"
    size = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    client = subprocess.Popen(
        [sys.executable, "-c", terminal, *command, "--attach", str(os.getpid())],
        env={**os.environ, **size},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    CLIENTS.append(client)
    try:
        yield
    finally:
        client.kill()
        client.wait()


def _with_state(job: Job) -> Job:
    """The job that resumes from a state saved at ``job.start``, as a training that stopped there would."""
    from hydrax_core import DataGroup, Dataloader  # noqa: PLC0415

    load = load_named(job.load)
    arrays = {name: (shape, dtype, dtype) for name, (shape, dtype) in load.specs.items()}
    group = DataGroup(job.batch, range(job.items), loader_arrays=arrays, shuffle_first=job.shuffle)
    with Dataloader(load.fill, group, start_at=(0, job.start), loader_kind="inline") as loader:
        next(iter(loader))
        options = json.loads(job.options) | {"state": loader.state_dict()}
    return replace(job, start=0, options=json.dumps(options))


def cached(job: Job) -> Batches:
    """This package's second epoch and all later ones, served by a cache that an earlier loader filled."""
    with own_folder() as folder:
        make = own_loader(job, folder)
        with make(end_at=("epoch", 1)) as loader:
            for batch in loader:
                batch.close()
        with make(start_at=(1, 0)) as loader:
            for batch in loader:
                if not batch.from_cache:
                    raise AssertionError(f"{batch.address} was loaded, not served by the cache")
                out = [tuple(batch.arrays.values())]
                del batch
                yield out.pop()


@contextlib.contextmanager
def own_folder() -> Iterator[str]:
    """A folder for a cache, beside the inputs."""
    with tempfile.TemporaryDirectory(dir=os.environ[FOLDER]) as folder:
        yield folder


def own_loader(job: Job, cache: str | None) -> Callable[..., Any]:
    """Makes loaders of this package over one group, with a cache or without."""
    from hydrax_core import DataGroup, Dataloader  # noqa: PLC0415

    load = load_named(job.load)
    arrays = {name: (shape, dtype, dtype) for name, (shape, dtype) in load.specs.items()}
    group = DataGroup(job.batch, range(job.items), loader_arrays=arrays, cache_location=cache, shuffle_later="repeat")
    return lambda **settings: Dataloader(load.fill, group, loader_count=job.workers, **settings)


def accept_any_checksum() -> None:
    """Take the checks out of this process: what is left of a first cached epoch is what they do not cost."""
    from unittest.mock import ANY  # noqa: PLC0415

    from hydrax_core.cache.store import reader  # noqa: PLC0415

    reader.entry_checksum = lambda *_: ANY


def cached_original(job: Job) -> Batches:
    """The same by the library this one succeeds: within one run, or by a second loader that only reads."""
    import hydrax  # noqa: PLC0415

    load = load_named(job.load)
    arrays = {name: (shape, np.dtype(dtype), np.dtype(dtype)) for name, (shape, dtype) in load.specs.items()}
    own = json.loads(job.options)
    one = own.pop("loaders", 2) == 1
    with own_folder() as folder:

        def loader(*, readonly: bool, **settings: Any) -> Any:
            group = hydrax.DataGroup(
                job.batch,
                range(job.items),
                loader_arrays=arrays,
                cache_location=os.path.join(folder, "cache"),  # noqa: PTH118  it takes no Path
                cache_readonly=readonly,
                shuffle_later="repeat",
            )
            return hydrax.Dataloader(load.fill, group, loader_count=job.workers, **{"depth": 6, **own, **settings})

        with loader(readonly=False, **({} if one else {"end_at": ("epoch", 1)})) as filling:
            for batch in itertools.islice(filling, job.items // job.batch):
                del batch
            if one:
                yield from _emptied(filling)
        with loader(readonly=True, start_at=(1, 0)) as serving:
            yield from _emptied(serving)


def _emptied(loader: Any) -> Batches:
    """The arrays of each batch; neither the batch nor its arrays are kept, as the original hydrax demands."""
    for batch in loader:
        out = [tuple(batch.arrays.values())]
        del batch
        yield out.pop()


def memory_map(job: Job) -> Batches:
    """The limit of ``cached``: rows of a memory map that is kept open, aliased by jax."""
    import jax  # noqa: PLC0415

    source = np.asarray(rows())
    for first in itertools.cycle(range(0, len(source), job.batch)):
        yield (jax.device_put(source[first : first + job.batch]),)


def prepare(job: Job) -> Job:
    """What happens before the clock starts: only resuming this package needs anything, a saved state."""
    return _with_state(job) if job.measure == "resume" and job.peer == "hydrax" else job


def hydrax_original(job: Job) -> Batches:
    """The library this one succeeds, as its README shows it: a with block, each batch deleted before the next."""
    import hydrax  # noqa: PLC0415

    load = load_named(job.load)
    arrays = {name: (shape, np.dtype(dtype), np.dtype(dtype)) for name, (shape, dtype) in load.specs.items()}
    group = hydrax.DataGroup(job.batch, range(job.items), loader_arrays=arrays, shuffle_first=job.shuffle)
    settings = {"depth": 6, **json.loads(job.options)}
    with hydrax.Dataloader(load.fill, group, loader_count=job.workers, start_at=(0, job.start), **settings) as loader:
        yield from _emptied(loader)


def grain(job: Job) -> Batches:
    """The Dataset API: batch inside the workers, then ``mp_prefetch``; no reader threads, as for data in memory."""
    import grain as pygrain  # noqa: PLC0415
    import jax  # noqa: PLC0415
    from absl import flags  # noqa: PLC0415

    flags.FLAGS.mark_as_parsed()  # outside absl.app.run, grain stops at its own flags without this

    options = {"threads": 0, "buffer": 2, **json.loads(job.options)}
    dataset = pygrain.MapDataset.range(job.items)
    if job.shuffle:
        dataset = dataset.shuffle(seed=1)
    dataset = dataset.map(load_named(job.load).make).repeat().batch(job.batch, drop_remainder=True)
    if job.measure == "resume":
        dataset = dataset[job.start :]
    reading = pygrain.ReadOptions(num_threads=options["threads"], prefetch_buffer_size=max(1, 8 * options["threads"]))
    working = pygrain.MultiprocessingOptions(num_workers=job.workers, per_worker_buffer_size=options["buffer"])
    iterator = iter(dataset.to_iter_dataset(reading).mp_prefetch(working))
    try:
        while True:
            yield tuple(jax.device_put(array) for array in next(iterator).values())
    finally:
        iterator.close()


class _TorchItems:
    """A map-style data set; ``__getitems__`` only where the job asks for it (torch looks for the attribute)."""

    def __init__(self, load: str, size: int) -> None:
        self.make, self.make_many, self.size = load_named(load).make, load_named(load).make_many, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.make(item)


class _TorchRuns(_TorchItems):
    def __getitems__(self, items: list[int]) -> dict[str, Any]:
        import torch  # noqa: PLC0415

        assert self.make_many is not None
        return {name: torch.from_numpy(array) for name, array in self.make_many(items).items()}


def as_it_is(batch: Any) -> Any:
    """Collate function for a data set that makes whole batches."""
    return batch


def torch(job: Job) -> Batches:
    """DataLoader, its own collation into shared memory, workers kept over epochs; ``spawn``, as jax has threads."""
    import jax  # noqa: PLC0415
    from torch.utils.data import DataLoader  # noqa: PLC0415

    settings = {"multiprocessing_context": "spawn", **json.loads(job.options)}
    loader = DataLoader(
        (_TorchRuns if job.batched else _TorchItems)(job.load, job.items),
        batch_size=job.batch,
        shuffle=job.shuffle,
        num_workers=job.workers,
        collate_fn=as_it_is if job.batched else None,
        drop_last=True,
        persistent_workers=True,
        **settings,
    )
    while True:
        for batch in loader:
            out = [tuple(jax.device_put(tensor.numpy()) for tensor in batch.values())]
            del batch
            yield out.pop()


def one_process(job: Job) -> Batches:
    """The bare work: no library, no worker, one warm batch of memory that is filled again and again (or several)."""
    import jax  # noqa: PLC0415

    load = load_named(job.load)
    places = []
    for _ in range(json.loads(job.options).get("places", 1)):
        arrays = {name: aligned((job.batch, *shape), dtype) for name, (shape, dtype) in load.specs.items()}
        places.append((arrays, [{name: array[row, ...] for name, array in arrays.items()} for row in range(job.batch)]))
    position = 0
    for arrays, views in itertools.cycle(places):
        if job.batched and load.fill_many is not None:
            load.fill_many(range(position, position + job.batch), arrays)
        else:
            for item, row in enumerate(views, position):
                load.fill(item, row)
        position = (position + job.batch) % job.items
        yield tuple(jax.device_put(array) for array in arrays.values())


def aligned(shape: tuple[int, ...], dtype: str) -> Any:
    """Zeros at an address that jax aliases."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = np.zeros(count + 64, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + count].view(dtype).reshape(shape)


ADAPTERS: dict[str, Callable[[Job], Batches]] = {
    "hydrax": hydrax_core,
    "grain": grain,
    "torch": torch,
    "hydrax 0.2.2": hydrax_original,
    "one process": one_process,
}
CACHED: dict[str, Callable[[Job], Batches]] = {
    "hydrax": cached,
    "hydrax 0.2.2": cached_original,
    "memory map": memory_map,
}
DISTRIBUTIONS = {"hydrax": "hydrax-toolkit", "grain": "grain", "torch": "torch", "hydrax 0.2.2": "hydrax"}
MODULES = {
    "hydrax": "hydrax_core.loader.dataloader",
    "grain": "grain",
    "torch": "torch.utils.data",
    "hydrax 0.2.2": "hydrax",
}


def version(peer: str) -> str | None:
    """Installed version of a peer, ``None`` where it is missing."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(DISTRIBUTIONS[peer])
    return None


def warm_import(peer: str) -> None:
    """Import a peer before the clock starts; a missing one raises here."""
    if peer in MODULES:
        importlib.import_module(MODULES[peer])
