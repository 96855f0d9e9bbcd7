"""Groups made of others, through the loader: mix, class_balanced, sample_weights, buckets."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, LoaderError, Ragged, Source, batched, buckets, class_balanced, mix
from hydrax_core.data.read_lock import guarded, is_plain

ARRAYS = {"x": ((), "int32"), "who": ((), "int32")}


class Numbers(Source):
    def __init__(self, first, size):
        self.first = first
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.first + index

    def fingerprint(self):
        return f"{self.first} {self.size}"


def one(item, arrays, seed):
    arrays["x"][...] = item
    arrays["who"][...] = 1


def two(item, arrays, seed):
    arrays["x"][...] = item
    arrays["who"][...] = 2
    return {"two": item}


@batched
def many(items, arrays, seeds):
    arrays["x"][...] = items.source.first + items.indices
    arrays["who"][...] = 3
    assert len(seeds) == len(items)


def group(first, size, **settings):
    return DataGroup(10, range(first, first + size), loader_arrays=ARRAYS, **settings)


def batches_of(loader, count=None):
    with loader:
        return [
            (batch.indices, batch.seeds, batch.data, *(batch.arrays[name].tolist() for name in ("x", "who")))
            for batch in itertools.islice(loader, count)
        ]


def inline(groups, load=one, **settings):
    return Dataloader(load, groups, loader_kind="inline", **settings)


def test_each_batch_has_items_of_all_groups_in_their_share():
    mixed = mix([group(0, 70), group(1000, 30)], [0.7, 0.3])
    assert mixed.batch_count == 10
    found = batches_of(inline(mixed), 40)
    for _, _, data, x, _ in found:
        assert list(data) == x
        assert sum(item >= 1000 for item in data) == 3
    items = [item for batch in found for item in batch[2]]
    assert Counter(item for item in items if item < 1000) == dict.fromkeys(range(70), 4)


@pytest.mark.parametrize("kind", ["inline", "process"])
def test_each_item_is_loaded_by_the_function_of_its_group(kind):
    members = [
        group(0, 40, loader_func=one),
        group(1000, 40, loader_func=two),
        DataGroup(10, Numbers(2000, 20), loader_arrays=ARRAYS, loader_func=many),
    ]
    mixed = mix(members, batch_size=20, shuffle_first=True)
    with Dataloader(mixed, loader_kind=kind, end_at=("epoch", 1)) as loader:
        seen = []
        for batch in loader:
            x, who = batch.arrays["x"].tolist(), batch.arrays["who"].tolist()
            assert list(batch.data) == x
            assert who == [1 + item // 1000 for item in x]
            assert [batch.get_additional("two", row) for row in range(20)] == [
                item if 1000 <= item < 2000 else None for item in x
            ]
            seen += x
    assert sorted(seen) == [*range(40), *range(1000, 1040), *range(2000, 2020)]


def test_sources_that_are_mixed_are_read_in_the_workers():
    mixed = mix([DataGroup(10, Numbers(first, 20), loader_arrays=ARRAYS) for first in (0, 500)])
    assert isinstance(mixed.items, Source)
    found = batches_of(Dataloader(two, mixed, end_at=("epoch", 1)))
    assert sorted(item for batch in found for item in batch[3]) == [*range(20), *range(500, 520)]


def test_a_run_over_mixed_groups_goes_on_and_substitutes_within_the_member():
    mixed = mix([group(0, 50), group(1000, 50)], [3, 1])
    whole = batches_of(inline(mixed), 30)
    first, second = inline(mixed), inline(mixed)
    batches_of(first, 13)
    second.load_state_dict(first.state_dict())
    assert batches_of(second, 17) == whole[13:]

    def fails(item, arrays, seed):
        if item == 1007:
            raise ValueError(item)
        one(item, arrays, seed)

    items = [item for batch in batches_of(inline(mixed, fails, on_error="substitute"), 30) for item in batch[3]]
    assert 1007 not in items
    assert sum(item >= 1000 for item in items) == sum(item >= 1000 for batch in whole for item in batch[2])


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups: group 1 has other loader_arrays than group 0"):
        mix([group(0, 10), group(0, 10).replace(loader_arrays={"x": ((2,), "int32")})])
    with pytest.raises(ValueError, match="groups: some have a loader_func and some have none"):
        mix([group(0, 10), group(0, 10, loader_func=one)])
    with pytest.raises(TypeError, match="groups: expected at least one DataGroup"):
        mix([])
    with pytest.raises(ValueError, match=r"mix\(\) takes no stages"):
        mix([group(0, 10)], [(0, [1]), (5, [2])])
    with pytest.raises(ValueError, match="group 0 is mixed, packed or weighted itself"):
        mix([mix([group(0, 10)])])
    with pytest.raises(ValueError, match="weights: expected 2 numbers"):
        mix([group(0, 10), group(5, 10)], [1])
    with pytest.raises(ValueError, match="stop: without weights"):
        mix([group(0, 10)], stop="first")


def test_an_epoch_of_mixed_items_is_as_long_as_stop_says():
    members = [group(0, 70), group(1000, 30)]
    assert mix(members, [1, 1], stop="first", remainder="pad").rows.size == 60
    assert mix(members, [1, 1], stop="all", remainder="pad").rows.size == 139
    assert mix(members, [1, 1], items_per_epoch=20).batch_count == 2


def test_classes_come_equally_often():
    labels = ["a"] * 80 + ["b"] * 15 + ["c"] * 5
    for given in (labels, lambda item: labels[item]):
        balanced = class_balanced(group(0, 100), given, shuffle_first=True)
        items = [item for batch in batches_of(inline(balanced), 30) for item in batch[2]]
        assert Counter(labels[item] for item in items) == dict.fromkeys("abc", 100)
        assert Counter(item for item in items if labels[item] == "c") == dict.fromkeys(range(95, 100), 20)
    with pytest.raises(ValueError, match="labels: expected 100, one for each item"):
        class_balanced(group(0, 100), labels[:5])


def test_items_come_as_often_as_their_weights_say():
    weighted = group(0, 10, sample_weights=[0] * 8 + [1, 3])
    found = batches_of(inline(weighted), 200)
    counts = Counter(item for batch in found for item in batch[2])
    assert set(counts) == {8, 9}
    assert 1400 < counts[9] < 1600
    assert len({seed for batch in found for seed in batch[1]}) > 1900, "an item drawn again has another seed"


LENGTHS = [3, 9, 4, 16, 2, 8, 1, 12, 4, 7, 15, 5, 3, 6, 11, 2]


def fill(item, arrays, seed):
    return {"tokens": np.full(LENGTHS[item], item)}


def ragged(**settings):
    return DataGroup(2, range(16), loader_arrays={"tokens": ((Ragged(),), "int32")}, **settings)


def test_buckets_hold_items_of_like_lengths_in_static_shapes():
    made = buckets(ragged(), LENGTHS, boundaries=[4, 8, 16])
    compiled = []

    @jax.jit
    def total(tokens, lengths):
        compiled.append(tokens.shape)
        return tokens.sum(), lengths.sum()

    seen = Counter()
    groups = []
    with Dataloader(fill, made, loader_kind="inline", end_at=("epoch", 2)) as loader:
        for batch in loader:
            groups.append(batch.group_index)
            lengths = batch.arrays["tokens_length"].tolist()
            assert lengths == [LENGTHS[item] for item in batch.data]
            assert max(lengths) <= batch.arrays["tokens"].shape[1]
            seen.update(batch.data)
            sums = total(batch.arrays["tokens"], batch.arrays["tokens_length"])
            assert int(sums[0]) == sum(item * LENGTHS[item] for item in batch.data)
    assert set(compiled) == {(2, 4), (2, 8), (2, 16)}
    assert len(compiled) == 3, "a bucket is compiled once"
    assert groups[:7] != sorted(groups[:7]), "buckets are spread over the epoch"
    dropped = {4: 7 % 2, 8: 4 % 2, 16: 5 % 2}
    assert sum(seen.values()) == 2 * (16 - sum(dropped.values()))


def test_buckets_by_tokens_or_by_number_keep_every_item(tmp_path):
    made = buckets(ragged(), LENGTHS, boundaries=[4, 8, 16], tokens_per_batch=16, remainder="pad")
    assert [one.batch_size for one in made] == [4, 2, 1]
    quantiles = buckets(ragged(cache_location=tmp_path), lambda item: LENGTHS[item], boundaries=3, remainder="pad")
    assert [one.loader_layouts["tokens"].shape[1] for one in quantiles] == [4, 8, 16]
    assert len({one.cache_location for one in quantiles}) == 3
    for groups in (made, quantiles):
        found = []
        with Dataloader(fill, groups, loader_kind="inline", end_at=("epoch", 1)) as loader:
            for batch in loader:
                found += batch.data
        assert sorted(found) == list(range(16))


def test_a_substitute_fits_into_its_bucket():
    def fails(item, arrays, seed):
        if item in {0, 2, 6}:
            raise ValueError(item)
        return fill(item, arrays, seed)

    made = buckets(ragged(), LENGTHS, boundaries=[4, 16], remainder="pad")
    with Dataloader(fails, made, loader_kind="inline", on_error="substitute", end_at=("epoch", 2)) as loader:
        assert len(list(loader)) == 18


def test_wrong_buckets_are_refused():
    with pytest.raises(ValueError, match="boundaries: item 1 has length 9, the last bucket ends at 8"):
        buckets(ragged(), LENGTHS, boundaries=[4, 8])
    assert len(buckets(ragged(), LENGTHS, boundaries=[4, 8], longer="drop")) == 2
    with pytest.raises(ValueError, match="boundaries: expected lengths from the least to the greatest"):
        buckets(ragged(), LENGTHS, boundaries=[8, 4])
    with pytest.raises(ValueError, match="group: it has no ragged array"):
        buckets(group(0, 16), LENGTHS, boundaries=2)
    with pytest.raises(ValueError, match="tokens_per_batch: it says what batch_size would"):
        buckets(ragged(), LENGTHS, boundaries=2, batch_size=2, tokens_per_batch=16)
    with pytest.raises(ValueError, match="batch_size: 9 is more than the 7 items") as raised:
        buckets(ragged(), LENGTHS, boundaries=[4, 16], batch_size=9)
    assert raised.value.__notes__ == ["in the bucket of lengths up to 4, which has 7 items"]
    with pytest.raises(TypeError, match="lengths: a range does not tell the lengths"):
        buckets(ragged(), boundaries=2)
    with (
        Dataloader(fill, buckets(ragged(), [1] * 16, boundaries=2), loader_kind="inline") as loader,
        pytest.raises(LoaderError, match="'tokens' has 3 elements"),
    ):
        next(loader)


def test_lists_and_computed_data_mix_alike():
    computed = mix([group(0, 70), group(1000, 30)], [0.7, 0.3])
    listed = mix(
        [group(0, 70).replace(data=[*range(70)]), group(1000, 30).replace(data=[*range(1000, 1030)])], [0.7, 0.3]
    )
    assert type(listed.items) is list
    assert batches_of(inline(computed), 25) == batches_of(inline(listed), 25)


class Own(list):
    """A sequence that may do anything when it is read."""


def test_ranges_and_arrays_are_joined_and_what_several_groups_have_is_read_by_one_thread():
    arrays = mix([group(0, 70), group(1000, 30).replace(data=np.arange(1000, 1030))], [0.7, 0.3])
    assert is_plain(arrays.items)
    indices = [5, 99, 0, 70, 69]
    assert arrays.items.__getitems__(indices) == [arrays.items[index] for index in indices]
    ranges = mix([group(0, 70).replace(data=range(210, 0, -3)), group(2**70, 30)], [0.7, 0.3])
    for joined in (ranges.items, mix([group(0, 70).replace(data=range(210, 0, -3)), group(9, 30)]).items):
        assert joined.__getitems__(indices) == [joined[index] for index in indices]
        assert {type(item) for item in joined.__getitems__(indices)} == {int}
    shared = Own(range(40))
    mixed = mix([group(0, 10).replace(data=shared), group(0, 60)])
    alone = group(0, 10).replace(data=shared)
    assert guarded(mixed.items).lock is guarded(alone.items).lock
    assert guarded(Own(range(3))).lock is not guarded(alone.items).lock
