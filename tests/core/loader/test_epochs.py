"""A run as epochs, evaluation alone, and how many batches come."""

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, LoaderError, StateMismatchError, ValidationBatch

ARRAYS = {"x": ((), np.int32)}


def load(item, arrays, seed):
    if item < 0:
        raise ValueError("bad")
    arrays["x"][...] = item


def group(size=20, batch_size=4, **more):
    return DataGroup(batch_size, range(size), loader_arrays=ARRAYS, **more)


def loader(train=None, **more):
    valid = more.pop("validation", ("epoch", 1, group(6)))
    settings = {"validation": valid, "loader_kind": "inline", "end_at": ("epoch", 3), **more}
    return Dataloader(load, train or group(), **settings)


def name(batch):
    return str(batch.address)


@pytest.mark.parametrize(
    "validation",
    [None, ("epoch", 1, group(6)), ("epoch", 2, group(6)), ("batch", 2, group(6)), ("batch", 10, group(4))],
)
@pytest.mark.parametrize("end", [("epoch", 3), ("batch", 13), ("epoch", 0)])
@pytest.mark.parametrize("first", [False, True])
def test_epochs_are_the_stream_cut_into_pieces(validation, end, first):
    settings = {"validation": validation, "end_at": end, "validate_first": first and validation is not None}
    with loader(**settings) as plain:
        assert len(plain) == len(stream := [name(batch) for batch in plain])
    found, numbers = [], []
    with loader(**settings) as running:
        for epoch in running.epochs():
            numbers.append(epoch.number)
            before = list(epoch.validation_before)
            assert len(before) == len(epoch.validation_before)
            assert bool(before) == (settings["validate_first"] and epoch.number == 0)
            assert all(batch.is_validation and batch.validation_epoch == 0 for batch in before)
            found += map(name, before)
            own = list(epoch)
            assert len(own) == len(epoch)
            assert all(batch.epoch == epoch.number for batch in own if batch.is_training)
            run = list(epoch.validation)
            assert len(run) == len(epoch.validation)
            assert all(batch.is_validation for batch in run)
            found += map(name, [*own, *run])
    assert found == stream
    assert numbers == list(range(len(numbers)))


def test_an_epoch_that_is_left_early_is_passed_over():
    seen = []
    with loader() as running:
        for epoch in running.epochs():
            for batch in epoch:
                seen.append(name(batch))
                if epoch.number == 1:
                    break
            if epoch.number == 0:
                continue  # without a look at its validation
            seen += [name(batch) for batch in epoch.validation]
    training = [
        f"training group 0, epoch {n}, batch {b}" for n, count in ((0, 5), (1, 1), (2, 5)) for b in range(count)
    ]
    runs = {n: [f"validation group 0, validation run {n}, batch {b}" for b in range(2)] for n in (1, 2)}
    assert seen == [*training[:6], *runs[1], *training[6:], *runs[2]]


@pytest.mark.parametrize("first", [False, True])
def test_a_run_that_was_stopped_in_an_epoch_or_its_validation_goes_on_there(first):
    with loader(validate_first=first) as plain:
        stream = [name(batch) for batch in plain]
    for position in range(1, len(stream)):
        with loader(validate_first=first) as stopped:
            for _ in range(position):
                next(stopped)
            state = stopped.state_dict()
        second = loader(validate_first=first)
        second.load_state_dict(state)
        rest = []
        with second:
            for epoch in second.epochs():
                runs = epoch.validation_before, epoch, epoch.validation
                expected = list(map(len, runs))
                parts = [list(map(name, run)) for run in runs]
                assert list(map(len, parts)) == expected
                rest += [found for part in parts for found in part]
        assert rest == stream[position:]


def test_a_validation_run_before_training_is_passed_over_by_who_does_not_ask_for_it():
    with loader(validate_first=True, end_at=("epoch", 1)) as running:
        epoch = next(running.epochs())
        assert [batch.batch_num for batch in epoch] == [0, 1, 2, 3, 4]
        assert [batch.validation_epoch for batch in epoch.validation] == [1, 1]


