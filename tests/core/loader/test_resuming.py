"""Stopping and going on: whatever was handed out before, the rest comes, once."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loaderkit import ARRAYS, group, inline, record, records

from hydrax_core import DataGroup, StateMismatchError


@settings(max_examples=25)
@given(st.integers(0, 40), st.sampled_from(["repeat", "reseed", "itemwise", "batchwise"]), st.integers(1, 7))
def test_resuming_anywhere_gives_the_tail(position, later, interval):
    def make():
        return inline(
            [group(9, shuffle_first=True, shuffle_later=later, remainder="pad"), group(8)],
            validation=("batch", interval, group(8)),
            end_at=("epoch", 4),
        )

    whole = records(make())
    with make() as loader:
        for _ in itertools.islice(loader, position):
            pass
        state = json.loads(json.dumps(loader.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert records(resumed) == whole[position:]


def test_resuming_out_of_order_batches_gives_the_rest():
    whole = records(inline(end_at=("epoch", 4)))
    loader = inline(end_at=("epoch", 4), loader_kind="thread", loader_count=3, deterministic=False, depth=6)
    with loader:
        seen = [record(next(loader)) for _ in range(9)]
        state = loader.state_dict()
    resumed = inline(end_at=("epoch", 4))
    resumed.load_state_dict(state)
    assert sorted(map(repr, seen + records(resumed))) == sorted(map(repr, whole))


def test_entering_again_goes_on_behind_the_last_batch():
    expected = records(inline())
    loader = inline()
    with loader:
        seen = [record(next(loader)), record(next(loader))]
    with loader:
        seen += [record(batch) for batch in loader]
    assert seen == expected
    with loader:
        assert list(loader) == []


def test_a_run_that_goes_on_at_its_end_says_nothing_of_an_empty_run(caplog):
    with inline() as loader:
        assert len(list(loader)) == 5
    again = loader.replace(start_at=(3, 0))
    again.load_state_dict(inline().state_dict())
    assert len(records(again)) == 5
    again = loader.replace()
    again.load_state_dict(loader.state_dict())
    assert records(again) == []
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 24}, r"training.groups\[0\].items: saved 20, here 24"),
        ({"batch_size": 5}, "batch_size: saved 4, here 5"),
        ({"seed": 1}, "seed: saved 0, here 1"),
        ({"shuffle_later": "repeat"}, "shuffle_later: saved 'itemwise', here 'repeat'"),
        ({"shuffle_first": True}, "shuffle_first: saved False, here True"),
    ],
)
def test_a_state_of_other_data_or_settings_is_refused_with_what_differs(change, message):
    state = inline().state_dict()
    with pytest.raises(StateMismatchError, match=message):
        inline(group(**change)).load_state_dict(state)


def test_a_state_of_other_items_is_refused():
    state = inline(DataGroup(4, list(range(20)), loader_arrays=ARRAYS)).state_dict()
    with pytest.raises(StateMismatchError, match="data: saved"):
        inline(DataGroup(4, [*range(19), 77], loader_arrays=ARRAYS)).load_state_dict(state)
