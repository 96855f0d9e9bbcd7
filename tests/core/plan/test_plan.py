from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.plan.order import GroupOrder
from hydrax_core.plan.plan import Interleaving, Plan, Position

COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def groups(counts, key):
    return [
        (GroupOrder(n, 1, n, key and key + i, shuffle_first=False, shuffle_later="itemwise"), n)
        for i, n in enumerate(counts)
    ]


@given(COUNTS)
def test_the_least_used_group_comes_next_and_ties_go_to_the_first(counts):
    interleaving = Interleaving(counts, interleave=True)
    used = [0] * len(counts)
    for position in range(sum(counts)):
        left = [group for group in range(len(counts)) if used[group] < counts[group]]
        expected = min(left, key=lambda group: used[group])
        assert interleaving.locate(position) == (expected, used[expected])
        used[expected] += 1


@given(COUNTS, st.integers(0, 71))
def test_a_position_is_located_without_the_ones_before_it(counts, position):
    position %= sum(counts)
    walked = Interleaving(counts, interleave=True)
    for earlier in range(position):
        walked.locate(earlier)
    assert walked.locate(position) == Interleaving(counts, interleave=True).locate(position)


@given(COUNTS)
def test_without_interleaving_one_group_follows_the_other(counts):
    interleaving = Interleaving(counts, interleave=False)
    expected = [(group, batch) for group, count in enumerate(counts) for batch in range(count)]
    assert [interleaving.locate(position) for position in range(sum(counts))] == expected


@given(COUNTS, COUNTS, st.integers(1, 20), st.integers(0, 300))
def test_validation_comes_after_every_interval(training, validation, interval, number):
    plan = Plan(groups(training, 1), groups(validation, None), interval, interleave=True)
    seen = [plan.batch(n).address for n in range(number + 1)]
    trained = 0
    pending = 0
    for address in seen:
        if pending:
            assert address.kind == "validation"
            assert address.epoch_batch == sum(validation) - pending
            assert address.epoch == trained // interval - 1
            pending -= 1
        else:
            assert address.kind == "training"
            assert address.batch_num == trained
            assert (address.epoch, address.epoch_batch) == divmod(trained, sum(training))
            trained += 1
            if trained % interval == 0:
                pending = sum(validation)


@given(COUNTS, COUNTS, st.integers(0, 20), st.integers(0, 10**12))
def test_number_and_position_are_inverse(training, validation, interval, number):
    plan = Plan(groups(training, 1), groups(validation, None) if interval else [], interval, interleave=True)
    assert plan.number(plan.position(number)) == number


def test_the_position_after_an_interval_knows_whether_validation_ran():
    plan = Plan(groups([4], 1), groups([3], None), 4, interleave=True)
    assert plan.number(Position(4, 0)) == 4
    assert plan.number(Position(4, 3)) == 7
    assert plan.batch(4).address.kind == "validation"
    assert plan.batch(7).address.kind == "training"


def test_far_batches_cost_no_walk():
    plan = Plan(groups([1000] * 10_000, 1), [], 0, interleave=True)
    batch = plan.batch(10**12 + 7)
    assert batch.address.epoch == (10**12 + 7) // 10**7
    assert len(batch.content.indices) == 1
