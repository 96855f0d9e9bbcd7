import pytest

from hydrax_cli.run.summary import CachePlan, describe
from hydrax_cli.shared.target import Target
from hydrax_core import DataGroup, Dataloader
from hydrax_core.monitor import Passes, plan_of


def fill(item, arrays, seed):
    if item == 99:
        raise ValueError("bad")
    arrays["x"][...] = item


def make(training=8, validation=5, interval=("epoch", 1), **options):
    arrays = {"x": ((2,), "int32"), "y": ((), "uint8", "float32")}
    train = DataGroup(4, training if isinstance(training, list) else range(training), loader_arrays=arrays)
    valid = DataGroup(4, range(validation), loader_arrays=arrays, remainder="pad")
    return Dataloader(fill, train, validation=(*interval, valid), loader_kind="inline", **options)


def run(loader, *, ordered=True):
    """The passes, and what was told of them as it ended, one list a batch."""
    passes = Passes(ordered=ordered)
    return passes, [[done.name for done in passes.add(batch, 2.0, 0.5)] for batch in loader]


def test_a_pass_is_told_of_with_its_last_batch():
    passes, told = run(make(end_at=("epoch", 2)))
    assert told == [[], ["epoch 0"], [], ["validation 0"], [], ["epoch 1"], [], ["validation 1"]]
    assert passes.end() == []


def test_batches_are_added_up_by_pass():
    passes, _ = run(make(end_at=("epoch", 2)))
    names = [(done.name, done.batches, done.items, done.bytes) for done in passes.snapshot()]
    assert names == [
        ("epoch 0", 2, 8, 72),
        ("validation 0", 2, 5, 72),
        ("epoch 1", 2, 8, 72),
        ("validation 1", 2, 5, 72),
    ]
    assert [(done.seconds, done.idle_seconds) for done in passes.snapshot()] == [(4.0, 1.0)] * 4
    assert (passes.batches, passes.items, passes.bytes, passes.idle_seconds) == (8, 26, 288, 4.0)


def test_hits_and_misses_are_those_of_groups_with_a_cache(tmp_path):
    plain = make(end_at=("epoch", 1))
    cached = plain.replace(training=plain.training[0].replace(cache_location=tmp_path / "c"))
    for expected in [("epoch 0", 0, 2), ("epoch 0", 2, 0)]:
        passes, _ = run(cached.replace())
        counts = [(done.name, done.cache_hits, done.cache_misses) for done in passes.snapshot()]
        assert counts == [expected, ("validation 0", 0, 0)]


def test_validation_within_an_epoch_does_not_end_it():
    passes, told = run(make(16, interval=("batch", 3), end_at=("epoch", 1)))
    assert told == [[], [], [], [], ["validation 0"], ["epoch 0"]]
    assert [done.name for done in passes.snapshot()] == ["epoch 0", "validation 0"]


def test_an_epoch_whose_last_batch_was_skipped_ends_with_the_next_one():
    loader = make([1, 2, 3, 4, 5, 6, 7, 99], interval=("epoch", 5), end_at=("epoch", 2), on_error="skip")
    passes, told = run(loader)
    assert [name for names in told for name in names] == ["epoch 0"]
    assert [done.name for done in passes.end()] == ["epoch 1"]


def test_an_interrupted_pass_is_told_of_at_the_end():
    passes, told = run(make(16, end_at=("batch", 3)))
    assert told == [[], [], []]
    assert [(done.name, done.batches) for done in passes.end()] == [("epoch 0", 3)]
    assert passes.end() == []


def test_batches_in_any_order_end_no_pass_before_the_run_ends():
    passes, told = run(make(end_at=("epoch", 2)), ordered=False)
    assert told == [[]] * 8
    assert [done.name for done in passes.end()] == ["epoch 0", "validation 0", "epoch 1", "validation 1"]


@pytest.mark.parametrize("start", [(0, 0), (0, 3), (2, 0), (2, 1)])
@pytest.mark.parametrize("interval", [("epoch", 2), ("batch", 3), ("epoch", 1)])
def test_the_plan_counts_the_batches_that_will_come(start, interval):
    loader = make(interval=interval, start_at=start, end_at=("epoch", 5))
    plan = plan_of(loader)
    kinds = [batch.is_training for batch in loader]
    assert plan.training_batches == kinds.count(True)
    assert plan.validation_batches == kinds.count(False)


def test_the_plan_describes_groups_and_arrays():
    run = describe(Target("x", make(end_at=("epoch", 1))))
    training, validation = run.plan.groups
    assert (training.name, training.items, training.batch_size, training.batches) == ("training 0", 8, 4, 2)
    assert (training.seed, training.shuffle_later, training.shuffle_first) == (0, "itemwise", False)
    assert [(a.name, a.shape, a.numpy_dtype, a.jax_dtype, a.bytes) for a in training.arrays] == [
        ("x", (4, 2), "int32", "int32", 32),
        ("y", (4,), "uint8", "float32", 4),
    ]
    assert (validation.name, validation.left_out) == ("validation 0", 0)
    assert run.caches == (None, None)


def planned_cache(folder, **options):
    loader = make(end_at=("epoch", 1))
    cached = loader.training[0].replace(cache_location=folder, **options)
    return cached, describe(Target("x", loader.replace(training=cached))).caches[0]


def test_the_plan_looks_into_the_cache_and_leaves_it_alone(tmp_path):
    cached, plan = planned_cache(tmp_path / "c")
    assert plan == CachePlan(str(tmp_path / "c"), "batch", shared=True, held=0, complete=2, filled=True)
    assert not (tmp_path / "c").exists()
    list(Dataloader(fill, cached, loader_kind="inline", end_at=("batch", 1)))
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    assert planned_cache(tmp_path / "c")[1].held == 1
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shuffle_later": "itemwise"}, ("batch", False, 2, True)),
        ({"cache_by": "item"}, ("item", True, 8, True)),
        ({"cache_readonly": True}, ("batch", True, 2, False)),
        ({"cache_arrays": {"z": ((), "int32")}}, ("batch", True, 2, False)),  # only a training loop makes these
    ],
    ids=str,
)
def test_the_plan_tells_what_a_cache_keeps(tmp_path, options, expected):
    _, plan = planned_cache(tmp_path / "c", **options)
    assert (plan.keeps, plan.shared, plan.complete, plan.filled) == expected


def test_what_a_damaged_cache_holds_is_left_open(tmp_path):
    cached, _ = planned_cache(tmp_path / "c")
    list(Dataloader(fill, cached, loader_kind="inline", end_at=("batch", 1)))
    (tmp_path / "c" / "hydrax-cache.json").write_text("{}")
    assert planned_cache(tmp_path / "c")[1].held is None
