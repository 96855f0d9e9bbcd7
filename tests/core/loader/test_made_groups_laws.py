"""Laws of mixtures, packed rows and buckets through the loader: hosts, resuming, every item as often as it should."""

import itertools
import json
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrax_core import DataGroup, Dataloader, Ragged, buckets, class_balanced, concat, mix, pack

ROWS = 12
"""Rows of a batch, which 1, 2, 3, 4 and 6 hosts can share."""
LENGTH = 10
EPOCHS = 2


def load(item, arrays, seed):
    number, length = item
    return {"tokens": 1000 * number + np.arange(length), "seed": seed}


def documents(lengths, **more):
    arrays = {"tokens": ((Ragged(LENGTH),), "int32")}
    options = {"loader_arrays": arrays, "remainder": "pad", "shuffle_first": True, "loader_func": load, **more}
    return DataGroup(ROWS, list(enumerate(lengths)), **options)


def parted(lengths, numbers):
    """Two groups that share the documents."""
    both = list(enumerate(lengths))
    cut = max(1, min(len(both) - 1, numbers % len(both)))
    return [documents(lengths, seed=1).replace(data=part) for part in (both[:cut], both[cut:])]


MADE = {
    "packed": lambda lengths, n: (pack(documents(lengths), lengths, length=LENGTH, max_segments=n % 4 or None), {}),
    "packed anew": lambda lengths, n: (pack(documents(lengths), lengths, length=LENGTH, repack="epoch"), {}),
    "stream": lambda lengths, n: (concat(documents(lengths), lengths, length=LENGTH), {}),
    "buckets": lambda lengths, n: (buckets(documents(lengths), lengths, boundaries=[3, LENGTH]), {}),
    "mixed by item": lambda lengths, n: (mix(parted(lengths, n)), {}),
    "mixed in shares": lambda lengths, n: (mix(parted(lengths, n), [2, 1]), {}),
    "balanced": lambda lengths, n: (
        class_balanced(documents(lengths), [number % 2 for number, _ in enumerate(lengths)]),
        {},
    ),
    "drawn": lambda lengths, n: (
        documents(lengths, sample_weights=[1 + number % 3 for number in range(len(lengths))]),
        {},
    ),
    "mixed by batch": lambda lengths, n: (parted(lengths, n), {"weights": [(0, [2, 1]), (3, [1, 3])]}),
}
ONCE = {"packed", "packed anew", "stream", "buckets", "mixed by item"}
"""Of these an epoch has each token once."""


def record(batch):
    """What each row of a host holds."""
    arrays = [np.asarray(array) for array in batch.arrays.values()]
    rows = [tuple(array[row].tobytes() for array in arrays) for row in range(len(batch.indices))]
    seeds = batch.additional.get("seed", ())[: len(rows)] if rows else ()
    return batch.address, list(zip(batch.indices, batch.seeds, seeds, rows, strict=True))


def run(groups, options, state=None, count=None):
    loader = Dataloader(groups, loader_kind="inline", end_at=("epoch", EPOCHS), **options)
    if state is not None:
        loader.load_state_dict(json.loads(json.dumps(state)))
    with loader:
        found = [record(batch) for batch in itertools.islice(loader, count)]
    return found, loader.state_dict()


def together(parts):
    """Batches of all hosts, each with the rows of all."""
    for hosts in zip(*parts, strict=True):
        assert len({address for address, _ in hosts}) == 1
        yield hosts[0][0], [row for _, rows in hosts for row in rows]


LENGTHS = st.lists(st.integers(1, LENGTH), min_size=ROWS, max_size=50).filter(lambda lengths: sum(lengths) >= ROWS * 3)


@settings(max_examples=15)
@given(
    st.sampled_from([*MADE]),
    LENGTHS,
    st.integers(0, 99),
    st.sampled_from([2, 3, 4]),
    st.sampled_from([1, 3, 6]),
    st.data(),
)
def test_hosts_together_are_one_host_and_another_number_of_them_goes_on(kind, lengths, number, before, after, data):
    groups, options = MADE[kind](lengths, number)
    whole, _ = run(groups, options)
    stop = data.draw(st.integers(1, len(whole)))
    shares = [run(groups, {**options, "hosts": (host, before)}, count=stop) for host in range(before)]
    assert list(together([found for found, _ in shares])) == whole[:stop]
    states = [state for _, state in shares]
    assert all(state == states[0] for state in states), "a state belongs to no host"
    rest = [run(groups, {**options, "hosts": (host, after)}, states[0])[0] for host in range(after)]
    assert list(together(rest)) == whole[stop:]


@settings(max_examples=30)
@given(st.sampled_from([*MADE]), LENGTHS, st.integers(0, 99))
def test_rows_hold_whole_documents_as_often_as_they_should(kind, lengths, number):
    groups, options = MADE[kind](lengths, number)
    groups = list(groups) if isinstance(groups, list | tuple) else [groups]
    loader = Dataloader(groups, loader_kind="inline", end_at=("epoch", EPOCHS), **options)
    epochs = [Counter() for _ in range(EPOCHS)]
    items = Counter()
    with loader:
        for batch in loader:
            arrays = {name: np.asarray(array) for name, array in batch.arrays.items()}
            for row, described in enumerate(batch.data):
                owned = described if "segment_ids" in arrays else [described]
                tokens = arrays["tokens"][row]
                if "segment_ids" in arrays:
                    ids = arrays["segment_ids"][row]
                    assert not tokens[ids == 0].any()
                    segments = [tokens[ids == segment] for segment in range(1, len(owned) + 1)]
                    assert sum(map(len, segments)) <= LENGTH
                    assert ids.max() == len(owned)
                else:
                    segments = [tokens[: arrays["tokens_length"][row]]]
                for (item, _), segment in zip(owned, segments, strict=True):
                    assert (segment // 1000 == item).all(), "segments do not mix"
                    assert (np.diff(segment) == 1).all()
                    epochs[batch.epoch].update(segment.tolist())
                    items[item] += 1
    every = Counter(1000 * item + token for item, length in enumerate(lengths) for token in range(length))
    if kind in ONCE:
        assert all(epoch == every for epoch in epochs)
    if kind == "balanced":
        shares = [sum(count for item, count in items.items() if item % 2 == odd) for odd in (0, 1)]
        assert abs(shares[0] - shares[1]) <= 1
        for odd in (0, 1):
            counts = [items[item] for item in range(odd, len(lengths), 2)]
            assert max(counts) - min(counts) <= 1, "all items of a class come before one comes again"
