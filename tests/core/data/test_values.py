"""Equal values have equal bytes, in whatever process, run and version of Python; unequal ones do not."""

import collections
import dataclasses
import datetime as dt
import enum
import functools
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.data.fingerprint import data_digest
from hydrax_core.data.value_bytes import UNENCODABLE, value_bytes


class Split(enum.Enum):
    TRAIN = "train"
    TEST = "test"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    label: int


@dataclasses.dataclass
class Item:
    path: pathlib.Path
    tags: set


class Pair(NamedTuple):
    left: int
    right: int


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda parts: st.one_of(
        st.lists(parts),
        st.tuples(parts, parts),
        st.dictionaries(st.text(), parts),
        st.frozensets(st.integers() | st.text()),
    ),
    max_leaves=8,
)


def spelled(value):
    """A value's type and text throughout; what is equal by this is equal by value, and the other way round."""
    if isinstance(value, list | tuple):
        return type(value).__name__, [spelled(part) for part in value]
    if isinstance(value, dict):
        return "dict", [(spelled(key), spelled(part)) for key, part in value.items()]
    if isinstance(value, frozenset):
        return "frozenset", sorted(map(repr, value))
    return type(value).__name__, np.float64(value).tobytes() if isinstance(value, float) else repr(value)


@given(PLAIN, PLAIN)
def test_plain_values_have_equal_bytes_exactly_where_they_are_equal(left, right):
    assert (value_bytes(left) == value_bytes(right)) == (spelled(left) == spelled(right))


STRUCTURED = np.zeros(2, [("x", "<i4"), ("y", "<f4")])
DIFFERENT = [
    1,
    True,
    1.0,
    np.int64(1),
    np.int32(1),
    Level.LOW,
    "1",
    b"1",
    bytearray(b"1"),
    [1, 2],
    (1, 2),
    Pair(1, 2),
    {1, 2},
    frozenset({1, 2}),
    {1: 2},
    collections.OrderedDict({1: 2}),
    {"dict": [(1, 2)]},
    range(1, 3),
    range(1, 4),
    range(2, 4),
    slice(1, 2),
    0.0,
    -0.0,
    np.zeros(2, "<i4"),
    np.zeros(2, ">i4"),
    np.zeros(2, "<f4"),
    np.zeros((2, 1), "<f4"),
    np.zeros(2, ml_dtypes.bfloat16),
    np.zeros(2, "V2"),
    np.zeros(2, ml_dtypes.float8_e4m3fn),
    np.zeros(2, ml_dtypes.float8_e4m3fnuz),
    np.ma.zeros(2, "<f4"),
    np.ma.array(np.zeros(2, "<f4"), mask=[True, False]),
    STRUCTURED,
    STRUCTURED.view([("a", "<i4"), ("b", "<f4")]),
    STRUCTURED[0],
    np.array([1, None], object),
    np.datetime64(1, "s"),
    np.datetime64(1, "D"),
    pathlib.PurePosixPath("a"),
    pathlib.PureWindowsPath("a"),
    Split.TRAIN,
    Split.TEST,
    Split,
    Slotted,
    Slotted("a", 1),
    Slotted("a", 2),
    Item(pathlib.Path("a"), {"x"}),
    Item(pathlib.Path("a"), {"y"}),
    len,
    os.path.join,
    functools.partial(os.path.join, "a"),
    dt.date(2000, 1, 2),
    dt.datetime(2000, 1, 2),  # noqa: DTZ001  one without a zone
]


def test_values_of_another_kind_dtype_shape_or_class_differ():
    coded = [value_bytes(value) for value in DIFFERENT]
    for i, one in enumerate(coded):
        for j in range(i):
            assert one != coded[j], (DIFFERENT[i], DIFFERENT[j])


SAME = [
    (range(0, 10, 3), range(0, 12, 3)),
    (range(5, 5), range(0)),
    (pathlib.Path("a/b"), pathlib.PurePosixPath("a//b")),
    ({f"{n}" for n in range(50)}, {f"{n}" for n in reversed(range(50))}),
    ([{1, 2}, Item(pathlib.Path("a"), {"x", "y"})], [{2, 1}, Item(pathlib.Path("a"), {"y", "x"})]),
    (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy()),
    (float("nan"), float("nan")),
]


@pytest.mark.parametrize(("left", "right"), SAME, ids=lambda value: type(value).__name__)
def test_another_spelling_of_the_same_is_the_same(left, right):
    assert value_bytes(left) == value_bytes(right)


def test_what_lies_between_the_fields_of_an_array_means_nothing():
    dtype = np.dtype([("x", "u1"), ("y", "<i8")], align=True)
    padded = [np.frombuffer(bytearray([fill]) * dtype.itemsize, dtype) for fill in (1, 2)]
    for array in padded:
        array["x"], array["y"] = 3, 4
    assert padded[0].tobytes() != padded[1].tobytes()
    assert value_bytes(padded[0]) == value_bytes(padded[1])
    assert data_digest(padded[0]) == data_digest(padded[1])


@pytest.mark.parametrize("value", [lambda: 1, (n for n in ()), open])
def test_what_cannot_be_pickled_is_refused_and_what_has_a_name_is_not(value):
    if value is open:
        assert value_bytes(value)
        return
    with pytest.raises(UNENCODABLE):
        value_bytes([1, value])


def test_a_value_that_holds_itself_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(UNENCODABLE):
        value_bytes(circle)


def test_the_bytes_are_those_of_every_version_of_python_so_far():
    """A change here makes every cache and every saved state that is out there one of other data.

    The name of this file is among the bytes, as that of the module of two classes.
    """
    values = [
        *(
            1,
            2**70,
            "é",
            b"\xff",
            (None, True, 1.5),
            {"a": [1]},
            {"b", "a"},
            range(0, 9, 4),
            pathlib.PurePosixPath("a/b"),
        ),
        *(np.float32(1.5), STRUCTURED, np.arange(3), dt.date(2000, 1, 2), Split.TRAIN, Pair(1, 2)),
    ]
    assert xxhash.xxh3_64_hexdigest(value_bytes(values)) == "fcdaa64cc662973a"


SCRIPT = """
import dataclasses, json, sys

@dataclasses.dataclass
class Item:
    number: int

def digest():
    from hydrax_core.data.fingerprint import data_digest
    return data_digest([Item(1), {"a", "b", "c"}])

if __name__ == "__main__":
    print(digest())
"""


def test_a_class_of_a_script_is_that_of_the_module_which_the_script_is(tmp_path):
    package = tmp_path / "kit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "train.py").write_text(SCRIPT)
    (package / "other.py").write_text(SCRIPT)
    ways = [
        [str(package / "train.py")],
        ["-m", "kit.train"],
        ["-c", "import kit.train; print(kit.train.digest())"],
        ["-c", "import kit.other; print(kit.other.digest())"],
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    found = [
        subprocess.run(
            [sys.executable, *way], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for way in ways
    ]
    assert len(set(found[:3])) == 1
    assert found[3] != found[0]
