from types import SimpleNamespace

import numpy as np

np.savez("features.npz", x=np.zeros((100, 8), np.float32), y=np.arange(100))
np.save("0.npy", np.zeros((32, 32, 3), np.uint8))
items = [SimpleNamespace(path="0.npy", label=label) for label in range(640)]
weights = 1.0


def step(image, label):
    assert image.shape == (64, 32, 32, 3)
    assert label.shape == (64,)
