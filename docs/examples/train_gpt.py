"""Train a small GPT on texts of all lengths, in plain jax: packed rows against one text a row.

Run it with ``python docs/examples/train_gpt.py``. The texts are the help topics and the docstrings that come with
Python (PSF licence), cut into tokens by a small byte-pair encoding that is trained on them first. Attention keeps to
a text: ``segment_ids`` say which tokens of a row belong together.
"""

import argparse
import ast
import sysconfig
import time
from pathlib import Path
from pydoc_data import topics

import jax
import jax.numpy as jnp
import numpy as np

from hydrax_core import DataGroup, Dataloader, Ragged, pack

LENGTH, BATCH = 256, 4
VOCABULARY = 256 + 80
LONGEST = 5000  # characters of a help topic: some take 60,000
WIDTH, HEADS, LAYERS = 32, 2, 1


def texts():
    """Help topics and docstrings of three lines or more."""
    found = [text for text in topics.topics.values() if len(text) < LONGEST]
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-h]*.py")):
        nodes = ast.walk(ast.parse(path.read_bytes()))
        found += [
            ast.get_docstring(n) or "" for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)
        ]
    return [text for text in dict.fromkeys(found) if text.count("\n") > 1]


def merge(tokens, left, right, new):
    """Every pair (left, right) as one token."""
    places = np.flatnonzero((tokens[:-1] == left) & (tokens[1:] == right))
    if left == right:  # of aaa only the first two are a pair
        places = places[np.concatenate([[True], np.diff(places) > 1])]
    merged = tokens.copy()
    merged[places] = new
    return np.delete(merged, places + 1)


def byte_pairs(documents):
    """The most frequent pairs, one after the other, and the documents as tokens; pairs cross no end of a document."""
    end = VOCABULARY
    tokens = np.concatenate([np.append(np.frombuffer(text.encode(), np.uint8), end) for text in documents]).astype(int)
    for new in range(256, VOCABULARY):
        inside = (tokens[:-1] != end) & (tokens[1:] != end)
        counts = np.bincount(tokens[:-1][inside] * VOCABULARY + tokens[1:][inside])
        tokens = merge(tokens, *divmod(int(counts.argmax()), VOCABULARY), new)
    return [part[part != end] for part in np.split(tokens, np.flatnonzero(tokens == end) + 1)[:-1]]


def load(tokens, arrays, seed):
    arrays["tokens"][...] = tokens  # exactly as long as the text


def initial(key):
    def matrix(rows, columns):
        nonlocal key
        key, own = jax.random.split(key)
        return jax.random.normal(own, (rows, columns)) / np.sqrt(rows)

    layers = [
        {"qkv": matrix(WIDTH, 3 * WIDTH), "out": matrix(WIDTH, WIDTH), "up": matrix(WIDTH, 4 * WIDTH)}
        | {"down": matrix(4 * WIDTH, WIDTH)}
        for _ in range(LAYERS)
    ]
    return {"tokens": matrix(VOCABULARY, WIDTH), "places": matrix(LENGTH, WIDTH), "layers": layers}


def normed(x):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def logits(weights, tokens, segments, positions):
    x = weights["tokens"][tokens] + weights["places"][positions]
    seen = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
    for layer in weights["layers"]:
        qkv = (normed(x) @ layer["qkv"]).reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
        query, keys, values = jnp.moveaxis(qkv, 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys) / np.sqrt(WIDTH // HEADS)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(seen[:, None], scores, -1e9)), values)
        x = x + mixed.reshape(x.shape) @ layer["out"]
        x = x + jax.nn.gelu(normed(x) @ layer["up"]) @ layer["down"]
    return normed(x) @ weights["tokens"].T


def loss(weights, tokens, segments, positions):
    """Mean loss of the next token, where that is of the same text; and how many there are."""
    scores = jax.nn.log_softmax(logits(weights, tokens, segments, positions)[:, :-1])
    right = jnp.take_along_axis(scores, tokens[:, 1:, None], axis=2)[..., 0]
    counts = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return -(right * counts).sum() / counts.sum(), counts.sum()


measured = jax.jit(loss)


@jax.jit
def train_step(weights, moments, step, *batch):
    gradients, _ = jax.grad(loss, has_aux=True)(weights, *batch)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradients)
    second = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g**2, moments[1], gradients)
    rate = 0.003 * jnp.minimum(1, (step + 1) / 20)
    scale = jnp.sqrt(1 - 0.99 ** (step + 1)) / (1 - 0.9 ** (step + 1))
    weights = jax.tree.map(lambda w, m, v: w - rate * scale * m / (jnp.sqrt(v) + 1e-8), weights, first, second)
    return weights, (first, second)


def arrays_of(batch):
    return [batch.arrays[name] for name in ("tokens", "segment_ids", "positions")]


def train(rows, validation, steps):
    weights = initial(jax.random.key(0))
    moments = (jax.tree.map(jnp.zeros_like, weights),) * 2
    seen = 0
    with Dataloader(load, rows, end_at=("batch", steps), loader_count=1) as loader:
        for step, batch in enumerate(loader):
            weights, moments = train_step(weights, moments, step, *arrays_of(batch))
            seen += int((np.asarray(batch.arrays["segment_ids"]) > 0).sum())
    with Dataloader(load, validation, end_at=("epoch", 1)) as loader:
        parts = [measured(weights, *arrays_of(batch)) for batch in loader]
    return sum(float(mean) * int(count) for mean, count in parts) / sum(int(count) for _, count in parts), seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()

    documents = byte_pairs(texts())
    lengths = [len(document) for document in documents]
    held = [document for number, document in enumerate(documents) if number % 20 == 0]
    rest = [document for number, document in enumerate(documents) if number % 20]
    print(f"{len(documents)} texts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths):,} in all")

    declared = {"tokens": ((Ragged(),), "int32")}
    training = DataGroup(BATCH, rest, loader_arrays=declared, shuffle_later="itemwise")
    validation = pack(DataGroup(BATCH, held, loader_arrays=declared), list(map(len, held)), length=LENGTH)
    for name, most in (("one text a row", 1), ("packed", None)):
        rows = pack(training, list(map(len, rest)), length=LENGTH, max_segments=most)
        started = time.perf_counter()
        reached, seen = train(rows, validation, options.steps)
        print(
            f"{name}: rows {rows.rows.fill:.1%} full, {seen:,} tokens in {options.steps} steps, "
            f"loss {reached:.3f} after {time.perf_counter() - started:.1f} s"
        )


if __name__ == "__main__":
    main()
