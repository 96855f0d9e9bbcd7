import json
import logging
import math
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import StateMismatchError
from hydrax_core.plan.mixture import InTurn, LeastUsed, Mixture, Spread, Stage, Turn, block_counts, by_weights, in_order

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)
WEIGHTS = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any)


def groups_of(pattern):
    return [pattern.locate(position)[0] for position in range(sum(pattern.counts))]


@pytest.mark.parametrize("kind", [InTurn, LeastUsed, Spread])
@given(counts=COUNTS)
def test_a_block_has_each_batch_of_each_group_once_in_its_order(kind, counts):
    pattern = kind(counts)
    found = [pattern.locate(position) for position in range(sum(counts))]
    for group, count in enumerate(counts):
        assert [nth for other, nth in found if other == group] == list(range(count))
    asked_backwards = kind(counts)
    assert [asked_backwards.locate(n) for n in reversed(range(sum(counts)))] == found[::-1]


@given(COUNTS)
def test_the_least_used_group_comes_next_and_ties_go_to_the_first(counts):
    pattern = LeastUsed(counts)
    used = [0] * len(counts)
    for position in range(sum(counts)):
        left = [group for group in range(len(counts)) if used[group] < counts[group]]
        expected = min(left, key=lambda group: used[group])
        assert pattern.locate(position) == (expected, used[expected])
        used[expected] += 1


