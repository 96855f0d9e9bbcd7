import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import StateMismatchError
from hydrax_core.plan.mixture import by_weights
from hydrax_core.plan.order import GroupOrder
from hydrax_core.plan.plan import Plan, Position

COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def groups(counts, key):
    return [
        (GroupOrder(n, 1, n, key and key + i, shuffle_first=False, shuffle_later="itemwise"), n)
        for i, n in enumerate(counts)
    ]


@given(COUNTS, COUNTS, st.integers(1, 20), st.integers(0, 300), st.booleans())
def test_validation_comes_after_every_interval_and_before_the_first_on_request(
    training, validation, interval, number, first
):
    plan = Plan(groups(training, 1), groups(validation, None), interval, interleave=True, validates_first=first)
    seen = [plan.batch(n).address for n in range(number + 1)]
    trained = 0
    pending = sum(validation) if first else 0
    for address in seen:
        if pending:
            assert address.kind == "validation"
            assert address.epoch_batch == sum(validation) - pending
            assert address.epoch == trained // interval - (not first)
            assert address.batch_num == (address.epoch + 1) * sum(validation) - pending
            pending -= 1
        else:
            assert address.kind == "training"
            assert address.batch_num == trained
            assert (address.epoch, address.epoch_batch) == divmod(trained, sum(training))
            trained += 1
            if trained % interval == 0:
                pending = sum(validation)


@given(COUNTS, COUNTS, st.integers(0, 20), st.integers(0, 10**12) | st.integers(0, 60), st.booleans())
def test_number_and_position_are_inverse(training, validation, interval, number, first):
    valid = groups(validation, None) if interval else []
    plan = Plan(groups(training, 1), valid, interval, interleave=True, validates_first=first)
    assert plan.number(plan.position(number)) == number


def test_the_position_after_an_interval_knows_whether_validation_ran():
    plan = Plan(groups([4], 1), groups([3], None), 4, interleave=True)
    assert plan.number(Position(4, 0)) == 4
    assert plan.number(Position(4, 3)) == 7
    assert plan.batch(4).address.kind == "validation"
    assert plan.batch(7).address.kind == "training"


@given(COUNTS, st.integers(0, 300))
def test_a_batch_of_a_mixture_is_that_of_its_groups_turn(counts, number):
    mixture = by_weights(counts, range(1, len(counts) + 1), None, None)
    plan = Plan(groups(counts, 1), [], 0, interleave=True, mixture=mixture)
    group, epoch, position = mixture.locate(number)
    found = plan.batch(number)
    assert (found.address.group_index, found.address.epoch) == (group, number // sum(counts))
    assert found.content.indices.tolist() == groups(counts, 1)[group][0].batch(epoch, position).indices.tolist()
    expected = groups(counts, 1)[group][0].substitute(epoch, 0, 0)
    assert plan.substitute(found.address, 0, 0) == expected


@pytest.mark.parametrize("interleave", [True, "least_used", False])
def test_far_batches_cost_no_walk(interleave):
    plan = Plan(groups([1000] * 10_000, 1), [], 0, interleave=interleave)
    batch = plan.batch(10**12 + 7)
    assert batch.address.epoch == (10**12 + 7) // 10**7
    assert len(batch.content.indices) == 1


def test_a_validation_run_half_way_goes_on_only_in_its_own_order():
    def plan(interleave):
        return Plan(groups([4], 1), groups([3, 2], None), 4, interleave=interleave)

    assert plan("least_used").resumed(plan(True).saved(), 9).batches_per_validation == 5
    for number in (4, 9):  # before it, behind it
        assert plan(True).resumed(plan("least_used").saved(), number).saved() == plan(True).saved()
    with pytest.raises(StateMismatchError, match="by None, those of this loader by 'spread'"):
        plan(True).resumed(None, 5)
    with pytest.raises(StateMismatchError, match="by 'spread', those of this loader by 'least_used'"):
        plan("least_used").resumed(plan(True).saved(), 5)


def test_a_batch_of_validation_and_its_substitutes_are_of_its_group_whatever_the_run():
    plan = Plan(groups([4], 1), groups([3, 2], None), 2, interleave=False)
    for run in range(3):
        batch = plan.batch(7 * run + 2 + 3)
        assert batch.address.group_index == 1
        assert batch.address.epoch == run
        assert (batch.content.indices.tolist(), batch.content.seeds) == ([0], None)
        assert plan.substitute(batch.address, 0, 0).item == 1
        assert plan.substitute(plan.batch(7 * run + 2).address, 0, 0).item in {1, 2}


def test_the_turns_of_both_passes_are_saved():
    two = [4, 3]
    assert Plan(groups(two, 1), [], 0, interleave=True).saved() == {"training": "spread", "validation": None}
    plan = Plan(groups([4], 1), groups(two, None), 4, interleave="least_used")
    assert plan.saved() == {"training": None, "validation": "least_used"}
