"""Items that fail, and loaders that return or keep what they should not: named, counted, and reported once."""

import numpy as np
import pytest
from loaderkit import ARRAYS, KINDS, inline, load, record

from hydrax_core import DataGroup, LoaderError


def fail_on(*bad):
    def loader(item, arrays, seed):
        if item in bad:
            raise ValueError(f"bad item {item}")
        return load(item, arrays, seed)

    return loader


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_item_is_named_with_its_address(kind):
    with inline(loader=fail_on(6, 7), loader_kind=kind) as loader:
        next(loader)
        with pytest.raises(LoaderError) as caught:
            next(loader)
        assert caught.value.index == caught.value.descriptor == 6
        assert str(caught.value.address) == "training group 0, epoch 0, batch 1"
        assert "ValueError: bad item 6" in str(caught.value)
        assert 'raise ValueError(f"bad item {item}")' in caught.value.worker_traceback
        assert "runner.py" not in caught.value.worker_traceback
        assert next(loader).batch_num == 2
        assert loader.stats().errors >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_skipped_batches_are_counted_and_said_once(kind, caplog):
    with inline(loader=fail_on(6, 13), loader_kind=kind, on_error="skip") as loader:
        assert [batch.batch_num for batch in loader] == [0, 2, 4]
        assert loader.stats().skipped_batches == 2
    assert sum("a batch is skipped" in message for message in caplog.messages) == 1


def test_without_order_the_state_passes_over_skipped_batches():
    with inline(loader=fail_on(6, 13), on_error="skip", deterministic=False, end_at=("epoch", 3)) as loader:
        for _ in loader:
            pass
        state = loader.state_dict()
    assert state["training_batches"] >= 14
    assert len(state["ahead"]) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_substitute_is_another_item_and_the_same_everywhere(kind):
    def run(kind):
        with inline(loader=fail_on(6, 7), on_error="substitute", loader_kind=kind) as loader:
            batches = [record(batch) for batch in loader]
            assert loader.stats().substituted_items >= 2
        return batches

    batches = run(kind)
    assert batches == run("inline")
    _, indices, seeds, arrays, additional = batches[1]
    assert not {6, 7} & set(indices)
    assert indices[:2] == (4, 5)
    assert arrays["y"] == list(indices)
    assert [row[1] for row in arrays["x"]] == [np.float32(seed) for seed in seeds]
    assert additional["text"] == [str(item) if item % 2 else None for item in indices]


def test_a_group_of_failing_items_is_an_error_even_with_substitutes():
    with inline(loader=fail_on(*range(20)), on_error="substitute") as loader, pytest.raises(LoaderError):
        next(loader)


class Broken(list):
    def __getitem__(self, index):
        if index == 6:
            raise OSError("disk gone")
        return super().__getitem__(index)


def test_data_that_raises_is_an_error_of_the_item():
    train = DataGroup(4, Broken(range(20)), loader_arrays=ARRAYS)
    with inline(train, on_error="skip") as loader:
        assert [batch.batch_num for batch in loader] == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (5, "it returned a int: 5"),
        (np.zeros(2), "it returned a ndarray"),
        ({1: 2}, "names of additional data are strings, got 1"),
    ],
)
def test_a_wrong_result_is_explained(result, message):
    with inline(loader=lambda item, arrays, seed: result) as loader, pytest.raises(LoaderError, match=message):
        next(loader)


def test_replacing_an_array_instead_of_filling_it_is_explained():
    def replace(item, arrays, seed):
        arrays["x"] = np.zeros(3)

    with inline(loader=replace) as loader, pytest.raises(LoaderError, match=r"arrays\[name\]\[...\] = value"):
        next(loader)


KEPT = []


def keep_slice(item, arrays, seed):
    KEPT.append(arrays["x"][1:])


def return_array(item, arrays, seed):
    return {"x": arrays["x"]}


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (keep_slice, "keeps a reference to its arrays"),
        (return_array, "returns one of its arrays as the additional data 'x'"),
    ],
)
@pytest.mark.parametrize("kind", ["inline", "process"])
def test_a_loader_that_keeps_or_returns_its_arrays_is_told_once(loader, message, kind, caplog):
    with inline(loader=loader, loader_kind=kind) as running:
        assert len(list(running)) == 5
    KEPT.clear()
    assert sum(message in text for text in caplog.messages) == 1


def test_an_honest_loader_is_not_accused(caplog):
    scratch = np.ones(3, np.float32)

    def honest(item, arrays, seed):
        cycle = {"arrays": arrays}
        cycle["self"] = cycle  # garbage, kept by nobody
        np.add(scratch, item, out=arrays["x"])
        arrays["y"][()] = item

    with inline(loader=honest, end_at=("epoch", 3)) as loader:
        assert sum(1 for _ in loader) == 15
    assert caplog.messages == []
