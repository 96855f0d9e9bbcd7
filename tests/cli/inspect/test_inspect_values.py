"""Arrays in numbers, in warnings and in pixels."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hydrax_cli.inspect.numbers.pixels import Scale, best_kind, fit, grid_of, heat, images, montage, scale_of
from hydrax_cli.inspect.numbers.statistics import array_stats
from hydrax_cli.inspect.widgets.bars import bar, blocks, columns

ANY_DTYPE = st.sampled_from(["bool", "uint8", "int32", "int64", "float16", "float32", "float64", "complex64"])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)


@given(ANY_DTYPE.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_every_value_is_counted_once(array):
    stats = array_stats(array)
    assert stats.values == array.size
    assert sum(stats.histogram) + stats.nans + stats.infs == array.size
    assert not stats.partial


@given(hnp.arrays(st.sampled_from(["int32", "float32"]), SHAPES, elements=st.integers(-1000, 1000)))
def test_numbers_are_those_of_numpy(array):
    stats = array_stats(array)
    assert stats.minimum == array.min()
    assert stats.maximum == array.max()
    assert stats.mean == pytest.approx(array.mean(dtype=np.float64))
    assert stats.std == pytest.approx(array.std(dtype=np.float64))


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1e308, -1e308] * 4] * 2),
        np.array([3e38, -3e38], np.float32),
        np.array([2**63 - 1, -(2**63)]),
        np.array([0, 2**64 - 1], np.uint64),
        np.array([65504, -65504], np.float16),
    ],
)
def test_the_ends_of_a_dtype_overflow_nothing(array):
    stats = array_stats(array)
    assert sum(stats.histogram) == array.size
    assert stats.std == pytest.approx((stats.maximum - stats.mean), rel=1e-3)
    pixels = heat(np.atleast_2d(array), scale_of(array))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 2


def test_bad_values_are_counted_and_left_out_of_the_numbers():
    array = np.array([[1, np.nan], [3, np.inf], [-np.inf, 2]], np.float32)
    stats = array_stats(array)
    assert (stats.nans, stats.infs) == (1, 2)
    assert (stats.minimum, stats.maximum, stats.mean) == (1, 3, 2)
    assert stats.warnings == ("1 NaN", "2 Inf")
    assert array_stats(np.full((2, 2), np.nan)).minimum is None


def test_dtypes_that_numpy_does_not_know_are_counted_too():
    stats = array_stats(np.array([1.5, np.nan, -2], ml_dtypes.bfloat16))
    assert (stats.minimum, stats.maximum, stats.nans) == (-2, 1.5, 1)


@pytest.mark.parametrize(
    ("array", "warning"),
    [
        (np.zeros((4, 8), np.float32), "all zeros"),
        (np.full((4, 8), 7, np.int32), "constant: every value is 7"),
        (np.array([[2.0, 3.0] * 4, [5e4, 1.0] * 4]), "values up to 50000: not normalised?"),
        (np.array([[1, 2] * 4, [4e4, 1] * 4], np.float16), "40000 is close to the largest float16, 65504"),
        (np.arange(32, dtype=np.float32).reshape(4, 8) * 8, "whole numbers up to 248 in float32: bytes, not scaled?"),
        (np.eye(8, dtype=np.uint8), "only 0 and 1 in uint8: a mask, or scaled before the conversion?"),
        (np.array([[1, 2, 3, 4], [0, 0, 0, 0], [1, 2, 3, 5]]), "row 1 is all zeros"),
        (np.array([[1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 7, 8]]), "equal rows: 1 and 2"),
    ],
)
def test_what_a_person_wants_to_know_is_said(array, warning):
    assert warning in array_stats(array).warnings


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(size=(8, 30)),
        np.random.default_rng(0).integers(0, 255, (8, 5, 5, 3), np.uint8),
        np.array([3, 3, 3, 4]),
        np.zeros((1,), np.int32),
    ],
)
def test_usual_values_get_no_warning(array):
    assert array_stats(array).warnings == ()


def test_of_a_huge_array_the_first_rows_are_looked_at_and_that_is_said(monkeypatch):
    monkeypatch.setattr("hydrax_cli.inspect.numbers.statistics.MOST_VALUES", 100)
    stats = array_stats(np.arange(1000).reshape(100, 10))
    assert stats.partial
    assert (stats.values, stats.maximum) == (100, 99)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((28, 28), "float32", "picture"),
        ((224, 224, 3), "uint8", "picture"),
        ((3, 32, 32), "float32", "picture"),
        ((1, 28, 28), "float32", "picture"),
        ((), "int32", "rows"),
        ((128,), "int32", "rows"),
        ((128,), "float32", "heat map"),
        ((10, 20, 5), "float32", "heat map"),
        ((2, 3), "float32", "heat map"),
    ],
)
def test_an_array_is_shown_as_what_it_looks_like(shape, dtype, kind):
    assert best_kind(shape, np.dtype(dtype)) == kind


def test_channels_may_come_first_and_may_be_one():
    array = np.random.default_rng(0).integers(0, 255, (2, 6, 5, 3), np.uint8)
    scale = Scale(0, 255)
    expected = images(array, scale)
    np.testing.assert_array_equal(images(np.moveaxis(array, -1, 1), scale), expected)
    grey = images(array[..., :1], scale)
    np.testing.assert_array_equal(grey, images(array[..., 0], scale))
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize(
    ("array", "scale"),
    [
        (np.array([[[0, 200]] * 4] * 4, np.uint8).reshape(1, 4, 8), Scale(0, 255)),
        (np.linspace(0, 1, 16).reshape(1, 4, 4), Scale(0, 1)),
        (np.linspace(-1, 0.9, 16).reshape(1, 4, 4), Scale(-1, 1)),
        (np.linspace(-3, 8, 16).reshape(1, 16), Scale(-3, 8)),
        (np.full((1, 4), np.nan), Scale(0, 1)),
    ],
)
def test_a_usual_range_is_kept_and_any_other_measured(array, scale):
    assert scale_of(array) == scale


def test_what_is_no_number_stands_out_in_a_heat_map():
    pixels = heat(np.array([[0.0, np.nan, 1.0, np.inf]]), Scale(0, 1))
    assert (pixels[0, 1] == pixels[0, 3]).all()
    assert pixels[0, 0].sum() < pixels[0, 2].sum()
    assert (pixels[0, 1] != pixels[0, 0]).any()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_a_picture_fits_any_size_and_keeps_its_range(high, wide, width, height):
    picture = np.random.default_rng(high * 41 + wide).integers(0, 256, (high, wide, 3), np.uint8)
    fitted = fit(picture, width, height)
    assert fitted.shape == (height, width, 3)
    assert fitted.min() >= picture.min()
    assert fitted.max() <= picture.max()


@given(
    st.tuples(st.integers(8, 200), st.integers(8, 200)),
    st.tuples(st.integers(4, 300), st.integers(4, 300)),
    st.integers(1, 300),
    st.integers(1, 40),
)
def test_a_grid_fits_its_area_and_has_no_empty_page(area, shape, count, at_least):
    grid = grid_of(area, shape, count, at_least)
    assert grid.columns * (grid.width + 1) + 1 <= area[0]
    assert grid.rows * (grid.height + 1) + 1 <= area[1]
    assert grid.page >= 1
    assert grid.columns <= count
    pictures = np.zeros((min(count, 3), *shape, 3), np.uint8)
    canvas = montage(pictures, grid, (9, 9, 9), 0, (1, 2, 3))
    assert canvas.shape == (grid.rows * (grid.height + 1) + 1, grid.columns * (grid.width + 1) + 1, 3)
    assert (canvas[0, 0] == (1, 2, 3)).all()


@given(st.integers(0, 80), st.floats(-0.5, 1.5))
def test_a_bar_has_its_width(width, share):
    done, rest = bar(width, share)
    assert len(done + rest) == width
    full = bar(10, 1.0)
    assert full[1] == ""


@given(st.lists(st.floats(0, 1e9), max_size=30), st.integers(1, 40), st.integers(0, 6))
def test_a_graph_has_its_size_and_shows_every_value_above_zero(values, width, height):
    lines = columns(values, width, height)
    assert [len(line) for line in lines] == [width] * height
    if height:
        shown = values[-width:]
        bottom = lines[-1][width - len(shown) :]
        assert [glyph != " " for glyph in bottom] == [value > 0 for value in shown]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 80))
def test_bars_keep_within_the_width_and_lose_no_count(counts, width):
    made = blocks(counts, width)
    assert len(made) <= width
    assert max(made) >= max(counts) if len(counts) > width else max(made) == max(counts)
