"""info, verify and clear: what they tell, and what they leave alone."""

import os
import shutil

import cachekit as kit
import numpy as np
import pytest

from hydrax_core.cache import Cleared, clear, info, verify
from hydrax_core.cache.format.folder import INDEX, MANIFEST, OLD_INDEX
from hydrax_core.data.portable import PORTABLE
from hydrax_core.errors import CacheBusyError, CacheError, NotACacheError


def kinds(folder, **arguments):
    return sorted((finding.what, finding.where) for finding in verify(folder, **arguments))


def entry_range(path, number):
    size = (path.stat().st_size - 4096) // kit.BATCHES
    return 4096 + number * size, size


def damage(path, number):
    start, size = entry_range(path, number)
    with path.open("r+b") as file:
        file.seek(start + size // 2)
        file.write(b"\x5a\xa5")


def used(folder):
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


# info


def test_info_tells_what_is_there(tmp_path):
    kit.fill(tmp_path, epochs=(0, 3), batches=range(4), shuffle_later="itemwise", seed=7)
    found = info(tmp_path)
    assert (found.kind, found.group_index, found.cache_by, found.entries_per_epoch) == ("training", 0, "batch", 12)
    assert [(epoch.epoch, epoch.entries) for epoch in found.epochs] == [(0, 4), (3, 4)]
    assert found.entries == 8
    assert found.settings["seed"] == 7
    assert [(array.name, array.shape, array.dtype, array.stored) for array in found.arrays] == [
        ("half", (8, 3), "bfloat16", "<u2"),
        ("label", (8,), "int64", "<i8"),
        ("x", (8, 4, 4), "float32", "<f4"),
    ]
    assert found.disk_bytes == used(tmp_path)
    assert found.made["by"]
    assert found.epochs[0].oldest <= found.epochs[0].newest
    assert (found.in_use, found.problem) == (False, "")


def test_info_changes_nothing_and_survives_a_missing_or_damaged_index(tmp_path):
    kit.fill(tmp_path)
    (tmp_path / INDEX).write_bytes(b"\xff" * 9000)
    before = kit.snapshot(tmp_path)
    assert info(tmp_path).entries == 0
    assert info(tmp_path).problem
    assert kit.snapshot(tmp_path) == before
    (tmp_path / INDEX).unlink()
    assert info(tmp_path).problem == "it is missing"


def test_unfilled_entries_take_no_room_on_the_disk(tmp_path):
    arrays = {"x": ((256, 256), "float32")}
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        store.write(0, 5, {"x": np.ones((kit.BATCH, 256, 256), np.float32)})
    assert (tmp_path / "epoch-0" / "x.npy").stat().st_size > 12 * 2**21
    assert info(tmp_path).disk_bytes < 2 * 2**21


# verify


def test_a_sound_cache_has_no_findings_and_progress_reaches_the_end(tmp_path):
    kit.fill(tmp_path, epochs=(0, 1), shuffle_later="itemwise")
    seen = []
    assert list(verify(tmp_path, progress=lambda done, total: seen.append((done, total)))) == []
    total = 2 * 12 * sum(array.nbytes for array in kit.batch(0).values())
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_an_empty_cache_has_no_findings(tmp_path):
    kit.fill(tmp_path, epochs=())
    assert list(verify(tmp_path)) == []


@pytest.mark.parametrize("cache_by", ["batch", "item"])
def test_every_kind_of_damage_has_its_finding(tmp_path, cache_by):
    if cache_by == "batch":
        kit.fill(tmp_path)
        number = 3
    else:
        with kit.open_store(tmp_path, cache_by="item") as store:
            store.write_items(range(12), kit.items(range(12)))
        number = 11
    path = tmp_path / "epoch-0" / "x.npy"
    entry = (path.stat().st_size - 4096) // (12 if cache_by == "batch" else 100)
    with path.open("r+b") as file:
        file.seek(4096 + number * entry)
        file.write(b"\x5a\xa5")
    (found,) = verify(tmp_path)
    assert (found.what, found.where, found.epoch, found.number) == (
        "corrupt",
        f"epoch 0, {cache_by} {number}",
        0,
        number,
    )
    assert found.since == pytest.approx(info(tmp_path).epochs[0].newest, abs=60)


def test_a_cut_file_is_found_with_the_entries_that_are_gone(tmp_path):
    kit.fill(tmp_path)
    start, _ = entry_range(tmp_path / "epoch-0" / "x.npy", 10)
    os.truncate(tmp_path / "epoch-0" / "x.npy", start + 3)
    assert kinds(tmp_path) == [("cut", "epoch 0, batch 10"), ("cut", "epoch 0, batch 11"), ("cut", "epoch-0/x.npy")]
    assert all(finding.repaired for finding in verify(tmp_path, repair=True))
    assert kinds(tmp_path) == []
    assert kit.served(tmp_path)[0] == list(range(10))


def test_a_damaged_header_is_found_and_written_anew_without_loss(tmp_path):
    kit.fill(tmp_path)
    with (tmp_path / "epoch-0" / "x.npy").open("r+b") as file:
        file.write(b"\x00\x00")
    assert kinds(tmp_path) == [("corrupt", "epoch-0/x.npy")]
    list(verify(tmp_path, repair=True))
    assert kinds(tmp_path) == []
    assert np.load(tmp_path / "epoch-0" / "x.npy", mmap_mode="r").shape == (12, 8, 4, 4)
    assert len(kit.served(tmp_path)[0]) == kit.BATCHES


def test_a_file_that_grew_is_found_and_gets_its_length(tmp_path):
    kit.fill(tmp_path)
    path = tmp_path / "epoch-0" / "x.npy"
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"more")
    assert kinds(tmp_path) == [("corrupt", "epoch-0/x.npy")]
    list(verify(tmp_path, repair=True))
    assert path.stat().st_size == size
    assert len(kit.served(tmp_path)[0]) == kit.BATCHES


