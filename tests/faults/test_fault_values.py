"""Values at the borders: dtypes, sizes, counts, seeds, positions, and arguments and states that are nonsense."""

import functools
import inspect
import json
import operator

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from faultkit import ARRAYS, LONG, contents, group, limit, rounds, undisturbed
from faultloads import copied, fill
from hypothesis import given, note, settings
from hypothesis import strategies as st

from hydrax_core import DataGroup, Dataloader, LoaderError, PlacementError, StateMismatchError, ValidationBatch

pytestmark = limit(60)

PLAIN_DTYPES = ["bool", "int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32", "complex64"]
WIDE_DTYPES = ["int64", "uint64", "float64", "complex128"]
EXTENDED_DTYPES = [
    name for name in ml_dtypes.__all__ if hasattr(jnp, name) and not name.startswith(("float6", "finfo", "iinfo", "__"))
]


def load_number(item, arrays, seed):
    for array in arrays.values():
        array[...] = item % 2


def dtypes_in_one_group(names):
    arrays = {name: ((3,), name) for name in names} | {f"{name} alone": ((), name) for name in names}
    return DataGroup(4, range(8), loader_arrays=arrays)


def assert_numbers(batch):
    rows = np.array(batch.indices) % 2
    for name, array in batch.arrays.items():
        assert array.dtype.name == name.removesuffix(" alone")
        truth = np.broadcast_to(rows.reshape(-1, *[1] * (array.ndim - 1)), array.shape).astype(array.dtype)
        assert np.asarray(array).tobytes() == truth.tobytes(), name


@pytest.mark.parametrize("kind", ["process", "inline"])
def test_every_dtype_of_jax_arrives_bit_for_bit(kind):
    assert {"bfloat16", "int4", "float8_e4m3fn"} <= set(EXTENDED_DTYPES)
    data = dtypes_in_one_group([*PLAIN_DTYPES, *EXTENDED_DTYPES])
    with Dataloader(load_number, data, loader_kind=kind, end_at=("epoch", 1)) as loader:
        for batch in loader:
            assert_numbers(batch)


def test_wide_dtypes_are_refused_in_32_bit_mode_and_served_in_64_bit_mode():
    data = dtypes_in_one_group(WIDE_DTYPES)
    with pytest.raises(PlacementError, match=r"array 'int64'.*jax_enable_x64"), Dataloader(load_number, data):
        pass
    with jax.enable_x64(True), Dataloader(load_number, data, end_at=("epoch", 1), loader_kind="inline") as loader:
        for batch in loader:
            assert_numbers(batch)


@pytest.mark.parametrize("name", ["longdouble", "clongdouble", "float6_e2m3fn"])
def test_dtypes_that_jax_does_not_have_are_refused_by_the_name_of_the_array(name):
    data = DataGroup(4, range(8), loader_arrays={"fine": ((), "int32"), "odd": ((), name)})
    with pytest.raises((ValueError, TypeError), match="'odd'"), Dataloader(load_number, data, loader_kind="inline"):
        pass


def test_a_thousand_arrays_in_a_group():
    many = DataGroup(8, range(32), loader_arrays={f"array {n}": ((2,), "float32") for n in range(1000)})

    def load(item, arrays, seed):
        for number, array in enumerate(arrays.values()):
            array[...] = item * 1000 + number

    with Dataloader(load, many, end_at=("epoch", 1), loader_count=2) as loader:
        for batch in loader:
            truth = np.array(batch.indices)[:, None] * 1000 + np.arange(1000)
            found = np.stack([np.asarray(array)[:, 1] for array in batch.arrays.values()], axis=1)
            np.testing.assert_array_equal(found, truth)


def test_ten_thousand_groups():
    count = 10_000
    groups = [DataGroup(1, range(first, first + 2), loader_arrays={"x": ((), "int32")}) for first in range(count)]
    loader = Dataloader(
        lambda item, arrays, seed: operator.setitem(arrays["x"], ..., item), groups, start_at=(0, count - 200)
    )
    with loader:
        batches = [next(loader) for _ in range(400)]
    assert [batch.group_index for batch in batches] == [*range(count - 200, count), *range(200)]
    assert all(int(batch.arrays["x"][0]) == batch.group_index + batch.indices[0] for batch in batches)
    resumed = loader.replace(loader_kind="inline")
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert next(resumed).batch_num == count + 200
    resumed.close()


