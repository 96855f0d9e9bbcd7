"""Groups in a proportion, through the loader: what is handed out, and what a saved state goes on with."""

import itertools
import logging
from collections import Counter

import pytest

from hydrax_core import DataGroup, Dataloader, StateMismatchError

ARRAYS = {"x": ((), "int32")}


def load(item, arrays, seed):
    arrays["x"][...] = item


def group(batches, base=0, **settings):
    return DataGroup(2, range(base, base + 2 * batches), loader_arrays=ARRAYS, **settings)


GROUPS = [group(30), group(20, 100), group(10, 200)]


def loader(groups=GROUPS, **settings):
    return Dataloader(load, groups, loader_kind="inline", **settings)


def batches_of(made, count=None):
    with made:
        return [
            (batch.group_index, batch.epoch, batch.indices, batch.seeds, batch.arrays["x"].tolist())
            for batch in itertools.islice(made, count)
        ]


def test_weights_say_how_many_batches_each_group_gives():
    found = batches_of(loader(weights=[0.6, 0.3, 0.1], end_at=("epoch", 1)))
    assert Counter(batch[0] for batch in found) == {0: 36, 1: 18, 2: 6}
    assert len(found) == 60
    for index in range(3):
        rows = [row for batch in found if batch[0] == index for row in batch[2]]
        assert len(set(rows[: len(GROUPS[index])])) == min(len(rows), len(GROUPS[index])), (
            "no item twice before all came"
        )


def test_an_epoch_is_as_long_as_stop_or_a_number_says():
    assert loader(weights=[1, 1, 1], stop="first").batches_per_epoch == 30
    assert loader(weights=[1, 1, 1], stop="all").batches_per_epoch == 88
    assert loader(weights=[1, 1, 1]).batches_per_epoch == 60
    assert loader(batches_per_epoch=17).batches_per_epoch == 17
    endless = batches_of(loader(group(5), batches_per_epoch=3), 11)
    assert [batch[1] for batch in endless] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    rows = [row for batch in endless for row in batch[2]]
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10))


@pytest.mark.parametrize(
    "settings", [{}, {"interleave_groups": "least_used"}, {"weights": [(0, [1, 0, 3]), (9, [2, 1, 1])]}]
)
def test_a_run_goes_on_from_any_batch_as_if_it_had_not_stopped(settings):
    whole = batches_of(loader(**settings), 70)
    first = loader(**settings)
    for stop in (1, 8, 10, 61):
        first = loader(**settings)
        batches_of(first, stop)
        second = loader(**settings)
        second.load_state_dict(first.state_dict())
        assert batches_of(second, 70 - stop) == whole[stop:]


def test_a_run_goes_on_under_other_weights_and_says_so(caplog):
    caplog.set_level(logging.WARNING, "hydrax")
    before = loader(weights=[1, 1, 1])
    old = batches_of(before, 6)
    after = loader(weights=[0, 0, 1])
    after.load_state_dict(before.state_dict())
    new = batches_of(after, 8)
    assert "weights: from training batch 6 on they are not those of the saved run" in caplog.text
    assert {batch[0] for batch in new} == {2}
    rows = [row for batch in old + new if batch[0] == 2 for row in batch[2]]
    assert rows == list(range(20)), "the group goes on where it was"
    third = after.replace()
    third.load_state_dict(after.state_dict())
    assert batches_of(third, 5) == batches_of(after, 5)
    with pytest.raises(StateMismatchError, match="weights, interleave_groups"):
        loader().load_state_dict(before.state_dict())


def test_batches_handed_out_ahead_of_their_turn_keep_the_weights_they_had():
    before = loader(weights=[1, 1, 1], deterministic=False)
    before._consumed.next_number = 3
    before._consumed.ahead.add(7)
    after = loader(weights=[0, 0, 1], deterministic=False)
    after.load_state_dict(before.state_dict())
    assert [batch[0] for batch in batches_of(after, 6)] == [0, 1, 2, 0, 2, 2]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"weights": [1, 2]}, ValueError, "weights: expected 3 numbers"),
        ({"stop": "first"}, ValueError, "stop: without weights"),
        ({"weights": [1, 1, 1], "interleave_groups": False}, ValueError, "interleave_groups: False has no weights"),
        ({"interleave_groups": "share"}, TypeError, "interleave_groups: expected True, False or 'least_used'"),
        ({"batches_per_epoch": 0}, ValueError, "batches_per_epoch: expected an int of at least 1"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, error, text):
    with pytest.raises(error, match=text):
        loader(**settings)


def test_a_substitute_comes_of_the_epoch_of_its_group():
    def fails(item, arrays, seed):
        if item == 203:
            raise ValueError(item)
        arrays["x"][...] = item

    def run(stop):
        made = Dataloader(fails, GROUPS, weights=[1, 1, 3], loader_kind="inline", on_error="substitute")
        if stop:
            batches_of(made, stop)
        return batches_of(made, 50 - stop)

    assert run(20) == run(0)[20:]
    assert all(203 not in batch[4] for batch in run(0))


def test_the_stats_say_which_share_each_group_has_and_should_have():
    made = loader(weights=[(0, [1, 1, 0]), (20, [0, 1, 3])])
    with made:
        for _ in itertools.islice(made, 60):
            pass
        shares = made.stats().groups
    assert [share.batches for share in shares] == [10, 20, 30]
    assert [share.share for share in shares] == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert [share.expected for share in shares] == [0, 0.25, 0.75]
    assert [share.epochs for share in shares] == pytest.approx([1 / 3, 1, 3])
