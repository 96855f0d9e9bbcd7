import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_cli.shared.options import Overrides
from hydrax_cli.shared.overrides import override
from hydrax_core import DataGroup, Dataloader


def fill(item, arrays, seed):
    arrays["x"][...] = item


def group(items=32, batch=4, **options):
    return DataGroup(batch, range(items), loader_arrays={"x": ((), "int32")}, **options)


def loader(**options):
    return Dataloader(fill, [group(), group(seed=1)], **options)


def test_a_loader_without_an_end_runs_for_one_epoch():
    assert override(loader(), Overrides()).last_batch == 16
    assert override(loader(start_at=(2, 3)), Overrides()).last_batch == 48


def test_a_loader_keeps_its_own_end():
    assert override(loader(end_at=("batch", 7)), Overrides()).last_batch == 7


@given(st.integers(0, 3), st.integers(0, 40), st.integers(1, 5) | st.none(), st.integers(1, 50) | st.none())
def test_limits_count_from_the_start_and_the_first_one_ends_the_run(epoch, batch, epochs, batches):
    changed = override(loader(end_at=("epoch", 1)), Overrides(start=(epoch, batch), epochs=epochs, batches=batches))
    first = epoch * 16 + batch
    assert changed.first_batch == first
    if batches is not None:
        assert changed.last_batch <= first + batches
    if epochs is not None:
        assert changed.last_batch <= (first // 16 + epochs) * 16
    if epochs is None and batches is None:
        assert changed.last_batch == 16
    else:
        ends = ([first + batches] if batches else []) + ([(first // 16 + epochs) * 16] if epochs else [])
        assert changed.last_batch in ends


def test_workers_kind_and_depth_are_replaced():
    changed = override(loader(), Overrides(workers=3, kind="thread", depth=5))
    assert (changed.loader_count, changed.loader_kind, changed.depth) == (3, "thread", 5)


def test_batch_size_and_seed_reach_every_group():
    before = loader(validation=("epoch", 2, group(8)))
    changed = override(before, Overrides(batch_size=8, seed=9))
    assert [(g.batch_size, g.seed) for g in changed.training] == [(8, 9), (8, 9)]
    assert [g.batch_size for g in changed.validation] == [8]
    assert changed.validation_interval == 2 * changed.batches_per_epoch
    assert [g.batch_size for g in before.training] == [4, 4]


def test_an_interval_in_batches_stays_as_it_is():
    changed = override(loader(validation=("batch", 5, group(8))), Overrides(batch_size=8))
    assert changed.validation_interval == 5


def test_a_cache_reaches_every_group_that_has_none(tmp_path):
    own = group(cache_location=tmp_path / "own", shuffle_later="itemwise", seed=1)
    before = Dataloader(fill, [group(), own, group()], validation=("epoch", 2, [group(8), group(8)]))
    changed = override(before, Overrides(cache=tmp_path / "below"))
    below = tmp_path / "below"
    assert [g.cache_location for g in changed.training] == [
        below / "training-0",
        tmp_path / "own",
        below / "training-2",
    ]
    assert [g.cache_location for g in changed.validation] == [below / "validation-0", below / "validation-1"]
    assert [g.shuffle_later for g in changed.training] == ["batchwise", "itemwise", "batchwise"]
    assert changed.validation_interval == before.validation_interval
    assert not below.exists()


def test_a_shuffle_that_the_loader_names_stays_with_a_cache(tmp_path):
    named = Dataloader(fill, group(shuffle_later="reseed"))
    assert override(named, Overrides(cache=tmp_path)).training[0].shuffle_later == "reseed"


def test_a_value_that_does_not_go_with_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size: 100 is more than the 32 items"):
        override(loader(), Overrides(batch_size=100))
