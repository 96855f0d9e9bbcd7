from types import SimpleNamespace

import jax
import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader
from hydrax_core.jobs import HostBatch
from hydrax_core.placement import Placement

GROUP = DataGroup(
    4,
    range(8),
    loader_arrays={"image": ((1 << 15,), np.float32), "label": ((), np.int32), "x": ((2,), np.uint8, np.float32)},
)


def host_batch():
    arrays = {name: np.full(layout.shape, 3, layout.numpy_dtype) for name, layout in GROUP.loader_layouts.items()}
    return HostBatch(SimpleNamespace(number=0), 0, None, arrays, range(4), None, {}, cached=False)


def test_small_and_large_arrays_are_placed_side_by_side_in_the_order_of_the_declaration():
    placement = Placement([GROUP], None)
    placement.warm()
    arrays = placement.place(host_batch(), None)
    assert list(arrays) == ["image", "label", "x"]
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        "image": ((4, 1 << 15), "float32"),
        "label": ((4,), "int32"),
        "x": ((4, 2), "float32"),
    }
    assert all((np.asarray(array) == 3).all() for array in arrays.values())


def test_what_was_placed_ahead_is_taken():
    placement = Placement([GROUP], None)
    host = host_batch()
    ahead = placement.ahead(host)
    assert placement.place(host, ahead) is ahead.arrays


@pytest.mark.parametrize("context", [lambda: jax.default_device(jax.devices()[0]), lambda: jax.enable_x64(True)])
def test_what_was_placed_under_other_settings_of_jax_is_placed_anew(context):
    placement = Placement([GROUP], None)
    host = host_batch()
    ahead = placement.ahead(host)
    with context():
        assert placement.place(host, ahead) is not ahead.arrays


def test_a_placement_func_runs_where_the_batch_is_taken_only():
    def place(arrays, layouts, additional, group):
        return {name: jax.numpy.array(array) for name, array in arrays.items()}

    placement = Placement([GROUP], place)
    host = host_batch()
    assert placement.ahead(host) is None
    assert set(placement.place(host, None)) == set(host.arrays)


def test_an_error_ahead_is_left_to_the_one_who_takes_the_batch():
    placement = Placement([GROUP], None)
    host = host_batch()
    del host.arrays["label"]
    assert placement.ahead(host) is None
    with pytest.raises(KeyError):
        placement.place(host, None)


def test_a_consumer_at_ease_gets_what_was_placed_ahead(monkeypatch):
    def load(item, arrays, seed):
        arrays["x"][...] = item

    taken = []
    place = Placement.place

    def watched(self, host, ahead):
        taken.append(ahead is not None)
        return place(self, host, ahead)

    monkeypatch.setattr(Placement, "place", watched)
    group = DataGroup(2, range(200), loader_arrays={"x": ((2,), np.float32)})
    with Dataloader(load, group, end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert float(batch.arrays["x"][0, 0]) == batch.indices[0]
            while not (loader.stats().slots.count("ready") or batch.progress > 90):
                pass  # at ease: the next batch is there before it is asked for
    assert taken.count(True) > 0
