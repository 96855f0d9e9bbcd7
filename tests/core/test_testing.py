import os
import random
import signal
import time

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, Ragged, Source, batched
from hydrax_core.data.source import Items
from hydrax_core.testing import check_loader, check_run, check_source, load_item

UNSEEDED = " with seed=None, as in validation: default_rng(None) draws fresh entropy; use "
UNSEEDED += "default_rng(0 if seed is None else seed), or no randomness in validation"

GROUP = DataGroup(4, range(10), loader_arrays={"x": ((3,), "float32"), "y": ((), "int32")})


def load(item, arrays, seed):
    arrays["x"][...] = item
    arrays["y"][...] = seed or -1
    return {"item": item}


@batched
def load_many(items, arrays, seeds):
    arrays["x"][...] = np.array(items)[:, None]
    arrays["y"][...] = seeds or -1
    return [{"item": item} for item in items]


def test_an_item_is_loaded_as_a_worker_would():
    for loader in (load, load_many):
        arrays, additional = load_item(loader, GROUP, 7, seed=5)
        assert arrays["x"].tolist() == [7] * 3
        assert arrays["y"].shape == ()
        assert arrays["y"] == 5
        assert additional == {"item": 7}
        assert load_item(loader, GROUP, 7, seed=None)[0]["y"] == -1
        assert check_loader(loader, GROUP, range(10)) == []


def test_mistakes_that_show_late_are_found():
    def forgetful(item, arrays, seed):
        arrays["x"][: item % 3] = 1
        arrays["y"][...] = random.getrandbits(30)
        return {"luck": random.random()}

    findings = [
        "item 2: 'y' differs from call to call; use `seed` for randomness",
        "item 2: the additional data differ from call to call",
    ]
    assert check_loader(forgetful, GROUP, [2]) == findings
    assert check_loader(forgetful, GROUP.replace(zeroed=False), [2]) == [
        "item 2: 'x' is not filled entirely; with zeroed=False the rest is old data",
        *findings,
    ]


def test_values_that_do_not_fit_into_their_dtype_are_found():
    group = DataGroup(2, range(4), loader_arrays={"x": ((2,), "uint8"), "f": ((), "float32")})

    def wrapping(item, arrays, seed):
        arrays["x"][:] = np.int64(299 + item), 7
        arrays["f"][...] = 1 / 3

    def fractions(item, arrays, seed):
        arrays["x"][...] = np.float32(0.5)
        arrays["f"][...] = 1

    def fitting(item, arrays, seed):
        arrays["x"][...] = np.array([255.0, 0])
        arrays["f"][...] = 0.1

    assert check_loader(wrapping, group, [1]) == [
        "item 1: 'x' is uint8, which cannot hold 300: the value changes in silence"
    ]
    assert check_loader(fractions, group, [0]) == [
        "item 0: 'x' is uint8, which cannot hold 0.5: the value changes in silence"
    ]
    assert check_loader(fitting, group) == []

    @batched
    def many(items, arrays, seeds):
        arrays["x"][...] = np.int64(256)
        arrays["f"][...] = 1

    assert check_loader(many, group, [0]) == [
        "item 0: 'x' is uint8, which cannot hold 256: the value changes in silence"
    ]


@pytest.mark.parametrize(
    ("numpy_dtype", "jax_dtype", "value", "kept"),
    [
        ("int64", "int32", 2**40, False),
        ("int64", "int32", -5, True),
        ("uint32", "int32", 2**31, False),
        ("int32", "bool", 2, False),
        ("float32", "uint8", 0.5, False),
        ("float32", "int32", float("nan"), False),
        ("float64", "float32", 1e300, False),
        ("float64", "float32", 0.1, True),
        ("float32", "float16", float("inf"), True),
        ("float32", "bfloat16", 1.001, True),
        ("uint8", "float32", 255, True),
    ],
)
def test_values_that_the_dtype_on_the_device_does_not_hold_are_found(numpy_dtype, jax_dtype, value, kept):
    def fill(item, arrays, seed):
        arrays["x"][...] = value

    group = DataGroup(1, [0], loader_func=fill, loader_arrays={"x": ((), numpy_dtype, jax_dtype)})
    text = f"item 0: 'x' becomes {jax_dtype} on the device, which cannot hold {value!r}: it changes in silence"
    assert check_loader(None, group) == ([] if kept else [text])


def test_a_loader_that_fills_nothing_or_raises_is_told_of_for_every_item():
    def lazy(item, arrays, seed):
        arrays["x"] if item else 1 / 0
        arrays["y"][...] = 1

    assert check_loader(lazy, GROUP, [0, 1]) == [
        "item 0: it raises ZeroDivisionError: ZeroDivisionError('division by zero')",
        "item 1: 'x' is not filled at all; write into it: arrays['x'][...] = value",
    ]