def test_a_missing_file_is_found(tmp_path):
    kit.fill(tmp_path, batches=[2])
    (tmp_path / "epoch-0" / "label.npy").unlink()
    assert kinds(tmp_path) == [("missing", "epoch 0, batch 2"), ("missing", "epoch-0/label.npy")]
    list(verify(tmp_path, repair=True))
    assert kinds(tmp_path) == []


def test_data_without_a_row_is_unfinished_and_freed(tmp_path, monkeypatch):
    kit.fill(tmp_path, batches=[1])
    monkeypatch.setattr("hydrax_core.cache.index.index.Index.add", lambda *_: None)
    with kit.open_store(tmp_path) as store:
        store.write(0, 7, kit.batch(7))
    monkeypatch.undo()
    assert kinds(tmp_path) == [("unfinished", "epoch 0, batch 7")]
    list(verify(tmp_path, repair=True))
    assert kinds(tmp_path) == []
    assert kit.served(tmp_path)[0] == [1]
    assert not np.load(tmp_path / "epoch-0" / "x.npy", mmap_mode="r")[7].any()


def test_files_without_any_row_are_orphaned_and_removed(tmp_path):
    kit.fill(tmp_path, epochs=(0, 1), shuffle_later="itemwise", batches=[0])
    assert clear(tmp_path, epoch=1).entries == 1
    shutil.copytree(tmp_path / "epoch-0", tmp_path / "epoch-5")
    names = ["epoch-5/half.npy", "epoch-5/label.npy", "epoch-5/x.npy"]
    assert kinds(tmp_path) == [("orphaned", name) for name in names]
    list(verify(tmp_path, repair=True))
    assert kinds(tmp_path) == []
    assert not (tmp_path / "epoch-5").exists()


