"""The smallest whole: files on disk, a loader for one of them, batches of jax arrays.

Run it with ``python docs/examples/quickstart.py``. There is no ``if __name__ == "__main__"`` guard: workers never
import this file.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hydrax_core import DataGroup, Dataloader


@dataclass(frozen=True)
class Item:
    path: Path
    label: int


def write_files(folder, count):
    """Stand-in for your data: one small picture a file."""
    rng = np.random.default_rng(0)
    items = [Item(folder / f"{number}.npy", number % 10) for number in range(count)]
    for item in items:
        np.save(item.path, rng.integers(0, 25 * (item.label + 1), (32, 32, 3), np.uint8))
    return items


def load(item, arrays, seed):  # one item; arrays: name -> NumPy view to fill; seed: an int, None in validation
    arrays["image"][...] = np.load(item.path)
    arrays["label"][...] = item.label
    return {"path": item.path}  # optional additional data


@jax.jit
def step(image, label):
    return jnp.corrcoef(image.mean((1, 2, 3)), label)[0, 1]


with tempfile.TemporaryDirectory() as folder:
    items = write_files(Path(folder), 640)
    arrays = {"image": ((32, 32, 3), "uint8", "float32"), "label": ((), "int32")}
    train = DataGroup(64, items[:512], loader_arrays=arrays, labels=("label",))
    valid = DataGroup(64, items[512:], loader_arrays=arrays, labels=("label",))

    with Dataloader(load, train, validation=("epoch", 1, valid), loader_count=2, end_at=("epoch", 2)) as loader:
        for batch in loader:
            result = step(batch.arrays["image"], batch.arrays["label"])
            kind = "training" if batch.is_training else "validation"
            print(f"{kind} batch {batch.progress}/{batch.progress_total}: brightness follows the label by {result:.3f}")
