from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader
from hydrax_core.batch.assembly import Assembler
from hydrax_core.batch.placement import Placement, _has_fast_put
from hydrax_core.engine.jobs import HostBatch
from hydrax_core.plan.order import group_order
from hydrax_core.plan.plan import Plan

GROUP = DataGroup(
    4,
    range(8),
    loader_arrays={"label": ((), np.int32), "image": ((1 << 15,), np.float32), "x": ((2,), np.uint8, np.float32)},
)


GROUP_PLAN = Plan([(group_order(GROUP, "training", 0), GROUP.batch_count)], [], 0, interleave=True)


def host_batch():
    arrays = {name: np.full(layout.shape, 3, layout.numpy_dtype) for name, layout in GROUP.loader_layouts.items()}
    return HostBatch(SimpleNamespace(number=0), 0, None, arrays, range(4), None, {}, cached=False)


def test_small_and_large_arrays_are_placed_side_by_side_in_the_order_of_the_declaration():
    placement = Placement([GROUP], None)
    placement.warm()
    for _ in range(2):  # by jax.device_put, and by its fast path
        arrays = placement.place(host_batch())
        assert list(arrays) == ["label", "image", "x"]
        assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
            "image": ((4, 1 << 15), "float32"),
            "label": ((4,), "int32"),
            "x": ((4, 2), "float32"),
        }
        assert all((np.asarray(array) == 3).all() for array in arrays.values())


def test_an_array_is_the_same_whether_jax_is_asked_or_its_own_function_is(monkeypatch):
    host = host_batch()
    placement = Placement([GROUP], None)
    asked, through = placement.place(host), placement.place(host)
    device_put = mock.Mock(side_effect=jax.device_put)
    monkeypatch.setattr(jax, "device_put", device_put)
    again = placement.place(host)
    assert device_put.called is not _has_fast_put()
    for name, array in asked.items():
        for other in (through[name], again[name]):
            assert (other.aval, other.sharding, other.committed) == (array.aval, array.sharding, array.committed)
            assert (np.asarray(other) == np.asarray(array)).all()