def test_foreign_files_are_told_and_never_touched(tmp_path):
    kit.fill(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "epoch-0" / "y.npy").write_text("mine")
    (tmp_path / "epoch-x").mkdir()
    (tmp_path / "epoch-0" / "link.npy").symlink_to(tmp_path / "notes.txt")
    foreign = ["epoch-0/link.npy", "epoch-0/y.npy", "epoch-x", "notes.txt"]
    assert kinds(tmp_path) == [("foreign", name) for name in foreign]
    assert not any(finding.repaired for finding in verify(tmp_path, repair=True))
    assert kinds(tmp_path) == [("foreign", name) for name in foreign]
    clear(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == sorted([*foreign, "epoch-0"])


def test_what_killed_writers_leave_is_unfinished_and_removed(tmp_path):
    kit.fill(tmp_path)
    (tmp_path / f"{MANIFEST}.0123abcd.tmp").write_text("{")
    (tmp_path / f"{INDEX}-journal").write_bytes(b"\x00" * 512)
    assert ("unfinished", f"{MANIFEST}.0123abcd.tmp") in kinds(tmp_path)
    list(verify(tmp_path, repair=True))
    assert kinds(tmp_path) == []
    assert len(kit.served(tmp_path)[0]) == kit.BATCHES


def test_a_damaged_index_is_found_and_rebuilt_from_what_can_be_read(tmp_path):
    data, count = range(1600), 200
    with kit.open_store(tmp_path / "whole", data=data) as store:
        for number in range(count):
            store.write(0, number, kit.batch(number))
    kept = []
    for page in range(2, (tmp_path / "whole" / INDEX).stat().st_size // 4096):
        place = shutil.copytree(tmp_path / "whole", tmp_path / str(page))
        with (place / INDEX).open("r+b") as file:
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
        assert ("corrupt", INDEX) in kinds(place)
        assert ("corrupt", INDEX) in kinds(place, repair=True)
        assert kinds(place) == []
        with kit.open_store(place, data=data) as store:
            found = [store.read(0, number) for number in range(count)]
            assert store.counters().corrupt == 0
        assert all(entry is None or kit.equal(entry.arrays, kit.batch(number)) for number, entry in enumerate(found))
        kept.append(sum(entry is not None for entry in found))
    assert max(kept) == count  # a page that only helps to search
    assert 0 < min(kept) < count  # a page of rows


def test_without_its_manifest_a_cache_cannot_be_checked_and_says_so(tmp_path):
    kit.fill(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    (found,) = verify(tmp_path, repair=True)
    assert (found.what, found.where, found.repaired) == ("corrupt", MANIFEST, False)
    assert "next run" in found.detail
    kit.fill(tmp_path, batches=[])
    assert kinds(tmp_path) == []


def test_verify_without_repair_changes_nothing(tmp_path):
    kit.fill(tmp_path)
    damage(tmp_path / "epoch-0" / "x.npy", 3)
    (tmp_path / INDEX).write_bytes((tmp_path / INDEX).read_bytes()[:5000])
    before = kit.snapshot(tmp_path)
    assert kinds(tmp_path)
    assert kit.snapshot(tmp_path) == before


def test_verify_beside_a_run_does_not_call_its_work_unfinished(tmp_path, monkeypatch):
    monkeypatch.setattr("hydrax_core.cache.store.writer._GROUP_SECONDS", 3600)
    with kit.open_store(tmp_path) as store:
        store.write(0, 1, kit.batch(1))
        store.flush()
        store.write(0, 2, kit.batch(2))
        while not (tmp_path / "epoch-0" / "x.npy").read_bytes()[4096 + 2 * 512 : 4096 + 3 * 512].strip(b"\0"):
            pass
        assert kinds(tmp_path) == []
        with pytest.raises(CacheBusyError):
            verify(tmp_path, repair=True)


def test_an_abandoned_repair_gives_its_lock_back(tmp_path):
    kit.fill(tmp_path)
    for number in (1, 2, 3):
        damage(tmp_path / "epoch-0" / "x.npy", number)
    findings = verify(tmp_path, repair=True)
    next(findings)
    with pytest.raises(CacheBusyError):
        clear(tmp_path)
    findings.close()
    assert clear(tmp_path).entries > 0


# clear


def test_clear_removes_everything_of_the_cache_and_tells_what_it_freed(tmp_path):
    kit.fill(tmp_path, epochs=(0, 1), shuffle_later="itemwise")
    (tmp_path / OLD_INDEX).write_bytes(b"old")
    before, snapshot = used(tmp_path), kit.snapshot(tmp_path)
    planned = clear(tmp_path, dry_run=True)
    assert kit.snapshot(tmp_path) == snapshot
    done = clear(tmp_path)
    assert done == planned
    assert done.entries == 24
    assert done.freed_bytes == before
    assert list(tmp_path.iterdir()) == []


def test_clear_of_an_epoch_removes_its_files(tmp_path):
    kit.fill(tmp_path, epochs=(0, 1, 2), shuffle_later="itemwise")
    planned = clear(tmp_path, epoch=1, dry_run=True)
    before = used(tmp_path / "epoch-1")
    assert clear(tmp_path, epoch=1) == planned
    assert planned == Cleared(12, ("epoch-1/half.npy", "epoch-1/label.npy", "epoch-1/x.npy"), before)
    assert not (tmp_path / "epoch-1").exists()
    for epoch, expected in ((0, 12), (1, 0), (2, 12)):
        assert len(kit.served(tmp_path, epoch=epoch, shuffle_later="itemwise")[0]) == expected
    assert kinds(tmp_path) == []
    assert clear(tmp_path, epoch=9) == Cleared(0, (), 0)


def test_clear_of_old_entries_keeps_the_new_and_frees_their_room(tmp_path, monkeypatch):
    arrays = {"x": ((256, 256), "float32")}
    ones = {"x": np.ones((kit.BATCH, 256, 256), np.float32)}
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        monkeypatch.setattr("hydrax_core.cache.store.writer.time.time", lambda: 1_000_000.0)
        store.write(0, 1, ones)
        store.flush()
        monkeypatch.undo()
        store.write(0, 2, ones)
    before = used(tmp_path)
    assert clear(tmp_path, older_than=3600, dry_run=True).entries == 1
    assert clear(tmp_path, older_than=3600) == Cleared(1, (), ones["x"].nbytes)
    if not PORTABLE:  # elsewhere only whole files give room back
        assert before - used(tmp_path) >= ones["x"].nbytes - 8192
    with kit.open_store(tmp_path, loader_arrays=arrays) as store:
        assert store.read(0, 1) is None
        assert kit.equal(store.read(0, 2).arrays, ones)
    assert kinds(tmp_path) == []


def test_clear_of_corrupt_entries_keeps_the_sound(tmp_path):
    kit.fill(tmp_path)
    damage(tmp_path / "epoch-0" / "x.npy", 4)
    damage(tmp_path / "epoch-0" / "label.npy", 9)
    assert clear(tmp_path, corrupt=True, dry_run=True).entries == 2
    assert clear(tmp_path, corrupt=True, epoch=1).entries == 0
    assert clear(tmp_path, corrupt=True).entries == 2
    found, counters = kit.served(tmp_path)
    assert found == [number for number in range(12) if number not in (4, 9)]
    assert counters.corrupt == 0
    assert kinds(tmp_path) == []


def test_what_is_no_cache_is_not_cleared(tmp_path):
    (tmp_path / "epoch-0").mkdir()
    (tmp_path / "epoch-0" / "x.npy").write_text("mine")
    (tmp_path / "mine.txt").write_text("mine")
    before = kit.snapshot(tmp_path)
    for act in (clear, info, lambda path: list(verify(path))):
        with pytest.raises(NotACacheError):
            act(tmp_path)
        with pytest.raises(NotACacheError, match="no such folder"):
            act(tmp_path / "nowhere")
    assert kit.snapshot(tmp_path) == before


def test_parts_of_a_damaged_cache_cannot_be_cleared_but_all_of_it_can(tmp_path):
    kit.fill(tmp_path)
    (tmp_path / MANIFEST).write_text("?")
    with pytest.raises(CacheError, match="as a whole"):
        clear(tmp_path, epoch=0)
    (tmp_path / INDEX).write_text("?")
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
