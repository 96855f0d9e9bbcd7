"""Frames of pandas and polars, made of the digits (UCI, CC BY 4.0)."""

import numpy as np
import pytest

from hydrax_core import Dataloader
from hydrax_core.errors import CacheMismatchError
from hydrax_core.sources import data_frame
from hydrax_core.sources.digits import _data
from hydrax_core.testing import check_loader, check_source

pytest.importorskip("pyarrow")

DIGITS = _data()
PARITY = ("even", "odd")


def columns(count):
    label = DIGITS["label"][:count]
    return {
        "label": label.astype(np.int64),
        "ink": DIGITS["image"][:count].mean((1, 2)),
        "is_one": label == 1,
        "name": [f"digit {number}" for number in range(count)],
        "parity": [PARITY[number % 2] for number in label],
    }


def pandas(count=200):
    module = pytest.importorskip("pandas")
    frame = module.DataFrame(columns(count), index=[f"row {number}" for number in range(count)])
    return frame.astype({"parity": module.CategoricalDtype(PARITY)})


def polars(count=200):
    module = pytest.importorskip("polars")
    return module.DataFrame(columns(count)).with_columns(module.col("parity").cast(module.Enum(PARITY)))


@pytest.mark.parametrize("make", [pandas, polars])
def test_rows_come_as_they_are_in_the_frame(make):
    rows = data_frame(make(), additional=["name"], labels=["parity"], batch_size=32)
    assert check_source(rows.training.items) == []
    assert check_loader(None, rows.training) == []
    assert dict(rows.classes) == {"parity": PARITY}
    dtypes = {name: layout.numpy_dtype.name for name, layout in rows.training.loader_layouts.items()}
    assert dtypes == {"label": "int32", "ink": "float32", "is_one": "bool", "parity": "int32"}
    expected = columns(200)
    with Dataloader(rows.training, loader_kind="thread", loader_count=2, end_at=("epoch", 1)) as loader:
        for batch in loader:
            indices = list(batch.indices)
            for name in ("label", "is_one"):
                np.testing.assert_array_equal(batch.arrays[name][: batch.size], expected[name][indices])
            np.testing.assert_array_equal(batch.arrays["ink"][: batch.size], expected["ink"][indices].astype("f4"))
            assert [PARITY[number] for number in batch.labels["parity"][: batch.size]] == [
                expected["parity"][index] for index in indices
            ]
            assert batch.additional["name"][: batch.size] == [expected["name"][index] for index in indices]


@pytest.mark.parametrize("make", [pandas, polars])
def test_a_missing_value_is_nan_or_an_error_or_what_is_said(make):
    frame = make(6)
    if make is pandas:
        frame.loc["row 3", ["ink", "parity"]] = None
        frame["label"] = frame["label"].astype("Int64")
        frame.loc["row 3", "label"] = None
    else:
        module = pytest.importorskip("polars")
        third = module.int_range(6) == 3
        frame = frame.with_columns(
            module.when(third).then(None).otherwise(module.col(name)).alias(name) for name in ("ink", "label", "parity")
        )
    source = data_frame(frame, ["ink"]).training.items
    assert [bool(np.isnan(item["ink"])) for item in source] == [False] * 3 + [True] + [False] * 2
    for name in ("label", "parity"):
        with pytest.raises(ValueError, match=f"'{name}': row 3 has no value"):
            data_frame(frame, [name]).training.items[3]
        assert data_frame(frame, [name], missing={name: -1}).training.items[3][name] == -1
        with pytest.raises(ValueError, match=f"missing: '{name}' is of int.*, which 'none' is not"):
            data_frame(frame, [name], missing={name: "none"}).training.items[3]


def test_what_pandas_alone_has():
    module = pytest.importorskip("pandas")
    frame = module.DataFrame({0: [1, 2], "mixed": [1, "a"], "when": module.to_datetime([0, 1])})
    rows = data_frame(frame, additional=["mixed"])
    assert set(rows.training.loader_layouts) == {"0"}
    assert "timestamp" in rows.left_out["when"]
    assert rows.training.items[1]["mixed"] == "'a'"
    swapped = data_frame(module.DataFrame({"x": np.array([1, 2], ">i4"), "y": np.array([0.5, 1.5], ">f8")}))
    assert [(item["x"], item["y"]) for item in swapped.training.items] == [(1, 0.5), (2, 1.5)]
    twice = module.concat([frame, frame], axis=1)
    with pytest.raises(ValueError, match="two columns are called '0'"):
        data_frame(twice)


def test_lists_of_polars_are_arrays():
    module = pytest.importorskip("polars")
    images = DIGITS["image"].reshape(-1, 64)[:50]
    frame = module.DataFrame({"image": images, "some": [list(range(n % 3 + 1)) for n in range(50)]})
    source = data_frame(frame).training.items
    np.testing.assert_array_equal([item["image"] for item in source], images)
    assert source[2]["some"].tolist() == [0, 1, 2]
    assert [item["some_length"] for item in source] == [n % 3 + 1 for n in range(50)]


def test_wrong_arguments_are_named():
    module = pytest.importorskip("polars")
    for frame, text in (
        ([1, 2], "expected a DataFrame of pandas or polars, got"),
        (polars().lazy(), r"call collect\(\) first"),
        (pandas()["label"], "expected a DataFrame"),
    ):
        with pytest.raises(TypeError, match=text):
            data_frame(frame)
    with pytest.raises(ValueError, match="it has no rows"):
        data_frame(module.DataFrame({"x": []}))
    with pytest.raises(ValueError, match="'name' cannot become an array"):
        data_frame(polars(), ["name"])


def test_a_finite_number_beyond_its_dtype_fails_its_row():
    items = data_frame(pytest.importorskip("pandas").DataFrame({"x": [0.5, 1e300]})).training.items
    assert items[0]["x"] == np.float32(0.5)
    with pytest.raises(OverflowError, match=r"'x': 1e\+300 does not fit into float32"):
        items[1]


def test_two_frames_stand_in_one_loader_and_a_cache_of_another_is_refused(tmp_path):
    first, second = (data_frame(frame, ["label"], batch_size=50).training for frame in (pandas(100), polars(50)))
    with Dataloader([first, second], validation=("epoch", 1, second), end_at=("epoch", 1)) as loader:
        batches = list(loader)
    assert len(batches) == 4
    for batch in batches:
        np.testing.assert_array_equal(batch.arrays["label"], DIGITS["label"][list(batch.indices)])
    other = pandas(100)
    other.loc["row 7", "label"] = 77
    for frame, fails in ((pandas(100), False), (pandas(100), False), (other, True)):
        group = data_frame(frame, ["label"], batch_size=50).training.replace(cache_location=tmp_path)
        loader = Dataloader(group, loader_kind="inline", end_at=("epoch", 1))
        if fails:
            with pytest.raises(CacheMismatchError, match=r"settings\.data"), loader:
                next(loader)
        else:
            with loader:
                next(loader)