def test_small_arrays_are_copies_and_large_ones_are_not():
    memory = np.zeros((4 << 15) + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    host = host_batch()
    host.arrays["image"] = memory[start : start + (4 << 15)].reshape(4, 1 << 15)
    placement = Placement([GROUP], None)
    for _ in range(2):
        arrays = placement.place(host)
        assert arrays["image"].unsafe_buffer_pointer() == host.arrays["image"].ctypes.data
        host.arrays["label"][...] = 3
        arrays = placement.place(host)
        host.arrays["label"][...] = 4
        assert np.asarray(arrays["label"]).tolist() == [3, 3, 3, 3]


def test_without_the_fast_function_jax_is_asked_for_every_batch(monkeypatch):
    monkeypatch.setattr("hydrax_core.batch.placement.batched_device_put", None)
    _has_fast_put.cache_clear()
    try:
        placement = Placement([GROUP], None)
        for _ in range(3):
            assert (np.asarray(placement.place(host_batch())["image"]) == 3).all()
        assert not _has_fast_put()
    finally:
        _has_fast_put.cache_clear()


def test_a_guard_against_transfers_lets_those_of_the_loader_pass():
    placement = Placement([GROUP], None)
    placement.place(host_batch())
    with jax.transfer_guard("disallow"):
        assert (np.asarray(placement.place(host_batch())["image"]) == 3).all()


def test_arrays_whose_dtype_stays_keep_the_order_of_the_declaration_too():
    group = DataGroup(2, range(4), loader_arrays={"b": ((2,), np.float32), "a": ((2,), np.float32)})
    host = HostBatch(SimpleNamespace(number=0), 0, None, {}, range(2), None, {}, cached=False)
    host.arrays.update({name: np.zeros((2, 2), np.float32) for name in ("a", "b")})
    placement = Placement([group], None)
    assert [list(placement.place(host)) for _ in range(2)] == [["b", "a"]] * 2


@pytest.mark.parametrize("size", [4, 1 << 15])
@pytest.mark.parametrize(
    ("there", "here", "value"),
    [
        ("int64", "float32", 2**40),
        ("float64", "bfloat16", 2.0),
        ("int64", "int16", 300),
        ("uint64", "uint8", 200),
        ("uint8", "float32", 200),
    ],
)
def test_arrays_arrive_in_the_declared_dtype_and_lose_nothing_on_the_way(size, there, here, value):
    group = DataGroup(2, range(4), loader_arrays={"x": ((size,), there, here)})
    host = HostBatch(SimpleNamespace(number=0), 0, None, {}, range(2), None, {}, cached=False)
    host.arrays["x"] = np.full((2, size), value, there)
    placement = Placement([group], None)
    for _ in range(2):
        array = placement.place(host)["x"]
        assert str(array.dtype) == here
        assert float(array[1, -1]) == value


def test_what_takes_memory_of_its_own_is_placed_ahead_up_to_a_limit():
    def most(size, *dtypes):
        return Placement([DataGroup(4, range(8), loader_arrays={"x": ((size,), *dtypes)})], None).most_ahead

    assert most(16, "float32") == 64
    assert most(1 << 26, "float32") == 64  # it is an alias
    assert most(1 << 20, "uint8", "float32") == 4  # four of 16 MiB each
    assert most(1 << 26, "uint8", "float32") == 1


def test_a_guard_at_the_first_batch_costs_the_later_ones_nothing():
    _has_fast_put.cache_clear()
    placement = Placement([GROUP], None)
    with jax.transfer_guard("disallow"):
        placement.place(host_batch())
    placement.place(host_batch())
    assert _has_fast_put()


def test_what_was_placed_ahead_fits():
    placement = Placement([GROUP], None)
    assert placement.fits(placement.ahead(host_batch()))


@pytest.mark.parametrize("context", [lambda: jax.default_device(jax.devices()[0]), lambda: jax.enable_x64(True)])
def test_what_was_placed_under_other_settings_of_jax_is_placed_anew(context):
    placement = Placement([GROUP], None)
    host = host_batch()
    ahead = placement.ahead(host)
    with context():
        assert not placement.fits(ahead)
        placement.place(host)
        device = jax.config.jax_default_device
        assert all(array.devices() == {device or jax.devices()[0]} for array in placement.place(host).values())


def test_a_placement_func_runs_where_the_batch_is_taken_only():
    def place(arrays, layouts, additional, group):
        return {name: jax.numpy.array(array) for name, array in arrays.items()}

    placement = Placement([GROUP], place)
    host = host_batch()
    assert placement.ahead(host) is None
    assert set(placement.place(host)) == set(host.arrays)


def test_an_error_ahead_is_left_to_the_one_who_takes_the_batch():
    placement = Placement([GROUP], None)
    host = host_batch()
    del host.arrays["label"]
    assert placement.ahead(host) is None
    with pytest.raises(KeyError):
        placement.place(host)


def test_nothing_is_made_ahead_in_vain():
    assembler = Assembler([GROUP], (2, 0), Placement([GROUP], None), lambda *_: None)
    host = host_batch()._replace(planned=GROUP_PLAN.batch(0))
    ahead = assembler.ahead(host)
    assert assembler.make(host, ahead) is ahead
    with jax.default_device(jax.devices()[0]):
        made = assembler.make(host, ahead)
        assert made is not ahead
    assert assembler.ahead(host) is None  # it would be placed by other settings than the consumer's
    assembler.make(host, None)
    assert assembler.ahead(host) is not None


def test_a_consumer_at_ease_gets_what_was_placed_ahead(monkeypatch):
    def load(item, arrays, seed):
        arrays["x"][...] = item

    taken = []
    make = Assembler.make

    def watched(self, host, ahead):
        made = make(self, host, ahead)
        taken.append(made is ahead)
        return made

    monkeypatch.setattr(Assembler, "make", watched)
    group = DataGroup(2, range(200), loader_arrays={"x": ((2,), np.float32)})
    with Dataloader(load, group, end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert float(batch.arrays["x"][0, 0]) == batch.indices[0]
            while not (loader.stats().slots.count("ready") or batch.progress > 90):
                pass  # at ease: the next batch is there before it is asked for
    assert taken.count(True) > 0
