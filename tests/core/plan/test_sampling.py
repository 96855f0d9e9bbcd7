from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import DataGroup
from hydrax_core.plan.order import group_order
from hydrax_core.plan.sampling import MixedRows, WeightedRows

KEYS = st.integers(0, 2**64 - 1)
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def mixed(sizes, counts, rows):
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return MixedRows(tuple(range(*starts[n : n + 2]) for n in range(len(sizes))), tuple(counts), rows)


def drawn(rows, key, count, shuffled):
    """``count`` rows, over epochs."""
    found = []
    for epoch in range(-(-count // rows.size)):
        found += rows.draw(key, epoch, 0, rows.size, shuffled=shuffled).indices.tolist()
    return found[:count]


@given(KEYS, SIZES, st.data(), st.booleans())
def test_a_block_has_exact_counts_and_no_item_comes_again_before_all_came(key, sizes, data, shuffled):
    counts = data.draw(st.lists(st.integers(1, 6), min_size=len(sizes), max_size=len(sizes)))
    rows = mixed(sizes, counts, data.draw(st.integers(1, 40)))
    block = sum(counts)
    found = drawn(rows, key, 6 * block, shuffled)
    for member, count in zip(rows.members, counts, strict=True):
        for first in range(0, len(found), block):
            assert sum(index in member for index in found[first : first + block]) == count
        own = [index for index in found if index in member]
        # Within a block the order is by the key, so that a pass may end in the midst of one.
        for size in range(len(member), len(own), len(member)):
            times = Counter(own[: size - size % count])
            assert not times or max(times.values()) <= -(-(size - size % count) // len(member))


@given(KEYS, SIZES, st.booleans())
def test_in_the_share_of_its_items_an_epoch_has_each_item_once(key, sizes, shuffled):
    rows = mixed(sizes, sizes, sum(sizes))
    for epoch in range(3):
        assert sorted(rows.draw(key, epoch, 0, rows.size, shuffled=shuffled).indices) == list(range(sum(sizes)))


@given(KEYS, st.integers(0, 10**6), st.integers(0, 50), st.integers(1, 50))
def test_rows_do_not_depend_on_what_else_is_asked(key, epoch, first, count):
    for rows in (mixed([30, 70, 4], [5, 3, 2], 100), WeightedRows(np.cumsum(np.arange(100.0)), 100)):
        end = min(first + count, 100)
        whole = rows.draw(key, epoch, 0, 100, shuffled=True)
        part = rows.draw(key, epoch, first, end, shuffled=True)
        assert part.indices.tolist() == whole.indices[first:end].tolist()
        assert part.numbers.tolist() == whole.numbers[first:end].tolist()


def test_an_item_that_comes_again_has_another_seed():
    for rows in (mixed([3, 3], [1, 1], 60), WeightedRows(np.array([1.0, 2.0, 4.0]), 60)):
        numbers = [rows.draw(7, epoch, 0, 60, shuffled=True).numbers for epoch in range(2)]
        assert len(set(np.concatenate(numbers).tolist())) == 120


def test_the_order_of_members_is_by_the_key():
    first, second = (drawn(mixed([100, 100], [5, 5], 200), key, 50, shuffled=False) for key in (1, 2))
    assert [index < 100 for index in first] != [index < 100 for index in second]


def test_items_are_drawn_by_weight():
    weights = np.array([0.0, 1, 2, 3, 0, 4])
    rows = WeightedRows(np.cumsum(weights), 20_000)
    counts = np.bincount(rows.draw(5, 3, 0, 20_000, shuffled=True).indices, minlength=6)
    expected = 20_000 * weights / weights.sum()
    assert counts[0] == counts[4] == 0
    assert ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum() < 3 + 5 * np.sqrt(6)


@given(SIZES, st.data())
def test_a_substitute_is_of_the_same_member(sizes, data):
    rows = mixed(sizes, sizes, sum(sizes))
    index = data.draw(st.integers(0, sum(sizes) - 1))
    alike, place = rows.alike(index)
    assert index in alike
    assert alike[place] == index
    scattered = MixedRows((np.array([0, 4, 9]), np.array([1, 2])), (1, 1), 5)
    assert scattered.alike(9)[0].tolist() == [0, 4, 9]
    with pytest.raises(IndexError, match="item 3 is in no member"):
        scattered.alike(3)


def group(**settings):
    return DataGroup(4, range(10), loader_arrays={"x": ((), "int32")}, **settings)


def test_an_order_of_drawn_rows_goes_on_from_epoch_to_epoch():
    rows = mixed([7, 3], [1, 1], 8)
    made = group(rows=rows)
    assert made.batch_count == 2
    order = group_order(made, "training", 0)
    found = [index for epoch in range(7) for n in range(2) for index in order.batch(epoch, n).indices.tolist()]
    first = [index for index in found if index < 7]
    assert sorted(first[:7]) == sorted(first[7:14]) == sorted(first[14:21]) == list(range(7))
    assert len(first) == 28
    other, *_ = order.substitute(0, 8, 0)
    assert other in {7, 9}


def test_what_is_drawn_is_part_of_the_identity_of_data():
    prints = [
        group(),
        group(sample_weights=[1] * 10),
        group(sample_weights=[1] * 9 + [2]),
        group(rows=mixed([7, 3], [1, 1], 8)),
        group(rows=mixed([7, 3], [1, 2], 8)),
        group(rows=mixed([7, 3], [1, 1], 9)),
    ]
    assert len({made.fingerprint()["data"] for made in prints}) == len(prints)


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        ([1] * 9, ValueError, "sample_weights: expected 10 numbers, one for each item"),
        ([1] * 9 + [-1], ValueError, "sample_weights: expected finite numbers of at least 0"),
        ([0] * 10, ValueError, "not all 0"),
        (["a"] * 10, TypeError, "sample_weights: expected 10 numbers"),
    ],
)
def test_wrong_weights_of_items_are_refused(weights, error, text):
    with pytest.raises(error, match=text):
        group(sample_weights=weights)


def test_rows_are_drawn_in_one_way():
    with pytest.raises(ValueError, match="sample_weights: the rows of this group are drawn in another way already"):
        group(rows=mixed([10], [1], 10), sample_weights=[1] * 10)
