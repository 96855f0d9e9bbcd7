"""Classify series of 7 to 29 steps in buckets of like lengths, in plain jax: less padding, one compilation a bucket.

Run it with ``python docs/examples/train_buckets.py``. ``--data`` names a folder with ``JapaneseVowels_TRAIN.ts`` and
``JapaneseVowels_TEST.ts`` (Kudo, Toyama, Shimbo; UCI Machine Learning Repository, CC BY 4.0; sktime ships them): nine
speakers, twelve numbers a step. Without it, series of the same shape are made up.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hydrax_core import DataGroup, Dataloader, Ragged, buckets

CHANNELS, CLASSES, WIDTH = 12, 9, 64


def read(path):
    """Series and labels of a .ts file: a line a series, its channels between colons, the label last."""
    lines = path.read_text().partition("@data\n")[2].splitlines()
    parts = [line.split(":") for line in lines if line]
    series = [np.array([channel.split(",") for channel in part[:-1]], np.float32).T for part in parts]
    return [(one, int(part[-1]) - 1) for one, part in zip(series, parts, strict=True)]


def made_up(count, rng):
    """A stand-in: each class wanders around points of its own."""
    points = np.random.default_rng(0).normal(size=(CLASSES, CHANNELS))
    labels = rng.integers(0, CLASSES, count)
    noise = [rng.normal(size=(length, CHANNELS)) for length in rng.integers(7, 30, count)]
    return [((points[label] + 1.5 * own).astype(np.float32), label) for label, own in zip(labels, noise, strict=True)]


def load(item, arrays, seed):
    series, label = item
    arrays["label"][...] = label
    return {"series": series}  # as long as it is: hydrax pads it and notes the length


def scores(weights, series, lengths):
    real = jnp.arange(series.shape[1])[None, :, None] < lengths[:, None, None]
    hidden = jnp.tanh(series @ weights["in"] + weights["bias"])
    pooled = (hidden * real).sum(1) / lengths[:, None]
    return jnp.tanh(pooled @ weights["mid"]) @ weights["out"]


def loss(weights, series, lengths, label, mask):
    right = jnp.take_along_axis(jax.nn.log_softmax(scores(weights, series, lengths)), label[:, None], axis=1)[:, 0]
    return -(right * mask).sum() / mask.sum()


compiled = []


@jax.jit
def train_step(weights, *batch):
    compiled.append(batch[0].shape)  # runs while jax compiles
    return jax.tree.map(lambda w, g: w - 0.3 * g, weights, jax.grad(loss)(weights, *batch))


def arrays_of(batch):
    lengths = jnp.maximum(batch.arrays["series_length"], 1)  # rows of padding have none
    return batch.arrays["series"], lengths, batch.arrays["label"], jnp.asarray(batch.mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the two .ts files")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    if options.data:
        train, test = (read(options.data / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    else:
        rng = np.random.default_rng(1)
        train, test = made_up(270, rng), made_up(370, rng)

    declared = {"series": ((Ragged(), CHANNELS), "float32"), "label": ((), "int32")}
    training, testing = (
        buckets(
            DataGroup(16, items, loader_arrays=declared, shuffle_first=True, remainder="pad"),
            lambda item: len(item[0]),
            boundaries=3,
        )
        for items in (train, test)
    )
    for group in training:
        shape = group.loader_layouts["series"].shape
        print(
            f"bucket of up to {shape[1]} steps: {group.rows.size} series in {group.batch_count} batches of {shape[0]}"
        )

    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"in": (CHANNELS, WIDTH), "mid": (WIDTH, WIDTH), "out": (WIDTH, CLASSES)}
    weights = {n: jax.random.normal(k, s) / np.sqrt(s[0]) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
    weights["bias"] = jnp.zeros(WIDTH)
    with Dataloader(load, training, end_at=("epoch", options.epochs)) as loader:
        for batch in loader:
            weights = train_step(weights, *arrays_of(batch))
    right = 0
    with Dataloader(load, testing, end_at=("epoch", 1)) as loader:
        for batch in loader:
            series, lengths, label, mask = arrays_of(batch)
            right += int(((scores(weights, series, lengths).argmax(1) == label) & mask).sum())
    print(f"{len(compiled)} compilations; {right / len(test):.1%} of {len(test)} series right")


if __name__ == "__main__":
    main()
