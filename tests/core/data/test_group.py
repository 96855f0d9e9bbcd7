import copy
import pickle
from pathlib import Path

import pytest

from hydrax_core import DataGroup, mix
from hydrax_core.plan.order import group_order

ARRAYS = {"x": ((3,), "float32"), "y": ((), "int32")}


def group(batch_size=4, data=range(10), **more):
    return DataGroup(batch_size, data, **{"loader_arrays": ARRAYS, **more})


def test_a_group_is_the_sequence_of_its_items():
    made = group(data=["a", "b", "c", "d"])
    assert len(made) == 4
    assert made[1] == "b"
    assert made[1:3] == ["b", "c"]
    assert "c" in made
    assert list(made) == ["a", "b", "c", "d"]


def test_an_iterable_is_read_into_a_list():
    assert list(group(data=(i * i for i in range(4)))) == [0, 1, 4, 9]


def test_the_last_short_batch_is_dropped_or_padded():
    assert group().batch_count == 2
    assert group(remainder="pad").batch_count == 3


def test_sizes_are_those_of_the_layouts():
    made = group(cache_arrays={"z": ((5,), "uint8")}, cache_location="somewhere")
    assert made.loader_size == 64 + 64
    assert made.cache_size == 64
    assert made.cache_layouts["z"].shape == (4, 5)
    assert group().cache_layouts == {}


def test_the_cache_has_the_loaders_layout_where_none_is_given():
    made = group(cache_location="somewhere")
    assert made.cache_layouts == made.loader_layouts


@pytest.mark.parametrize(("location", "expected"), [(None, "itemwise"), ("somewhere", "batchwise")])
def test_default_shuffling_depends_on_the_cache(location, expected):
    assert group(cache_location=location).shuffle_later == expected


def test_replace_keeps_everything_else():
    made = group(seed=5, remainder="pad", labels=("y",)).replace(batch_size=3)
    assert (made.batch_size, made.seed, made.remainder, made.labels) == (3, 5, "pad", ("y",))
    assert group(data=iter(range(8))).replace(batch_size=2).batch_count == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected an int of at least 1, got 0"),
        ({"data": []}, "data: it is empty"),
        ({"data": range(3)}, "batch_size: 4 is more than the 3 items of data"),
        ({"shuffle_later": "sometimes"}, "shuffle_later: expected one of 'default', 'repeat'"),
        ({"remainder": "keep"}, "remainder: expected one of 'default', 'drop', 'pad', got 'keep'"),
        ({"labels": ("z",)}, "labels: 'z' is no declared array; declared are 'x', 'y'"),
        ({"loader_arrays": None}, "loader_arrays: no array is declared"),
        ({"loader_arrays": {}}, "loader_arrays: no array is declared"),
        ({"cache_arrays": ARRAYS}, "cache_arrays: they need a cache_location"),
        ({"cache_readonly": True}, "cache_readonly: it needs a cache_location"),
        ({"cache_by": "epoch"}, "cache_by: expected one of 'batch', 'item'"),
    ],
)
def test_wrong_values_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        group(**arguments)


class Frame:
    """Looks like a pandas frame."""

    iloc = None

    def __len__(self):
        return 5

    def __getitem__(self, key):
        raise KeyError(key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 2.0}, "batch_size: expected an int of at least 1, got 2.0"),
        ({"batch_size": True}, "batch_size: expected an int"),
        ({"data": 5}, "data: expected a sequence or a finite iterable, got int"),
        ({"data": "abc"}, "data: expected a sequence of items, got a str"),
        ({"data": {"a": 1}}, "data: expected a sequence of items, got a dict"),
        ({"data": Frame()}, "data: a pandas object indexes its columns"),
        ({"seed": 1.5}, "seed: expected an int, got 1.5"),
        ({"shuffle_first": 1}, "shuffle_first: expected True or False, got 1"),
        ({"labels": "y"}, "labels: expected a tuple of array names, got the string 'y'"),
        ({"cache_location": 5}, "cache_location: expected a path, got 5"),
    ],
)
def test_wrong_types_are_refused_by_name(arguments, message):
    with pytest.raises(TypeError, match=message):
        group(**arguments)


class Endless:
    """Computes its items and never raises IndexError."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index * index


def test_iterating_over_computed_items_ends():
    made = group(data=Endless())
    assert list(made) == [0, 1, 4, 9, 16]
    assert 9 in made
    assert 5 not in made
    assert list(reversed(made)) == [16, 9, 4, 1, 0]


def test_replace_starts_from_what_was_read():
    arrays = dict(ARRAYS)
    made = group(loader_arrays=arrays, labels=(name for name in ["y"]))
    arrays["z"] = ((), "int32")
    again = made.replace(seed=1)
    assert again.labels == ("y",)
    assert set(again.loader_layouts) == {"x", "y"}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_is_the_same_group(copied):
    mixed = mix([group(sample_weights=None), group(data=range(10, 20))], [0.5, 0.5], batch_size=4)
    for made in (group(labels=["y"], seed=3), group(sample_weights=range(10)), mixed):
        again = copied(made)
        assert again.fingerprint() == made.fingerprint()
        assert (again.labels, again.loader_specs, list(again)) == (made.labels, made.loader_specs, list(made))


def test_groups_whose_seeds_differ_have_different_fingerprints(tmp_path):
    arguments = {"shuffle_later": "itemwise"}
    uncached, cached = group(**arguments), group(cache_location=tmp_path, cache_by="item", **arguments)
    first, second = (group_order(made, "training", 0).batch(1, 0).seeds for made in (uncached, cached))
    assert first.tolist() != second.tolist()
    assert uncached.fingerprint() != cached.fingerprint()


@pytest.mark.parametrize("location", ["a cache", b"a cache", Path("a cache")])
def test_a_cache_location_is_any_path(location):
    assert DataGroup(1, [1], loader_arrays={"x": ((), "int32")}, cache_location=location).cache_location == Path(
        "a cache"
    )
