"""Which batches are behind, with and without order."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core import DataGroup, StateMismatchError
from hydrax_core.plan.order import group_order
from hydrax_core.plan.plan import Plan
from hydrax_core.plan.position import Consumed, restore, save


@given(st.permutations(range(12)), st.integers(0, 12))
def test_batches_in_any_order_leave_the_first_that_is_missing_and_those_ahead_of_it(order, count):
    progress = Consumed(0)
    for number in order[:count]:
        progress.pass_one(number)
    missing = sorted(set(range(13)) - set(order[:count]))
    assert progress.next_number == missing[0]
    assert progress.ahead == {number for number in order[:count] if number > missing[0]}


@given(st.integers(0, 20), st.sets(st.integers(0, 30)), st.integers(1, 30))
def test_numbers_ahead_of_a_state_without_order_are_forgotten_once_the_order_reaches_them(start, ahead, count):
    progress = Consumed(start, sorted(ahead))
    taken = []
    for _ in range(count):
        number = progress.next_number
        assert number not in ahead or number < start
        taken.append(number)
        progress.pass_all_up_to(number)
    assert not set(taken) & {number for number in ahead if number >= start}
    assert all(number > progress.next_number for number in progress.ahead)


def group_of(size, **more):
    return DataGroup(2, range(size), loader_arrays={"x": ((), "int32")}, **more)


def state_of(*, handed_out, validation, ahead=()):
    """The state of a loader after so many batches, with other ones ahead of it."""
    training = [group_of(8)]
    plan = plan_of(training, validation)
    progress = Consumed(handed_out, ahead)
    return json.loads(json.dumps(save(progress, plan, training, validation, 4, interleave=True)))


def plan_of(training, validation):
    orders = [
        [(group_order(group, kind, place), group.batch_count) for place, group in enumerate(groups)]
        for kind, groups in (("training", training), ("validation", validation))
    ]
    return Plan(*orders, 4 if validation else 0, interleave=True)


def restored(state, validation):
    training = [group_of(8)]
    return restore(state, plan_of(training, validation), training, validation, 4, interleave=True)


@pytest.mark.parametrize("handed_out", range(15))
def test_a_state_goes_on_with_the_next_batch(handed_out):
    progress = restored(state_of(handed_out=handed_out, validation=[group_of(6)]), [group_of(6)])
    assert (progress.next_number, progress.ahead) == (handed_out, set())


@pytest.mark.parametrize(
    ("handed_out", "ahead", "goes_on"),
    [
        (2, (), 2),
        (4, (), 8),  # what would have come next is the validation run, which is another one now: it is left out
        (8, (), 9),
        (2, (3,), None),  # numbers ahead count batches of the validation that was
        (5, (), None),
    ],
)
def test_another_validation_is_refused_where_the_state_depends_on_it(handed_out, ahead, goes_on):
    state = state_of(handed_out=handed_out, validation=[group_of(6)], ahead=ahead)
    if goes_on is None:
        with pytest.raises(StateMismatchError, match=r"validation.groups\[0\].items: saved 6, here 8"):
            restored(state, [group_of(8)])
    else:
        assert restored(state, [group_of(8)]).next_number == goes_on