@given(COUNTS)
def test_in_turn_one_group_follows_the_other(counts):
    assert groups_of(InTurn(counts)) == [group for group, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize("kind", [InTurn, LeastUsed, Spread])
@given(counts=COUNTS)
def test_what_each_group_had_is_known_for_any_position(kind, counts):
    pattern = kind(counts)
    found = [0] * len(counts)
    for position, group in enumerate(groups_of(pattern)):
        assert pattern.used(position) == found
        found[group] += 1
    assert pattern.used(sum(counts)) == found == counts


@given(st.integers(1, 300), st.integers(1, 300))
def test_of_two_groups_every_stretch_has_its_share_to_less_than_one_batch(first, second):
    sequence = np.array(groups_of(Spread([first, second])) * 2)
    used = np.concatenate([[0], np.cumsum(sequence)])
    for length in range(1, first + second, 1 + (first + second) // 10):
        expected = length * second / (first + second)
        assert np.abs(used[length:] - used[:-length] - expected).max() < 1


@given(st.lists(st.integers(1, 100), min_size=3, max_size=12))
def test_of_more_groups_every_stretch_has_its_share_to_less_than_three(counts):
    sequence = np.array(groups_of(Spread(counts)) * 2)
    for group, count in enumerate(counts):
        used = np.concatenate([[0], np.cumsum(sequence == group)])
        for length in range(1, sum(counts), 1 + sum(counts) // 10):
            expected = length * count / sum(counts)
            assert np.abs(used[length:] - used[:-length] - expected).max() < 3


def test_groups_of_equal_counts_take_turns():
    assert groups_of(Spread([3, 3, 3])) == [0, 1, 2] * 3


def test_900_and_100_batches_are_spread_over_the_whole_epoch():
    mixture = in_order([900, 100], True)
    groups = [mixture.locate(n).group for n in range(1000)]
    assert {sum(groups[first : first + 10]) for first in range(991)} == {1}
    assert mixture.batches_per_epoch == 1000
    assert mixture.locate(2999).epoch == 2


@pytest.mark.parametrize("interleave", [True, False, "least_used"])
@given(counts=COUNTS)
def test_without_weights_an_epoch_has_each_batch_once(interleave, counts):
    mixture = in_order(counts, interleave)
    total = sum(counts)
    for epoch in range(3):
        found = [mixture.locate(n) for n in range(epoch * total, (epoch + 1) * total)]
        assert sorted(found) == [Turn(g, epoch, n) for g, count in enumerate(counts) for n in range(count)]


def test_any_thousand_batches_have_the_exact_share_of_weights():
    mixture = by_weights([5, 50, 500], [0.6, 0.3, 0.1], None, None)
    groups = np.array([mixture.locate(n).group for n in range(3000)])
    for group, expected in enumerate([600, 300, 100]):
        used = np.concatenate([[0], np.cumsum(groups == group)])
        assert set(used[1000:] - used[:-1000]) == {expected}


@given(COUNTS, st.data())
def test_a_group_gives_each_of_its_batches_before_one_comes_again(counts, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(counts), max_size=len(counts)))
    mixture = by_weights(counts, weights, None, None)
    given_so_far = [0] * len(counts)
    for n in range(3 * sum(counts)):
        group, epoch, position = mixture.locate(n)
        assert (epoch, position) == divmod(given_so_far[group], counts[group])
        given_so_far[group] += 1


@given(COUNTS, st.data())
def test_an_epoch_ends_with_the_first_or_the_last_group(counts, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(counts), max_size=len(counts)))
    for stop, choose in (("first", min), ("all", max)):
        mixture = by_weights(counts, weights, stop, None)
        ends = []
        for group, count in enumerate(counts):
            ends.append(next(n + 1 for n in range(10**6) if mixture.locate(n) == (group, 0, count - 1)))
        assert mixture.batches_per_epoch == choose(ends)
    assert by_weights(counts, weights, "restart", None).batches_per_epoch == sum(counts)
    assert by_weights(counts, weights, None, 77).batches_per_epoch == 77


STAGES = [(0, [1, 1, 0]), (7, {0: 3, 2: 1}), (40, [0.1, 0.2, 0.7])]


def test_a_stage_begins_at_its_batch_and_no_group_starts_over_for_it():
    mixture = by_weights([10, 20, 30], STAGES, None, None)
    found = [mixture.locate(n) for n in range(200)]
    assert Counter(turn.group for turn in found[:7]) == {0: 4, 1: 3}
    assert Counter(turn.group for turn in found[7:39]) == {0: 24, 2: 8}
    assert Counter(turn.group for turn in found[40:140]) == {0: 10, 1: 20, 2: 70}
    for group, count in enumerate([10, 20, 30]):
        own = [turn for turn in found if turn.group == group]
        assert own == [Turn(group, *divmod(n, count)) for n in range(len(own))]
    assert mixture.share(6) == (0.5, 0.5, 0)
    assert mixture.share(7) == (0.75, 0, 0.25)


def test_a_far_batch_of_a_mixture_costs_what_the_first_costs():
    weights = [(0, [5, 4, 3, 2, 1]), (1000, [0.31, 0.27, 0.19, 0.11, 0.12]), (10**7, [1, 0, 0, 2, 97.123456])]
    mixture = by_weights([10**9 // 64] * 5, weights, None, None)
    steps = 0

    def count(_frame, event, _argument):
        nonlocal steps
        steps += event == "line"
        return count

    def cost(number):
        nonlocal steps
        steps, before = 0, sys.gettrace()
        sys.settrace(count)
        try:
            mixture.locate(number)
        finally:
            sys.settrace(before)
        return steps

    assert sum(mixture.used(10**8)) == 10**8
    assert cost(10**8) <= 2 * cost(0)
    assert cost(10**15) <= 2 * cost(0)


@given(WEIGHTS)
def test_weights_of_whole_numbers_are_kept_exactly(weights):
    counts = block_counts("weights", weights, len(weights))
    scale = math.gcd(*weights)
    assert list(counts) == [weight // scale for weight in weights]
    assert block_counts("weights", [weight / 7 for weight in weights], len(weights)) == counts


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=8))
def test_other_weights_are_off_by_less_than_a_batch_in_a_block(weights):
    counts = block_counts("weights", weights, len(weights))
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - sum(counts) * weight / sum(weights)) < 1
    assert sum(counts) <= 10**9


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        ([1], ValueError, "expected 2 numbers"),
        ([1, -1], ValueError, r"at least 0.*got \[1, -1\]"),
        ([0, 0], ValueError, "at least one above 0"),
        ([1, float("nan")], TypeError, "weights: expected 2 numbers"),
        ([1, "x"], TypeError, "weights: expected 2 numbers"),
        (0.5, TypeError, "weights: expected 2 numbers"),
        ({0: 1, 2: 1}, ValueError, "there is no group 2"),
        ([1, 1e-11], ValueError, "group 1 has less than a part"),
        ([(5, [1, 1])], ValueError, r"stages begin with batch 0.*got \[5\]"),
        ([(0, [1, 1]), (0, [1, 2])], ValueError, "go upwards"),
        ([(0, [1, 1]), ("a", [1, 2])], TypeError, r"weights\[1\]\[0\]: expected an int"),
        ([(0, [1, 1]), (3, [1])], ValueError, r"weights\[1\]\[1\]: expected 2 numbers"),
    ],
)
def test_wrong_weights_are_refused_by_name(weights, error, text):
    with pytest.raises(error, match=text):
        by_weights([10, 10], weights, None, None)


