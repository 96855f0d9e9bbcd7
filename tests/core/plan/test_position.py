"""Which batches are behind, with and without order."""

from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.plan.position import Consumed


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