@pytest.mark.parametrize("position", [(0, 0), (10**6, 7), (10**18, 10**30)])
def test_a_billion_items(position):
    billion = DataGroup(64, range(10**9), loader_arrays={"x": ((), "uint32")}, shuffle_first=True)

    def load(item, arrays, seed):
        arrays["x"][...] = item

    with Dataloader(load, billion, start_at=position, loader_kind="thread") as loader:
        first, second = next(loader), next(loader)
        assert second.batch_num == first.batch_num + 1 == position[0] * 15_625_000 + position[1] + 1
        assert len({*first.indices, *second.indices}) == 128 or first.epoch != second.epoch
        assert np.asarray(first.arrays["x"]).tolist() == list(first.indices)
        state = loader.state_dict()
    again = loader.replace()
    again.load_state_dict(json.loads(json.dumps(state)))
    assert next(again).batch_num == second.batch_num + 1
    again.close()


@pytest.mark.parametrize("kind", ["process", "thread", "inline"])
def test_a_start_beyond_the_end_is_an_empty_run(kind):
    for start, end in (((0, 0), ("epoch", 0)), ((100, 0), ("epoch", 2)), ((10**30, 5), ("batch", 10**30))):
        with Dataloader(fill, group(), start_at=start, end_at=end, loader_kind=kind, timeout_sec=10) as loader:
            assert list(loader) == []
        assert loader.state_dict()["training_batches"] >= 0


@pytest.mark.parametrize("on_error", ["raise", "skip", "substitute"])
def test_one_item_in_batches_of_one(on_error):
    one = group(1, 1)
    with Dataloader(fill, one, end_at=("epoch", 3), on_error=on_error, loader_count=3) as loader:
        assert contents(loader) == undisturbed(one, end_at=("epoch", 3))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32 - 1, 2**32, 2**63, 2**64, -(2**200)])
def test_seeds_at_the_borders_give_seeds_in_range_and_orders_of_their_own(seed):
    data = group(64, seed=seed, shuffle_first=True)
    with Dataloader(fill, data, end_at=("epoch", 1), loader_kind="inline") as loader:
        batches = list(loader)
    seeds = [number for batch in batches for number in (batch.seed, *batch.seeds)]
    assert all(0 <= number < 2**32 for number in seeds)
    assert len(set(seeds)) == len(seeds)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(64))
    other = group(64, seed=seed + 1, shuffle_first=True)
    assert contents(batches) != undisturbed(other)


def test_sizes_that_fit_no_machine_are_refused_by_name():
    huge = DataGroup(8, range(8), loader_arrays={"x": ((10**15,), "int32")})
    with pytest.raises(MemoryError, match="batch_size, depth: a batch takes 32,000,000,000,000,000 bytes"):
        next(Dataloader(fill, huge))
    with pytest.raises(ValueError, match="depth: expected an int from 1 to"):
        Dataloader(fill, group(), depth=10**9)
    with pytest.raises(ValueError, match="data: its length"):
        DataGroup(1, range(10**20), loader_arrays=ARRAYS)
    with Dataloader(fill, group(), max_held=10**30, loader_kind="thread") as loader:
        assert next(loader).size == 8


@pytest.mark.skipif(not LONG, reason="takes 4 GB of memory")
@limit(300)
def test_a_batch_of_two_gigabytes():
    vast = DataGroup(2, range(4), loader_arrays={"x": ((1 << 30,), "uint8")}, zeroed=False)

    def load(item, arrays, seed):
        arrays["x"][:16] = item
        arrays["x"][-16:] = item + 1

    with Dataloader(load, vast, end_at=("epoch", 1), depth=1) as loader:
        for batch in loader:
            ends = np.asarray(batch.arrays["x"][:, :: (1 << 30) - 1])
            assert ends.tolist() == [[index, index + 1] for index in batch.indices]
            del batch


class _Hostile:
    """Whatever is asked of it goes wrong, but for what the interpreter needs to show it."""

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None

    def __bool__(self):
        raise RuntimeError("neither true nor false")

    def __repr__(self):
        return "<hostile>"


