import numpy as np
import pytest

from hydrax_core import ArraySpec, DataGroup, Dataloader, LoaderError, Ragged, batched, pack
from hydrax_core.testing import load_item

ARRAYS = {"tokens": ((Ragged(5, pad=-1), 2), "int32"), "label": ((), "int32")}


def fills(item, arrays, seed):
    arrays["tokens"][:item] = item
    arrays["tokens_length"][...] = item
    arrays["label"][...] = item


def returns(item, arrays, seed):
    arrays["label"][...] = item
    return {"tokens": np.full((item, 2), item), "text": str(item)}


@batched
def fills_many(items, arrays, seeds):
    for row, item in enumerate(items):
        fills(item, {name: array[row, ...] for name, array in arrays.items()}, None)


@batched
def returns_many(items, arrays, seeds):
    arrays["label"][...] = items
    return [{"tokens": np.full((item, 2), item)} for item in items]


def group(**settings):
    return DataGroup(3, [3, 0, 5, 1, 2, 4], **{"loader_arrays": ARRAYS, **settings})


@pytest.mark.parametrize("load", [fills, returns, fills_many, returns_many])
@pytest.mark.parametrize("zeroed", [True, False])
def test_rows_are_padded_behind_what_the_loader_gives(load, zeroed):
    with Dataloader(load, group(zeroed=zeroed), loader_kind="inline", end_at=("epoch", 3)) as loader:
        for batch in loader:
            lengths = batch.arrays["tokens_length"].tolist()
            assert lengths == list(batch.data) == batch.arrays["label"].tolist()
            for row, length in zip(np.asarray(batch.arrays["tokens"]), lengths, strict=True):
                assert (row[:length] == length).all()
                assert (row[length:] == -1).all()
            assert "tokens" not in batch.additional
            assert load is not returns or list(batch.additional["text"]) == [str(item) for item in batch.data]


def test_what_is_declared_has_its_lengths_beside_it_and_can_be_given_again():
    made = group()
    assert made.loader_layouts["tokens"].shape == (3, 5, 2)
    assert made.loader_layouts["tokens_length"].shape == (3,)
    assert list(made.replace(batch_size=2).loader_layouts) == ["tokens", "tokens_length", "label"]
    assert isinstance(made.loader_specs["tokens"], ArraySpec)
    values, additional = load_item(returns, made, 0)
    assert (values["tokens_length"], additional) == (3, {"text": "3"})


def too_long(item, arrays, seed):
    return {"tokens": np.zeros((6, 2))}


def silent(item, arrays, seed):
    arrays["tokens"][:item] = item


@pytest.mark.parametrize(
    ("load", "text"), [(too_long, r"'tokens' has 6 elements, its Ragged\(max=5\)"), (silent, "'tokens' has no length")]
)
def test_a_row_without_a_length_or_too_long_is_refused(load, text):
    with Dataloader(load, group(), loader_kind="inline") as loader, pytest.raises(LoaderError, match=text):
        next(loader)


@pytest.mark.parametrize(
    ("dtype", "values", "text"),
    [
        ("uint8", np.arange(300, 302), "'x': 300 does not fit into uint8"),
        ("uint8", [-1], "'x': -1 does not fit into uint8"),
        ("int32", [1.5], "'x': 1.5 does not fit into int32"),
        ("float16", np.array([1e6]), "'x': 1000000.0 does not fit into float16"),
        ("float32", np.array([1, 2j]), "'x': 2j does not fit into float32"),
        ("int32", np.array([1, 2j]), "'x': 2j does not fit into int32"),
    ],
)
def test_a_number_that_does_not_fit_fails_its_item(dtype, values, text):
    def load(item, arrays, seed):
        return {"x": values}

    whole = group(loader_arrays={"x": ((Ragged(5),), dtype)}, remainder="pad")
    documents = group(loader_arrays={"x": ((Ragged(),), dtype)}, remainder="pad")
    for made in (whole, pack(documents, [len(values)] * len(whole), length=8)):
        with Dataloader(load, made, loader_kind="inline") as loader, pytest.raises(LoaderError, match=text):
            next(loader)


def test_wrong_declarations_are_refused():
    with pytest.raises(ValueError, match=r"Ragged\(max\): expected an int of at least 1, got 0"):
        group(loader_arrays={"x": ((Ragged(0),), "int32")})
    with pytest.raises(ValueError, match="uint8 cannot hold the padding -1"):
        group(loader_arrays={"x": ((Ragged(3, pad=-1),), "uint8")})
    with pytest.raises(TypeError, match="the shape is a tuple of ints"):
        group(loader_arrays={"x": ((3, Ragged(3)), "uint8")})
    for lengths in (((), "uint8"), ((), "float16"), ((2,), "int32"), ((Ragged(3),), "int32")):
        with pytest.raises(ValueError, match=r"loader_arrays\['x_length'\]: it has the lengths of the ragged 'x', so"):
            group(loader_arrays={"x": ((Ragged(3),), "uint8"), "x_length": lengths})
    with pytest.raises(ValueError, match=r"loader_arrays\['x'\]: Ragged\(\) has no greatest length"):
        Dataloader(fills, group(loader_arrays={"x": ((Ragged(),), "uint8")}))
