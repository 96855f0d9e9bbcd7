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


def plan_of(training, validation, *, validates_first=False):
    orders = [
        [(group_order(group, kind, place), group.batch_count) for place, group in enumerate(groups)]
        for kind, groups in (("training", training), ("validation", validation))
    ]
    return Plan(*orders, 4 if validation else 0, interleave=True, validates_first=validates_first)


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


@pytest.mark.parametrize(
    "change",
    [
        {"training_batches": -1},
        {"training_batches": "4"},
        {"validation_batches": -1},
        {"validation_batches": None},
        {"ahead": [-1]},
        {"ahead": 3},
        {"training": {1, 2}},
    ],
)
def test_what_state_dict_never_returned_is_no_state(change):
    state = {**state_of(handed_out=3, validation=[]), **change}
    with pytest.raises(TypeError, match=r"state: expected what state_dict\(\) returned, got \{"):
        restored(state, [])


@pytest.mark.parametrize(
    "gone", ["version", "training_batches", "validation_batches", "ahead", "training", "validation"]
)
def test_a_state_lacks_nothing(gone):
    state = state_of(handed_out=3, validation=[])
    del state[gone]
    with pytest.raises(TypeError, match=gone):
        restored(state, [])


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_state_of_another_version_is_refused(version):
    with pytest.raises(StateMismatchError, match=f"it has version {version}, this hydrax reads version 1"):
        restored({**state_of(handed_out=3, validation=[]), "version": version}, [])


def test_numbers_ahead_go_on():
    state = state_of(handed_out=2, validation=[group_of(6)], ahead=(3, 5))
    assert (state["training_batches"], state["validation_batches"], state["ahead"]) == (2, 0, [3, 5])
    progress = restored(state, [group_of(6)])
    assert (progress.next_number, progress.ahead) == (2, {3, 5})


def test_all_that_differs_is_said():
    def refusal(training, validation=(), state=None, *, interleave=True):
        plan = plan_of(training, list(validation))
        with pytest.raises(StateMismatchError) as caught:
            restore(
                state or state_of(handed_out=3, validation=[]),
                plan,
                training,
                list(validation),
                4,
                interleave=interleave,
            )
        return str(caught.value).splitlines()[1:]

    data = refusal([group_of(10, seed=1)])
    assert [line.split(":")[0].strip() for line in data[:-1]] == [
        "training.groups[0].items",
        "training.groups[0].data",
        "training.groups[0].seed",
    ]
    assert data[-1].startswith("(data is ")
    assert refusal([group_of(8, seed=1)]) == ["  training.groups[0].seed: saved 0, here 1"]
    two = [group_of(8), group_of(8)]
    assert refusal(two) == [
        "  number of training.groups: saved 1, here 2",
        "  training.interleave_groups: saved False, here True",
    ]
    assert refusal(two, interleave=False) == ["  number of training.groups: saved 1, here 2"]
    odd = {**state_of(handed_out=3, validation=[]), "training": {"groups": 5, "more": None, "other": 1}}
    assert [line.split(":")[0].strip() for line in refusal([group_of(8)], state=odd)] == [
        "training.groups",
        "training.interleave_groups",
        "training.other",
    ]
    running = state_of(handed_out=5, validation=[group_of(6)])
    assert refusal([group_of(8)], [], running)[0].startswith("  number of validation.groups: saved 1, here 0")


def bright(loaded, arrays, seed):
    arrays["x"][...] = loaded["x"]


def dark(loaded, arrays, seed):
    arrays["x"][...] = 0


def test_another_augmentation_goes_on_and_is_said(caplog):
    def resumed(saved, own):
        groups = [[group_of(8), group_of(8, augment_func=augment)] for augment in (saved, own)]
        plan = plan_of(groups[0], [])
        state = save(Consumed(3), plan, groups[0], [], 0, interleave=True)
        return restore(state, plan_of(groups[1], []), groups[1], [], 0, interleave=True).next_number

    assert resumed(bright, bright) == 3
    assert caplog.messages == []
    assert resumed(bright, dark) == 3
    assert resumed(dark, bright) == 3
    said, back = caplog.messages
    assert back.startswith("augment_func: training group 1 is augmented by 'bright ")
    assert said.startswith("augment_func: training group 1 is augmented by 'dark ")
    assert ", in the saved run it was by 'bright " in said
    with pytest.raises(StateMismatchError, match=r"groups\[1\].augment_func: saved None, here 'dark "):
        resumed(None, dark)
    with pytest.raises(StateMismatchError, match=r"groups\[1\].augment_func: saved 'dark .*, here None"):
        resumed(dark, None)


def test_a_run_that_validates_first_is_another_one():
    training, validation = [group_of(8)], [group_of(6)]

    def plan(*, first):
        return plan_of(training, validation, validates_first=first)

    state = save(Consumed(2), plan(first=True), training, validation, 4, interleave=True)
    assert state["validation"]["first"] is True
    assert restore(state, plan(first=True), training, validation, 4, interleave=True).next_number == 2
    with pytest.raises(StateMismatchError, match=r"validation\.first: saved True, here None"):
        restore(state, plan(first=False), training, validation, 4, interleave=True)


def test_many_groups_go_on_as_few_do():
    training = [group_of(8)] * 300
    plan = plan_of(training, [])
    state = save(Consumed(1000), plan, training, [], 0, interleave=True)
    assert restore(state, plan, training, [], 0, interleave=True).next_number == 1000