def test_randomness_of_validation_is_found():
    def random_without_seed(item, arrays, seed):
        arrays["x"][...] = np.random.default_rng(seed).random(3)
        arrays["y"][...] = 1

    assert [finding.split(":")[1] for finding in check_loader(random_without_seed, GROUP, [3])] == [
        " 'x' differs from call to call with seed=None, as in validation"
    ]


class Squares(Source):
    def __init__(self, size, offset=0):
        self.size, self.offset = size, offset

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        return index * index + self.offset


def test_a_source_that_keeps_its_promise_has_no_findings():
    assert check_source(Squares(1000)) == []
    assert check_source([1, 2, 3]) == []


def test_a_source_that_breaks_its_promise_is_found_out():
    class Endless(Squares):
        def __getitem__(self, index):
            return index

    class Forgetful(Squares):
        def __getitem__(self, index):
            self.offset += 1
            return super().__getitem__(index)

    class Swapped(Squares):
        def __getitems__(self, indices):
            return [self[index] for index in reversed(indices)]

    class Sorted(Squares):
        def __getitems__(self, indices):
            return [self[index] for index in sorted(indices)]

    class Open(Squares):
        def __reduce__(self):
            raise TypeError("a socket is open")

    assert check_source(Endless(3))[0] == "source[3] gives an item instead of IndexError; it has 3"
    assert "an item read twice differs" in check_source(Forgetful(9))
    for wrong in (Swapped, Sorted):
        assert check_source(wrong(9)) == ["__getitems__ gives other items than __getitem__"]
    assert check_source(Open(9)) == ["it cannot be pickled, so no worker can have it: TypeError: a socket is open"]


STATE = {"offset": 0, "calls": 0}


def set_up():
    STATE["offset"] = 250


def load_from_state(item, arrays, seed):
    arrays["x"][...] = np.int64(STATE["offset"]) + item
    if seed is None:
        STATE["calls"] += 1
        arrays["x"][0] = STATE["calls"]


@pytest.mark.parametrize("kind", ["process", "thread", "inline"])
def test_a_run_is_checked_where_its_workers_would_load_with_the_seeds_that_they_would_have(kind, monkeypatch):
    monkeypatch.setitem(STATE, "offset", 0)
    training = DataGroup(4, range(10), loader_arrays={"x": ((3,), "uint8")})
    validation = ("epoch", 1, training.replace(batch_size=1, data=Squares(3)))
    loader = Dataloader(
        load_from_state, training, validation=validation, loader_kind=kind, startup_func=set_up, on_error="skip"
    )
    assert [finding.partition(",")[0:3:2] for finding in check_run(loader)] == [
        ("training group 0", " item 9: 'x' is uint8, which cannot hold 259: the value changes in silence"),
        ("validation group 0", f" item 0: 'x' differs from call to call{UNSEEDED}"),
    ]
    unfilled = "item 0: 'x' is not filled at all; write into it: arrays['x'][...] = value"
    assert check_run(loader.replace(loader_func=load_nothing)) == [
        f"training group 0, {unfilled}",
        f"validation group 0, {unfilled}",
    ]


def load_nothing(item, arrays, seed):
    pass


def test_what_keeps_an_item_from_being_loaded_is_no_finding_and_holds_up_nobody():
    def fatal(item, arrays, seed):
        if item == 0:
            raise SystemExit
        if item == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        arrays["x"][...] = 256 * np.int64(item)

    def endless(item, arrays, seed):
        time.sleep(1000)

    group = DataGroup(4, range(10), loader_arrays={"x": ((), "uint8")})
    assert [finding.partition(":")[0] for finding in check_run(Dataloader(fatal, group))] == [
        "training group 0, item 4"
    ]
    assert check_run(Dataloader(endless, group), seconds=0.1, start_seconds=0.1) == []


def test_of_groups_of_which_only_some_are_loaded_those_are_checked_as_they_are_loaded(tmp_path):
    @batched
    def many(items, arrays, seeds):
        assert isinstance(items, Items)
        arrays["x"][...] = items.source[0] - np.arange(3)[None]
        return [{"odd": object()} for _ in items]

    ragged = {"t": ((Ragged(4),), "int32")}
    groups = [
        DataGroup(2, range(9), cache_arrays={"x": ((), "int8")}, cache_location=tmp_path),
        DataGroup(2, Squares(9), loader_arrays={"x": ((3,), "uint8")}, loader_func=many),
        DataGroup(2, range(9), loader_arrays=ragged, loader_func=lambda item, arrays, seed: {"t": [item] * 3}),
    ]
    findings = check_run(Dataloader(groups, weights=[1, 2, 3], end_at=("batch", 5)))
    assert findings == ["training group 1, item 0: 'x' is uint8, which cannot hold -1: the value changes in silence"]
