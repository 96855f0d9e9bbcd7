"""Train a small classifier on the handwritten digits that ship with hydrax, in plain jax.

Run it with ``python docs/examples/train_digits.py``. Stop it whenever you like: the checkpoint holds the loader's
position beside the weights, and the next start goes on with exactly the next batch.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hydrax_core import Dataloader
from hydrax_core.sources import uci_digits

WIDTHS = (64, 128, 10)
RATE = 0.1


def initial_weights(key):
    return [
        (jax.random.normal(part, (rows, columns)) * np.sqrt(2 / rows), jnp.zeros(columns))
        for part, rows, columns in zip(jax.random.split(key, 2), WIDTHS[:-1], WIDTHS[1:], strict=True)
    ]


def logits(weights, image):
    hidden = image.reshape(len(image), -1) / 16
    for matrix, bias in weights[:-1]:
        hidden = jax.nn.relu(hidden @ matrix + bias)
    matrix, bias = weights[-1]
    return hidden @ matrix + bias


def loss(weights, image, label):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits(weights, image)), label[:, None], axis=1).mean()


@jax.jit
def train_step(weights, image, label):
    return jax.tree.map(lambda w, g: w - RATE * g, weights, jax.grad(loss)(weights, image, label))


@jax.jit
def count_right(weights, image, label, mask):
    return ((logits(weights, image).argmax(1) == label) & mask).sum()


def save(path, weights, loader):
    flat = {f"{layer}.{part}": w for layer, pair in enumerate(weights) for part, w in zip("wb", pair, strict=True)}
    np.savez(path, state=json.dumps(loader.state_dict()), **flat)


def restore(path, loader):
    with np.load(path) as saved:
        loader.load_state_dict(json.loads(str(saved["state"])))
        return [(jnp.array(saved[f"{layer}.w"]), jnp.array(saved[f"{layer}.b"])) for layer in range(len(WIDTHS) - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, help="a .npz file to go on from, and to save to after each epoch")
    options = parser.parse_args()

    digits = uci_digits(batch_size=32)
    loader = Dataloader(
        digits.loader_func,
        digits.training,
        validation=("epoch", 1, digits.validation),
        loader_count=options.workers,
        end_at=("epoch", options.epochs),
    )
    weights = initial_weights(jax.random.key(0))
    if options.checkpoint and options.checkpoint.exists():
        weights = restore(options.checkpoint, loader)

    started = time.perf_counter()
    right = shown = 0
    accuracy = 0.0
    with loader:
        for batch in loader:
            image, label = batch.arrays["image"], batch.arrays["label"]
            if batch.is_training:
                weights = train_step(weights, image, label)
                continue
            right += int(count_right(weights, image, label, batch.mask))
            shown += batch.size
            if batch.progress == batch.progress_total:
                accuracy = right / shown
                print(f"epoch {batch.validation_epoch}: {accuracy:.1%} of {shown} digits right")
                right = shown = 0
                if options.checkpoint:
                    save(options.checkpoint, weights, loader)
    print(f"{accuracy:.1%} after {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
