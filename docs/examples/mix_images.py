"""Batches of two folders of images in shares of 70 to 30, whatever the folders' sizes.

Run it with ``python docs/examples/mix_images.py``. The folders stand in for, say, many photos from the web and a few of
your own; the pictures are made up.
"""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from hydrax_core import Dataloader, mix
from hydrax_core.sources import image_folder

SHARES = [0.7, 0.3]
EPOCHS = 2
DARKEST = 100  # of the pictures of our own


def write_images(folder, count, brightness):
    rng = np.random.default_rng(brightness)
    for number in range(count):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(brightness, brightness + 50, (40, 40, 3), np.uint8)).save(path)


with tempfile.TemporaryDirectory() as folder:
    web, own = Path(folder) / "web", Path(folder) / "own"
    write_images(web, 300, brightness=0)
    write_images(own, 60, brightness=200)
    groups = [image_folder(path, size=32, batch_size=20).training for path in (web, own)]
    mixed = mix(groups, SHARES, shuffle_first=True)

    seen = Counter()
    with Dataloader(mixed, loader_count=2, end_at=("epoch", EPOCHS)) as loader:
        for batch in loader:
            bright = np.asarray(batch.arrays["image"]).mean((1, 2, 3)) > DARKEST
            seen.update(bright.tolist())
    items = sum(seen.values())
    print(
        f"{items} images in {EPOCHS} epochs: {seen[False] / items:.1%} of the web, {seen[True] / items:.1%} of our own"
    )
    print(f"each image of the web came {seen[False] / 300:.1f} times, each of our own {seen[True] / 60:.1f} times")
