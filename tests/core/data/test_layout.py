import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.data.layout import array_layouts, array_specs, block_size, clear_rows, joined, row_at, views

SPECS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.tuples(
        st.lists(st.integers(1, 7), max_size=3).map(tuple), st.sampled_from(["u1", "f4", "c8", "bool", "bfloat16"])
    ),
    min_size=1,
    max_size=5,
)


@given(st.integers(1, 9), SPECS)
def test_arrays_are_aligned_and_do_not_overlap(batch_size, arrays):
    layouts = array_layouts(batch_size, array_specs("loader_arrays", arrays))
    end = 0
    for name, layout in layouts.items():
        assert layout.offset % 64 == 0
        assert layout.offset >= end
        assert layout.shape == (batch_size, *arrays[name][0])
        assert layout.size == np.prod(layout.shape)
        end = layout.offset + layout.nbytes
    assert end <= block_size(layouts) < end + 64


def test_a_layout_is_a_tuple_with_named_fields():
    layouts = array_layouts(4, array_specs("a", {"x": ((2,), "uint8", "float32"), "y": ((), "int32")}))
    assert layouts["x"] == ((4, 2), np.dtype("uint8"), np.dtype("float32"), 0, 8)
    assert layouts["y"].offset == 64
    assert layouts["y"].jax_dtype == np.int32


def test_views_share_the_block():
    layouts = array_layouts(4, array_specs("a", {"x": ((2,), "uint8"), "y": ((), "bfloat16")}))
    block = bytearray(block_size(layouts))
    arrays = views(block, layouts)
    arrays["y"][...] = 1
    assert arrays["y"].dtype == ml_dtypes.bfloat16
    assert block[64:72] == b"\x80\x3f" * 4


@given(st.integers(1, 5), st.integers(2, 8), SPECS, st.data())
def test_each_part_starts_at_64_bytes_and_has_its_rows_whatever_their_size(part_rows, count, arrays, data):
    """An array in parts is the same array, row by row, as one that is whole."""
    specs, rows = array_specs("loader_arrays", arrays), part_rows * count
    sizes = {name: layout.nbytes // count for name, layout in array_layouts(rows, specs).items()}
    parts = {name: count for name, size in sizes.items() if size % 64}
    layouts = array_layouts(rows, specs, parts)
    block = np.full(block_size(layouts, parts), 255, np.uint8)
    found = views(block, layouts, parts=parts)
    plain = {name: np.zeros(layout.shape, layout.numpy_dtype) for name, layout in layouts.items()}
    first = data.draw(st.integers(0, rows))
    for name, array in found.items():
        for row in range(rows):
            plain[name][row] = row % 2
            row_at(array, row)[...] = row % 2
        clear_rows(array, first, rows)
        plain[name][first:] = 0
        starts = [
            (part if name in parts else array[n * part_rows :]).ctypes.data for n, part in enumerate(array[:count])
        ]
        assert {(start - block.ctypes.data) % 64 for start in starts} == {0}
    for name, array in found.items():
        assert joined(array).shape == layouts[name].shape
        assert joined(array).tobytes() == plain[name].tobytes()
    assert max(array.ctypes.data + array.nbytes for array in found.values()) <= block.ctypes.data + block.nbytes


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (((3, 0), "u1"), r"loader_arrays\['x'\]: every dimension is at least 1, got \(3, 0\)"),
        (((3, -1), "u1"), "every dimension is at least 1"),
        (((2,), object), "jax has no dtype object"),
        (((2,), "U5"), "jax has no dtype"),
        (((2,), "datetime64[s]"), "jax has no dtype"),
        (((2,), [("a", "f4")]), "jax has no dtype"),
        (((2,), ">f4"), "foreign byte order"),
    ],
)
def test_impossible_arrays_are_refused_by_name(spec, message):
    with pytest.raises(ValueError, match=message):
        array_specs("loader_arrays", {"x": spec})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([1], "loader_arrays: expected a dict"),
        ({"x": 5}, r"loader_arrays\['x'\]: expected \(shape without batch"),
        ({"x": ((2,),)}, "expected"),
        ({"x": (2, "u1")}, r"the shape is a tuple of ints, got 2; a scalar an item has the shape \(\)"),
        ({"x": ((2.5,), "u1")}, "the shape is a tuple of ints"),
        ({"x": ((True,), "u1")}, "the shape is a tuple of ints"),
        ({"x": ((2,), "float33")}, "'float33' is no dtype"),
        ({"x": ((2,), None)}, "a dtype is missing"),
        ({5: ((2,), "u1")}, "array names are non-empty strings, got 5"),
    ],
)
def test_wrong_types_are_refused_by_name(arrays, message):
    with pytest.raises(TypeError, match=message):
        array_specs("loader_arrays", arrays)
