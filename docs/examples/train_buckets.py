"""Classify series of all lengths in buckets of like ones, in plain jax: less padding, one compilation a bucket.

Run it with ``python docs/examples/train_buckets.py``, or with ``--problem PLAID``. ``--data`` names a folder with
``JapaneseVowels_TRAIN.ts`` and ``JapaneseVowels_TEST.ts`` (nine speakers, 7 to 29 steps of twelve numbers; Kudo,
Toyama, Shimbo; UCI Machine Learning Repository, CC BY 4.0), or the same of PLAID (eleven kinds of appliances, 100 to
1,344 steps of their current; Gao, Giri, Kara, Berges, BuildSys 2014; https://github.com/jingkungao/PLAID); sktime ships
both in ``sktime/datasets/data``. Without it, series of the same shape are made up.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hydrax_core import DataGroup, Dataloader, Ragged, buckets

WIDTH = 64


class Problem(NamedTuple):
    channels: int
    classes: int
    steps: tuple[int, int]  # the least and the most
    buckets: int
    context: int  # steps that are looked at together


PROBLEMS = {"JapaneseVowels": Problem(12, 9, (7, 29), 3, 1), "PLAID": Problem(2, 11, (100, 1344), 4, 32)}


def read(path):
    """Series and labels of a .ts file: a line a series, its channels between colons, the label last."""
    lines = path.read_text().partition("@data\n")[2].splitlines()
    parts = [line.split(":") for line in lines if line]
    series = [np.array([channel.split(",") for channel in part[:-1]], np.float32).T for part in parts]
    labels = np.unique([int(part[-1]) for part in parts], return_inverse=True)[1]
    return list(zip(series, labels.tolist(), strict=True))


def shape_and_size(items):
    """Currents as two channels, for some are ten thousand times others."""
    tops = [np.abs(series).max() + 1e-9 for series, _ in items]
    return [
        (np.hstack([series / top, np.full_like(series, np.log10(top))]), label)
        for (series, label), top in zip(items, tops, strict=True)
    ]


def scaled(items, like):
    """Series whose numbers have the mean 0 and the deviation 1."""
    values = np.concatenate([series for series, _ in like])
    return [((series - values.mean(0)) / values.std(0), label) for series, label in items]


def made_up(count, problem, rng):
    """A stand-in: each class wanders around points of its own."""
    points = np.random.default_rng(0).normal(size=(problem.classes, problem.channels))
    labels = rng.integers(0, problem.classes, count)
    lengths = rng.integers(problem.steps[0], problem.steps[1] + 1, count)
    noise = [rng.normal(size=(length, problem.channels)) for length in lengths]
    return [((points[label] + 1.5 * own).astype(np.float32), label) for label, own in zip(labels, noise, strict=True)]


def load(item, arrays, seed):
    series, label = item
    arrays["label"][...] = label
    return {"series": series}  # as long as it is: hydrax pads it and notes the length


@jax.jit
def scores(weights, series, lengths):
    real = jnp.arange(series.shape[1])[None, :, None] < lengths[:, None, None]
    padding = [(0, weights["in"].shape[0] - 1)]
    seen = jax.lax.conv_general_dilated(series, weights["in"], (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"))
    hidden = jax.nn.relu(seen + weights["bias"]) * real
    pooled = jnp.hstack([hidden.sum(1) / lengths[:, None], hidden.max(1)])
    return jax.nn.relu(pooled @ weights["mid"]) @ weights["out"]


def loss(weights, series, lengths, label, mask):
    right = jnp.take_along_axis(jax.nn.log_softmax(scores(weights, series, lengths)), label[:, None], axis=1)[:, 0]
    return -(right * mask).sum() / mask.sum()


compiled = []


@jax.jit
def train_step(weights, moments, *batch):
    compiled.append(batch[0].shape)  # runs while jax compiles
    gradients = jax.grad(loss)(weights, *batch)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradients)
    second = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g**2, moments[1], gradients)
    weights = jax.tree.map(lambda w, m, v: w - 0.003 * m / (jnp.sqrt(v) + 1e-6), weights, first, second)
    return weights, (first, second)


def arrays_of(batch):
    lengths = jnp.maximum(batch.arrays["series_length"], 1)  # rows of padding have none
    return batch.arrays["series"], lengths, batch.arrays["label"], jnp.asarray(batch.mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=PROBLEMS, default="JapaneseVowels")
    parser.add_argument("--data", type=Path, help="folder with the two .ts files")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--buckets", type=int, help="3 or 4, as the problem is")
    options = parser.parse_args()
    problem = PROBLEMS[options.problem]
    if options.data:
        train, test = (read(options.data / f"{options.problem}_{part}.ts") for part in ("TRAIN", "TEST"))
        if options.problem == "PLAID":
            train, test = shape_and_size(train), shape_and_size(test)
        train, test = scaled(train, train), scaled(test, train)
    else:
        rng = np.random.default_rng(1)
        train, test = made_up(270, problem, rng), made_up(370, problem, rng)

    declared = {"series": ((Ragged(), problem.channels), "float32"), "label": ((), "int32")}
    training, testing = (
        buckets(
            DataGroup(16, items, loader_arrays=declared, shuffle_first=True, remainder="pad"),
            lambda item: len(item[0]),
            boundaries=options.buckets or problem.buckets,
        )
        for items in (train, test)
    )
    for group in training:
        shape = group.loader_layouts["series"].shape
        print(
            f"bucket of up to {shape[1]} steps: {group.rows.size} series in {group.batch_count} batches of {shape[0]}"
        )

    keys = jax.random.split(jax.random.key(0), 3)
    seen = (problem.context, problem.channels)
    shapes = {"in": (*seen, WIDTH), "mid": (2 * WIDTH, WIDTH), "out": (WIDTH, problem.classes)}
    weights = {
        name: jax.random.normal(key, shape) / np.sqrt(np.prod(shape[:-1]))
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    weights["bias"] = jnp.zeros(WIDTH)
    moments = (jax.tree.map(jnp.zeros_like, weights),) * 2
    with Dataloader(load, training, end_at=("epoch", options.epochs)) as loader:
        for batch in loader:
            weights, moments = train_step(weights, moments, *arrays_of(batch))
    right = 0
    with Dataloader(load, testing, end_at=("epoch", 1)) as loader:
        for batch in loader:
            series, lengths, label, mask = arrays_of(batch)
            right += int(((scores(weights, series, lengths).argmax(1) == label) & mask).sum())
    print(f"{len(compiled)} compilations; {right / len(test):.1%} of {len(test)} series right")


if __name__ == "__main__":
    main()
