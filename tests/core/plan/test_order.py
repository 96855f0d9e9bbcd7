import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import DataGroup
from hydrax_core.plan import order as order_module
from hydrax_core.plan.order import GroupOrder, group_order
from hydrax_core.plan.permutation import derive_key, few_seeds, permute, seeds_of

KEYS = st.integers(0, 2**64 - 1)


@given(KEYS, st.integers(1, 5000))
def test_a_permutation_hits_each_value_once(key, size):
    assert sorted(permute(key, size, np.arange(size)).tolist()) == list(range(size))


@given(KEYS, st.integers(1, 2**40), st.data())
def test_the_image_of_a_position_does_not_depend_on_what_else_is_asked(key, size, data):
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    together = permute(key, size, positions)
    alone = [int(permute(key, size, position)) for position in positions]
    assert together.tolist() == alone
    assert all(0 <= image < size for image in alone)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_all_orders_of_a_few_items_are_equally_likely(size):
    rounds = 3000
    counts = Counter(tuple(permute(derive_key(key), size, np.arange(size)).tolist()) for key in range(rounds))
    expected = rounds / math.factorial(size)
    orders = itertools.permutations(range(size))
    chi_square = sum((counts[order] - expected) ** 2 / expected for order in orders)
    freedom = math.factorial(size) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_neighbours_end_up_anywhere():
    size, buckets = 5000, 40
    distances = [np.diff(permute(derive_key(key), size, [17, 18]))[0] % size for key in range(2000)]
    counts = np.bincount(np.array(distances) * buckets // size, minlength=buckets)
    expected = len(distances) / buckets
    assert ((counts - expected) ** 2 / expected).sum() < buckets + 5 * math.sqrt(2 * buckets)


@given(KEYS, st.integers(0, 2**62))
def test_seeds_of_a_few_are_those_of_many(key, number):
    numbers = [number, number + 1, 0]
    assert few_seeds(key, numbers) == seeds_of(key, numbers).tolist()


@given(KEYS, st.integers(0, 2**62))
def test_seeds_fit_into_32_bits(key, number):
    assert 0 <= int(seeds_of(key, number)) < 2**32


def test_seeds_are_spread_evenly_and_seldom_collide():
    seeds = seeds_of(derive_key("x"), np.arange(100_000))
    assert len(set(seeds.tolist())) > 99_990  # 1.2 collisions are expected of 32 random bits
    counts = np.bincount(seeds >> 24, minlength=256)
    expected = len(seeds) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 256 + 5 * math.sqrt(512)


def order(size=100, batch_size=8, *, key=7, first=False, later="itemwise"):
    return GroupOrder(size, batch_size, size // batch_size, key, shuffle_first=first, shuffle_later=later)


def epoch_of(group, epoch, count=12):
    return [group.batch(epoch, position) for position in range(count)]


@given(st.sampled_from(["repeat", "reseed", "itemwise", "batchwise"]), st.booleans(), st.integers(0, 5))
def test_no_item_appears_twice_in_an_epoch(later, first, epoch):
    batches = epoch_of(order(first=first, later=later), epoch)
    indices = np.concatenate([batch.indices for batch in batches])
    assert len(set(indices.tolist())) == len(indices) == 96


@given(st.integers(0, 4), st.integers(0, 11))
def test_a_batch_does_not_depend_on_the_way_there(epoch, position):
    walked = order()
    epoch_of(walked, 0), epoch_of(walked, epoch)
    direct = order().batch(epoch, position)
    again = walked.batch(epoch, position)
    assert contents([again]) == contents([direct])


def contents(batches):
    return [(batch.indices.tolist(), batch.seeds.tolist(), batch.seed) for batch in batches]


def flat(batches, what):
    return [getattr(batch, what).tolist() for batch in batches]


def test_the_first_epoch_goes_in_the_order_of_the_data_unless_shuffled():
    assert np.concatenate(flat(epoch_of(order(), 0), "indices")).tolist() == list(range(96))
    assert np.concatenate(flat(epoch_of(order(first=True), 0), "indices")).tolist() != list(range(96))


def test_repeat_repeats_items_and_seeds():
    first, second = epoch_of(order(later="repeat"), 0), epoch_of(order(later="repeat"), 3)
    assert flat(first, "indices") == flat(second, "indices")
    assert flat(first, "seeds") == flat(second, "seeds")


def test_reseed_keeps_the_order_and_changes_every_seed():
    first, second = epoch_of(order(later="reseed"), 0), epoch_of(order(later="reseed"), 3)
    assert flat(first, "indices") == flat(second, "indices")
    assert not set(np.concatenate(flat(first, "seeds"))) & set(np.concatenate(flat(second, "seeds")))


def test_itemwise_shuffles_items_and_reseeds():
    first, second = epoch_of(order(), 1), epoch_of(order(), 2)
    assert flat(first, "indices") != flat(second, "indices")
    assert not set(np.concatenate(flat(first, "seeds"))) & set(np.concatenate(flat(second, "seeds")))


def test_batchwise_serves_the_same_batches_and_seeds_in_another_order():
    first, second, third = (contents(epoch_of(order(later="batchwise"), epoch)) for epoch in range(3))
    assert first != second != third
    assert sorted(first) == sorted(second) == sorted(third)
    assert first == contents(epoch_of(order(later="repeat"), 0))


def test_validation_has_the_order_of_the_data_and_no_seeds():
    batch = order(key=None, first=True).batch(3, 2)
    assert batch.indices.tolist() == list(range(16, 24))
    assert batch.seeds is None


def test_a_billion_items_need_no_table():
    batch = order(size=10**9, batch_size=256, later="itemwise").batch(2, 3_000_000)
    assert len(set(batch.indices.tolist())) == 256


def test_what_a_batch_shares_with_its_neighbours_cannot_be_written():
    batch = order().batch(1, 2)
    for numbers in (batch.indices, batch.seeds):
        with pytest.raises(ValueError, match="read-only"):
            numbers[0] = 1


@given(st.integers(2, 50), st.integers(0, 3), st.data())
def test_substitutes_are_other_items_each_once(size, epoch, data):
    index = data.draw(st.integers(0, size - 1))
    group = order(size=size, batch_size=1)
    found = [group.substitute(epoch, index, attempt) for attempt in range(size - 1)]
    assert sorted(other.item for other in found) == [other for other in range(size) if other != index]
    assert [group.substitute(epoch, index, attempt + size - 1) for attempt in range(size - 1)] == found
    assert found == [order(size=size, batch_size=1).substitute(epoch, index, attempt) for attempt in range(size - 1)]


@pytest.mark.parametrize("later", ["repeat", "reseed", "itemwise", "batchwise"])
def test_where_a_cache_keeps_items_each_has_the_seed_of_the_first_epoch_in_all(later):
    def seeds(epoch, *, first_only):
        group = GroupOrder(96, 8, 12, 7, shuffle_first=True, shuffle_later=later, first_seeds_only=first_only)
        batches = epoch_of(group, epoch)
        return dict(zip(np.concatenate(flat(batches, "indices")), np.concatenate(flat(batches, "seeds")), strict=True))

    first = seeds(0, first_only=True)
    assert first == seeds(0, first_only=False)
    assert seeds(3, first_only=True) == first
    group = GroupOrder(96, 8, 12, 7, shuffle_first=True, shuffle_later=later, first_seeds_only=True)
    other, seed, _ = group.substitute(3, 5, 0)
    assert seed == first[other]


@pytest.mark.parametrize("later", ["repeat", "reseed", "itemwise", "batchwise"])
def test_augmented_rows_have_seeds_that_no_other_epoch_has_where_nothing_repeats(later):
    def made(augmented):
        more = {"first_seeds_only": True, "augmented": augmented}
        return GroupOrder(100, 8, 12, 7, shuffle_first=True, shuffle_later=later, **more)

    group = made(augmented=True)
    fresh = [np.concatenate(flat(epoch_of(group, epoch), "fresh")).tolist() for epoch in range(3)]
    assert len({*fresh[0], *fresh[1], *fresh[2]}) == 96 * (1 if later == "repeat" else 3)
    batch, plain = group.batch(2, 3), made(augmented=False).batch(2, 3)
    assert contents([batch]) == contents([plain])
    assert plain.fresh is None
    assert batch.shown_seeds.tolist() == batch.fresh.tolist() != plain.shown_seeds.tolist() == plain.seeds.tolist()
    other = group.substitute(2, int(batch.indices[0]), 0)
    where = {index: seed for each in epoch_of(group, 2) for index, seed in zip(each.indices, each.fresh, strict=True)}
    assert other.fresh == where.get(other.item, other.fresh)
    assert other.seed == made(augmented=False).substitute(2, int(batch.indices[0]), 0).seed


def test_a_lone_item_stands_in_for_itself():
    assert order(size=1, batch_size=1).substitute(0, 0, 3).item == 0


def test_neighbours_are_computed_together(monkeypatch):
    asked = []

    def counted(key, size, positions):
        asked.append(len(positions))
        return permute(key, size, positions)

    monkeypatch.setattr(order_module, "permute", counted)
    group = order(size=10_000, batch_size=10)
    for _ in range(2):
        epoch_of(group, 1, count=409)
        assert asked == [4096]
    epoch_of(group, 1, count=1000)
    assert asked == [4096, 4096, 10_000 - 2 * 4090]


@pytest.mark.parametrize("batch_size", [7, 5000])
def test_the_last_batch_may_be_short_and_batches_may_be_longer_than_what_is_computed_at_once(batch_size):
    size = 2 * batch_size + 3
    group = GroupOrder(size, batch_size, 3, 7, shuffle_first=True, shuffle_later="itemwise")
    batches = [group.batch(1, place) for place in (2, 0, 1)]
    assert (
        [len(batch.indices) for batch in batches] == [len(batch.seeds) for batch in batches] == [3, *[batch_size] * 2]
    )
    assert sorted(np.concatenate(flat(batches, "indices")).tolist()) == list(range(size))
    again = GroupOrder(size, batch_size, 3, 7, shuffle_first=True, shuffle_later="itemwise")
    assert contents([again.batch(1, place) for place in (2, 0, 1)]) == contents(batches)


def test_orders_and_seeds_are_those_of_every_version():
    """Saved states and caches of earlier versions count on them: change them only with the version of both."""
    assert derive_key("key", 1) == 0x156DBE4752DA45F0
    assert permute(1, 5, np.arange(5)).tolist() == [1, 3, 4, 0, 2]
    assert permute(2, 100, np.arange(8)).tolist() == [11, 73, 63, 0, 84, 45, 19, 38]
    assert permute(1, 64, np.arange(3)).tolist() == [29, 7, 53]
    assert permute(1, 65, np.arange(3)).tolist() == [16, 20, 63]
    assert permute(3, 10**12, np.arange(3)).tolist() == [563170742248, 11211405234, 667471382564]
    assert seeds_of(4, np.arange(3)).tolist() == [1853088626, 3832858218, 3689880060]
    batch = order(first=True).batch(2, 3)
    assert batch.indices.tolist() == [79, 9, 1, 0, 64, 11, 91, 32]
    assert batch.seeds.tolist()[:3] == [3577824018, 2650192429, 3235662449]
    assert batch.seed == 1084601638
    assert order(later="batchwise").content(3, 0) == (0, 1)
    assert order().substitute(2, 5, 1) == (74, 433862914, None)
    assert order(key=None).substitute(0, 5, 1) == (41, None, None)
    augmented = GroupOrder(100, 8, 12, 7, shuffle_first=True, shuffle_later="itemwise", augmented=True)
    assert augmented.batch(2, 3).fresh.tolist()[:3] == [4113291812, 235941530, 1918666443]
    group = DataGroup(4, range(10), loader_arrays={"x": ((), "int32")}, seed=5, shuffle_first=True)
    assert group_order(group, "training", 3).batch(0, 1).indices.tolist() == [7, 1, 2, 0]
    assert group_order(group, "validation", 3).batch(0, 1).indices.tolist() == [4, 5, 6, 7]