NONSENSE = st.sampled_from(
    [
        None, True, False, 0, 1, 2, 3, -1, 2.5, 10**30, float("nan"), float("inf"), -0.0, np.int64(3), np.float32(2),
        np.array([1, 2]), np.array(3), "", "x", "epoch", "batch", "process", "é\n\udcff", b"", b"x", (), (0, 0), (1, 2),
        (0, 1, 2), (-1, 0), ("epoch", 1), ("epoch", -1), ("batch", 2), ("batch", "x"), (None, None), [], [1], {},
        {"x": 1}, {"x": ()}, {"x": ((), "int32")}, {"": ((), "int32")}, {"x": ((0,), "int32")}, {"x": ((2,), "O")},
        {"x": ((2.5,), "int32")}, {"x": ((2,), "nonsense")}, {"x": ((2,), None)}, {"x": ((True,), "int32")},
        {"x": ((2,), "S3")}, {"x": ((2,), ">i4")}, {"x": ((2,), "M8[s]")}, {"x": ((2,), [("a", "i4")])}, {1: 2},
        {"x": (2, "int32")}, {"x": ((1,) * 40, "int32")}, {"x": ((2,), "int32", "float32", "more")}, set(), {1},
        frozenset(), range(3), range(0),
        object(), object, int, len, max, print, lambda: 0, lambda a: a, lambda a, b, c: None, lambda *a, **k: None,
        functools.partial(fill, seed=3), _Hostile(), _Hostile, iter([]), iter([1, 2]), NotImplemented, ..., 1j,
    ]
)  # fmt: skip

GROUP_ARGUMENTS = {
    "batch_size": st.integers(1, 9),
    "data": st.sampled_from([range(9), [*range(11)], np.arange(10), tuple(range(9))]),
    "loader_arrays": st.just(ARRAYS),
    "seed": st.integers(),
    "shuffle_first": st.booleans(),
    "shuffle_later": st.sampled_from(["default", "repeat", "reseed", "itemwise", "batchwise"]),
    "remainder": st.sampled_from(["default", "drop", "pad"]),
    "labels": st.sampled_from([(), ("x",), ["item", "seed"]]),
    "zeroed": st.booleans(),
    "cache_arrays": st.none(),
    "cache_location": st.none(),
    "cache_readonly": st.just(False),
    "cache_by": st.sampled_from(["batch", "item"]),
    "cache_pickle": st.booleans(),
    "cache_version": st.sampled_from([0, 1, "two"]),
    "loader_func": st.sampled_from([None, fill]),
    "rows": st.none(),
    "sample_weights": st.none(),
    "augment_func": st.sampled_from([None, copied]),
    "augment_arrays": st.none(),
}
LOADER_ARGUMENTS = {
    "loader_func": st.just(fill),
    "training": st.just(None),
    "validation": st.sampled_from([None, ("epoch", 1, group(9, 2)), ("batch", 2, [group(9, 2)])]),
    "depth": st.integers(1, 5),
    "loader_count": st.integers(1, 3),
    "loader_nice": st.integers(0, 19),
    "cacher_count": st.integers(0, 2),
    "start_at": st.tuples(st.integers(0, 3), st.integers(0, 9)),
    "end_at": st.sampled_from([None, ("epoch", 2), ("batch", 5)]),
    "interleave_groups": st.booleans(),
    "deterministic": st.booleans(),
    "timeout_sec": st.sampled_from([None, 0, 5, 60.0]),
    "startup_func": st.sampled_from([None, dict]),
    "placement_func": st.none(),
    "loader_kind": st.sampled_from(["inline", "thread"]),
    "on_error": st.sampled_from(["raise", "skip", "substitute"]),
    "max_held": st.sampled_from([None, 5, 50]),
    "monitor": st.sampled_from([None, False]),
    "weights": st.none(),
    "stop": st.none(),
    "batches_per_epoch": st.none(),
    "evaluation": st.none(),
    "validate_first": st.just(False),
    "sharding": st.none(),
    "hosts": st.none(),
    "verify_hosts_every": st.integers(0, 3),
}


def perturbed(arguments):
    """Sensible arguments but for one or two."""
    odd = st.lists(st.sampled_from([*arguments]), min_size=0, max_size=2, unique=True)
    return odd.flatmap(
        lambda names: st.tuples(
            st.just(names),
            st.fixed_dictionaries({name: NONSENSE if name in names else arguments[name] for name in arguments}),
        )
    )


def assert_named(error, names):
    """The error is about one of the arguments that are odd (or about one that does not go with them), by name."""
    text = str(error)
    if "loader_arrays" in names:  # odd ones may be arrays, but not those that are named as labels
        names = [*names, "labels"]
    if {"weights", "stop", "batches_per_epoch"} & set(names):  # they go with one of its values
        names = [*names, "interleave_groups"]
    assert any(text.startswith((f"{name}:", f"{name}[", f"{name}=", f"{name},")) for name in names), text