def test_a_wrong_end_of_an_epoch_is_refused():
    with pytest.raises(ValueError, match="stop: expected one of 'first', 'all', 'restart', got 'last'"):
        by_weights([10], [1], "last", None)
    with pytest.raises(ValueError, match="stop: batches_per_epoch says already"):
        by_weights([10], [1], "first", 5)
    with pytest.raises(ValueError, match="stop: with stages no epoch is like the other"):
        by_weights([10], [(0, [1]), (5, [2])], "first", None)


def tail(mixture, number):
    return [mixture.locate(n) for n in range(number, number + 100)]


def saved_by(mixture):
    return json.loads(json.dumps(mixture.saved()))


@given(st.integers(0, 80))
def test_a_run_under_other_weights_goes_on_where_each_group_was(number):
    counts = [10, 20, 30]
    before, after = by_weights(counts, STAGES, None, None), by_weights(counts, [1, 2, 3], None, None)
    resumed = after.resumed(saved_by(before), number)
    assert [resumed.locate(n) for n in range(number)] == [before.locate(n) for n in range(number)]
    used = Counter(before.locate(n).group for n in range(number))
    for group, count in enumerate(counts):
        own = [turn for turn in tail(resumed, number) if turn.group == group]
        assert own == [Turn(group, *divmod(used[group] + n, count)) for n in range(len(own))]
    assert Counter(turn.group for turn in tail(resumed, number)[:60]) == {0: 10, 1: 20, 2: 30}
    again = after.resumed(saved_by(resumed), number + 50)  # the same weights: what was before them stays known
    assert tail(again, number + 50) == tail(resumed, number + 50)


def test_a_change_of_weights_is_said_once_and_none_is_not(caplog):
    caplog.set_level(logging.WARNING, "hydrax")
    before, after = by_weights([10, 20], [1, 2], None, None), by_weights([10, 20], [2, 1], None, None)
    assert tail(before.resumed(saved_by(before), 7), 7) == tail(before, 7)
    assert not caplog.records
    resumed = after.resumed(saved_by(before), 7)
    assert caplog.messages == ["weights: from training batch 7 on they are not those of the saved run"]
    after.resumed(saved_by(resumed), 9)
    assert len(caplog.records) == 1


def test_a_state_without_weights_or_with_other_epochs_is_refused():
    weighted, plain = by_weights([10, 20], [1, 2], None, None), in_order([10, 20], True)
    assert plain.resumed(saved_by(plain), 5) is plain
    assert in_order([10], True).resumed(saved_by(in_order([10], False)), 5)
    with pytest.raises(StateMismatchError, match=r"of the saved run follow one another by 'spread', .* by weights"):
        weighted.resumed(saved_by(plain), 5)
    with pytest.raises(StateMismatchError, match="of the saved run follow one another by weights"):
        plain.resumed(saved_by(weighted), 5)
    with pytest.raises(StateMismatchError, match="by None, those of this loader by 'least_used'"):
        in_order([10, 20], "least_used").resumed(None, 5)
    with pytest.raises(StateMismatchError, match="give batches_per_epoch=30"):
        by_weights([10, 20], [1, 2], None, 7).resumed(weighted.saved(), 5)
    for stages in ([], [[0, [1]]], [[1, [1, 2]]], [[0, ["a", 1]]], [[0, [0, 0]]], 3):
        with pytest.raises(TypeError, match="state: its weights are not what"):
            weighted.resumed({"stages": stages, "batches_per_epoch": 30}, 5)


def test_a_single_group_needs_no_pattern():
    mixture = Mixture([7], [Stage(0, (1,))], 5)
    assert [mixture.locate(n) for n in (0, 6, 7)] == [(0, 0, 0), (0, 0, 6), (0, 1, 0)]
