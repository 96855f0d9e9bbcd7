"""The marks of mixtures and packing, measured: ``python tests/benchmarks/mixtures.py``.

Rounds of what is compared take turns, and each figure is the best of its rounds: other work on the machine only adds.
With grain and torch installed, their packing of the same documents is measured beside ours: grain's own, and for torch
two collate functions in Python, of which one leaves the tokens of a document to NumPy.
"""

import argparse
import functools
import importlib.util
import pydoc
import runpy
import sysconfig
import time
import tracemalloc
from pathlib import Path
from pydoc_data import topics

import jax
import jax.numpy as jnp
import numpy as np

import hydrax_core
from hydrax_core import DataGroup, Dataloader, Ragged, mix, pack
from hydrax_core.plan.mixture import by_weights

ROUNDS = 3
say = functools.partial(print, flush=True)
LENGTH, LONG, ROWS = 2048, 16_384, 8
ARRAYS = {"x": ((4,), "float32")}


@hydrax_core.batched
def tiny(items, arrays, seeds):
    arrays["x"][...] = 1


def copy_in(tokens, arrays, seed):
    arrays["tokens"][...] = tokens


def best(rounds, *functions):
    """Least seconds of each function; rounds take turns."""
    found = [[] for _ in functions]
    for _ in range(rounds):
        for seconds, function in zip(found, functions, strict=True):
            started = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - started)
    return [min(seconds) for seconds in found]


def packing():
    for count in (1_000_000, 10_000_000):
        lengths = np.clip(np.random.default_rng(0).lognormal(6, 1, count), 1, LENGTH).astype(np.int64)
        (seconds,) = best(ROUNDS, lambda lengths=lengths: pack(lengths, length=LENGTH))
        started = time.process_time()
        rows = pack(lengths, length=LENGTH)
        used = time.process_time() - started
        tracemalloc.start()
        pack(lengths, length=LENGTH)
        peak = tracemalloc.get_traced_memory()[1] / count
        tracemalloc.stop()
        say(f"pack {count:,}: {seconds:.3f} s ({used:.3f} s of CPU), {rows.fill:.2%} full, {peak:.1f} bytes an item")