@pytest.mark.parametrize(("made", "arguments"), [(DataGroup, GROUP_ARGUMENTS), (Dataloader, LOADER_ARGUMENTS)])
def test_no_argument_is_left_out_below(made, arguments):
    assert set(inspect.signature(made).parameters) == set(arguments)


def assert_keeps_its_promises(loader):
    expected = []
    with loader:
        for batch in loader:
            for row, index in enumerate(batch.indices):
                assert int(batch.arrays["item"][row]) == batch.group[index]
            assert batch.size == len(batch.indices) == int(batch.mask.sum()) >= 1
            assert isinstance(batch, ValidationBatch) or len(batch.seeds) == batch.size
            expected.append(contents([batch])[0])
            if len(expected) == 4:
                break
    if loader.deterministic:
        assert contents_of_four(loader.replace()) == expected


def contents_of_four(loader):
    with loader:
        return contents(batch for batch, _ in zip(loader, range(4), strict=False))


@limit(60, 600)
@settings(max_examples=rounds(60, 5000))
@given(perturbed(GROUP_ARGUMENTS))
def test_arguments_of_a_group_make_a_loader_or_an_error_that_names_them(drawn):
    names, arguments = drawn
    note(f"odd: {names}")
    if any(callable(arguments[name]) for name in names if name.endswith("_func")):
        return  # it takes what is expected, so what it does is its own affair
    try:
        training = DataGroup(**arguments)
        loader = Dataloader(fill, training, loader_kind="inline", end_at=("epoch", 2))
    except (TypeError, ValueError) as error:
        assert_named(error, {*names, "batch_size"})
        return
    if loader.slot_bytes > 1 << 20:
        with pytest.raises(MemoryError, match="batch_size"):
            next(loader)
    elif "data" in names and not all(isinstance(item, int | np.integer) for item in training):
        with loader, pytest.raises(LoaderError, match="item"):
            list(loader)
    elif training.cache_location is None and training.batch_layouts[0].keys() >= ARRAYS.keys():
        assert_keeps_its_promises(loader)


@limit(60, 600)
@settings(max_examples=rounds(60, 5000))
@given(perturbed(LOADER_ARGUMENTS))
def test_arguments_of_a_loader_make_one_or_an_error_that_names_them(drawn):
    names, arguments = drawn
    note(f"odd: {names}")
    if "training" not in names:  # where it is, it is no group
        arguments["training"] = [group(9, 2), group(8, 3, seed=1)]
    for name in ("loader_kind", "loader_func", "placement_func", "startup_func"):
        if name in names and callable(arguments[name]) and arguments[name] is not fill:
            return  # it takes what is expected, so what it does is its own affair
    if isinstance(arguments["loader_kind"], str) and arguments["loader_kind"] == "process" and not LONG:
        arguments["loader_kind"] = "inline"  # it is quicker
    try:
        loader = Dataloader(**arguments)
    except (TypeError, ValueError) as error:
        assert_named(error, names)
        return
    assert_keeps_its_promises(loader)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
STATE_KEYS = ["version", "training_batches", "validation_batches", "ahead", "training", "validation"]


@limit(60, 600)
@settings(max_examples=rounds(60, 5000))
@given(st.dictionaries(st.sampled_from(STATE_KEYS), JSON, max_size=2), st.sets(st.sampled_from(STATE_KEYS), max_size=1))
def test_a_state_is_refused_or_goes_on_from_where_it_says(changes, missing):
    def made():
        validation = ("batch", 3, group(9, 2))
        return Dataloader(fill, group(9, 2), validation=validation, end_at=("epoch", 3), loader_kind="inline")

    loader = made()
    with loader:
        for _ in range(5):
            next(loader)
        valid = json.loads(json.dumps(loader.state_dict()))
        rest = contents(loader)
    state = {key: value for key, value in (valid | changes).items() if key not in missing}
    try:
        loader.load_state_dict(state)
    except (TypeError, StateMismatchError) as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "state" in refused
        return
    assert [type(state[key]) for key in ("training_batches", "validation_batches")] == [int, int]
    assert min(state["training_batches"], state["validation_batches"], *state["ahead"]) >= 0
    if state == valid:
        with loader:
            assert contents(loader) == rest


@pytest.mark.parametrize("state", [None, 5, "state", [], [1], {}, object(), {"version": 1}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(TypeError, match="state: expected what state_dict"):
        Dataloader(fill, group()).load_state_dict(state)
