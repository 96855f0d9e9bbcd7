"""Streams: each item of each shard once an epoch, the same whatever the workers; ends, errors and restarts."""

import io
import json
import os
import random
import signal
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrax_cli.main import run_command_line
from hydrax_core import DataGroup, Dataloader, pack
from hydrax_core.errors import LoaderError, StateMismatchError, StreamError
from hydrax_core.progress import track
from hydrax_core.sources import stream
from hydrax_core.sources.streams import ROOM, _shuffled
from hydrax_core.testing import check_loader


def counting(size):
    """A factory of the numbers below ``size``, every so many-th in a shard."""

    def make(index, count):
        for number in range(index, size, count):
            yield {"x": number}

    return make


def values(batch):
    return np.asarray(batch.arrays["x"])[: batch.size].tolist()


def run(group, kind="inline", end=("epoch", 1), **options):
    with Dataloader(group, loader_kind=kind, end_at=end, **options) as loader:
        return [(batch.epoch, batch.epoch_batch, values(batch)) for batch in loader if batch.is_training]


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 60),
    shards=st.integers(1, 5),
    batch_size=st.integers(1, 9),
    buffer=st.integers(0, 20),
    seed=st.integers(0, 1 << 70),
    drops=st.booleans(),
)
def test_the_union_of_shards_is_the_data(size, shards, batch_size, buffer, seed, drops):
    options = {"shards": shards, "batch_size": batch_size, "shuffle_buffer": buffer, "seed": seed}
    group = stream(counting(size), remainder="drop" if drops else "pad", **options).training
    of_shard = [len(range(index, size, shards)) for index in range(shards)]
    if drops and not any(count >= batch_size for count in of_shard):
        with pytest.raises(StreamError, match="gave no batch"):
            run(group)
        return
    found = run(group, end=("epoch", 2))
    again = run(group, "thread", ("epoch", 2), loader_count=2, depth=5)
    assert found == again
    for epoch in range(2):
        rows = [row for number, _, batch in found if number == epoch for row in batch]
        wanted = sum(count - (count % batch_size if drops else 0) for count in of_shard)
        assert len(rows) == len(set(rows)) == wanted
        if not drops:
            assert sorted(rows) == list(range(size))
        for number, place, batch in found:
            assert all(row % shards == place % shards for row in batch)
            assert number in {0, 1}
        if buffer < 2:
            for index in range(shards):
                own = [row for row in rows if row % shards == index]
                assert own == sorted(own)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=st.integers(1, 40), shards=st.integers(1, 4), buffer=st.sampled_from([0, 7]), taken=st.integers(0, 40))
def test_a_resumed_run_is_the_tail(size, shards, buffer, taken):
    group = stream(counting(size), shards=shards, batch_size=4, shuffle_buffer=buffer).training
    whole = run(group, end=("epoch", 3))
    taken = min(taken, len(whole))
    with Dataloader(group, loader_kind="inline", end_at=("epoch", 3)) as loader:
        for _ in range(taken):
            next(loader)
        state = loader.state_dict()
    with Dataloader(group, loader_kind="thread", loader_count=3, end_at=("epoch", 3)) as loader:
        loader.load_state_dict(state)
        rest = [(batch.epoch, batch.epoch_batch, values(batch)) for batch in loader]
    assert whole[taken:] == rest


@given(size=st.integers(0, 200), buffer=st.integers(2, 50), seed=st.integers())
def test_a_buffer_gives_each_item_once_and_none_too_early(size, buffer, seed):
    found = list(_shuffled(iter(range(size)), buffer, random.Random(seed)))
    assert sorted(found) == list(range(size))
    assert all(item <= place + buffer for place, item in enumerate(found))
    assert found == list(_shuffled(iter(range(size)), buffer, random.Random(seed)))


def test_epochs_and_seeds_shuffle_anew():
    group = stream(counting(100), shuffle_buffer=50, batch_size=10).training
    first, second = (
        [row for epoch, _, batch in run(group, end=("epoch", 2)) if epoch == number for row in batch]
        for number in (0, 1)
    )
    other = stream(counting(100), shuffle_buffer=50, batch_size=10, seed=1).training
    assert len({tuple(rows) for rows in (first, second, [r for *_, b in run(other) for r in b], range(100))}) == 4


def test_processes_give_the_same_and_a_killed_one_is_replaced():
    group = stream(counting(400), shards=2, batch_size=10, shuffle_buffer=30).training
    expected = run(group, end=("epoch", 2))
    found = []
    with Dataloader(group, loader_count=2, end_at=("epoch", 2)) as loader:
        for batch in loader:
            found.append((batch.epoch, batch.epoch_batch, values(batch)))
            if len(found) == 15:
                os.kill(loader.stats().workers[0].pid, signal.SIGKILL)
        assert loader.stats().worker_restarts == 1
    assert found == expected