def far():
    weights = [(0, [5, 4, 3, 2, 1]), (1000, [31, 27, 19, 11, 12]), (10**6, [1, 0, 0, 2, 97])]
    mixture = by_weights([10**9 // 64 // 5] * 5, weights, None, None)

    def ask(first):
        for number in range(first, first + 20_000):
            mixture.locate(number)

    for first, seconds in zip((0, 10**8), best(ROUNDS, lambda: ask(0), lambda: ask(10**8)), strict=True):
        say(f"locate from batch {first:,}: {seconds / 20_000 * 1e6:.2f} us")
    groups = np.array([by_weights([900, 50, 50], [0.6, 0.3, 0.1], None, None).locate(n).group for n in range(3000)])
    for group, expected in enumerate((600, 300, 100)):
        counts = np.cumsum(np.concatenate([[0], groups == group]))
        off = np.abs(counts[1000:] - counts[:-1000] - expected).max()
        say(f"group {group} of 0.6, 0.3, 0.1: off by {off} in any 1,000 batches")


def cost(batches=3000):
    def group(size):
        return DataGroup(64, list(range(size)), loader_arrays=ARRAYS, shuffle_first=True)

    kinds = {
        "one plain group": ([group(100_000)], {}),
        "5 groups, weights": ([group(20_000) for _ in range(5)], {"weights": [5, 4, 3, 2, 1]}),
        "mix of 5 groups": ([mix([group(20_000) for _ in range(5)], [5, 4, 3, 2, 1])], {}),
        "sample_weights": ([group(100_000).replace(sample_weights=np.arange(100_000) + 1.0)], {}),
    }

    def drain(groups, settings):
        with Dataloader(tiny, groups, end_at=("batch", batches), depth=32, **settings) as loader:
            for _ in loader:
                pass

    seconds = best(ROUNDS, *(lambda kind=kind: drain(*kind) for kind in kinds.values()))
    for name, needed in zip(kinds, seconds, strict=True):
        say(f"{name}: {batches / needed:,.0f} batches/s, {seconds[0] / needed:.2f} of one plain group")


def documents():
    """Help topics and the standard library's sources as tokens of a byte-pair encoding that is trained on them."""
    texts = [*topics.topics.values(), pydoc.__doc__]
    texts += [path.read_text(errors="replace") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    encoding = runpy.run_path(str(Path(__file__).parents[2] / "docs/examples/train_gpt.py"))["byte_pairs"]
    return [tokens.astype(np.int32) for tokens in encoding([text for text in texts if text])]


def into_jax(batch):
    jax.tree.map(jnp.asarray, batch)["tokens"].block_until_ready()


def hydrax_run(rows, epochs):
    with Dataloader(copy_in, rows, end_at=("epoch", epochs), loader_kind="thread", depth=8) as loader:
        for batch in loader:
            batch.arrays["tokens"].block_until_ready()


def grain_run(found, length, epochs):
    import grain  # noqa: PLC0415  a peer that need not be there
    from grain.experimental import FirstFitPackIterDataset  # noqa: PLC0415  same

    source = grain.MapDataset.source(found).repeat(epochs).map(lambda tokens: {"tokens": tokens})
    packed = FirstFitPackIterDataset(source.to_iter_dataset(), length_struct={"tokens": length}, num_packing_bins=64)
    for batch in packed.batch(ROWS):
        into_jax(batch)


def first_fit(parts, length):
    """Rows of documents, as one writes it for torch."""
    rows, spaces = [], []
    for tokens in sorted(parts, key=len, reverse=True):
        row = next((place for place, space in enumerate(spaces) if space >= len(tokens)), None)
        if row is None:
            row = len(rows)
            rows.append([])
            spaces.append(length)
        rows[row].append(tokens)
        spaces[row] -= len(tokens)
    return rows


def collated(parts, length):
    """First-fit in Python, the rows by NumPy."""
    rows = first_fit(parts, length)
    arrays = {name: np.zeros((len(rows), length), np.int32) for name in ("tokens", "segment_ids", "positions")}
    for place, row in enumerate(rows):
        start = 0
        for number, tokens in enumerate(row, 1):
            end = start + len(tokens)
            arrays["tokens"][place, start:end] = tokens
            arrays["segment_ids"][place, start:end] = number
            arrays["positions"][place, start:end] = np.arange(len(tokens))
            start = end
    return arrays


def collated_lists(parts, length):
    """First-fit, and the rows as lists, in Python: token by token."""
    arrays = {"tokens": [], "segment_ids": [], "positions": []}
    for row in first_fit(parts, length):
        values = {name: [] for name in arrays}
        for number, tokens in enumerate(row, 1):
            values["tokens"] += tokens.tolist()
            values["segment_ids"] += [number] * len(tokens)
            values["positions"] += range(len(tokens))
        for name, row_values in values.items():
            arrays[name].append(row_values + [0] * (length - len(row_values)))
    return {name: np.array(rows, np.int32) for name, rows in arrays.items()}


def torch_run(collate, found, length, epochs):
    from torch.utils.data import DataLoader  # noqa: PLC0415  a peer that need not be there

    together = max(1, ROWS * length * len(found) // sum(map(len, found)))  # so that they fill about as many rows
    collate = functools.partial(collate, length=length)
    batches = DataLoader(found, batch_size=together, shuffle=True, num_workers=1, collate_fn=collate)
    for _ in range(epochs):
        for batch in batches:
            into_jax(batch)


def throughput():
    whole = documents()
    for length, epochs in ((LENGTH, 20), (LONG, 5)):
        compare(whole, [tokens[:length] for tokens in whole], length, epochs)


def compare(whole, found, length, epochs):
    lengths = [len(tokens) for tokens in found]
    one, all_of_it = pack(lengths, length=length, max_segments=1), pack(list(map(len, whole)), length=length)
    group = DataGroup(ROWS, found, loader_arrays={"tokens": ((Ragged(),), "int32")}, remainder="pad", zeroed=False)
    rows = pack(group, lengths, length=length)
    say(f"{len(found)} documents, cut at {length:,} tokens: one a row {one.fill:.1%} full, packed {rows.rows.fill:.1%}")
    say(f"the same documents whole, long ones split: {all_of_it.fill:.1%}")
    total = epochs * sum(lengths)
    runs = {"hydrax": lambda: hydrax_run(rows, epochs)}
    peers = {
        "grain, its packing": grain_run,
        "torch, rows by NumPy": functools.partial(torch_run, collated),
        "torch, rows as lists": functools.partial(torch_run, collated_lists),
    }
    for name, run in peers.items():
        if importlib.util.find_spec(name.partition(",")[0]) is None:
            say(f"{name}: not installed")
        else:
            runs[name] = functools.partial(run, found, length, epochs)
    seconds = best(ROUNDS, *runs.values())
    for name, needed in zip(runs, seconds, strict=True):
        say(f"{name}: {total / needed / 1e6:.1f} M tokens/s into jax; hydrax has {needed / seconds[0]:.1f} times that")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"packing": packing, "far": far, "cost": cost, "throughput": throughput}
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="which marks; by default all")
    for name in parser.parse_args().parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
