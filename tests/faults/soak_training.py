"""The training that the soak disturbs: that of ``docs/examples/train_digits.py``, with a digest of each epoch.

Prints a JSON line an epoch; ends with the epoch in which its standard input ends, and tells what is left behind.
"""

import importlib.util
import json
import sys
import threading
from pathlib import Path

import jax
import leaks
import xxhash
from faultkit import content

from hydrax_core import Dataloader
from hydrax_core.sources import uci_digits

EXAMPLE = Path(__file__).parents[2] / "docs/examples/train_digits.py"


def digits_loader(**options):
    """The loader of the example, without an end."""
    digits = uci_digits(batch_size=32)
    return Dataloader(digits.loader_func, digits.training, validation=("epoch", 1, digits.validation), **options)


def epochs(loader, step=None):
    """The digest over all batches of each epoch, validation included."""
    digest = xxhash.xxh3_128()
    for batch in loader:
        digest.update(content(batch))
        if step is not None:
            step(batch)
        if not batch.is_training and batch.progress == batch.progress_total:
            yield digest.hexdigest()
            digest.reset()


class Training:
    """The example's steps, in the place of its loop."""

    def __init__(self):
        spec = importlib.util.spec_from_file_location("train_digits", EXAMPLE)
        self.example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.example)
        self.weights = self.example.initial_weights(jax.random.key(0))
        self.right = self.shown = 0

    def step(self, batch):
        image, label = batch.arrays["image"], batch.arrays["label"]
        if batch.is_training:
            self.weights = self.example.train_step(self.weights, image, label)
            self.right = self.shown = 0
        else:
            self.right += int(self.example.count_right(self.weights, image, label, batch.mask))
            self.shown += batch.size


def say(**values):
    print(json.dumps(values), flush=True)  # noqa: T201  a program


def main():
    training = Training()
    with digits_loader(end_at=("epoch", 1)) as loader:  # what jax opens once and keeps is open now
        for _ in epochs(loader, training.step):
            pass
    training = Training()
    before = leaks.holdings()
    stop = threading.Event()
    reader = threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True)
    reader.start()
    with digits_loader(loader_count=2) as loader:
        for digest in epochs(loader, training.step):
            say(digest=digest, right=training.right / training.shown)
            if stop.is_set():
                break
        stats = loader.stats()
    reader.join()
    say(restarts=stats.worker_restarts, batches=stats.training_batches + stats.validation_batches)
    del loader
    say(left=leaks.leaked_since(before))


if __name__ == "__main__":
    main()