def test_a_later_start_has_no_validation_run_before_it():
    with loader(validate_first=True, start_at=(1, 0), end_at=("epoch", 2)) as running:
        assert [batch.is_training for batch in running] == [True] * 5 + [False] * 2


def test_validating_first_is_part_of_the_state_while_a_validation_run_is_under_way():
    with loader(validate_first=True) as running:
        next(running)
        state = running.state_dict()
    with pytest.raises(StateMismatchError, match=r"validation\.first: saved True, here None"):
        loader().load_state_dict(state)
    with pytest.raises(ValueError, match="validate_first: there is nothing to validate on"):
        loader(validation=None, validate_first=True)


def test_an_epoch_is_over_also_when_its_last_batch_is_skipped():
    items = [*range(16), -1, 17, 18, 19]
    train = DataGroup(4, items, loader_arrays=ARRAYS, shuffle_later="repeat")
    with loader(train, on_error="skip", validation=None) as running:
        ends = [(epoch.number, [batch.epoch_batch for batch in epoch]) for epoch in running.epochs()]
    assert ends == [(number, [0, 1, 2, 3]) for number in range(3)]


def test_an_error_within_an_epoch_is_raised_there_and_the_epoch_goes_on():
    items = [0, 1, 2, 3, -1, 5, 6, 7, 8, 9, 10, 11]
    train = DataGroup(4, items, loader_arrays=ARRAYS, shuffle_later="repeat")
    with loader(train, validation=None, end_at=("epoch", 1)) as running:
        epoch = next(running.epochs())
        batches = iter(epoch)
        assert next(batches).epoch_batch == 0
        with pytest.raises(LoaderError):
            next(batches)
        assert next(batches).epoch_batch == 2
        assert list(batches) == []


def test_epochs_need_the_order_of_the_plan():
    with pytest.raises(ValueError, match="deterministic"):
        loader(deterministic=False).epochs()


def test_a_finite_run_has_a_length_which_shrinks_as_batches_are_taken():
    running = loader()
    assert running
    with running:
        for left in range(len(running), 0, -1):
            assert len(running) == left
            next(running)
    assert len(running) == 0
    assert running
    endless = loader(end_at=None)
    assert endless
    with pytest.raises(TypeError, match="endless"):
        len(endless)


def test_validation_pads_unless_it_is_told_to_drop():
    with loader(end_at=("epoch", 1)) as running:
        batches = [batch for batch in running if batch.is_validation]
    assert [batch.size for batch in batches] == [4, 2]
    assert batches[1].mask.tolist() == [True, True, False, False]
    with loader(validation=("epoch", 1, group(6, remainder="drop")), end_at=("epoch", 1)) as running:
        assert [batch.size for batch in running if batch.is_validation] == [4]
    with pytest.raises(ValueError, match="batch_size"):
        group(3)


def test_evaluation_alone_has_every_item_once():
    with Dataloader(load, evaluation=[group(10), group(3, 2)], loader_kind="inline") as running:
        assert len(running) == 5
        batches = list(running)
    assert all(isinstance(batch, ValidationBatch) for batch in batches)
    items = [[item for batch in batches if batch.group_index == n for item in batch.data] for n in (0, 1)]
    assert items == [list(range(10)), list(range(3))]
    assert sum(int(batch.mask.sum()) for batch in batches) == 13
    assert [batch.progress_total for batch in batches] == [5] * 5


def test_evaluation_goes_on_where_it_was_stopped():
    first = Dataloader(load, evaluation=group(10), loader_kind="inline")
    with first:
        next(first)
        state = first.state_dict()
    second = Dataloader(load, evaluation=group(10), loader_kind="inline")
    second.load_state_dict(state)
    with second:
        assert [item for batch in second for item in batch.data] == list(range(4, 10))


@pytest.mark.parametrize(
    "more",
    [{"training": group()}, {"validation": ("epoch", 1, group())}, {"end_at": ("epoch", 1)}, {"validate_first": True}],
)
def test_evaluation_stands_alone(more):
    with pytest.raises(ValueError, match="evaluation"):
        Dataloader(load, evaluation=group(10), **more)