def test_a_shard_is_read_by_one_worker_and_once_an_epoch(tmp_path):
    def make(index, count):
        with (tmp_path / f"{index}-{os.getpid()}-{time.monotonic_ns()}").open("w"):
            yield from ({"x": number} for number in range(index, 100, count))

    group = stream(make, shards=4, batch_size=3).training
    for file in tmp_path.iterdir():
        file.unlink()  # of the look at the first item
    run(group, "process", ("epoch", 2), loader_count=2, depth=8)
    opened = [file.name.split("-")[:2] for file in tmp_path.iterdir()]
    assert sorted(shard for shard, _ in opened) == sorted("0123" * 2)
    assert len({(shard, pid) for shard, pid in opened}) == 4


def test_an_iterable_that_raises_is_an_error_each_time_and_never_an_end():
    def make():
        yield from ({"x": number} for number in range(10))
        raise KeyError("no more")

    with Dataloader(stream(make, batch_size=4).training, loader_kind="inline") as loader:
        assert [values(next(loader)) for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        for _ in range(2):
            with pytest.raises(LoaderError, match="shard 0 of 1 raised KeyError after 10 items: 'no more'"):
                next(loader)


def test_a_loader_that_fails_is_an_error_of_its_item_and_the_stream_goes_on():
    def load(item, arrays, seed):
        if item["x"] == 5:
            raise ValueError("five")
        arrays["x"][...] = item["x"] * 10
        return {"text": str(item["x"])}

    group = stream(counting(12), load=load, arrays={"x": ((), "int32")}, batch_size=4).training
    with Dataloader(group, end_at=("epoch", 1)) as loader:
        batch = next(loader)
        assert values(batch) == [0, 10, 20, 30]
        assert batch.get_additional("text", 2) == "2"
        with pytest.raises(LoaderError, match="five"):
            next(loader)
        assert [values(batch) for batch in loader] == [[80, 90, 100, 110]]


def test_a_stream_that_never_ends():
    def make():
        number = 0
        while True:
            yield {"x": number}
            number += 1

    group = stream(make, batch_size=8).training
    found = run(group, "process", ("batch", 100), loader_count=1)
    assert [row for *_, batch in found for row in batch] == list(range(800))


def test_what_yields_nothing_is_refused():
    with pytest.raises(ValueError, match="its 3 shards yield nothing"):
        stream(counting(0), shards=3)
    numbers = ({"x": number} for number in range(10))
    group = stream(lambda: numbers, batch_size=3).training  # the look at the first item has used it up
    with pytest.raises(StreamError, match="gave no batch in this epoch; does its factory make a new iterable"):
        run(group)
    once = iter([iter([{"x": 0}]), iter([{"x": 0}])])
    with pytest.raises(StreamError):
        run(stream(lambda: next(once, ()), batch_size=1).training, end=None)


def test_some_shards_may_be_empty():
    group = stream(counting(2), shards=5, batch_size=3).training
    assert run(group) == [(0, 0, [0]), (0, 1, [1])]
    with Dataloader(group, loader_kind="inline") as loader:
        batches = [next(loader) for _ in range(3)]
        assert [batch.data for batch in batches] == [((0, 0, 0),), ((0, 1, 0),), ((1, 0, 0),)]
        assert [batch.progress_total for batch in batches] == [None] * 3


def test_validation_is_in_order_and_may_stand_beside_other_training():
    plain = DataGroup(
        2, list(range(4)), loader_arrays={"x": ((), "int32")}, loader_func=lambda item, arrays, seed: None
    )
    valid = stream(counting(10), shards=2, batch_size=3, shuffle_buffer=9).training
    with Dataloader(plain, validation=("epoch", 1, valid), loader_kind="inline", end_at=("epoch", 2)) as loader:
        found = [values(batch) for batch in loader if not batch.is_training]
    assert found == 2 * [[0, 2, 4], [1, 3, 5], [6, 8], [7, 9]]
    training = stream(counting(7), batch_size=4).training
    with Dataloader(training, validation=("batch", 1, plain), loader_kind="inline", end_at=("epoch", 2)) as loader:
        kinds = "".join("tv"[not batch.is_training] for batch in loader)
    assert kinds == "tvvtvv" * 2


def test_an_evaluation_of_a_stream_is_its_items_once():
    group = stream(counting(10), shards=2, batch_size=4).training
    with Dataloader(None, evaluation=group, loader_kind="inline") as loader:
        assert [values(batch) for batch in loader] == [[0, 2, 4, 6], [1, 3, 5, 7], [8], [9]]


def test_epochs_one_at_a_time_have_no_length():
    group = stream(counting(10), batch_size=4).training
    with Dataloader(group, loader_kind="inline", end_at=("epoch", 2)) as loader:
        for number, epoch in enumerate(loader.epochs()):
            with pytest.raises(TypeError, match="a stream has no length before its end"):
                len(epoch)
            assert epoch.number == number
            assert [values(batch) for batch in epoch] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert loader.streams
    with pytest.raises(TypeError, match=r"len\(\): a stream has no length"):
        len(loader)
    assert "stream" in repr(loader)
    assert "stream" in repr(group)


def test_an_end_in_batches_that_the_stream_does_not_reach_is_told(caplog):
    assert len(run(stream(counting(10), batch_size=4).training, end=("batch", 100))) == 3
    assert "the stream ended in epoch 0, before the batch that end_at names" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "weights: "),
        ({"weights": np.ones(1)}, "weights: "),
        ({"batches_per_epoch": 5}, "batches_per_epoch: "),
        ({"deterministic": False}, "deterministic: "),
        ({"on_error": "skip"}, "on_error: "),
        ({"loader_count": "auto"}, "loader_count: 'auto'"),
        ({"hosts": (0, 2)}, "hosts: "),
    ],
)
def test_what_a_stream_cannot_keep_is_refused(options, message):
    group = stream(counting(10), batch_size=4).training
    with pytest.raises(ValueError, match=message):
        Dataloader(group, **options)


