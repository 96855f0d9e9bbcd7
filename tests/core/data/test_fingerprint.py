"""Data is named by what is read, not by positions."""

import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.data.fingerprint import IdentifiedItems, data_digest, files_fingerprint

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
