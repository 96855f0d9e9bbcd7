"""Blocks in random order, rows shuffled within a window of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.plan.blocks import BlockRows

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=20).filter(any)


def blocks(sizes, window):
    return BlockRows(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), window)


@given(SIZES, st.integers(1, 60), st.integers(0, 3), st.integers(0, 2**64 - 1), st.booleans())
def test_every_item_comes_once_an_epoch_and_its_seed_with_it(sizes, window, epoch, key, shuffled):
    rows = blocks(sizes, window)
    drawn = rows.draw(key, epoch, 0, sum(sizes), shuffled=shuffled)
    assert sorted(drawn.indices.tolist()) == list(range(sum(sizes)))
    assert drawn.numbers.tolist() == drawn.indices.tolist()
    if epoch == 0 and not shuffled:
        assert drawn.indices.tolist() == list(range(sum(sizes)))


@given(SIZES, st.integers(1, 60), st.integers(0, 3), st.data())
def test_rows_do_not_depend_on_what_was_asked_before(sizes, window, epoch, data):
    whole = blocks(sizes, window).draw(7, epoch, 0, sum(sizes), shuffled=True).indices
    first = data.draw(st.integers(0, sum(sizes) - 1))
    end = data.draw(st.integers(first + 1, sum(sizes)))
    rows = blocks(sizes, window)
    rows.draw(7, data.draw(st.integers(0, 3)), 0, 1, shuffled=True)
    assert rows.draw(7, epoch, first, end, shuffled=True).indices.tolist() == whole[first:end].tolist()


def test_a_window_holds_whole_blocks_and_a_block_comes_in_one_run():
    rows = blocks([10] * 30, 40)
    drawn = rows.draw(1, 2, 0, 300, shuffled=True).indices
    for first in range(0, 300, 40):
        assert len(set((drawn[first : first + 40] // 10).tolist())) == min(4, (300 - first) // 10)
    windows = [set((drawn[first : first + 40] // 10).tolist()) for first in range(0, 300, 40)]
    assert sum(map(len, windows)) == 30


def test_epochs_and_keys_and_windows_have_orders_of_their_own():
    rows = blocks([50] * 20, 100)
    orders = [rows.draw(key, epoch, 0, 1000, shuffled=True).indices for key, epoch in ((1, 0), (1, 1), (2, 0))]
    for number, order in enumerate(orders):
        assert all((order != other).mean() > 0.9 for other in orders[number + 1 :])
        assert (np.diff(order) == 1).mean() < 0.1
    distances = [np.abs(np.diff(order // 50)).mean() for order in orders]
    assert min(distances) > 1
    assert blocks([50] * 20, 100).digest == rows.digest
    assert len({rows.digest, blocks([50] * 20, 99).digest, blocks([25] * 40, 100).digest}) == 3


@pytest.mark.parametrize("index", [0, 17])
def test_any_item_may_stand_in(index):
    assert blocks([10] * 2, 5).alike(index) == (range(20), index)
