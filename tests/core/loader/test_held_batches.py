"""Batches that the consumer keeps, closes or computes with: their values stay right, and their holders are named."""

import gc
import re
import time
from collections import deque

import pytest
from loaderkit import LARGE, group, inline, load, mark

import hydrax_core
from hydrax_core import BatchesHeldError, Dataloader


def test_the_bound_is_the_number_that_may_be_held_beside_the_batch_in_use():
    train = group(400, loader_arrays=LARGE)
    with inline(train, loader=mark, loader_kind="thread", depth=3, max_held=4) as loader:
        kept = [next(loader) for _ in range(5)]
        with pytest.raises(BatchesHeldError, match="5 batches are held, more than max_held=4"):
            next(loader)
        kept.pop()
        assert next(loader).batch_num == 5


def test_closing_ends_the_lease_and_use_after_it_raises():
    with inline(loader_kind="thread", depth=1) as loader:
        batch = next(loader)
        array = batch.arrays["x"]
        with batch:
            assert batch.size == 4
        assert batch.closed
        batch.close()
        assert array.is_deleted()
        for use in (lambda: batch.arrays, lambda: batch.size, lambda: batch.get_data(0), lambda: batch.split([1])):
            with pytest.raises(hydrax_core.BatchClosedError, match="this batch is closed"):
                use()
        assert "closed" in repr(batch)


def test_live_batches_and_their_holders_are_listed():
    class Trainer:
        pass

    def waiting(batch):
        yield batch

    def using(batch):
        return lambda: batch

    gc.collect()  # errors of earlier tests, whose frames hold batches
    with inline(group(100)) as loader:
        mine = next(loader)
        several = [0, next(loader), next(loader)]
        several[0] = several[2]
        by_name = {"last": next(loader)}
        trainer = Trainer()
        trainer.batch = next(loader)
        trainer.history = {"all": [next(loader)]}
        trainer.ring = deque([next(loader)])
        generator = waiting(next(loader))
        next(generator)
        function = using(next(loader))
        handles = {next(loader)}
        text = hydrax_core.debug_batch_references()
    holders = {int(number): line.strip() for number, line in re.findall(r"batch (\d+):.*\n(.*)", text)}
    where = f"test_live_batches_and_their_holders_are_listed, {__file__}:"
    for number, expected in enumerate(
        [
            f"variable mine in {where}",
            f"a list, at 1 (variable several in {where}",
            f"a list, at 0, 2 (variable several in {where}",
            f"a dict, at 'last' (variable by_name in {where}",
            f"a Trainer, at .batch (variable trainer in {where}",
            "a list, at 0 (in a dict, at 'all')",
            "a deque, at 0 (attribute ring of a Trainer)",
            f"variable batch in waiting, {__file__}:",
            "a cell (variable batch that test_live_batches_and_their_holders_are_listed.<locals>.using.",
            f"a set (variable handles in {where}",
        ]
    ):
        assert holders[number].startswith(expected)
    assert "training group 0, epoch 0, batch 0" in text
    del mine, several, by_name, trainer, generator, function, handles


def test_batches_that_are_only_made_ahead_are_none_that_somebody_holds():
    # Batches of other tests may be alive still; none of them has these numbers.
    with Dataloader(load, group(4000), loader_kind="thread", depth=8, start_at=(0, 777)) as loader:
        mine = next(loader)
        while loader.stats().slots.count("ready") < 4:
            time.sleep(0.001)
        text = hydrax_core.debug_batch_references()
    assert "epoch 0, batch 777:" in text
    assert "epoch 0, batch 778:" not in text
    del mine
