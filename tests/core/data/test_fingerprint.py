"""Data is named by what is read, not by positions."""

import logging
import os
import shutil
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.data import fingerprint as fingerprint_module
from hydrax_core.data.fingerprint import IdentifiedItems, data_digest, files_fingerprint
from hydrax_core.data.value_bytes import array_parts

NAMES = ["a.bin", "below/b.bin"]


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(NAMES):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 10)
        os.utime(path, ns=(number, 10**18 + number))
    return tmp_path / "root"


def rewrite(path, data, *, same_time=False):
    before = path.stat()
    path.write_bytes(data)
    time = before.st_mtime_ns if same_time else before.st_mtime_ns + 1
    os.utime(path, ns=(before.st_atime_ns, time))


CHANGES = {
    "size": lambda root: rewrite(root / "a.bin", b"longer than ten", same_time=True),
    "time": lambda root: rewrite(root / "a.bin", bytes(10)),
    "name": lambda root: (root / "a.bin").rename(root / "c.bin"),
    "gone": lambda root: (root / "below/b.bin").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_size_time_or_name_is_another_file(root, change):
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.bin"))]
    before = files_fingerprint(names, root)
    assert files_fingerprint(names, root) == before
    CHANGES[change](root)
    if change == "name":
        names = ["c.bin" if name == "a.bin" else name for name in names]
    assert files_fingerprint(names, root) != before


def test_the_order_of_the_files_counts_and_where_their_folder_lies_does_not(root, tmp_path):
    before = files_fingerprint(NAMES, root)
    assert files_fingerprint([root / name for name in NAMES], f"{root}/") == before
    assert files_fingerprint(NAMES[::-1], root) != before
    assert files_fingerprint(NAMES, root.rename(tmp_path / "moved")) == before


def test_by_content_a_copy_is_the_same_and_a_changed_byte_is_not(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    before = files_fingerprint(NAMES, root, content=True)
    assert files_fingerprint(NAMES, tmp_path / "copy") != files_fingerprint(NAMES, root)
    assert files_fingerprint(NAMES, tmp_path / "copy", content=True) == before
    rewrite(tmp_path / "copy" / "a.bin", b"\0\0\0\0\1\0\0\0\0\0", same_time=True)
    assert files_fingerprint(NAMES, tmp_path / "copy", content=True) != before


NAME_LISTS = st.lists(st.text("ab/1", max_size=3), max_size=4)


@given(NAME_LISTS, NAME_LISTS)
def test_other_names_have_other_fingerprints_though_no_file_is_there(names, others):
    same = files_fingerprint(names, "/nonexistent") == files_fingerprint(others, "/nonexistent")
    assert same == (names == others)


class Named(list):
    def __init__(self, items, name):
        super().__init__(items)
        self.name = name

    def __getitem__(self, index):
        raise AssertionError("it says who it is, so nothing is read")

    def fingerprint(self):
        return self.name


def test_data_that_says_who_it_is_is_not_read():
    assert data_digest(Named([1, 2], "a")) == data_digest(Named([3, 4], "a"))
    assert data_digest(Named([1, 2], "a")) != data_digest(Named([1, 2], "b"))
    assert data_digest(Named([1, 2], "a")) != data_digest(Named([1, 2, 3], "a"))
    with pytest.raises(TypeError, match=r"data: its fingerprint\(\) returned 5; expected a str"):
        data_digest(Named([1], 5))


def test_items_with_a_source_differ_where_either_does():
    def digest(item, name):
        return data_digest(IdentifiedItems([item], lambda: name))

    assert len({digest(item, name) for item in (1, 2) for name in ("a", "b")}) == 4
    assert digest(1, "a") == digest(1, "a")


ITEMS = st.lists(st.one_of(st.integers(), st.text(), st.tuples(st.text(), st.binary())), min_size=1)


@given(ITEMS)
def test_equal_items_have_equal_digests_whatever_objects_they_share(items):
    copies = [eval(repr(item)) for item in items]
    shared = [items[items.index(item)] for item in items]
    assert data_digest(items) == data_digest(copies) == data_digest(shared)


@given(ITEMS, st.data())
def test_a_changed_item_changes_the_digest(items, data):
    position = data.draw(st.integers(0, len(items) - 1))
    changed = [*items[:position], "another", *items[position + 1 :]]
    assert (data_digest(items) == data_digest(changed)) == (items == changed)


def test_long_data_is_sampled(monkeypatch):
    monkeypatch.setattr(fingerprint_module, "EXACT_ITEMS", 1000)
    monkeypatch.setattr(fingerprint_module, "SAMPLED_ITEMS", 100)
    first = list(range(5000))
    assert data_digest(first) != data_digest([*first[:-1], -1])
    assert data_digest(first) != data_digest(first[:-1])
    for count in (999, 1000, 1001):  # of so many all count, of more a sample
        changed = [*range(500), -1, *range(501, count)]
        assert (data_digest(changed) == data_digest(range(count))) is (count == 1001)
    assert data_digest(range(10**12)) != data_digest(range(10**12 + 1))


def test_equal_items_make_equal_data_in_whatever_sequence():
    assert data_digest(range(5)) == data_digest([0, 1, 2, 3, 4]) == data_digest((0, 1, 2, 3, 4))
    assert data_digest(range(0, 10, 3)) == data_digest(range(0, 12, 3))
    assert data_digest(range(5)) != data_digest(range(1, 6))
    assert data_digest(range(10**12)) == data_digest(range(0, 10**12, 1))
    assert data_digest(range(10**12)) != data_digest(range(0, 2 * 10**12, 2))


@pytest.mark.parametrize(
    "other",
    [
        np.arange(12, dtype="<f8").astype("<f4"),
        np.arange(12, dtype="<f8").view("<i8"),
        np.arange(12, dtype="<f8").reshape(12, 1),
        np.arange(12, dtype="<f8")[::-1],
        np.arange(24, dtype="<f8")[::2],
    ],
)
def test_arrays_are_equal_by_dtype_shape_and_elements(other):
    numbers = np.arange(12, dtype="<f8")
    assert data_digest(other) != data_digest(numbers)
    assert data_digest(other) == data_digest(other.copy())


def test_arrays_whose_bytes_are_equal_differ_by_shape_and_by_the_names_of_fields():
    assert data_digest(np.zeros((4, 2, 3))) != data_digest(np.zeros((4, 3, 2)))
    rows = np.zeros(4, [("x", "<i4"), ("y", "<i4")])
    assert data_digest(rows) != data_digest(rows.view([("y", "<i4"), ("x", "<i4")]))


def test_a_large_array_is_read_in_parts(monkeypatch):
    numbers = np.arange(1000).reshape(100, 10)
    whole, sizes = data_digest(numbers), []

    def noted(array):
        sizes.append(len(array))
        return array_parts(array)

    monkeypatch.setattr(fingerprint_module, "array_parts", noted)
    for chunk, expected in ((64, [1] * 100), (840, [10] * 10), (3_000, [37, 37, 26]), (8_000, [100]), (10**6, [100])):
        monkeypatch.setattr(fingerprint_module, "_CHUNK", chunk)
        assert data_digest(numbers) == whole
        assert sizes == expected
        sizes.clear()
    assert data_digest(np.zeros((5, 0))) != data_digest(np.zeros((6, 0)))
    assert sizes == [5, 6]


class Broken(list):
    def __getitem__(self, index):
        if super().__getitem__(index) is None:
            raise StopIteration
        return super().__getitem__(index)


def test_an_item_that_cannot_be_read_counts_as_such_and_is_named(caplog):
    with caplog.at_level(logging.WARNING, "hydrax"):
        digests = {
            data_digest(Broken(items))
            for items in ([1, None, None, 4], [1, None, None, 4], [1, 2, None, 4], [1, 2, 3, 4])
        }
    assert len(digests) == 3
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        *["data: item 1 cannot be read (StopIteration())"] * 2,
        "data: item 2 cannot be read (StopIteration())",
    ]


def test_reading_that_takes_long_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(fingerprint_module, "_PATIENCE_SECONDS", 0)
    with caplog.at_level(logging.WARNING, "hydrax"):
        data_digest(range(5000))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "has taken 0 s for 1024 of 5000; data with a method fingerprint()" in said
    caplog.clear()
    monkeypatch.undo()
    data_digest(range(5000))
    assert caplog.messages == []


class Decoded:
    """Reading an item costs; whoever reads all of them waits."""

    def __init__(self, items):
        self.items, self.read = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.read.append(index)
        if self.items[index] is None:
            raise ValueError("damaged")
        return self.items[index]


def test_of_items_that_are_computed_when_they_are_read_some_are_read():
    data = Decoded(range(10_000))
    digest = data_digest(data)
    assert len(data.read) == fingerprint_module.SAMPLED_IF_COMPUTED
    assert {data.read[0], data.read[-1]} == {0, 9_999}
    assert digest == data_digest(Decoded(list(range(10_000))))
    assert digest not in {data_digest(Decoded(range(9_999))), data_digest(Decoded(range(1, 10_001)))}
    assert data_digest(Decoded([1, 2, 3])) != data_digest(Decoded([1, 9, 3])), "of a few, all"


@pytest.mark.parametrize("kind", [list, tuple, deque, type("Paths", (list,), {})])
def test_of_items_that_are_stored_all_are_read(kind):
    items = list(range(1000))
    changed = [*items[:501], "another", *items[502:]]
    assert data_digest(kind(items)) != data_digest(kind(changed))


def test_an_unpicklable_item_is_named():
    with pytest.raises(TypeError, match=r"data: item 1 \(<function"):
        data_digest([1, lambda: 2])


def test_digests_are_those_of_every_version(root):
    """Saved states and caches of earlier versions count on them: change them only with the version of both."""
    assert data_digest([1, "a", None, (2, b"b")]) == "e7bd86039965991c93b3f2ee85a2e654"
    assert data_digest(range(3000)) == "dac7b1d6cba1c240d3b1135008a75054"
    assert data_digest(range(10**12)) == "9ae0b6c440a486d7aae5d4587af8e00e"
    assert data_digest(Decoded(range(10_000))) == "1effb8a064cb8c5e9bb6ac037dbc78f5"
    assert data_digest(np.arange(12, dtype="<i2").reshape(4, 3)) == "eb21f1af4cde1305070798862c67cab4"
    assert data_digest(np.zeros((0, 3), "<f4")) == "3b20f3c184f86256bd4121f2bf884c33"
    assert data_digest(IdentifiedItems([1, 2], lambda: "files")) == "3c03203e36b2719500977ae87fca63ea"
    assert files_fingerprint([*NAMES, "missing"], root) == "24d1327aef97257511448ce643a93dcb"
    assert files_fingerprint([*NAMES, "missing"], root, content=True) == "eba2d46ccf203c825e698b0e2244d439"


def test_long_files_are_read_in_parts(root, monkeypatch):
    whole = files_fingerprint(NAMES, root, content=True)
    monkeypatch.setattr(fingerprint_module, "_CHUNK", 3)
    assert files_fingerprint(NAMES, root, content=True) == whole


def test_items_with_a_source_are_those_items():
    items = IdentifiedItems("abc", lambda: "text")
    assert (len(items), items[1], items[1:], items.items) == (3, "b", "bc", "abc")
    assert items.fingerprint() == f"text {data_digest('abc')}"


def test_data_may_say_that_it_does_not_know_who_it_is():
    class Unnamed(list):
        def fingerprint(self):
            return None

    assert data_digest(Unnamed([1, 2])) == data_digest([1, 2])
    assert data_digest(Unnamed([1, 2]), guard=Named([1, 2], "guarded")) == data_digest(Named([1, 2], "guarded"))


def test_a_long_array_is_sampled_as_a_list_is(monkeypatch):
    numbers = np.arange(5000)
    whole = data_digest(numbers)
    monkeypatch.setattr(fingerprint_module, "EXACT_ITEMS", 5000)
    assert data_digest(numbers) == whole
    monkeypatch.setattr(fingerprint_module, "EXACT_ITEMS", 4999)
    monkeypatch.setattr(fingerprint_module, "SAMPLED_ITEMS", 2)
    assert data_digest(numbers) != whole
    assert data_digest(numbers) == data_digest(np.where((numbers > 0) & (numbers < 4999), 7, numbers))
