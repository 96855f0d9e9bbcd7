"""Groups that bring their loader function, and sources that are read in the workers."""

import os
import threading

import numpy as np
import pytest

from hydrax_core import DataGroup, Dataloader, Items, LoaderError, Source, batched
from hydrax_core.data.fingerprint import data_digest
from hydrax_core.sources import torch_dataset, uci_digits

ARRAYS = {"x": ((), "int32")}
KINDS = ["process", "thread", "inline"]


class Numbers(Source):
    """Knows who reads it; opens its file, so to say, at the first read."""

    def __init__(self, size, step=1):
        self.size, self.step, self.reader = size, step, None

    def __getstate__(self):
        return {"size": self.size, "step": self.step, "reader": None}

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index == 13:
            raise StopIteration
        me = os.getpid(), threading.get_ident()
        assert self.reader in (None, me), "two threads read one source"
        self.reader = me
        return {"value": index * self.step, "pid": os.getpid()}


def load(item, arrays, seed):
    arrays["x"][...] = item["value"]
    return {"pid": item["pid"]}


@batched
def load_many(items, arrays, seeds):
    assert isinstance(items, Items)
    arrays["x"][...] = [item["value"] for item in items]
    return [{"pid": item["pid"], "index": int(index)} for item, index in zip(items, items.indices, strict=True)]


def group(size=12, step=1, batch_size=4, function=load, **options):
    return DataGroup(batch_size, Numbers(size, step), loader_func=function, loader_arrays=ARRAYS, **options)


@pytest.mark.parametrize("function", [load, load_many])
@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_read_in_the_workers_and_by_batch_data_in_the_caller(kind, function):
    with Dataloader(group(function=function), loader_kind=kind, loader_count=2, end_at=("epoch", 2)) as loader:
        batches = list(loader)
    assert len(batches) == 6
    for batch in batches:
        assert batch.arrays["x"].tolist() == list(batch.indices)
        assert [item["value"] for item in batch.data] == list(batch.indices)
        pids = set(batch.additional["pid"])
        assert (os.getpid() in pids) is (kind != "process")


@pytest.mark.parametrize("kind", KINDS)
def test_every_group_is_loaded_by_its_own_function_from_its_own_data(kind):
    def other(item, arrays, seed):
        arrays["x"][...] = -item["value"]

    validation = group(8, 100, function=other)
    with Dataloader(
        None, [group(), group(step=10, seed=3)], validation=("epoch", 1, validation), loader_kind=kind
    ) as loader:
        for _ in range(8):
            batch = next(loader)
            step = -100 if batch.is_validation else (1, 10)[batch.group_index]
            assert batch.arrays["x"].tolist() == [index * step for index in batch.indices]


def test_a_group_without_a_function_takes_that_of_the_loader_or_is_refused():
    plain = DataGroup(2, range(4), loader_arrays=ARRAYS)

    def plain_load(item, arrays, seed):
        arrays["x"][...] = 7

    with Dataloader(plain_load, [plain, group()], loader_kind="inline") as loader:
        found = {batch.group_index: batch.arrays["x"].tolist() for _, batch in zip(range(2), loader, strict=False)}
    assert found == {0: [7, 7], 1: [0, 1, 2, 3]}
    with pytest.raises(TypeError, match=r"loader_func: validation group 0 has loader_arrays and nothing that fills"):
        Dataloader(group(), validation=("epoch", 1, plain))
    with pytest.raises(TypeError, match="loader_func: expected a function"):
        DataGroup(2, range(4), loader_arrays=ARRAYS, loader_func=3)


@pytest.mark.parametrize("function", [load, load_many])
@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_cannot_be_read_is_an_error_of_that_item(kind, function):
    with Dataloader(group(16, function=function), loader_kind=kind, end_at=("epoch", 1)) as loader:
        good = [next(loader).arrays["x"].tolist() for _ in range(3)]
        with pytest.raises(LoaderError, match=r"item 13 .*StopIteration"):
            next(loader)
    assert good == np.arange(12).reshape(3, 4).tolist()


def test_a_source_that_cannot_be_copied_is_refused_by_name():
    class Open(Numbers):
        def __getstate__(self):
            raise TypeError("a socket is open")

    data = Open(8)
    for kind, text in (("process", "a Source given as data"), ("thread", "data: a Open cannot be copied")):
        with (
            pytest.raises(TypeError, match=text),
            Dataloader(load, DataGroup(2, data, loader_arrays=ARRAYS), loader_kind=kind),
        ):
            pass


def test_a_loader_replaced_keeps_the_functions_of_its_groups():
    loader = Dataloader(group(), loader_kind="inline").replace(end_at=("batch", 1))
    with loader:
        assert next(loader).arrays["x"].tolist() == [0, 1, 2, 3]


def test_a_source_without_a_fingerprint_is_known_by_a_few_items_and_one_with_by_that():
    class Counted(Numbers):
        read = 0

        def __getitem__(self, index):
            Counted.read += 1
            return super().__getitem__(0) if index == 13 else index * self.step

    class Named(Counted):
        def fingerprint(self):
            return f"numbers {self.step}"

    digests = [data_digest(Counted(100_000, step)) for step in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert Counted.read <= 3 * 256
    Counted.read = 0
    assert data_digest(Named(10)) != data_digest(Named(10, 2)) != data_digest(Named(11, 2))
    assert Counted.read == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_that_returns_what_it_should_fill_is_refused_by_the_name_of_the_array(kind):
    def returns(item, arrays, seed):
        return {"x": np.int32(item["value"] + 1)}

    @batched
    def returns_many(items, arrays, seeds):
        return [{"x": item["value"] + 1} for item in items]

    def fills_and_returns(item, arrays, seed):
        arrays["x"][...] = item["value"]
        return {"x": item["value"] if item["value"] % 2 else "even"}

    with Dataloader(group(function=fills_and_returns), loader_kind=kind) as loader:
        assert next(loader).additional["x"] == ["even", 1, "even", 3]

    for function in (returns, returns_many):
        with (
            pytest.raises(
                LoaderError, match=r"loader_func returned 'x', which is an array of the batch.*fill it in place"
            ),
            Dataloader(group(function=function), loader_kind=kind) as loader,
        ):
            next(loader)


def test_what_a_source_returns_is_named_with_what_to_give():
    digits = uci_digits()
    with pytest.raises(
        TypeError, match=r"got Digits, which has one; give Dataloader\(rows.training, validation=\('epoch'"
    ):
        Dataloader(digits)
    rows = torch_dataset([{"x": 1}] * 4, batch_size=2)
    with pytest.raises(
        TypeError, match=r"training: expected a DataGroup or several, got Rows.*Dataloader\(rows.training\)$"
    ):
        Dataloader(rows)
