"""Paging through a cache and looking into entries, without a group or a loader."""

import contextlib
import os
import sqlite3
import time

import cachekit as kit
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrax_core.cache import CacheEntries, Pickled, clear, info, verify
from hydrax_core.errors import CacheError, NotACacheError
from hydrax_core.plan.order import group_order
from hydrax_core.plan.plan import Plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two epochs with holes."""
    folder = tmp_path_factory.mktemp("cache")
    kit.fill(folder, epochs=(0, 3), batches=[0, 1, 4, 5, 6, 11], shuffle_later="itemwise", seed=7)
    return folder


def keys(found):
    return [(entry.epoch, entry.number) for entry in found]


# paging


@settings(max_examples=60)
@given(
    st.none() | st.tuples(st.integers(0, 4), st.integers(0, 5)),
    st.none() | st.tuples(st.integers(0, 12), st.integers(0, 14)),
    st.integers(0, 13),
    st.integers(1, 7),
    st.integers(1, 5),
)
def test_pages_hold_what_fits_in_order_whatever_is_counted_together(folder, epochs, numbers, first, count, together):
    with pytest.MonkeyPatch.context() as patch, CacheEntries(folder) as entries:
        patch.setattr("hydrax_core.cache.admin.entries._BIN", together)
        listed = entries.select(info(folder).epochs, epochs=epochs, numbers=numbers)
        expected = [
            (epoch, number)
            for epoch in (0, 3)
            for number in (0, 1, 4, 5, 6, 11)
            if (epochs is None or epochs[0] <= epoch < epochs[1])
            and (numbers is None or numbers[0] <= number < numbers[1])
        ]
        assert len(listed) == len(expected)
        assert keys(listed.page(first, count)) == expected[first : first + count]
        for place, key in enumerate(expected):
            assert listed.place_of(*key) == place
        assert listed.place_of(0, -1) == 0
        assert listed.place_of(9, 0) == len(expected)


def test_a_list_can_be_limited_to_a_span_of_time(tmp_path):
    kit.fill(tmp_path, batches=range(6))
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as index, index:
        index.execute("UPDATE entries SET created = 1000 + number")
    with CacheEntries(tmp_path) as entries:
        counts = info(tmp_path).epochs
        listed = entries.select(counts, written=(1002, 1005))
        assert keys(listed.page(0, 9)) == [(0, 2), (0, 3), (0, 4)]
        assert keys(listed.page(1, 1)) == [(0, 3)]
        assert (listed.place_of(0, 4), listed.place_of(0, 9)) == (2, 3)
        assert len(entries.select(counts, written=(0, 5000))) == 6
        assert len(entries.select(counts, written=(0, 1000))) == 0


def test_coverage_counts_what_is_there_and_what_is_new(folder):
    with CacheEntries(folder) as entries:
        assert entries.coverage(0, 4) == [(2, 0), (3, 0), (1, 0)]
        assert entries.coverage(3, 5, since=time.time() + 1) == [(3, 0), (2, 0), (1, 0)]
        assert entries.coverage(3, 12, since=0.0) == [(6, 6)]
        assert entries.coverage(1, 12) == [(0, 0)]


def test_entries_are_found_by_their_keys(folder):
    with CacheEntries(folder) as entries:
        found = entries.find([(3, 4), (0, 11), (0, 2), (7, 0), (3, 4)])
    assert keys(found) == [(0, 11), (3, 4)]
    assert found[0].size == sum(array.nbytes for array in kit.batch(0).values())
    assert (found[0].additional_bytes is None, found[1].additional_bytes is None) == (False, True)


def test_pages_of_what_has_gone_meanwhile_are_shorter(tmp_path):
    kit.fill(tmp_path)
    with CacheEntries(tmp_path) as entries:
        listed = entries.select(info(tmp_path).epochs)
        with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as index, index:
            index.execute("DELETE FROM entries WHERE number > 4")
        assert keys(listed.page(3, 9)) == [(0, 3), (0, 4)]
        clear(tmp_path)
        assert entries.read(0, 0).fault == "missing"
    assert listed.page(0, 3) == []


def test_what_is_no_cache_or_has_no_sound_manifest_is_refused(tmp_path):
    with pytest.raises(NotACacheError):
        CacheEntries(tmp_path)
    kit.fill(tmp_path / "c")
    (tmp_path / "c" / "hydrax-cache.json").write_text("{}")
    with pytest.raises(CacheError, match="damaged"):
        CacheEntries(tmp_path / "c")
    (tmp_path / "c" / "hydrax-cache.json").unlink()
    with pytest.raises(CacheError, match="missing"):
        CacheEntries(tmp_path / "c")


def test_a_cache_without_an_index_has_no_entries_and_rows_of_another_make_are_left_out(tmp_path):
    kit.fill(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as index, index:
        index.execute("UPDATE entries SET size = 'much' WHERE number = 2")
    with CacheEntries(tmp_path) as entries:
        assert 2 not in {entry.number for entry in entries.select(info(tmp_path).epochs).page(0, 12)}
    (tmp_path / "index.sqlite").unlink()
    with CacheEntries(tmp_path) as entries:
        assert entries.read(0, 0) is None
        assert (entries.find([(0, 0)]), entries.coverage(0, 12)) == ([], [(0, 0)])
        assert len(entries.select(())) == 0


# looking into one


def test_an_entry_comes_as_it_was_stored_with_what_its_rows_are(folder):
    group = kit.group(folder, shuffle_later="itemwise", seed=7)
    plan = Plan([(group_order(group, "training", 0), group.batch_count)], [], 0, interleave=True)
    with CacheEntries(folder) as entries:
        found = entries.read(3, 5)
        assert entries.read(3, 2) is None
    assert kit.equal(dict(found.arrays), {name: kit.batch(5, 3)[name] for name in sorted(kit.ARRAYS)})
    assert dict(found.additional) == kit.additional(5, 3)
    assert (found.fault, found.additional_fault) == ("", "")
    content = plan.batch(3 * group.batch_count + 5).content
    assert (list(found.indices), list(found.seeds)) == (content.indices.tolist(), content.seeds.tolist())


@pytest.mark.parametrize(
    ("later", "kind", "real"), [("batchwise", "training", 4), ("repeat", "training", 4), ("repeat", "validation", 4)]
)
def test_the_last_batch_has_its_real_rows_only(tmp_path, later, kind, real):
    changes = {"remainder": "pad", "kind": kind, "shuffle_later": later, "shuffle_first": kind == "training"}
    kit.fill(tmp_path, batches=[12], **changes)
    with CacheEntries(tmp_path) as entries:
        found = entries.read(0, 12)
    assert len(found.indices) == real
    assert found.arrays["x"].shape == (kit.BATCH, 4, 4)
    if kind == "validation":
        assert (list(found.indices), found.seeds) == ([96, 97, 98, 99], None)


def test_the_first_rows_alone_are_not_checked(folder):
    with CacheEntries(folder) as entries:
        found = entries.read(0, 4, rows=3)
    assert found.fault == "unchecked"
    for name, array in kit.batch(4).items():
        np.testing.assert_array_equal(found.arrays[name], array[:3])


def test_an_item_comes_alone(tmp_path):
    with kit.open_store(tmp_path, cache_by="item") as store:
        store.write_items([3, 9], kit.items([3, 9]), {"name": ["three", None]})
    with CacheEntries(tmp_path) as entries:
        found, other = entries.read(0, 3), entries.read(0, 9)
    for name, value in kit.item(3).items():
        np.testing.assert_array_equal(found.arrays[name], value)
        assert found.arrays[name].dtype == value.dtype
    assert (dict(found.additional), dict(other.additional)) == ({"name": "three"}, {})
    assert (found.fault, tuple(found.indices)) == ("", (3,))


def test_a_bad_entry_is_shown_and_said_to_be_bad(tmp_path):
    kit.fill(tmp_path)
    path = tmp_path / "epoch-0" / "label.npy"
    with path.open("r+b") as file:
        file.seek(4096 + 64 * 2)
        file.write(b"\xff" * 8)
    os.truncate(path, 4096 + 64 * 9)
    with CacheEntries(tmp_path) as entries:
        assert entries.read(0, 2).fault == "corrupt"
        assert entries.read(0, 2).arrays["label"][0] == -1
        cut = entries.read(0, 10)
        assert (cut.fault, cut.arrays["label"].any()) == ("cut", np.False_)
        path.unlink()
        assert entries.read(0, 1).fault == "missing"
        (tmp_path / "epoch-0" / "x.npy").unlink()
        (tmp_path / "epoch-0" / "x.npy").symlink_to("/dev/zero")
        assert entries.read(0, 1).fault == "missing"


class EndedError(Exception):
    """Raised by whoever has seen enough."""


class Explosive:
    """Whoever unpickles it sees the consequence."""

    def __reduce__(self):
        return os.mkdir, ("opened",)


def test_pickles_are_named_and_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with kit.open_store(tmp_path / "c", cache_pickle=True) as store:
        store.write(0, 0, kit.batch(0), {"name": ["plain"] * kit.BATCH, "object": [Explosive()] * kit.BATCH})
    with CacheEntries(tmp_path / "c") as entries:
        found = entries.read(0, 0)
    assert found.fault == ""
    assert found.additional["name"] == ["plain"] * kit.BATCH
    assert isinstance(found.additional["object"][0], Pickled)
    assert "unopened" in repr(found.additional["object"][0])
    assert not (tmp_path / "opened").exists()


def test_additional_data_that_is_damaged_is_said_and_the_arrays_are_shown(tmp_path):
    kit.fill(tmp_path, batches=[1])
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as index, index:
        index.execute("UPDATE entries SET additional = substr(additional, 1, 20) || x'00'")
    with CacheEntries(tmp_path) as entries:
        found = entries.read(0, 1)
    assert (found.fault, found.additional_fault) == ("corrupt", "its checksum does not fit")
    np.testing.assert_array_equal(found.arrays["x"], kit.batch(1)["x"])


# what verify and clear tell meanwhile


def test_verify_tells_each_entry_once_it_is_read_and_can_be_ended(folder):
    told = []
    assert list(verify(folder, on_entry=lambda *key: told.append(key))) == []
    assert told == [(epoch, number) for epoch in (0, 3) for number in (0, 1, 4, 5, 6, 11)]
    told.clear()

    def end(epoch, number):
        told.append((epoch, number))
        if len(told) == 3:
            raise EndedError

    with pytest.raises(EndedError):
        list(verify(folder, on_entry=end))
    assert len(told) == 3


def test_clearing_what_is_corrupt_can_be_ended_before_anything_goes(tmp_path):
    kit.fill(tmp_path, batches=range(3))
    os.truncate(tmp_path / "epoch-0" / "x.npy", 4096 + 10)
    before = kit.snapshot(tmp_path)
    seen = []

    def end(done):
        seen.append(done)
        if done == 3:
            raise EndedError

    with pytest.raises(EndedError):
        clear(tmp_path, corrupt=True, on_read=end)
    assert seen == [1, 2, 3]
    assert kit.snapshot(tmp_path) == before
    assert clear(tmp_path, corrupt=True).entries == 3
