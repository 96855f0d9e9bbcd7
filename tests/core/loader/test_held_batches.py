"""Batches that the consumer keeps, closes or computes with: their values stay right, and their holders are named."""

import re
import time
from collections import deque

import jax
import numpy as np
import pytest
from loaderkit import LARGE, group, inline, load, mark

import hydrax_core
from hydrax_core import BatchesHeldError, DataGroup, Dataloader


def test_a_kept_batch_never_changes_and_never_stalls_the_loader(caplog):
    with inline(group(400, loader_arrays=LARGE), loader=mark, loader_kind="thread", depth=2) as loader:
        kept = list(loader)
        assert len(kept) == 100
        for batch in kept:
            assert np.asarray(batch.arrays["y"]).tolist() == list(batch.data)
        assert loader.stats().held_batches >= 100
    told = [text for text in caplog.messages if "batches are held, more than depth=2" in text]
    assert len(told) == 1
    assert "test_held_batches.py:" in told[0]
    for batch in kept:
        assert np.asarray(batch.arrays["y"]).tolist() == list(batch.data)


def test_past_the_bound_the_holders_are_named_and_the_loader_goes_on_when_they_let_go():
    train = group(400, loader_arrays=LARGE)
    with inline(train, loader=mark, loader_kind="thread", depth=2, max_held=5) as loader:
        kept = []
        with pytest.raises(BatchesHeldError, match=r"max_held.*test_held_batches.py:\d+"):
            kept.extend(loader)
        assert len(kept) >= 5
        seen = {batch.batch_num for batch in kept}
        kept.clear()
        seen.update(batch.batch_num for batch in loader)
        assert seen == set(range(100))


def test_the_bound_is_the_number_that_may_be_held_beside_the_batch_in_use():
    train = group(400, loader_arrays=LARGE)
    with inline(train, loader=mark, loader_kind="thread", depth=3, max_held=4) as loader:
        kept = [next(loader) for _ in range(5)]
        with pytest.raises(BatchesHeldError, match="5 batches are held, more than max_held=4"):
            next(loader)
        kept.pop()
        assert next(loader).batch_num == 5


def test_a_consumer_that_never_calls_jax_does_not_stall_it():
    train = group(4000, loader_arrays=LARGE)
    with inline(train, loader=mark, loader_kind="thread", depth=2, max_held=8) as loader:
        assert sum(1 for _ in loader) == 1000


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


def test_a_result_in_flight_is_right_though_its_batch_is_closed():
    @jax.jit
    def slow(x):
        return jax.lax.fori_loop(0, 300, lambda _, y: y @ x / jax.numpy.linalg.norm(x), x)

    def fill(item, arrays, seed):
        arrays["m"][...] = np.random.default_rng(item).random((128, 128))

    train = DataGroup(1, range(30), loader_arrays={"m": ((128, 128), "float32")})
    expected = [np.asarray(slow(np.random.default_rng(i).random((128, 128)).astype("f4"))) for i in range(30)]
    with inline(train, loader=fill, loader_kind="thread", depth=2) as loader:
        results = []
        for batch in loader:
            results.append(slow(batch.arrays["m"][0]))
            batch.close()
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(result), right)


def test_live_batches_and_their_holders_are_listed():
    class Trainer:
        pass

    def waiting(batch):
        yield batch

    def using(batch):
        return lambda: batch

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
