"""One host of a run: loads global batches, trains a tiny model on them, prints what it saw. See ``hostkit.py``."""

import json
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

import hydrax_core
from hydrax_core import DataGroup, Dataloader, HydraxError, Ragged, buckets, concat, pack

ARRAYS = {"x": ((4,), np.float32), "bytes": ((2,), np.uint8, np.float32), "y": ((), np.int32)}
DRIFT = json.loads(sys.argv[4]).get("drift", 0)
"""What this host alone adds to an item."""
WEIGHTS = np.zeros((4,), np.float32)


def load(item, arrays, seed):
    if item >= 10**6:
        raise ValueError("a bad item")
    arrays["x"][...] = np.random.default_rng(seed or 0).random(4) + item
    arrays["bytes"][...] = item % 256
    arrays["y"][...] = item + (DRIFT if item == 5 else 0)
    return {"text": str(item)}


def load_document(item, arrays, seed):
    number, length = item
    if number < 0:
        raise ValueError("a bad document")
    return {"tokens": np.random.default_rng([seed, number]).integers(1, 1000, length)}


def groups_of_documents(setting):
    """Rows of 16 tokens, packed anew in each epoch, or cut from the stream, and two buckets of single documents."""
    lengths = [1 + 7 * number % 13 for number in range(setting["documents"])]
    bad = set(setting.get("bad", ()))
    documents = [(-1 if number in bad else number, length) for number, length in enumerate(lengths)]
    options = {"remainder": "pad", "shuffle_first": True, "loader_func": load_document}
    whole = DataGroup(24, documents, loader_arrays={"tokens": ((Ragged(),), "int32")}, **options)
    few = whole.replace(data=documents[:60], seed=3)
    made = (pack(whole, lengths, length=16, repack="epoch"), concat(few, lengths[:60], length=16))
    return (*made, *buckets(few, lengths[:60], boundaries=[6, 16]))


def training(setting):
    """The groups that are trained on, and how they are mixed."""
    if "documents" in setting:
        return groups_of_documents(setting), {"weights": [(0, [3, 1, 1, 1]), (5, [1, 1, 2, 1])]}
    items = setting.get("items", list(range(setting.get("size", 48))))
    train = DataGroup(
        setting.get("batch_size", 24),
        items,
        loader_arrays=ARRAYS,
        seed=setting.get("seed", 0),
        shuffle_first=True,
        shuffle_later=setting.get("later", "default"),
        remainder="pad",
    )
    return train, {}


def row_digests(batch):
    """Of each row that this host has, whole: a row's digest does not depend on which host has it."""
    found = {}
    for row in batch.own_rows:
        found[row] = xxhash.xxh3_64(f"{batch.address} {row}".encode())
    for name in sorted(batch.arrays):
        whole = {}
        for shard in batch.arrays[name].addressable_shards:
            first = shard.index[0].start or 0
            for offset, values in enumerate(np.asarray(shard.data)):
                columns = shard.index[1].start or 0 if len(shard.index) > 1 else 0
                whole.setdefault(first + offset, {})[columns] = values
        for row, parts in whole.items():
            text = np.concatenate([np.atleast_1d(parts[column]) for column in sorted(parts)]).tobytes()
            found[row].update(text if len(parts) * len(text) else b"")
    return {row: digest.hexdigest() for row, digest in found.items()}


@partial(jax.jit, static_argnums=2)
def step(weights, batch, everywhere):
    # Sums over devices depend on how many there are; where each has all rows they do not.
    batch = jax.lax.with_sharding_constraint(batch, everywhere)

    def loss(weights):
        rows = (batch.arrays["x"] @ weights - batch.arrays["y"] % 7) ** 2 * batch.mask
        return rows.sum() / batch.mask.sum()

    value, gradient = jax.value_and_grad(loss)(weights)
    return weights - 1e-6 * gradient, value


def checkpoint(setting, loader, weights, losses):
    """As a training does after each step: what a file of that name holds is always whole."""
    if "checkpoint" in setting and jax.process_index() == 0:
        path = Path(setting["checkpoint"])
        saved = {"state": loader.state_dict(), "weights": weights_of(weights), "losses": losses}
        path.with_suffix(".new").write_text(json.dumps(saved))
        path.with_suffix(".new").rename(path)


def weights_of(weights):
    return [float(weight) for weight in np.asarray(weights.addressable_shards[0].data)]


def main():
    index, count, address, setting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    if count > 1:
        waits = {"heartbeat_timeout_seconds": 10, "shutdown_timeout_seconds": 40}
        jax.distributed.initialize(address, num_processes=count, process_id=index, **waits)
    hydrax_core.__version__ = setting.get("version", hydrax_core.__version__)
    shape = (jax.device_count() // 2, 2) if setting.get("model") else (jax.device_count(), 1)
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(shape), ("data", "model"))
    if setting.get("silent"):  # a host that has better to do
        time.sleep(15)
        sys.stdout.write("{}\n")
        return
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    train, mixture = training(setting)
    valid = DataGroup(24, range(30), loader_arrays=ARRAYS, remainder="pad")
    loader = Dataloader(
        load,
        train,
        validation=("epoch", 1, valid),
        sharding=(mesh, [tuple(axis) if isinstance(axis, list) else axis for axis in setting.get("axes", ["data"])]),
        loader_kind=setting.get("kind", "thread"),
        end_at=("epoch", setting.get("epochs", 2)),
        verify_hosts_every=setting.get("verify", 0),
        timeout_sec=setting.get("timeout", 30),
        on_error=setting.get("on_error", "raise"),
        **mixture,
    )
    if setting.get("state"):
        loader.load_state_dict(setting["state"])
    weights, losses, batches = jnp.array(setting.get("weights", WEIGHTS.tolist()), jnp.float32), [], []
    found, began = {}, time.monotonic()
    try:
        with loader:
            for batch in loader:
                batches.append(
                    {
                        "address": str(batch.address),
                        "indices": list(batch.indices),
                        "size": batch.size,
                        "rows": row_digests(batch),
                        "texts": [text for text in batch.get_additional("text") if text is not None],
                        "global": all(array.shape[0] == 24 for array in batch.arrays.values()),
                    }
                )
                if batch.is_training and setting.get("train", True):
                    weights, loss = step(weights, batch, everywhere)
                    losses.append(np.float32(np.asarray(loss.addressable_shards[0].data)).tobytes().hex())
                    checkpoint(setting, loader, weights, losses)
                    if len(losses) == setting.get("hang"):
                        threading.Event().wait()
                if len(batches) == setting.get("pause"):
                    found["paused"] = loader.state_dict()
                if len(batches) == setting.get("stop"):
                    break
    except HydraxError as error:
        found |= {"error": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - began}
    found |= {"batches": batches, "losses": losses, "weights": weights_of(weights)}
    found["state"] = None if "error" in found else loader.state_dict()
    sys.stdout.write(json.dumps(found) + "\n")


main()