def test_groups_that_a_stream_cannot_be_are_refused(tmp_path):
    group = stream(counting(10), batch_size=4).training
    with pytest.raises(ValueError, match="training: a stream stands alone"):
        Dataloader([group, group])
    with pytest.raises(ValueError, match="cache_location: a stream"):
        Dataloader(group.replace(cache_location=tmp_path))
    with pytest.raises(ValueError, match="augment_func: "):
        Dataloader(group.replace(augment_func=lambda loaded, arrays, seed: None))
    with pytest.raises(ValueError, match="made in batches of 4; make it anew with 5"):
        group.replace(batch_size=5)
    with pytest.raises((ValueError, TypeError)):
        pack(group, [1] * 10, length=4)
    with pytest.raises(TypeError, match="no items by number"):
        check_loader(None, group)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (iter([1]), {}, TypeError, "can be used once; give a function"),
        ([1, 2], {"shards": 2}, ValueError, "nobody knows how to share a list among 2 shards"),
        (lambda: [1], {"shards": 2}, ValueError, "need a factory of"),
        (5, {}, TypeError, "expected a function that makes an iterable"),
        (lambda: 5, {}, TypeError, "which is no iterable"),
        (lambda: ["text"], {}, ValueError, "nothing can become an array"),
        (lambda: [1], {"load": print}, ValueError, "load, arrays: give both"),
        (lambda: [1], {"shards": 0}, ValueError, "shards"),
    ],
)
def test_wrong_arguments_are_refused(given, options, error, message):
    with pytest.raises(error, match=message):
        stream(given, **options)


def test_an_iterable_with_shards_of_its_own(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"x": list(range(20))}).to_iterable_dataset(num_shards=2)
    found = run(stream(made, shards=2, batch_size=5).training)
    assert sorted(row for *_, batch in found for row in batch) == list(range(20))
    again = run(stream(list(range(5)), names=["x"], batch_size=5).training, end=("epoch", 2))
    assert [batch for *_, batch in again] == 2 * [list(range(5))]


def test_a_state_of_another_stream_is_refused():
    group = stream(counting(10), batch_size=4, name="a").training
    state = Dataloader(group).state_dict()
    for other in ({"name": "b"}, {"name": "a", "shards": 2}, {"name": "a", "shuffle_buffer": 5}):
        with pytest.raises(StateMismatchError):
            Dataloader(stream(counting(10), batch_size=4, **other).training).load_state_dict(state)
    assert state["training_batches"] < ROOM


def test_the_commands_and_a_bar_show_no_total(tmp_path, capsys):
    (tmp_path / "target.py").write_text(
        "from hydrax_core import Dataloader\nfrom hydrax_core.sources import stream\n"
        "group = stream(lambda: ({'x': n} for n in range(100)), batch_size=16).training\n"
        "def make(): return Dataloader(group, validation=('epoch', 1, group))\n"
    )
    assert run_command_line(["run", f"{tmp_path}/target.py:make", "--epochs", "2"]) == 0
    told = capsys.readouterr().out
    assert "training 0: a stream in 1 shard, in batches of 16; seed 0, in the order of the stream" in told
    assert "epoch: training batches until the stream ends, then validation batches until their stream ends" in told
    assert "epoch 1: 7 batches, 100 items" in told
    assert "validation 1: 7 batches, 100 items" in told
    assert str(ROOM // 16)[:6] not in told.replace(",", "")
    lines = io.StringIO()
    with Dataloader(stream(counting(9), batch_size=4).training, loader_kind="inline", end_at=("epoch", 2)) as loader:
        assert len(list(track(loader, style="lines", file=lines))) == 6
    assert "epoch 1: 3 batches, 9 items" in lines.getvalue()


def test_a_run_starts_in_the_middle_of_an_epoch(tmp_path, capsys):
    (tmp_path / "target.py").write_text(
        "from hydrax_core import Dataloader\nfrom hydrax_core.sources import stream\n"
        "group = stream(lambda: ({'x': n} for n in range(100)), batch_size=16).training\n"
        "loader = Dataloader(group, end_at=('epoch', 3))\n"
    )
    assert run_command_line(["run", f"{tmp_path}/target.py:loader", "--start", "1:5", "--digest", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["training_batches"] == 2 + 7
