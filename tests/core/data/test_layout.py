import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.data.layout import (
    Ragged,
    array_layouts,
    array_specs,
    block_size,
    clear_rows,
    joined,
    resized,
    row_at,
    shifted,
    views,
)

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
        (((2,), "S5"), "jax has no dtype"),
        (((2,), "m8[s]"), "jax has no dtype"),
        (((2,), "V8"), "jax has no dtype"),
        (((2,), np.dtype(("i4", (2,)))), "jax has no dtype"),
        (((2,), "u1", ">f4"), "foreign byte order"),
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
        ({"x": ((2,), "u1", "u1", "u1")}, "expected"),
        ({"": ((2,), "u1")}, "array names are non-empty strings, got ''"),
        ({"x": ((2,), "float33")}, "'float33' is no dtype"),
        ({"x": ((2,), None)}, "a dtype is missing"),
        ({5: ((2,), "u1")}, "array names are non-empty strings, got 5"),
    ],
)
def test_wrong_types_are_refused_by_name(arrays, message):
    with pytest.raises(TypeError, match=message):
        array_specs("loader_arrays", arrays)


def test_layouts_of_other_rows_and_at_other_places_keep_the_rest():
    specs = array_specs("a", {"x": ((3,), "uint8", "float32"), "y": ((), "int64"), "z": ([np.int64(2)], bool)})
    assert array_specs("b", specs) == specs
    layouts = array_layouts(4, specs)
    assert [layout.nbytes for layout in layouts.values()] == [12, 32, 8]
    assert block_size(layouts) == 192
    assert block_size({}) == 0
    other = resized(layouts, 100)
    assert [(layout.shape, layout.offset) for layout in other.values()] == [
        ((100, 3), 0),
        ((100,), 320),
        ((100, 2), 1152),
    ]
    assert [layout[1:3] for layout in other.values()] == [layout[1:3] for layout in layouts.values()]
    assert [layout.offset for layout in shifted(layouts, 128).values()] == [128, 192, 256]
    assert resized(other, 4) == layouts == shifted(layouts, 0)
    assert Ragged(5, 1, 2).resized(9) == Ragged(9, 1, 2)


def test_an_array_in_parts_has_a_row_of_each_behind_the_other():
    layouts = array_layouts(6, array_specs("a", {"x": ((30,), "uint8"), "y": ((), "uint8")}), {"x": 3})
    assert layouts["y"].offset == 192
    block = np.zeros(block_size(layouts, {"x": 3}), np.uint8)
    assert len(block) == 256
    found = views(np.concatenate([np.full(64, 9, np.uint8), block]), layouts, 64, {"x": 3})["x"]
    assert (found.shape, found.strides) == ((3, 2, 30), (64, 30, 1))
    for row in range(6):
        row_at(found, row)[...] = row + 1
    assert joined(found).tolist() == [[row + 1] * 30 for row in range(6)]
    clear_rows(found, 1, 4)
    assert joined(found)[:, 0].tolist() == [1, 0, 0, 0, 5, 6]


def test_a_ragged_array_has_its_greatest_length_or_one_until_that_is_known_and_an_array_of_lengths():
    for first, length in ((Ragged(), 1), (Ragged(5), 5)):
        specs = array_specs("a", {"x": ((first, 3), "uint8", "float32")})
        assert [(name, spec.shape, str(spec.jax_dtype)) for name, spec in specs.items()] == [
            ("x", (length, 3), "float32"),
            ("x_length", (), "int32"),
        ]
        assert specs["x"].ragged == first
    own = array_specs("a", {"x": ((Ragged(5),), "uint8"), "x_length": ((), "int32")})
    assert [str(spec.numpy_dtype) for spec in own.values()] == ["uint8", "int32"]
